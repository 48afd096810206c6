//! diffusers' `unet/config.json`: from a U-Net's dimensions, and back.

use serde_json::{Map, Value, json};

use super::unet::{ClassEmbedding, Middle, Unet};

const MAX_LEVELS: usize = 8;
const MAX_LAYERS: usize = 16;
const MAX_DEPTH: usize = 64;

/// Groups of the group norms: 32, or fewer where 32 do not divide a network's channels.
pub(crate) fn groups(channels: &[usize]) -> usize {
    channels.iter().fold(32, |g, &c| gcd(g, c)).max(1)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// A list as the one value that all of it have.
fn simplest<T: PartialEq + Into<Value> + Clone>(list: &[T]) -> Value {
    match list {
        [first, rest @ ..] if rest.iter().all(|v| v == first) => first.clone().into(),
        _ => Value::Array(list.iter().cloned().map(Into::into).collect()),
    }
}

impl Unet {
    /// diffusers' configuration. Heads do not follow from tensors: where the transformers' projections are linear
    /// (2.x, XL) heads have 64 features, elsewhere there are 8 of them, which diffusers, too, calls
    /// `attention_head_dim`; an upscaler has 8 as well.
    pub(crate) fn config(&self, sample_size: usize) -> Value {
        let eight = !self.linear || matches!(self.class, Some(ClassEmbedding::Table(_)));
        let heads: Vec<usize> =
            self.channels.iter().map(|c| if eight { 8 } else { (c / 64).max(1) }).collect();
        let depths: Vec<Option<Value>> = self.down.iter().map(|d| depth_of(d)).collect();
        let ups: Vec<Option<Value>> = self.up.iter().map(|d| depth_of(d)).collect();
        let layers: Vec<usize> = self.down.iter().map(Vec::len).collect();
        let mirrored = depths.iter().rev().eq(ups.iter());
        // A level without attention has a depth too in diffusers, of which the last one's is the middle's.
        let last = match self.middle {
            Middle::Attention(depth) => depth,
            Middle::None | Middle::Plain => 1,
        };
        let filled = |list: Vec<Option<Value>>, inner: usize| -> Vec<Value> {
            let fill = |(i, v): (usize, Option<Value>)| {
                v.unwrap_or_else(|| if i == inner { last.into() } else { 1.into() })
            };
            list.into_iter().enumerate().map(fill).collect()
        };
        let (depths, ups) = (filled(depths, self.down.len() - 1), filled(ups, 0));
        let kind = |depths: &[usize], with: &'static str, without: &'static str| {
            if depths.iter().any(|&d| d > 0) { with } else { without }
        };
        let down: Vec<&str> =
            self.down.iter().map(|d| kind(d, "CrossAttnDownBlock2D", "DownBlock2D")).collect();
        let up: Vec<&str> = self.up.iter().map(|d| kind(d, "CrossAttnUpBlock2D", "UpBlock2D")).collect();
        let middle = match self.middle {
            Middle::None => Value::Null,
            Middle::Plain => "UNetMidBlock2D".into(),
            Middle::Attention(_) => "UNetMidBlock2DCrossAttn".into(),
        };
        let projection = match self.class {
            Some(ClassEmbedding::Projection(n)) => Some(n),
            _ => self.addition,
        };
        json!({
            "_class_name": "UNet2DConditionModel",
            "act_fn": "silu",
            "addition_embed_type": self.addition.map(|_| "text_time"),
            "addition_time_embed_dim": self.addition.map(|_| 256),
            "attention_head_dim": simplest(&heads),
            "block_out_channels": self.channels,
            "center_input_sample": false,
            "class_embed_type": matches!(self.class, Some(ClassEmbedding::Projection(_))).then_some("projection"),
            "cross_attention_dim": self.cross,
            "down_block_types": down,
            "downsample_padding": 1,
            "flip_sin_to_cos": true,
            "freq_shift": 0,
            "in_channels": self.in_channels,
            "layers_per_block": simplest(&layers),
            "mid_block_scale_factor": 1,
            "mid_block_type": middle,
            "norm_eps": 1e-5,
            "norm_num_groups": groups(&self.channels),
            "num_class_embeds": match self.class {
                Some(ClassEmbedding::Table(n)) => Some(n),
                _ => None,
            },
            "only_cross_attention": simplest(&self.only_cross),
            "out_channels": self.out_channels,
            "projection_class_embeddings_input_dim": projection,
            "reverse_transformer_layers_per_block": (!mirrored).then_some(ups),
            "sample_size": sample_size,
            "time_cond_proj_dim": self.guidance,
            "transformer_layers_per_block": simplest(&depths),
            "up_block_types": up,
            "use_linear_projection": self.linear,
        })
    }

    /// From a configuration file; nothing where it is none of a U-Net that is known here.
    pub(crate) fn from_config(c: &Value) -> Option<Self> {
        let c = c.as_object()?;
        let channels = sizes(c, "block_out_channels")?;
        let levels = channels.len();
        // Bounds that keep the table small whatever the file says.
        if levels == 0 || levels > MAX_LEVELS {
            return None;
        }
        let each = |key: &str, default: usize| match c.get(key) {
            Some(Value::Array(_)) => sizes(c, key).filter(|l| l.len() == levels),
            Some(v) if !v.is_null() => v.as_u64().map(|n| vec![(n as usize).min(1 << 20); levels]),
            _ => Some(vec![default; levels]),
        };
        let layers = each("layers_per_block", 2)?;
        if layers.iter().any(|&n| n == 0 || n > MAX_LAYERS) {
            return None;
        }
        let attends = |key: &str| -> Option<Vec<bool>> {
            let types = c.get(key)?.as_array()?;
            let known = types.iter().map(|t| Some(t.as_str()?.starts_with("CrossAttn")));
            known.collect::<Option<Vec<_>>>().filter(|l| l.len() == levels)
        };
        let (down_types, up_types) = (attends("down_block_types")?, attends("up_block_types")?);
        let plain = Value::from(1);
        let depth = c.get("transformer_layers_per_block").filter(|v| !v.is_null()).unwrap_or(&plain);
        let level = |of: &Value, i: usize, blocks: usize, attends: bool| -> Option<Vec<usize>> {
            let one = match of {
                Value::Array(list) => list.get(i)?,
                other => other,
            };
            let depths = match one {
                Value::Array(list) => {
                    let list: Option<Vec<usize>> = list.iter().map(size).collect();
                    list.filter(|l| l.len() == blocks)?
                }
                one => vec![size(one)?; blocks],
            };
            let bounded = depths.iter().all(|&d| d <= MAX_DEPTH);
            bounded.then(|| if attends { depths } else { vec![0; blocks] })
        };
        let down: Vec<Vec<usize>> =
            (0..levels).map(|i| level(depth, i, layers[i], down_types[i])).collect::<Option<_>>()?;
        let reverse = c.get("reverse_transformer_layers_per_block").filter(|v| !v.is_null());
        let up = (0..levels).map(|i| {
            let inner = levels - 1 - i;
            match reverse {
                Some(reverse) => level(reverse, i, layers[inner] + 1, up_types[i]),
                // Without its own list the way up mirrors the way down, with one block more.
                None => {
                    let depth = match depth {
                        Value::Array(list) => list.get(inner)?,
                        one => one,
                    };
                    let depth = if let Value::Array(list) = depth {
                        list.iter().rev().find_map(size)?
                    } else {
                        size(depth)?
                    };
                    let depth = if up_types[i] { depth } else { 0 };
                    (depth <= MAX_DEPTH).then(|| vec![depth; layers[inner] + 1])
                }
            }
        });
        let up = up.collect::<Option<_>>()?;
        let middle = match c.get("mid_block_type") {
            Some(Value::Null) => Middle::None,
            Some(Value::String(s)) if s == "UNetMidBlock2D" => Middle::Plain,
            _ => Middle::Attention(match depth {
                Value::Array(list) => match list.last()? {
                    Value::Array(inner) => size(inner.first()?)?,
                    one => size(one)?,
                },
                one => size(one)?,
            }),
        };
        if matches!(middle, Middle::Attention(depth) if depth == 0 || depth > MAX_DEPTH) {
            return None;
        }
        let one = |key: &str| c.get(key).and_then(size);
        let text = |key: &str| c.get(key).and_then(Value::as_str);
        let class = match (text("class_embed_type"), one("num_class_embeds")) {
            (Some("projection"), _) => {
                one("projection_class_embeddings_input_dim").map(ClassEmbedding::Projection)
            }
            (Some("timestep"), _) => Some(ClassEmbedding::Projection(channels[0])),
            (None, Some(n)) => Some(ClassEmbedding::Table(n)),
            _ => None,
        };
        let addition = text("addition_embed_type").filter(|t| *t == "text_time");
        let only_cross: Vec<bool> = match c.get("only_cross_attention") {
            Some(Value::Array(list)) if list.len() == levels => {
                list.iter().map(Value::as_bool).collect::<Option<_>>()?
            }
            Some(v) if v.as_bool() == Some(true) => vec![true; levels],
            _ => vec![false; levels],
        };
        // A level without attention has nothing to look at the text with.
        let only_cross =
            only_cross.into_iter().zip(&down).map(|(o, d)| o && d.iter().any(|&d| d > 0)).collect();
        Some(Unet {
            in_channels: one("in_channels").unwrap_or(4),
            out_channels: one("out_channels").unwrap_or(4),
            channels,
            down,
            up,
            middle,
            cross: match c.get("cross_attention_dim") {
                Some(Value::Array(list)) => size(list.first()?)?,
                _ => one("cross_attention_dim").unwrap_or(1280),
            },
            only_cross,
            linear: c.get("use_linear_projection").and_then(Value::as_bool).unwrap_or(false),
            class,
            addition: addition.and_then(|_| one("projection_class_embeddings_input_dim")),
            guidance: one("time_cond_proj_dim"),
        })
    }
}

/// The depth of a level's transformers, or of each; nothing for a level without attention.
fn depth_of(depths: &[usize]) -> Option<Value> {
    depths.iter().any(|&d| d > 0).then(|| simplest(depths))
}

/// A count that a network may have; more is no configuration.
fn size(v: &Value) -> Option<usize> {
    v.as_u64().filter(|&n| n <= 1 << 20).map(|n| n as usize)
}

fn sizes(c: &Map<String, Value>, key: &str) -> Option<Vec<usize>> {
    c.get(key)?.as_array()?.iter().map(size).collect()
}
