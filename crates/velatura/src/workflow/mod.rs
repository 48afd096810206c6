//! ComfyUI's `prompt`: the graph of nodes that made a picture, which its PNG files carry as JSON. As much as one request
//! can say is read from it; what else the graph does is told.

mod custom;
mod graph;
mod model;
mod settings;
#[cfg(test)]
mod tests;

use serde_json::Value;

use self::custom::Asked;
use self::graph::Reader;
use crate::taken_over::TakenOver;

/// Links followed from one node to the next; longer ways are no pictures.
const LONGEST_WAY: usize = 256;

/// Reads a graph; nothing where the text is none, or one without a sampler that is known. Time is linear in its size.
pub fn parse(text: &str) -> Option<TakenOver> {
    let graph = serde_json::from_str(text).or_else(|_| serde_json::from_str(&without_nan(text)));
    let Value::Object(nodes) = graph.ok()? else { return None };
    let mut reader = Reader { nodes: &nodes, out: TakenOver::default() };
    let sampler = reader.sampler()?;
    let inputs = reader.inputs(sampler)?;
    let asked = match reader.class(sampler) {
        Some("SamplerCustom" | "SamplerCustomAdvanced") => reader.custom(sampler),
        _ => {
            reader.sampling(sampler);
            Asked::of(inputs)
        }
    };
    reader.out.request.prompt = reader.text(asked.positive, true);
    reader.out.request.negative = reader.text(asked.negative, false);
    reader.latent(inputs.get("latent_image"));
    reader.model(asked.model);
    reader.as_comfyui();
    Some(reader.out)
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
