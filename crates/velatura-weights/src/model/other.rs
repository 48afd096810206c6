//! Files that hold no model: adapters, embeddings, and models of other kinds, told apart by how their tensors are named.

use std::collections::BTreeMap;

use super::Family;
use crate::{TensorEntry, TensorSource};

/// What a file is that holds no part of a Stable Diffusion model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OtherKind {
    /// Low-rank updates of weights (Hu et al. 2021), in kohya's, diffusers' or PEFT's naming.
    Lora,
    /// Updates as Hadamard products of low-rank ones, LoHa (Yeh et al., "LyCORIS", 2024).
    Loha,
    /// Updates as Kronecker products, LoKr (the same).
    Lokr,
    /// Embeddings for words of a prompt, textual inversion (Gal et al. 2022).
    TextualInversion,
    /// A ControlNet (Zhang et al. 2023).
    ControlNet,
    /// A T2I-Adapter (Mou et al. 2023).
    T2iAdapter,
    /// An IP-Adapter (Ye et al. 2023).
    IpAdapter,
    /// AnimateDiff's motion module (Guo et al. 2023).
    MotionModule,
    /// A1111's hypernetwork.
    Hypernetwork,
    /// A picture enlarger of the ESRGAN family.
    Upscaler,
    /// CLIP's encoder of pictures.
    ClipVision,
    /// The text encoder T5.
    T5,
    /// Stable Diffusion 3 or 3.5.
    Sd3,
    /// FLUX.
    Flux,
    /// Another transformer that denoises.
    DiffusionTransformer,
    /// Something else.
    Unknown,
}

impl OtherKind {
    /// As it is written in listings.
    pub fn name(self) -> &'static str {
        match self {
            OtherKind::Lora => "LoRA",
            OtherKind::Loha => "LoHa",
            OtherKind::Lokr => "LoKr",
            OtherKind::TextualInversion => "textual inversion embedding",
            OtherKind::ControlNet => "ControlNet",
            OtherKind::T2iAdapter => "T2I-Adapter",
            OtherKind::IpAdapter => "IP-Adapter",
            OtherKind::MotionModule => "AnimateDiff motion module",
            OtherKind::Hypernetwork => "hypernetwork",
            OtherKind::Upscaler => "picture enlarger (ESRGAN family)",
            OtherKind::ClipVision => "CLIP picture encoder",
            OtherKind::T5 => "T5 text encoder",
            OtherKind::Sd3 => "Stable Diffusion 3",
            OtherKind::Flux => "FLUX",
            OtherKind::DiffusionTransformer => "diffusion transformer",
            OtherKind::Unknown => "unknown",
        }
    }
}

/// A file that holds no part of a Stable Diffusion model, described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    /// What it is.
    pub kind: OtherKind,
    /// The family that it belongs to, by the width of the text that it works with, where that says it.
    pub family: Option<Family>,
    /// Ranks of a low-rank update with how many there are of each; empty for anything else.
    pub ranks: BTreeMap<usize, usize>,
    /// Vectors of an embedding; 0 for anything else.
    pub vectors: usize,
}

/// Names that give a kind away; the first that a tensor has decides.
const SIGNS: &[(OtherKind, &[&str])] = &[
    (OtherKind::Loha, &[".hada_w1_a"]),
    (OtherKind::Lokr, &[".lokr_w1", ".lokr_w1_a"]),
    (
        OtherKind::Lora,
        &[".lora_down.", ".lora_up.", ".lora_A.", ".lora_B.", "_lora.down.", "_lora.up.", ".lora.down."],
    ),
    (OtherKind::IpAdapter, &["ip_adapter.", "image_proj.", ".to_k_ip."]),
    (OtherKind::MotionModule, &["motion_modules."]),
    (
        OtherKind::ControlNet,
        &["control_model.", "controlnet_cond_embedding.", "input_hint_block.", "zero_convs."],
    ),
    (OtherKind::TextualInversion, &["string_to_param.", "emb_params"]),
    (OtherKind::Sd3, &["joint_blocks.", "transformer_blocks.0.ff_context."]),
    (OtherKind::Flux, &["double_blocks.", "single_transformer_blocks."]),
    (OtherKind::T5, &["SelfAttention.relative_attention_bias"]),
    (OtherKind::ClipVision, &["vision_model.", "visual.transformer."]),
    (OtherKind::Upscaler, &[".RDB1.conv1.", ".rdb1.conv1."]),
    (OtherKind::T2iAdapter, &["body.0.block1.", "adapter.body.0."]),
    (OtherKind::DiffusionTransformer, &["x_embedder.proj.", "patch_embedding.", "pos_embed.proj."]),
];

