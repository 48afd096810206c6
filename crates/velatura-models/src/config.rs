//! What the configurations share: values for all levels or for each, activation names, and reading `config.json`.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use velatura_graph::{Activation, GraphError, Params, Var};

/// A configuration that describes no network of this crate.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// The text is no JSON, or a field holds a value of another type.
    #[error("the {network} configuration's field \"{field}\" cannot be read: {reason}")]
    Field {
        /// Which network's configuration it is.
        network: &'static str,
        /// Path of the field, or `.` for the whole.
        field: String,
        /// What was expected.
        reason: String,
    },
    /// The field is known, and asks for something that this crate does not build.
    #[error(
        "the {network} configuration asks for {field} = {value}, which is not supported; supported: {supported}"
    )]
    Unsupported {
        /// Which network's configuration it is.
        network: &'static str,
        /// Name of the field.
        field: String,
        /// The value that it has.
        value: String,
        /// The values that it may have.
        supported: String,
    },
    /// The values do not fit together.
    #[error("the {network} configuration cannot be built: {field} {reason}")]
    Invalid {
        /// Which network's configuration it is.
        network: &'static str,
        /// Name of the field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// One value for all levels of a network, or one for each, as diffusers' configurations have it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "one value, or a list with one for each level, is expected")]
pub enum OneOrMany<T> {
    /// One for each level, from the finest to the coarsest.
    Many(Vec<T>),
    /// The same for all.
    One(T),
}

impl<T> OneOrMany<T> {
    /// The value of a level. A list that is too short repeats its last entry; an empty one has none.
    pub fn get(&self, level: usize) -> Option<&T> {
        match self {
            OneOrMany::One(value) => Some(value),
            OneOrMany::Many(values) => values.get(level).or(values.last()),
        }
    }

    /// All values that are written down.
    pub fn values(&self) -> &[T] {
        match self {
            OneOrMany::One(value) => std::slice::from_ref(value),
            OneOrMany::Many(values) => values,
        }
    }

    /// Whether there is a value for each of this many levels, neither more nor fewer.
    pub fn fits(&self, levels: usize) -> bool {
        match self {
            OneOrMany::One(_) => true,
            OneOrMany::Many(values) => values.len() == levels,
        }
    }
}

impl<T> From<T> for OneOrMany<T> {
    fn from(value: T) -> Self {
        OneOrMany::One(value)
    }
}

/// Activation functions by the names that configurations use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActFn {
    /// `x * sigmoid(x)`
    #[serde(alias = "swish")]
    Silu,
    /// `max(x, 0)`
    Relu,
    /// GELU with the exact error function.
    Gelu,
    /// GELU's tanh approximation.
    #[serde(rename = "gelu_new", alias = "gelu_pytorch_tanh", alias = "gelu-approximate")]
    GeluTanh,
    /// `x * sigmoid(1.702 x)`, as in the original CLIP.
    QuickGelu,
}

impl From<ActFn> for Activation {
    fn from(name: ActFn) -> Activation {
        match name {
            ActFn::Silu => Activation::Silu,
            ActFn::Relu => Activation::Relu,
            ActFn::Gelu => Activation::Gelu,
            ActFn::GeluTanh => Activation::GeluTanh,
            ActFn::QuickGelu => Activation::QuickGelu,
        }
    }
}

/// A field of which only some values are supported; absent or `null` is always one of them.
pub(crate) struct Only {
    pub field: &'static str,
    /// The values as JSON.
    pub values: &'static [&'static str],
}

/// Reads a `config.json`. Fields that no network of this crate knows are ignored; those in `limited` are looked at,
/// because ignoring them would silently build another network.
pub(crate) fn read<T: DeserializeOwned>(
    network: &'static str,
    json: &str,
    limited: &[Only],
) -> Result<(T, Value), ConfigError> {
    let field = |field: String, reason: String| ConfigError::Field { network, field, reason };
    let value: Value = serde_json::from_str(json).map_err(|e| field(".".into(), e.to_string()))?;
    if !value.is_object() {
        return Err(field(".".into(), "an object with the configuration's fields is expected".into()));
    }
    for Only { field, values } in limited {
        let Some(found) = value.get(field).filter(|v| !v.is_null()) else { continue };
        let text = found.to_string();
        if !values.contains(&text.as_str()) {
            let supported =
                if values.is_empty() { "null".to_string() } else { format!("null, {}", values.join(", ")) };
            return Err(ConfigError::Unsupported {
                network,
                field: field.to_string(),
                value: text,
                supported,
            });
        }
    }
    let config = serde_path_to_error::deserialize(&value)
        .map_err(|e| field(e.path().to_string(), e.inner().to_string()))?;
    Ok((config, value))
}

/// Puts a configuration that does not fit into the graph as its error.
pub(crate) fn refuse(p: &Params<'_>, operation: &'static str, reason: String, input: Var<'_>) {
    let place = if p.path().is_empty() { String::new() } else { format!("{}: ", p.path()) };
    p.builder().fail(GraphError::Shape { place, operation, reason, inputs: vec![input.ty()] });
}

/// Fails with [`ConfigError::Invalid`] unless the condition holds.
macro_rules! ensure {
    ($network:expr, $condition:expr, $field:literal, $($reason:tt)*) => {
        if !$condition {
            return Err($crate::config::ConfigError::Invalid {
                network: $network,
                field: $field,
                reason: format!($($reason)*),
            });
        }
    };
}
pub(crate) use ensure;

/// More channels, tokens or features than any network has; keeps products of sizes from overflowing.
pub(crate) const MAX_SIZE: usize = 1 << 20;

/// More levels or layers than any network has.
pub(crate) const MAX_LAYERS: usize = 512;
