//! Text encoders: transformers' `CLIPTextModel`, with or without projection, and OpenCLIP's text transformer.

use serde_json::{Value, json};

use super::probe::{Probe, dim};
use super::{Form, Naming, Table};

/// The dimensions of a text encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Clip {
    pub vocabulary: usize,
    pub positions: usize,
    pub hidden: usize,
    pub layers: usize,
    pub intermediate: usize,
    /// Length of the pooled output, where it is projected.
    pub projection: Option<usize>,
}

impl Clip {
    /// From the tensors.
    pub(crate) fn infer(p: Probe<'_>) -> Option<Self> {
        let (tokens, positions, layer, wide, projection) = match p.naming {
            Naming::Original => (
                p.shape("token_embedding.weight")?,
                p.shape("positional_embedding")?,
                "transformer.resblocks.",
                "mlp.c_fc.weight",
                dim(p.shape("text_projection"), 1),
            ),
            Naming::Diffusers => {
                let root =
                    if p.has("text_model.embeddings.token_embedding.weight") { "text_model." } else { "" };
                return Self::of_transformers(p, root);
            }
        };
        Some(Clip {
            vocabulary: dim(Some(tokens), 0)?,
            positions: dim(Some(positions), 0)?,
            hidden: dim(Some(tokens), 1)?,
            layers: p.count(|n| format!("{layer}{n}.ln_1.weight")),
            intermediate: dim(p.shape(&format!("{layer}0.{wide}")), 0)?,
            projection,
        })
    }

    fn of_transformers(p: Probe<'_>, root: &str) -> Option<Self> {
        let tokens = p.shape(&format!("{root}embeddings.token_embedding.weight"))?;
        Some(Clip {
            vocabulary: dim(Some(tokens), 0)?,
            positions: dim(p.shape(&format!("{root}embeddings.position_embedding.weight")), 0)?,
            hidden: dim(Some(tokens), 1)?,
            layers: p.count(|n| format!("{root}encoder.layers.{n}.layer_norm1.weight")),
            intermediate: dim(p.shape(&format!("{root}encoder.layers.0.mlp.fc1.weight")), 0)?,
            projection: dim(p.shape("text_projection.weight"), 0),
        })
    }

    /// From a configuration file.
    pub(crate) fn from_config(c: &Value) -> Option<Self> {
        let size = |key: &str, default: usize| {
            c.get(key).map_or(Some(default), |v| v.as_u64().map(|n| n as usize)).filter(|&n| n <= 1 << 24)
        };
        let projects =
            c.pointer("/architectures/0").and_then(Value::as_str).is_some_and(|a| a.contains("Projection"));
        Some(Clip {
            vocabulary: size("vocab_size", 49408)?,
            positions: size("max_position_embeddings", 77)?,
            hidden: size("hidden_size", 512)?,
            layers: size("num_hidden_layers", 12)?.min(1024),
            intermediate: size("intermediate_size", 2048)?,
            projection: if projects { Some(size("projection_dim", 512)?) } else { None },
        })
    }

    /// transformers' configuration. Heads and activation do not follow from tensors: heads have 64 features, and the
    /// activation is OpenAI's for the width of its model (768), else OpenCLIP's.
    pub(crate) fn config(&self) -> Value {
        let class = if self.projection.is_some() { "CLIPTextModelWithProjection" } else { "CLIPTextModel" };
        json!({
            "_class_name": class,
            "architectures": [class],
            "attention_dropout": 0.0,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "hidden_act": if self.hidden == 768 { "quick_gelu" } else { "gelu" },
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "layer_norm_eps": 1e-5,
            "max_position_embeddings": self.positions,
            "model_type": "clip_text_model",
            "num_attention_heads": (self.hidden / 64).max(1),
            "num_hidden_layers": self.layers,
            "pad_token_id": 1,
            "projection_dim": self.projection.unwrap_or(self.hidden),
            "vocab_size": self.vocabulary,
        })
    }

    /// All tensors.
    pub(crate) fn table(&self) -> Table {
        let mut t = Table::default();
        let (h, wide) = (self.hidden, self.intermediate);
        t.weight("text_model.embeddings.token_embedding", "token_embedding", &[self.vocabulary, h]);
        let positions = "text_model.embeddings.position_embedding.weight".to_string();
        t.add(positions, "positional_embedding".into(), Form::Whole, &[self.positions, h]);
        for n in 0..self.layers {
            let (name, original) =
                (format!("text_model.encoder.layers.{n}"), format!("transformer.resblocks.{n}"));
            let mut layer = |a: &str, b: &str, shape: &[usize]| {
                t.layer(&format!("{name}.{a}"), &format!("{original}.{b}"), shape);
            };
            layer("layer_norm1", "ln_1", &[h]);
            layer("layer_norm2", "ln_2", &[h]);
            layer("mlp.fc1", "mlp.c_fc", &[wide, h]);
            layer("mlp.fc2", "mlp.c_proj", &[h, wide]);
            layer("self_attn.out_proj", "attn.out_proj", &[h, h]);
            for (third, to) in ["q_proj", "k_proj", "v_proj"].into_iter().enumerate() {
                let (a, b) = (format!("{name}.self_attn.{to}"), format!("{original}.attn.in_proj"));
                t.add(format!("{a}.weight"), format!("{b}_weight"), Form::Third(third), &[h, h]);
                t.add(format!("{a}.bias"), format!("{b}_bias"), Form::Third(third), &[h]);
            }
        }
        t.layer("text_model.final_layer_norm", "ln_final", &[h]);
        if let Some(length) = self.projection {
            let name = "text_projection.weight".to_string();
            t.add(name, "text_projection".into(), Form::Transposed, &[length, h]);
        }
        t
    }
}

/// The names without the outer module, which transformers 5 and some early checkpoints leave out.
pub(crate) fn short_name(name: &str) -> Option<String> {
    name.strip_prefix("text_model.").map(str::to_string)
}
