//! From the values of a pickle to named tensors.

use std::collections::{BTreeMap, HashSet};

use super::machine::{Id, Pickle, Value};
use super::tensors::MAX_TENSORS;
use crate::WeightsError;

/// Dicts within dicts; a state dict has one or two.
const MAX_DEPTH: usize = 16;
/// The longest name.
const MAX_NAME: usize = 1024;
/// Texts and numbers beside the tensors that are kept.
const MAX_METADATA: usize = 1024;

/// Tensors by name, as indices into [`Pickle::tensors`], and the texts and numbers beside them.
pub(crate) struct Named {
    pub tensors: BTreeMap<String, u32>,
    pub metadata: BTreeMap<String, String>,
}

/// Walks the outermost dict, or its entry `state_dict`. Each container is entered once, so that cycles end and shared
/// ones do not multiply.
pub(crate) fn named(pickle: &Pickle<'_>) -> Result<Named, WeightsError> {
    let mut out = Named { tensors: BTreeMap::new(), metadata: BTreeMap::new() };
    let root = match children(pickle, pickle.root) {
        Some(root) => root,
        None => {
            return Err(WeightsError::Damaged {
                file: pickle.file.to_path_buf(),
                reason: "its pickle holds no dict of tensors".into(),
            });
        }
    };
    for &(key, value) in &root {
        if out.metadata.len() == MAX_METADATA {
            break;
        }
        let Some(key) = pickle.text(key).filter(|k| k.len() <= MAX_NAME) else { continue };
        match pickle.value(value) {
            Value::Int(n) => drop(out.metadata.insert(key.into(), n.to_string())),
            Value::Float(n) => drop(out.metadata.insert(key.into(), n.to_string())),
            Value::Bool(b) => drop(out.metadata.insert(key.into(), b.to_string())),
            Value::Text(_) => {
                let text = pickle.text(value).unwrap_or_default();
                out.metadata.insert(key.into(), text.chars().take(MAX_NAME).collect());
            }
            _ => {}
        }
    }
    let inner = root
        .iter()
        .find(|(k, v)| pickle.text(*k) == Some("state_dict") && matches!(pickle.value(*v), Value::Dict(_)));
    let start = inner.map_or(pickle.root, |&(_, v)| v);
    let mut entered = HashSet::from([start]);
    let mut waiting = vec![(String::new(), start, 0)];
    while let Some((prefix, id, depth)) = waiting.pop() {
        for (key, value) in children(pickle, id).unwrap_or_default() {
            let name = match (pickle.text(key), pickle.value(key)) {
                (Some(key), _) if prefix.len() + key.len() < MAX_NAME => format!("{prefix}{key}"),
                (Some(_), _) => return Err(damaged(pickle, "a tensor's name is endless")),
                (None, Value::Int(n)) if prefix.len() + 24 < MAX_NAME => format!("{prefix}{n}"),
                _ => continue,
            };
            match pickle.value(value) {
                Value::Tensor(tensor) => {
                    if out.tensors.contains_key(&name) {
                        let file = pickle.file.to_path_buf();
                        return Err(WeightsError::DuplicateTensor { file, tensor: name });
                    }
                    if out.tensors.len() == MAX_TENSORS {
                        return Err(damaged(pickle, "it names too many tensors"));
                    }
                    out.tensors.insert(name, *tensor);
                }
                Value::Dict(_) | Value::Object { state: Some(_) } if entered.insert(value) => {
                    if depth == MAX_DEPTH {
                        return Err(damaged(pickle, "its dicts are nested too deep"));
                    }
                    waiting.push((name + ".", value, depth + 1));
                }
                _ => {}
            }
        }
    }
    if out.tensors.is_empty() {
        return Err(damaged(pickle, "it holds no tensors"));
    }
    Ok(out)
}

fn damaged(pickle: &Pickle<'_>, reason: &str) -> WeightsError {
    WeightsError::Damaged { file: pickle.file.to_path_buf(), reason: reason.into() }
}

/// A dict's items, or those of an object's state. A key that is there twice is its last value, as in Python.
fn children(pickle: &Pickle<'_>, id: Id) -> Option<Vec<(Id, Id)>> {
    let items = match pickle.value(id) {
        Value::Dict(items) => items,
        Value::Object { state: Some(state) } => match pickle.value(*state) {
            Value::Dict(items) => items,
            _ => return None,
        },
        _ => return None,
    };
    let mut seen = HashSet::new();
    let mut last: Vec<(Id, Id)> =
        items.iter().rev().filter(|(k, _)| pickle.text(*k).is_none_or(|t| seen.insert(t))).copied().collect();
    last.reverse();
    Some(last)
}
