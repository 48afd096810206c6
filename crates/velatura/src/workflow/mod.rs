//! ComfyUI's `prompt`: the graph of nodes that made a picture, which its PNG files carry as JSON. As much as one request
//! can say is read from it; what else the graph does is told.

mod graph;
mod model;
mod settings;
#[cfg(test)]
mod tests;

use serde_json::Value;
use velatura_text::prompt::Dialect;

use self::graph::Reader;
use crate::request::GenerateRequest;

/// Links followed from one node to the next; longer ways are no pictures.
const LONGEST_WAY: usize = 256;

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
