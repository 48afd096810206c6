//! The tiny autoencoder TAESD: diffusers' `AutoencoderTiny` and the original's two sequential networks.

use serde_json::{Value, json};

use super::Table;
use super::probe::{Probe, dim};

/// Residual blocks between the changes of size, from the picture inwards.
const BLOCKS: [usize; 4] = [1, 3, 3, 3];

/// The dimensions of a tiny autoencoder, of which there may be one half only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tiny {
    pub channels: usize,
    pub latent: usize,
    pub encoder: bool,
    pub decoder: bool,
}

impl Tiny {
    /// From the tensors of either half.
    pub(crate) fn infer(p: Probe<'_>) -> Option<Self> {
        let encoder = p.either("encoder.layers.0.weight", "encoder.0.weight");
        let decoder = p.either("decoder.layers.0.weight", "decoder.1.weight");
        let back = p.either("encoder.layers.14.weight", "encoder.14.weight");
        Some(Tiny {
            channels: dim(encoder.or(decoder), 0)?,
            latent: dim(decoder, 1).or(dim(back, 0))?,
            encoder: encoder.is_some(),
            decoder: decoder.is_some(),
        })
    }

    /// diffusers' configuration.
    pub(crate) fn config(&self) -> Value {
        let mut up = BLOCKS;
        up.reverse();
        json!({
            "_class_name": "AutoencoderTiny",
            "act_fn": "relu",
            "block_out_channels": vec![self.channels; 4],
            "decoder_block_out_channels": vec![self.channels; 4],
            "encoder_block_out_channels": vec![self.channels; 4],
            "force_upcast": false,
            "in_channels": 3,
            "latent_channels": self.latent,
            "latent_magnitude": 3,
            "latent_shift": 0.5,
            "num_decoder_blocks": up,
            "num_encoder_blocks": BLOCKS,
            "out_channels": 3,
            "scaling_factor": 1.0,
            "upsampling_scaling_factor": 2,
        })
    }

    /// All tensors of the halves that there are.
    pub(crate) fn table(&self) -> Table {
        let mut t = Table::default();
        let c = self.channels;
        if self.encoder {
            let mut at = 0;
            for (stage, &blocks) in BLOCKS.iter().enumerate() {
                let (name, original) = (format!("encoder.layers.{at}"), format!("encoder.{at}"));
                match stage {
                    0 => t.layer(&name, &original, &[c, 3, 3, 3]),
                    _ => t.weight(&name, &original, &[c, c, 3, 3]),
                }
                at += 1;
                for _ in 0..blocks {
                    block(&mut t, &format!("encoder.layers.{at}"), &format!("encoder.{at}"), c);
                    at += 1;
                }
            }
            t.layer(&format!("encoder.layers.{at}"), &format!("encoder.{at}"), &[self.latent, c, 3, 3]);
        }
        if self.decoder {
            // The original's first layer, a clamp, is not among diffusers' layers: its numbers are one higher.
            let names = |at: usize| (format!("decoder.layers.{at}"), format!("decoder.{}", at + 1));
            let (name, original) = names(0);
            t.layer(&name, &original, &[c, self.latent, 3, 3]);
            let mut at = 2;
            for &blocks in BLOCKS.iter().rev() {
                for _ in 0..blocks {
                    let (name, original) = names(at);
                    block(&mut t, &name, &original, c);
                    at += 1;
                }
                if blocks == BLOCKS[0] {
                    break;
                }
                // An upsampling without numbers stands before the convolution.
                let (name, original) = names(at + 1);
                t.weight(&name, &original, &[c, c, 3, 3]);
                at += 2;
            }
            let (name, original) = names(at);
            t.layer(&name, &original, &[3, c, 3, 3]);
        }
        t
    }
}

fn block(t: &mut Table, name: &str, original: &str, c: usize) {
    for n in [0, 2, 4] {
        t.layer(&format!("{name}.conv.{n}"), &format!("{original}.conv.{n}"), &[c, c, 3, 3]);
    }
}
