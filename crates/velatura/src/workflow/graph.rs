//! Ways through the graph.

use std::collections::{HashMap, HashSet, VecDeque};

use serde_json::{Map, Value};

use super::{LONGEST_WAY, target};
use crate::taken_over::TakenOver;

/// Nodes looked at when the way to the sampler is sought.
const MOST_NODES: usize = 100_000;
/// Nodes at which pictures leave the graph.
const ENDS: [&str; 4] = ["SaveImage", "PreviewImage", "SaveAnimatedWEBP", "SaveAnimatedPNG"];
/// Nodes that make pictures of latents.
const DECODERS: [&str; 2] = ["VAEDecode", "VAEDecodeTiled"];

/// A graph that is read, and what came of it.
pub(super) struct Reader<'a> {
    pub nodes: &'a Map<String, Value>,
    pub out: TakenOver,
}

impl<'a> Reader<'a> {
    pub fn leave(&mut self, what: impl Into<String>) {
        let what = what.into();
        if !self.out.left_out.contains(&what) {
            self.out.left_out.push(what);
        }
    }

    pub fn class(&self, id: &str) -> Option<&'a str> {
        self.nodes.get(id)?.get("class_type")?.as_str()
    }

    pub fn inputs(&self, id: &str) -> Option<&'a Map<String, Value>> {
        self.nodes.get(id)?.get("inputs")?.as_object()
    }

    pub fn input(&self, id: &str, key: &str) -> Option<&'a Value> {
        self.inputs(id)?.get(key)
    }

    /// The sampler that the saved picture comes from; of several behind each other the first, which has the whole noise.
    pub fn sampler(&mut self) -> Option<&'a str> {
        let nodes = self.nodes;
        // Those of other packs have the names and the inputs of ComfyUI's own.
        let is_sampler = |id: &str| match self.class(id) {
            Some("SamplerCustom" | "SamplerCustomAdvanced" | "KSampler" | "KSamplerAdvanced") => true,
            Some(class) if class.starts_with("KSampler") => self.input(id, "positive").is_some(),
            _ => false,
        };
        let all = nodes.keys().map(String::as_str).filter(|id| is_sampler(id)).count();
        let ends = nodes.keys().map(String::as_str);
        let saves = ends.filter(|id| self.class(id).is_some_and(|class| ENDS.contains(&class)));
        let way = saves.into_iter().find_map(|end| self.way(end, &is_sampler));
        let mut found = way.as_ref().and_then(|way| way.last().copied());
        found = found.or_else(|| nodes.keys().map(String::as_str).find(|id| is_sampler(id)));
        let mut sampler = found?;
        let mut seen = HashSet::from([sampler]);
        while let Some(link) = self.input(sampler, "latent_image").and_then(target)
            && let Some(before) = self.first_behind(link, &is_sampler)
            && seen.insert(before)
        {
            sampler = before;
        }
        if all > 1 {
            self.leave(format!("{} more sampling passes", all - 1));
        }
        self.tell_after(&way.unwrap_or_default());
        Some(sampler)
    }

    pub fn first_behind(&self, id: &'a str, wanted: &dyn Fn(&str) -> bool) -> Option<&'a str> {
        if wanted(id) { Some(id) } else { self.behind(id, wanted) }
    }

    /// The nearest node of a kind among those that a node's inputs come from.
    fn behind(&self, id: &'a str, wanted: &dyn Fn(&str) -> bool) -> Option<&'a str> {
        self.way(id, wanted)?.last().copied()
    }

    /// The shortest way from a node, which is its first, back to one of a kind, which is its last.
    fn way(&self, id: &'a str, wanted: &dyn Fn(&str) -> bool) -> Option<Vec<&'a str>> {
        let mut came_from = HashMap::from([(id, id)]);
        let mut waiting = VecDeque::from([id]);
        while let Some(at) = waiting.pop_front() {
            for link in self.inputs(at).into_iter().flatten().filter_map(|(_, value)| target(value)) {
                if wanted(link) {
                    let mut way = vec![link, at];
                    let mut last = at;
                    while let Some(&before) = came_from.get(last).filter(|before| **before != last) {
                        way.push(before);
                        last = before;
                    }
                    way.reverse();
                    return Some(way);
                }
                if came_from.len() < MOST_NODES && !came_from.contains_key(link) {
                    came_from.insert(link, at);
                    waiting.push_back(link);
                }
            }
        }
        None
    }

    /// Tells what is done to the picture between the sampler and the end of a way.
    fn tell_after(&mut self, way: &[&'a str]) {
        for id in way.iter().rev().skip(1) {
            let class = self.class(id).unwrap_or("unknown");
            if !ENDS.contains(&class) && !DECODERS.contains(&class) && class != "Reroute" {
                self.leave(format!("the node {class}, behind the sampler"));
            }
            let vae = self.input(id, "vae").and_then(target);
            let vae = vae.and_then(|vae| self.value(self.input(vae, "vae_name"))).and_then(Value::as_str);
            if let Some(vae) = vae {
                self.leave(format!("the VAE {vae} (--vae takes one)"));
            }
        }
    }

    /// A value that is written in the node, or that a node of one value gives.
    pub fn value(&self, value: Option<&'a Value>) -> Option<&'a Value> {
        let mut value = value?;
        for _ in 0..LONGEST_WAY {
            let Some(link) = target(value) else { return Some(value) };
            let inputs = self.inputs(link)?;
            let keys = ["value", "seed", "noise_seed", "text", "string", "String", "Number", "int", "float"];
            value = keys.iter().find_map(|key| inputs.get(*key))?;
        }
        None
    }
}
