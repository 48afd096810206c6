//! ComfyUI's `prompt`: the graph of nodes that made a picture, which its PNG files carry as JSON. As much as one request
//! can say is read from it; what else the graph does is told.

use std::collections::HashSet;

use serde_json::{Map, Value};
use velatura_text::prompt::Dialect;

use crate::request::GenerateRequest;

/// Links followed from one node to the next; longer ways are no pictures.
const LONGEST_WAY: usize = 256;
/// Nodes looked at when the way to the sampler is sought.
const MOST_NODES: usize = 100_000;

/// A request read from a graph.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FromWorkflow {
    /// What could be taken over.
    pub request: GenerateRequest,
    /// The model file that the graph loads, by its name.
    pub model: Option<String>,
    /// What could not; one phrase each.
    pub left_out: Vec<String>,
}

/// Reads a graph; nothing where the text is none, or one without a sampler that is known. Time is linear in its size.
pub fn parse(text: &str) -> Option<FromWorkflow> {
    let graph = serde_json::from_str(text).or_else(|_| serde_json::from_str(&without_nan(text)));
    let Value::Object(nodes) = graph.ok()? else { return None };
    let mut reader = Reader { nodes: &nodes, out: FromWorkflow::default() };
    let sampler = reader.sampler()?;
    reader.sampling(sampler);
    let inputs = reader.inputs(sampler)?;
    reader.out.request.prompt = reader.text(inputs.get("positive"), true);
    reader.out.request.negative = reader.text(inputs.get("negative"), false);
    reader.latent(inputs.get("latent_image"));
    reader.model(inputs.get("model"));
    reader.out.request.prompt_dialect = Dialect::ComfyUi;
    Some(reader.out)
}

struct Reader<'a> {
    nodes: &'a Map<String, Value>,
    out: FromWorkflow,
}

impl<'a> Reader<'a> {
    fn leave(&mut self, what: impl Into<String>) {
        let what = what.into();
        if !self.out.left_out.contains(&what) {
            self.out.left_out.push(what);
        }
    }

