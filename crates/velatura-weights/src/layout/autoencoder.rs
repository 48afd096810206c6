//! The autoencoder: diffusers' `AutoencoderKL` and LDM's.

use serde_json::{Value, json};

use super::probe::{Probe, dim};
use super::{Form, Naming, Table};

/// The dimensions of an autoencoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Autoencoder {
    pub colours: usize,
    pub latent: usize,
    pub channels: Vec<usize>,
    /// Residual blocks of a level on the way down; one more on the way up.
    pub layers: usize,
    /// Whether 1x1 convolutions stand before and behind the latent.
    pub quant: bool,
    pub post_quant: bool,
}

impl Autoencoder {
    /// From the tensors of the encoder, or where there are none of the decoder.
    pub(crate) fn infer(p: Probe<'_>) -> Option<Self> {
        let up = |level: usize, j: usize| match p.naming {
            Naming::Diffusers => format!("decoder.up_blocks.{level}.resnets.{j}.conv1.weight"),
            Naming::Original => format!("decoder.up.{level}.block.{j}.conv1.weight"),
        };
        let levels = p.count(|level| up(level, 0));
        let mut channels: Vec<usize> =
            (0..levels).map(|l| dim(p.shape(&up(l, 0)), 0)).collect::<Option<_>>()?;
        if p.naming == Naming::Diffusers {
            channels.reverse();
        }
        let layers = p.count(|j| up(0, j)).checked_sub(1).filter(|&n| n > 0)?;
        (!channels.is_empty()).then_some(())?;
        Some(Autoencoder {
            colours: dim(p.shape("decoder.conv_out.weight"), 0)?,
            latent: dim(p.shape("decoder.conv_in.weight"), 1)?,
            channels,
            layers,
            quant: p.has("quant_conv.weight"),
            post_quant: p.has("post_quant_conv.weight"),
        })
    }

    /// From a configuration file.
    pub(crate) fn from_config(c: &Value) -> Option<Self> {
        let size = |key: &str| c.get(key).and_then(Value::as_u64).map(|n| n as usize);
        let flag = |key: &str| c.get(key).and_then(Value::as_bool).unwrap_or(true);
        let channels = c.get("block_out_channels")?.as_array()?;
        let channels: Vec<usize> =
            channels.iter().map(|v| v.as_u64().map(|n| n as usize)).collect::<Option<_>>()?;
        let bounded = !channels.is_empty() && channels.len() <= 16 && channels.iter().all(|&n| n <= 1 << 16);
        bounded.then_some(())?;
        Some(Autoencoder {
            colours: size("in_channels").unwrap_or(3),
            latent: size("latent_channels").unwrap_or(4),
            channels,
            layers: size("layers_per_block").unwrap_or(1).min(64),
            quant: flag("use_quant_conv"),
            post_quant: flag("use_post_quant_conv"),
        })
    }

    /// diffusers' configuration. What a latent is multiplied by and the usual size of a picture do not follow from
    /// tensors and are given.
    pub(crate) fn config(&self, scaling: f64, sample_size: usize) -> Value {
        json!({
            "_class_name": "AutoencoderKL",
            "act_fn": "silu",
            "block_out_channels": self.channels,
            "down_block_types": vec!["DownEncoderBlock2D"; self.channels.len()],
            "in_channels": self.colours,
            "latent_channels": self.latent,
            "layers_per_block": self.layers,
            "norm_num_groups": super::unet_config::groups(&self.channels),
            "out_channels": self.colours,
            "sample_size": sample_size,
            "scaling_factor": scaling,
            "up_block_types": vec!["UpDecoderBlock2D"; self.channels.len()],
            "use_post_quant_conv": self.post_quant,
            "use_quant_conv": self.quant,
        })
    }

