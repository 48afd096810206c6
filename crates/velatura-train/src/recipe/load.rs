//! Reading recipes: every key must be known, every value in range, and each complaint names file, key and remedy.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::common::{DataSettings, LogSettings, TrainingSettings};
use crate::TrainError;

/// A kind of recipe.
pub trait Recipe: Serialize + DeserializeOwned {
    /// The value of the key `kind`.
    const KIND: &'static str;
    /// Looks at every value.
    fn check(&self, checks: &mut Checks);
    /// The pictures.
    fn data(&self) -> &DataSettings;
    /// The loop.
    fn training(&self) -> &TrainingSettings;
    /// The loop, to change what the command line overrides.
    fn training_mut(&mut self) -> &mut TrainingSettings;
    /// What is written while it runs.
    fn log(&self) -> &LogSettings;
    /// Where everything is written.
    fn output(&self) -> &Path;
    /// Another place for it.
    fn set_output(&mut self, output: &Path);
}

/// A recipe with the text that it was read from.
#[derive(Clone, Debug)]
pub struct Loaded<R> {
    /// The recipe.
    pub recipe: R,
    /// Its file as it is.
    pub text: String,
}

/// Collects what is wrong with the values of a recipe.
#[derive(Debug, Default)]
pub struct Checks {
    wrong: Vec<(String, String)>,
}

impl Checks {
    /// Notes that a key's value must not be so.
    pub fn require(&mut self, key: &str, holds: bool, reason: impl ToString) {
        if !holds {
            self.wrong.push((key.to_string(), reason.to_string()));
        }
    }

    /// Notes what a network's own check says. Its message names the field.
    pub fn network<E: std::fmt::Display>(&mut self, key: &str, result: Result<(), E>) {
        if let Err(error) = result {
            self.wrong.push((key.to_string(), error.to_string()));
        }
    }
}

/// Reads and checks a recipe file.
pub fn load<R: Recipe>(file: &Path) -> Result<Loaded<R>, TrainError> {
    let text = std::fs::read_to_string(file)
        .map_err(|source| TrainError::RecipeRead { file: file.to_path_buf(), source })?;
    Ok(Loaded { recipe: parse(file, &text)?, text })
}

/// Checks the text of a recipe; `file` is for messages.
pub fn parse<R: Recipe>(file: &Path, text: &str) -> Result<R, TrainError> {
    let file_of = || file.to_path_buf();
    let mut table: toml::Table = toml::from_str(text).map_err(|error| {
        let line =
            error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        TrainError::RecipeSyntax { file: file_of(), line, reason: error.message().replace('\n', " ") }
    })?;
    let wrong = |key: String, reason: String| TrainError::RecipeValue { file: file_of(), key, reason };
    match table.remove("kind") {
        Some(toml::Value::String(kind)) if kind == R::KIND => {}
        Some(other) => {
            return Err(wrong(
                "kind".into(),
                format!("this command wants kind = \"{}\", not {other}", R::KIND),
            ));
        }
        None => return Err(wrong("kind".into(), format!("it is missing; write kind = \"{}\"", R::KIND))),
    }
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let result: Result<R, toml::de::Error> = {
        let deserializer = serde_path_to_error::Deserializer::new(toml::Value::Table(table), &mut track);
        serde_ignored::deserialize(deserializer, |path| unknown.push(clean(&path.to_string())))
    };
    let recipe = result.map_err(|error| {
        let (path, message) = (clean(&track.path().to_string()), error.message().replace('\n', " "));
        // Parts that refuse unknown keys themselves say so in words.
        match unknown_field(&message) {
            Some((key, known)) => {
                let nearest = nearest(&key, known.iter().map(String::as_str));
                let parent = path.rsplit_once('.').map_or("", |(parent, _)| parent);
                let parent = if path.ends_with(&key) { parent } else { path.as_str() };
                TrainError::RecipeKey { file: file_of(), key: join(parent, &key), nearest }
            }
            None => wrong(path, message),
        }
    })?;
    if let Some(key) = unknown.into_iter().next() {
        let (parent, own) = key.rsplit_once('.').unwrap_or(("", &key));
        let known = serde_json::to_value(&recipe).unwrap_or_default();
        let siblings = at(&known, parent).and_then(Value::as_object);
        let near = siblings.and_then(|s| nearest(own, s.keys().map(String::as_str)));
        return Err(TrainError::RecipeKey { file: file_of(), nearest: near, key });
    }
    let mut checks = Checks::default();
    recipe.data().check(&mut checks);
    recipe.training().check(&mut checks);
    recipe.log().check(&mut checks);
    recipe.check(&mut checks);
    match checks.wrong.into_iter().next() {
        Some((key, reason)) => Err(wrong(key, reason)),
        None => Ok(recipe),
    }
}

/// Paths as the libraries write them hold "?" for optional values.
fn clean(path: &str) -> String {
    path.split('.').filter(|part| *part != "?").collect::<Vec<_>>().join(".")
}

fn join(parent: &str, key: &str) -> String {
    if parent.is_empty() || parent == "." { key.to_string() } else { format!("{parent}.{key}") }
}

/// Key and known keys of serde's message on an unknown field.
fn unknown_field(message: &str) -> Option<(String, Vec<String>)> {
    let rest = message.strip_prefix("unknown field ")?;
    let mut quoted = rest.split('`').skip(1).step_by(2).map(str::to_string);
    Some((quoted.next()?, quoted.collect()))
}

fn nearest<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let likeness = |name: &'a str| (strsim::jaro_winkler(key, name), name);
    let best = known.map(likeness).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 > 0.7).then(|| best.1.to_string())
}

fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').filter(|p| !p.is_empty()).try_fold(value, |value, part| value.get(part))
}

/// Keys that may change between a checkpoint and its continuation.
fn may_change(key: &str) -> bool {
    let without_effect = ["log.", "samples.", "export."];
    // What these name is known by its hash, wherever it lies.
    let files = ["autoencoder", "start.autoencoder", "start.model"];
    matches!(key, "name" | "output" | "training.steps" | "training.threads")
        || files.contains(&key)
        || without_effect.iter().any(|section| key.starts_with(section))
}

/// The first key in which two recipes (as JSON) differ, with both values; keys that may change are passed over.
pub fn first_difference(was: &Value, now: &Value) -> Option<(String, String, String)> {
    fn walk(path: &str, was: &Value, now: &Value) -> Option<(String, String, String)> {
        if was == now || may_change(path) {
            return None;
        }
        if let (Some(a), Some(b)) = (was.as_object(), now.as_object()) {
            let null = Value::Null;
            let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
            keys.sort_unstable();
            keys.dedup();
            let get = |map: &'_ serde_json::Map<String, Value>, key: &str| map.get(key).cloned();
            return keys.into_iter().find_map(|key| {
                let (x, y) = (get(a, key).unwrap_or(null.clone()), get(b, key).unwrap_or(null.clone()));
                walk(&join(path, key), &x, &y)
            });
        }
        Some((path.to_string(), was.to_string(), now.to_string()))
    }
    walk("", was, now)
}