    fn class(&self, id: &str) -> Option<&'a str> {
        self.nodes.get(id)?.get("class_type")?.as_str()
    }

    fn inputs(&self, id: &str) -> Option<&'a Map<String, Value>> {
        self.nodes.get(id)?.get("inputs")?.as_object()
    }

    fn input(&self, id: &str, key: &str) -> Option<&'a Value> {
        self.inputs(id)?.get(key)
    }

    /// The sampler that the saved picture comes from; of several behind each other the first, which has the whole noise.
    fn sampler(&mut self) -> Option<&'a str> {
        let nodes = self.nodes;
        let is_sampler = |id: &str| matches!(self.class(id), Some("KSampler" | "KSamplerAdvanced"));
        let all = nodes.keys().map(String::as_str).filter(|id| is_sampler(id)).count();
        let ends = nodes.keys().map(String::as_str);
        let saves = ends.filter(|id| matches!(self.class(id), Some("SaveImage" | "PreviewImage")));
        let mut found = saves.into_iter().find_map(|end| self.behind(end, &is_sampler));
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
        Some(sampler)
    }

    fn first_behind(&self, id: &'a str, wanted: &dyn Fn(&str) -> bool) -> Option<&'a str> {
        if wanted(id) { Some(id) } else { self.behind(id, wanted) }
    }

    /// The nearest node of a kind among those that a node's inputs come from.
    fn behind(&self, id: &'a str, wanted: &dyn Fn(&str) -> bool) -> Option<&'a str> {
        let mut seen = HashSet::from([id]);
        let mut waiting = std::collections::VecDeque::from([id]);
        while let Some(id) = waiting.pop_front() {
            for link in self.inputs(id).into_iter().flatten().filter_map(|(_, value)| target(value)) {
                if wanted(link) {
                    return Some(link);
                }
                if seen.len() < MOST_NODES && seen.insert(link) {
                    waiting.push_back(link);
                }
            }
        }
        None
    }

    /// A value that is written in the node, or that a node of one value gives.
    fn value(&self, value: Option<&'a Value>) -> Option<&'a Value> {
        let mut value = value?;
        for _ in 0..LONGEST_WAY {
            let Some(link) = target(value) else { return Some(value) };
            let inputs = self.inputs(link)?;
            let keys = ["value", "seed", "noise_seed", "text", "string", "String", "Number", "int", "float"];
            value = keys.iter().find_map(|key| inputs.get(*key))?;
        }
        None
    }

    fn sampling(&mut self, id: &'a str) {
        let get = |key: &str| self.value(self.input(id, key));
        let text = |key: &str| get(key).and_then(Value::as_str).map(String::from);
        let whole = |key: &str| get(key).and_then(Value::as_u64);
        let seed = whole("seed").or_else(|| whole("noise_seed"));
        let steps = whole("steps").and_then(|n| u32::try_from(n).ok());
        let guidance = get("cfg").and_then(Value::as_f64).map(|v| v as f32);
        let (sampler, schedule) = (text("sampler_name"), text("scheduler"));
        let denoise = get("denoise").and_then(Value::as_f64);
        let (first, last) = (whole("start_at_step"), whole("end_at_step"));
        let request = &mut self.out.request;
        (request.seed, request.steps, request.guidance) = (seed, steps, guidance);
        (request.sampler, request.schedule) = (sampler, schedule);
        if let Some(denoise) = denoise.filter(|d| *d < 1.0) {
            self.leave(format!("a denoise of {denoise}"));
        }
        if first.is_some_and(|first| first > 0) || last.zip(steps).is_some_and(|(l, s)| l < u64::from(s)) {
            self.leave("sampling in a part of the steps only (start_at_step, end_at_step)");
        }
        for (key, name) in [("seed", "seed"), ("steps", "steps"), ("cfg", "guidance")] {
            let link = self.input(id, key).filter(|v| target(v).is_some());
            if link.is_some_and(|v| self.value(Some(v)).is_none()) {
                self.leave(format!("the {name}, which another node computes"));
            }
        }
    }

    /// The text behind a conditioning.
    fn text(&mut self, from: Option<&'a Value>, positive: bool) -> String {
        let mut at = from.and_then(target);
        for _ in 0..LONGEST_WAY {
            let Some(id) = at else { break };
            let class = self.class(id).unwrap_or("unknown");
            if class.starts_with("CLIPTextEncode") {
                self.clip_skip(id);
                let read = |key: &str| self.value(self.input(id, key)).and_then(Value::as_str);
                let (plain, global, local) = (read("text"), read("text_g"), read("text_l"));
                if let (Some(global), Some(local)) = (global, local)
                    && global != local
                {
                    self.leave("a text for each of the two text encoders (that of text_g is used)");
                }
                return match plain.or(global).or(local) {
                    Some(text) => text.to_string(),
                    None => {
                        self.leave("a prompt that another node makes");
                        String::new()
                    }
                };
            }
            if class == "ConditioningZeroOut" {
                self.leave("zeros in place of a prompt (the empty prompt is used)");
                return String::new();
            }
            self.leave(format!("the node {class}"));
            let side = if positive { "positive" } else { "negative" };
            let keys = ["conditioning", side, "conditioning_1", "conditioning_to", "cond"];
            at = keys.iter().find_map(|key| self.input(id, key)).and_then(target);
        }
        if from.is_some() {
            self.leave("a prompt that another node makes");
        }
        String::new()
    }

    fn clip_skip(&mut self, text: &'a str) {
        let mut at = self.input(text, "clip").and_then(target);
        for _ in 0..LONGEST_WAY {
            let Some(id) = at else { return };
            if self.class(id) == Some("CLIPSetLastLayer") {
                let layer = self.value(self.input(id, "stop_at_clip_layer")).and_then(Value::as_i64);
                let skip = layer.and_then(i64::checked_neg).and_then(|n| u32::try_from(n).ok());
                self.out.request.clip_skip = skip.filter(|n| *n >= 1);
                return;
            }
            at = self.input(id, "clip").and_then(target);
        }
    }

    fn latent(&mut self, from: Option<&'a Value>) {
        let Some(id) = from.and_then(target) else { return };
        let class = self.class(id).unwrap_or("unknown");
        if class != "EmptyLatentImage" {
            let starts =
                self.first_behind(id, &|id| matches!(self.class(id), Some("LoadImage" | "LoadImageMask")));
            self.leave(match starts {
                Some(_) => "the picture that it starts from".to_string(),
                None => format!("the size, which the node {class} decides"),
            });
            return;
        }
        let get = |key: &str| {
            self.value(self.input(id, key)).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok())
        };
        let (width, height, batch) = (get("width"), get("height"), get("batch_size"));
        (self.out.request.width, self.out.request.height) = (width, height);
        if batch.is_some_and(|n| n > 1) {
            self.leave("the other pictures of its batch (ComfyUI draws their noise from one stream)");
        }
    }

    /// The way of the model from its file to the sampler.
    fn model(&mut self, from: Option<&'a Value>) {
        let mut at = from.and_then(target);
        for _ in 0..LONGEST_WAY {
            let Some(id) = at else { return };
            let class = self.class(id).unwrap_or("unknown");
            let text = |key: &str| self.value(self.input(id, key)).and_then(Value::as_str);
            let file =
                ["ckpt_name", "unet_name", "model_name", "model_path"].iter().find_map(|key| text(key));
            if let Some(file) = file {
                self.out.model = Some(file.to_string());
                return;
            }
            match text("lora_name") {
                Some(lora) => self.leave(format!("the LoRA {lora}")),
                None => self.leave(format!("the node {class}")),
            }
            at = self.input(id, "model").and_then(target);
        }
    }
}

/// The node that an input comes from: `["ID", output]`.
fn target(value: &Value) -> Option<&str> {
    match value.as_array()?.as_slice() {
        [Value::String(id), Value::Number(_)] => Some(id),
        _ => None,
    }
}

/// Python writes numbers that are none as `NaN` and `Infinity`, which JSON does not know; outside of texts they become
/// `null`.
fn without_nan(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut inside, mut escaped) = (false, false);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if !inside
            && let Some(word) = ["NaN", "-Infinity", "Infinity"].iter().find(|word| rest.starts_with(**word))
        {
            out.push_str("null");
            rest = &rest[word.len()..];
            continue;
        }
        if c == '"' && !escaped {
            inside = !inside;
        }
        escaped = inside && c == '\\' && !escaped;
        out.push(c);
        rest = &rest[c.len_utf8()..];
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// ComfyUI's own first workflow.
    fn default_workflow() -> Value {
        json!({
            "3": {"class_type": "KSampler", "inputs": {"cfg": 8, "denoise": 1, "latent_image": ["5", 0],
                "model": ["4", 0], "negative": ["7", 0], "positive": ["6", 0], "sampler_name": "euler",
                "scheduler": "normal", "seed": 156680208700286u64, "steps": 20}},
            "4": {"class_type": "CheckpointLoaderSimple",
                "inputs": {"ckpt_name": "v1-5-pruned-emaonly.safetensors"}},
            "5": {"class_type": "EmptyLatentImage", "inputs": {"batch_size": 1, "height": 512, "width": 768}},
            "6": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["4", 1],
                "text": "beautiful scenery nature glass bottle landscape"}},
            "7": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["4", 1], "text": "text, watermark"}},
            "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
            "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]}}
        })
    }

    fn read(graph: &Value) -> FromWorkflow {
        parse(&graph.to_string()).unwrap()
    }

    #[test]
    fn the_default_workflow_is_a_request() {
        let read = read(&default_workflow());
        let expected = GenerateRequest {
            prompt: "beautiful scenery nature glass bottle landscape".into(),
            negative: "text, watermark".into(),
            seed: Some(156_680_208_700_286),
            steps: Some(20),
            guidance: Some(8.0),
            width: Some(768),
            height: Some(512),
            sampler: Some("euler".into()),
            schedule: Some("normal".into()),
            prompt_dialect: Dialect::ComfyUi,
            ..GenerateRequest::default()
        };
        assert_eq!(read.request, expected);
        assert_eq!(read.model.as_deref(), Some("v1-5-pruned-emaonly.safetensors"));
        assert_eq!(read.left_out, [""; 0]);
    }

    #[test]
    fn what_a_request_cannot_say_is_told() {
        let mut graph = default_workflow();
        graph["10"] = json!({"class_type": "LoraLoader", "inputs": {"lora_name": "ink.safetensors",
            "strength_model": 0.8, "model": ["4", 0], "clip": ["4", 1]}});
        graph["11"] = json!({"class_type": "CLIPSetLastLayer",
            "inputs": {"stop_at_clip_layer": -2, "clip": ["10", 1]}});
        graph["12"] =
            json!({"class_type": "ControlNetApply", "inputs": {"conditioning": ["6", 0], "strength": 1}});
        graph["13"] = json!({"class_type": "PrimitiveInt", "inputs": {"value": 77}, "is_changed": [null]});
        graph["3"]["inputs"]["model"] = json!(["10", 0]);
        graph["3"]["inputs"]["positive"] = json!(["12", 0]);
        graph["3"]["inputs"]["seed"] = json!(["13", 0]);
        graph["3"]["inputs"]["denoise"] = json!(0.5);
        graph["5"]["inputs"]["batch_size"] = json!(4);
        graph["6"]["inputs"] = json!({"clip": ["11", 0], "text": "a (red:1.2) fox"});
        let text = graph.to_string().replace("[null]", "[NaN]");
        let read = parse(&text).unwrap();
        assert_eq!((read.request.seed, read.request.clip_skip), (Some(77), Some(2)));
        assert_eq!(read.request.prompt, "a (red:1.2) fox");
        for says in ["ink.safetensors", "ControlNetApply", "denoise of 0.5", "batch"] {
            assert!(read.left_out.iter().any(|left| left.contains(says)), "{says}: {:?}", read.left_out);
        }
        assert_eq!(read.left_out.len(), 4);
    }

    #[test]
    fn of_two_passes_the_first_is_taken() {
        let mut graph = default_workflow();
        let mut second = graph["3"].clone();
        second["inputs"]["latent_image"] = json!(["21", 0]);
        second["inputs"]["denoise"] = json!(0.4);
        second["inputs"]["seed"] = json!(1);
        graph["20"] = second;
        graph["21"] = json!({"class_type": "LatentUpscale", "inputs": {"samples": ["3", 0], "width": 1536}});
        graph["8"]["inputs"]["samples"] = json!(["20", 0]);
        let read = read(&graph);
        assert_eq!((read.request.seed, read.request.width), (Some(156_680_208_700_286), Some(768)));
        assert_eq!(read.left_out, ["1 more sampling passes"]);
    }

    #[test]
    fn odd_graphs_come_to_an_end() {
        assert_eq!(parse("{}"), None);
        assert_eq!(parse("[1, 2]"), None);
        assert_eq!(parse("\"NaN\""), None);
        // A circle of conditionings, of models, and of samplers.
        let graph = json!({
            "1": {"class_type": "KSampler", "inputs": {"positive": ["2", 0], "negative": ["2", 0], "model": ["3", 0],
                "latent_image": ["1", 0], "seed": ["4", 0], "steps": -5, "cfg": "high"}},
            "2": {"class_type": "ConditioningCombine", "inputs": {"conditioning_1": ["2", 0]}},
            "3": {"class_type": "FreeU", "inputs": {"model": ["3", 0]}},
            "4": {"class_type": "Seed", "inputs": {"seed": ["4", 0]}}
        });
        let read = read(&graph);
        assert_eq!((read.request.steps, read.request.seed, read.model), (None, None, None));
        assert!(read.left_out.iter().any(|left| left.contains("seed")), "{:?}", read.left_out);
        // A long chain.
        let mut nodes = Map::new();
        for i in 0..20_000 {
            let next = json!([(i + 1).to_string(), 0]);
            nodes.insert(
                i.to_string(),
                json!({"class_type": "Reroute", "inputs": {"model": next, "samples": next}}),
            );
        }
        nodes.insert(
            "x".into(),
            json!({"class_type": "KSampler", "inputs": {"model": ["0", 0], "latent_image": ["0", 0]}}),
        );
        assert!(parse(&Value::Object(nodes).to_string()).is_some());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_not(text in "[\\[\\]{}\":,0-9a-zN \\\\\u{e9}-]{0,200}") {
            parse(&text);
        }
    }
}