    /// All tensors.
    pub(crate) fn table(&self) -> Table {
        let mut t = Table::default();
        let levels = self.channels.len();
        let (first, last) = (self.channels[0], self.channels[levels - 1]);
        let mut width = first;
        t.layer("encoder.conv_in", "encoder.conv_in", &[first, self.colours, 3, 3]);
        for (level, &out) in self.channels.iter().enumerate() {
            for j in 0..self.layers {
                let name = format!("encoder.down_blocks.{level}.resnets.{j}");
                residual(&mut t, &name, &format!("encoder.down.{level}.block.{j}"), width, out);
                width = out;
            }
            if level + 1 < levels {
                let name = format!("encoder.down_blocks.{level}.downsamplers.0.conv");
                t.layer(&name, &format!("encoder.down.{level}.downsample.conv"), &[out, out, 3, 3]);
            }
        }
        middle(&mut t, "encoder", last);
        t.layer("encoder.conv_norm_out", "encoder.norm_out", &[last]);
        t.layer("encoder.conv_out", "encoder.conv_out", &[self.latent * 2, last, 3, 3]);
        if self.quant {
            t.layer("quant_conv", "quant_conv", &[self.latent * 2, self.latent * 2, 1, 1]);
        }
        if self.post_quant {
            t.layer("post_quant_conv", "post_quant_conv", &[self.latent, self.latent, 1, 1]);
        }
        t.layer("decoder.conv_in", "decoder.conv_in", &[last, self.latent, 3, 3]);
        middle(&mut t, "decoder", last);
        let mut width = last;
        for level in 0..levels {
            // The original counts the decoder's levels from the picture.
            let inner = levels - 1 - level;
            let out = self.channels[inner];
            for j in 0..=self.layers {
                let name = format!("decoder.up_blocks.{level}.resnets.{j}");
                residual(&mut t, &name, &format!("decoder.up.{inner}.block.{j}"), width, out);
                width = out;
            }
            if inner > 0 {
                let name = format!("decoder.up_blocks.{level}.upsamplers.0.conv");
                t.layer(&name, &format!("decoder.up.{inner}.upsample.conv"), &[out, out, 3, 3]);
            }
        }
        t.layer("decoder.conv_norm_out", "decoder.norm_out", &[first]);
        t.layer("decoder.conv_out", "decoder.conv_out", &[self.colours, first, 3, 3]);
        t
    }
}

fn residual(t: &mut Table, name: &str, original: &str, from: usize, to: usize) {
    let mut layer = |n: &str, o: &str, shape: &[usize]| {
        t.layer(&format!("{name}.{n}"), &format!("{original}.{o}"), shape);
    };
    layer("norm1", "norm1", &[from]);
    layer("conv1", "conv1", &[to, from, 3, 3]);
    layer("norm2", "norm2", &[to]);
    layer("conv2", "conv2", &[to, to, 3, 3]);
    if from != to {
        layer("conv_shortcut", "nin_shortcut", &[to, from, 1, 1]);
    }
}

fn middle(t: &mut Table, half: &str, c: usize) {
    residual(t, &format!("{half}.mid_block.resnets.0"), &format!("{half}.mid.block_1"), c, c);
    residual(t, &format!("{half}.mid_block.resnets.1"), &format!("{half}.mid.block_2"), c, c);
    let (name, original) = (format!("{half}.mid_block.attentions.0"), format!("{half}.mid.attn_1"));
    t.layer(&format!("{name}.group_norm"), &format!("{original}.norm"), &[c]);
    for (n, o) in [("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")] {
        let (n, o) = (format!("{name}.{n}"), format!("{original}.{o}"));
        t.add(format!("{n}.weight"), format!("{o}.weight"), Form::Conv1x1, &[c, c]);
        t.add(format!("{n}.bias"), format!("{o}.bias"), Form::Whole, &[c]);
    }
}

/// The attention's names in diffusers before version 0.17, in files that are still about.
pub(crate) fn older_name(name: &str) -> Option<String> {
    let pairs = [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")];
    let (now, then) = pairs.iter().find(|(now, _)| name.contains(&format!(".attentions.0.{now}.")))?;
    Some(name.replace(&format!(".{now}."), &format!(".{then}.")))
}
