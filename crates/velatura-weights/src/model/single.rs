//! The parts in one file, whatever its naming: known prefixes are tried with the names that give a network away.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use super::part::{Network, Part, PartKind};
use crate::layout::clip::Clip;
use crate::layout::probe::Probe;
use crate::layout::{Form, Naming};
use crate::view::TensorView;
use crate::{TensorSource, WeightsError};

/// Where a part may be, and the tensor that shows that it is there.
struct Spot {
    kind: PartKind,
    prefix: &'static str,
    naming: Naming,
    sign: &'static str,
}

const fn spot(kind: PartKind, prefix: &'static str, naming: Naming, sign: &'static str) -> Spot {
    Spot { kind, prefix, naming, sign }
}

const UNET: (&str, &str) = ("input_blocks.0.0.weight", "down_blocks.0.resnets.0.time_emb_proj.weight");
const VAE: (&str, &str) = ("decoder.mid.block_1.norm1.weight", "decoder.mid_block.resnets.0.norm1.weight");
const OPEN: &str = "transformer.resblocks.0.attn.in_proj_weight";
const CLIP: &str = "text_model.embeddings.token_embedding.weight";
const SHORT: &str = "embeddings.token_embedding.weight";

/// In order: the first place that fits holds the part.
const SPOTS: &[Spot] = {
    use Naming::{Diffusers, Original};
    use PartKind::*;
    &[
        spot(Unet, "model.diffusion_model.", Original, UNET.0),
        spot(Unet, "unet.", Diffusers, UNET.1),
        spot(Unet, "model.diffusion_model.", Diffusers, UNET.1),
        spot(Unet, "diffusion_model.", Original, UNET.0),
        spot(Unet, "", Original, UNET.0),
        spot(Unet, "", Diffusers, UNET.1),
        spot(Vae, "first_stage_model.", Original, VAE.0),
        spot(Vae, "vae.", Diffusers, VAE.1),
        spot(Vae, "vae.", Original, VAE.0),
        spot(Vae, "", Original, VAE.0),
        spot(Vae, "", Diffusers, VAE.1),
        spot(Vae, "vae.", Diffusers, "decoder.layers.2.conv.0.weight"),
        spot(Vae, "", Diffusers, "decoder.layers.2.conv.0.weight"),
        spot(Vae, "", Diffusers, "encoder.layers.1.conv.0.weight"),
        spot(Vae, "taesd_", Original, "decoder.3.conv.0.weight"),
        spot(Vae, "taesd_", Original, "encoder.1.conv.0.weight"),
        spot(TextEncoder, "cond_stage_model.transformer.", Diffusers, CLIP),
        spot(TextEncoder, "cond_stage_model.transformer.", Diffusers, SHORT),
        spot(TextEncoder, "cond_stage_model.model.", Original, OPEN),
        spot(TextEncoder, "conditioner.embedders.0.transformer.", Diffusers, CLIP),
        spot(TextEncoder, "text_encoder.", Diffusers, CLIP),
        spot(TextEncoder, "text_encoder.", Diffusers, SHORT),
        spot(TextEncoder2, "conditioner.embedders.1.model.", Original, OPEN),
        spot(TextEncoder2, "conditioner.embedders.0.model.", Original, OPEN),
        spot(TextEncoder2, "text_encoder_2.", Diffusers, CLIP),
        spot(TextEncoder2, "text_encoder_2.", Diffusers, SHORT),
        spot(TextEncoder, "", Diffusers, CLIP),
        spot(TextEncoder, "", Diffusers, SHORT),
        spot(TextEncoder, "", Original, OPEN),
    ]
};

/// The tiny autoencoder's halves come as files whose names are bare numbers; here they get the prefixes that tools
/// which keep both in one file give them. Any other source is passed on.
pub(crate) fn with_prefix(source: Arc<dyn TensorSource>) -> Arc<dyn TensorSource> {
    let has = |name: &str| source.tensors().contains_key(name);
    let prefix = match (has("0.weight"), has("1.conv.0.weight"), has("1.weight"), has("3.conv.0.weight")) {
        (true, true, ..) => "taesd_encoder.",
        (false, false, true, true) => "taesd_decoder.",
        _ => return source,
    };
    let mut view = TensorView::new(source.clone());
    for (name, entry) in source.tensors() {
        view.add(format!("{prefix}{name}"), entry.shape.clone(), name.clone(), Form::Whole);
    }
    Arc::new(view)
}

/// The parts of a file. Configurations are left to be inferred once the family is known.
pub(crate) fn parts(
    source: &Arc<dyn TensorSource>,
    used: &mut BTreeSet<String>,
) -> Result<Vec<Part>, WeightsError> {
    let mut parts: Vec<Part> = Vec::new();
    for spot in SPOTS {
        let probe = Probe { tensors: source.tensors(), prefix: spot.prefix, naming: spot.naming };
        let taken = parts.iter().any(|p| p.kind == spot.kind);
        // A text encoder on its own is looked for last, and only where there is nothing else.
        let alone = spot.prefix.is_empty() && matches!(spot.kind, PartKind::TextEncoder) && !parts.is_empty();
        // The denoiser's two namings must not be taken for each other's: a ControlNet has no output.
        let output = match (spot.kind, spot.naming) {
            (PartKind::Unet, Naming::Diffusers) => probe.has("conv_out.weight"),
            (PartKind::Unet, Naming::Original) => probe.has("out.2.weight"),
            _ => true,
        };
        if taken || alone || !output || !probe.has(spot.sign) {
            continue;
        }
        let Some(mut network) = Network::infer(spot.kind, probe) else { continue };
        let mut kind = spot.kind;
        if let Network::Clip(clip) = &mut network {
            kind = settle(clip, spot);
        }
        parts.push(Part::matched(kind, source, probe, network, Value::Null, false, used)?);
    }
    Ok(parts)
}

/// What the place of a text encoder says of it.
fn settle(clip: &mut Clip, spot: &Spot) -> PartKind {
    let mut kind = spot.kind;
    if spot.prefix.is_empty() && clip.hidden == 1280 {
        kind = PartKind::TextEncoder2;
    }
    if spot.naming == Naming::Original && kind == PartKind::TextEncoder {
        // 2.x reads the layer before the last one, and diffusers drops that one: 23 of OpenCLIP ViT-H's 24.
        if clip.hidden == 1024 && clip.layers == 24 {
            clip.layers = 23;
        }
    }
    if kind == PartKind::TextEncoder {
        // Only the second encoder's pooled output is read.
        clip.projection = None;
    }
    kind
}
