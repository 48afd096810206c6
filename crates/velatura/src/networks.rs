//! The graphs of a model's networks, and what goes in and out of them.

use velatura_cpu::{CancelToken, Data, Executor};
use velatura_graph::{Builder, DType, Graph, GraphError};
use velatura_text::Encoding;

use crate::conditioning::{Condition, TokenBatch, TokenVars};
use crate::manifest::{TEXT_PREFIX, UNET_PREFIX, VAE_PREFIX};
use crate::{Error, ModelManifest};

/// Names of inputs and outputs.
pub(crate) mod names {
    pub const IDS: &str = "ids";
    pub const MASK: &str = "mask";
    pub const END_ROWS: &str = "end_rows";
    pub const CONTEXT: &str = "context";
    pub const POOLED: &str = "pooled";
    pub const SAMPLE: &str = "sample";
    pub const TIMESTEP: &str = "timestep";
    pub const LATENT: &str = "latent";
    pub const OUTPUT: &str = "output";
}

/// A network of a model, used in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Network {
    /// Token ids to context and pooled text.
    Text,
    /// Noisy latents to the prediction.
    Denoise,
    /// Latents in the denoiser's scale to pictures.
    Decode,
}

impl Network {
    /// The graph for a batch of latents of this size (text has none).
    pub fn graph(
        self,
        manifest: &ModelManifest,
        batch: usize,
        height: usize,
        width: usize,
    ) -> Result<Graph, GraphError> {
        let builder = Builder::new();
        let params = builder.params();
        let tokens = manifest.tokenizer.context();
        match self {
            Network::Text => {
                let tokens = TokenVars {
                    ids: builder.input(names::IDS, &[batch, tokens], DType::I32),
                    mask: builder.input(names::MASK, &[batch, tokens], DType::F32),
                    end_rows: builder.input(names::END_ROWS, &[batch], DType::I32),
                };
                let condition = manifest.conditioning.encode(&manifest.text, &params.at(TEXT_PREFIX), tokens);
                builder.output(names::CONTEXT, condition.context);
                builder.output(names::POOLED, condition.pooled);
            }
            Network::Denoise => {
                let sample = builder.input(
                    names::SAMPLE,
                    &[batch, height, width, manifest.latent_channels()],
                    DType::F32,
                );
                let timestep = builder.input(names::TIMESTEP, &[batch], DType::F32);
                let mask = builder.input(names::MASK, &[batch, tokens], DType::F32);
                let condition = Condition {
                    context: builder.input(
                        names::CONTEXT,
                        &[batch, tokens, manifest.text.hidden_size],
                        DType::F32,
                    ),
                    pooled: builder.input(names::POOLED, &[batch, manifest.pooled_width()], DType::F32),
                };
                let p = params.at(UNET_PREFIX);
                let output =
                    manifest.conditioning.denoise(&manifest.unet, &p, (sample, timestep), condition, mask);
                builder.output(names::OUTPUT, output);
            }
            Network::Decode => {
                let shape = [batch, height, width, manifest.latent_channels()];
                let latent = builder.input(names::LATENT, &shape, DType::F32);
                let latent = manifest.autoencoder.denormalize(latent);
                let picture = manifest.autoencoder.decode(&params.at(VAE_PREFIX), latent);
                builder.output(names::OUTPUT, picture);
            }
        }
        builder.finish()
    }
}

/// Encoded prompts: what the denoiser reads beside latents and timesteps.
#[derive(Clone, Debug, Default)]
pub(crate) struct Encoded {
    context: Vec<f32>,
    pooled: Vec<f32>,
    mask: Vec<f32>,
}

impl Encoded {
    /// Runs the text transformer on one prompt.
    pub fn compute(encoding: &Encoding, plan: &mut Executor, cancel: &CancelToken) -> Result<Self, Error> {
        let mut batch = TokenBatch::default();
        batch.push(encoding);
        let inputs = [
            (names::IDS, Data::I32(&batch.ids)),
            (names::MASK, Data::F32(&batch.mask)),
            (names::END_ROWS, Data::I32(&batch.end_rows)),
        ];
        plan.run(&inputs, cancel)?;
        Ok(Encoded {
            context: plan.output(names::CONTEXT)?.to_vec(),
            pooled: plan.output(names::POOLED)?.to_vec(),
            mask: batch.mask,
        })
    }

    /// Adds other prompts behind these.
    pub fn append(&mut self, other: &Encoded) {
        self.context.extend(&other.context);
        self.pooled.extend(&other.pooled);
        self.mask.extend(&other.mask);
    }

    /// The last `count` of `all` prompts, as inputs of the denoiser.
    pub fn last(&self, count: usize, all: usize) -> [(&'static str, Data<'_>); 3] {
        let part = |values: &'_ [f32]| values.len() / all * (all - count);
        [
            (names::CONTEXT, Data::F32(&self.context[part(&self.context)..])),
            (names::POOLED, Data::F32(&self.pooled[part(&self.pooled)..])),
            (names::MASK, Data::F32(&self.mask[part(&self.mask)..])),
        ]
    }
}