impl Other {
    /// What a file is, by the names and shapes of its tensors.
    pub fn of(source: &dyn TensorSource) -> Self {
        let tensors = source.tensors();
        let has = |sign: &str| tensors.keys().any(|name| name.contains(sign));
        let signed = SIGNS.iter().find(|(_, signs)| signs.iter().any(|sign| has(sign)));
        let kind = match signed {
            Some((kind, _)) => *kind,
            None if tensors.keys().all(|name| is_hypernetwork(name)) && !tensors.is_empty() => {
                OtherKind::Hypernetwork
            }
            None if is_embedding(tensors) => OtherKind::TextualInversion,
            None => OtherKind::Unknown,
        };
        let ranks = ranks(kind, tensors);
        let mut other = Other { kind, family: None, ranks, vectors: 0 };
        match kind {
            OtherKind::TextualInversion => other.measure_embedding(tensors),
            OtherKind::Lora
            | OtherKind::Loha
            | OtherKind::Lokr
            | OtherKind::ControlNet
            | OtherKind::IpAdapter => {
                other.family = of_attention(tensors);
            }
            _ => {}
        }
        other
    }

    fn measure_embedding(&mut self, tensors: &BTreeMap<String, TensorEntry>) {
        let rows = |e: &TensorEntry| if e.shape.len() == 2 { e.shape[0] } else { 1 };
        self.vectors = tensors.values().map(rows).max().unwrap_or(0);
        let width = |name: &str| tensors.get(name).and_then(|e| e.shape.last().copied());
        let widths = (width("clip_l"), width("clip_g"));
        self.family = match widths {
            (Some(768), Some(1280)) => Some(Family::Sdxl),
            (None, Some(1280)) => Some(Family::SdxlRefiner),
            _ => of_width(tensors.values().next().and_then(|e| e.shape.last().copied())),
        };
    }
}

/// The family whose text is so wide.
fn of_width(width: Option<usize>) -> Option<Family> {
    match width? {
        768 => Some(Family::Sd1),
        1024 => Some(Family::Sd2),
        1280 => Some(Family::SdxlRefiner),
        2048 => Some(Family::Sdxl),
        _ => None,
    }
}

/// By the matrix, or the factor of its update, that reads the text in an attention to it.
fn of_attention(tensors: &BTreeMap<String, TensorEntry>) -> Option<Family> {
    let reads_text = |name: &str| {
        let attention = name.contains("attn2") && (name.contains("to_k") || name.contains("to_v"));
        let written =
            ["lora_up", "lora_B", ".up.", "hada_w1_a", "hada_w2_a", "lokr_w1", ".alpha", "dora_scale"];
        attention && !written.iter().any(|w| name.contains(w))
    };
    let found = tensors.iter().find(|(name, e)| e.shape.len() >= 2 && reads_text(name));
    found.and_then(|(_, entry)| of_width(entry.shape.get(1).copied()))
}

/// The inner dimension of every update.
fn ranks(kind: OtherKind, tensors: &BTreeMap<String, TensorEntry>) -> BTreeMap<usize, usize> {
    let (signs, axis): (&[&str], usize) = match kind {
        OtherKind::Lora => (&[".lora_down.", ".lora_A.", "_lora.down.", ".lora.down."], 0),
        OtherKind::Loha => (&[".hada_w1_b"], 0),
        _ => return BTreeMap::new(),
    };
    let mut ranks = BTreeMap::new();
    for (name, entry) in tensors {
        if let Some(&rank) = entry.shape.get(axis).filter(|_| signs.iter().any(|s| name.contains(s))) {
            *ranks.entry(rank).or_default() += 1;
        }
    }
    ranks
}

/// A1111 names a hypernetwork's tensors by the width of the attention that they serve.
fn is_hypernetwork(name: &str) -> bool {
    let (width, rest) = name.split_once('.').unwrap_or((name, ""));
    ["320", "640", "768", "1024", "1280"].contains(&width) && rest.contains("linear")
}

/// Nothing but a few vectors of a text encoder's width: diffusers' embedding, and SDXL's of two encoders.
fn is_embedding(tensors: &BTreeMap<String, TensorEntry>) -> bool {
    let vector = |e: &TensorEntry| {
        let width = e.shape.last().is_some_and(|w| [768, 1024, 1280].contains(w));
        width && (e.shape.len() == 1 || e.shape.len() == 2 && e.shape[0] <= 77 * 4)
    };
    let named = |name: &String| !name.ends_with(".weight") && !name.ends_with(".bias");
    (1..=2).contains(&tensors.len()) && tensors.iter().all(|(name, e)| vector(e) && named(name))
}
