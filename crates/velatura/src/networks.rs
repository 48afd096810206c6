//! The graphs of a model's networks, and what goes in and out of them.

use velatura_cpu::{CancelToken, Data};
use velatura_graph::{Builder, DType, Graph, GraphError, Shortcuts, passes};
use velatura_models::unet::{ClassEmbedding, FreeU, UNetChanges};
use velatura_models::{Replaced, UNetConfig, UNetInputs};

use crate::conditioning::{Condition, TokenBatch, TokenVars};
use crate::manifest::{UNET_PREFIX, VAE_PREFIX};
use crate::prelude::Plan;
use crate::prompt::{Tokens, Vectors};
use crate::{Error, ModelManifest, Precision, TextEncoder};

/// Names of inputs and outputs.
pub(crate) mod names {
    pub const IDS: &str = "ids";
    pub const MASK: &str = "mask";
    pub const END_ROWS: &str = "end_rows";
    pub const KEPT: &str = "kept";
    pub const VECTORS: &str = "vectors";
    pub const CONTEXT: &str = "context";
    pub const POOLED: &str = "pooled";
    pub const TIME_IDS: &str = "time_ids";
    pub const SAMPLE: &str = "sample";
    pub const TIMESTEP: &str = "timestep";
    pub const LABEL: &str = "label";
    pub const GUIDANCE: &str = "guidance";
    pub const LATENT: &str = "latent";
    pub const PICTURE: &str = "picture";
    pub const MEAN: &str = "mean";
    pub const DEVIATION: &str = "deviation";
    pub const OUTPUT: &str = "output";
    pub const RECEIVED: &str = "received";
    pub const DEEP: &str = "deep";

    /// What a denoiser is given alike at every step of a run.
    pub const FIXED: [&str; 6] = [CONTEXT, MASK, POOLED, TIME_IDS, LABEL, GUIDANCE];
}

/// A network of a model, used in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Network {
    /// Token ids to one encoder's share of the context, and the pooled text where that is the last encoder's.
    Text {
        /// Which of the model's text encoders.
        encoder: usize,
        /// The last block that is read, counted from the end: 1 is all of them.
        clip_skip: u32,
        /// Whether vectors stand in place of some tokens.
        replaced: bool,
    },
    /// Noisy latents to the prediction. The batch is that of the texts.
    Denoise {
        /// Tokens of the context.
        tokens: usize,
        /// Texts that every latent is looked at with: the batch is so many times the latents.
        texts: usize,
        /// Changes on the way.
        changes: Changes,
    },
    /// Latents in the denoiser's scale to pictures.
    Decode,
    /// Pictures to the mean and deviation of their latents, in the denoiser's scale.
    Encode,
}

/// What of [`UNetChanges`] a plan is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Changes {
    /// The bits of FreeU's factors.
    freeu: Option<[u32; 4]>,
    /// Self-attentions that are the identity: one bit for each, in the network's order.
    identity: u128,
    /// Whether the answer also says where the middle looks.
    watched: bool,
    /// Where the deep part is told from the shallow one, if it is.
    deep: Option<Deep>,
}

/// A denoiser in two parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Deep {
    /// The skip connection between: [`UNetChanges::branch`].
    pub branch: usize,
    /// Whether what comes up to it is given instead of computed.
    pub given: bool,
}

impl Changes {
    pub fn freeu(freeu: Option<FreeU>) -> Self {
        Changes { freeu: freeu.map(|f| [f.s1, f.s2, f.b1, f.b2].map(f32::to_bits)), ..Changes::default() }
    }

    /// With an answer that also says where the middle looks, or without.
    pub fn watching(self, watched: bool) -> Self {
        Changes { watched, ..self }
    }

    pub fn is_watched(self) -> bool {
        self.watched
    }

    /// In two parts, or whole.
    pub fn divided(self, deep: Option<Deep>) -> Self {
        Changes { deep, ..self }
    }

    pub fn deep(self) -> Option<Deep> {
        self.deep
    }

    /// With the identity in these self-attentions: [`self_attentions_in`].
    pub fn perturbed(self, identity: u128) -> Self {
        Changes { identity, ..self }
    }

    fn of(self, unet: &UNetConfig) -> UNetChanges {
        let freeu = self.freeu.map(|bits| {
            let [s1, s2, b1, b2] = bits.map(f32::from_bits);
            FreeU { s1, s2, b1, b2 }
        });
        let names = unet.self_attentions().into_iter().enumerate();
        let identity = names.filter(|(i, _)| self.identity >> i.min(&127) & 1 == 1).map(|(_, name)| name);
        let branch = self.deep.map(|deep| deep.branch);
        UNetChanges { freeu, identity: identity.collect(), watched: self.watched, branch }
    }
}

/// Which self-attentions lie in a layer, which is a part of their names such as `mid` or `up_blocks.1`: one bit for each of
/// the first 128, in the network's order.
pub(crate) fn self_attentions_in(unet: &UNetConfig, layer: &str) -> u128 {
    let names = unet.self_attentions();
    let names = names.iter().take(128).enumerate();
    let within = |name: &str| {
        // `up_blocks.1` is no part of `up_blocks.10`.
        name.match_indices(layer).any(|(at, _)| {
            let digit = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
            let behind = &name[at + layer.len()..];
            !(layer.ends_with(|c: char| c.is_ascii_digit()) && digit(behind))
        })
    };
    names.filter(|(_, name)| within(name)).fold(0, |mask, (i, _)| mask | 1 << i)
}

/// A network's graph, made ready to run in a precision.
pub(crate) fn lowered(mut graph: Graph, precision: Precision, denoiser: bool) -> Graph {
    // Held against PyTorch's own rounding in bf16 (docs/performance.md) a denoiser has room; an autoencoder has not, nor has a
    // denoiser of products of bytes.
    if denoiser && precision == Precision::Bf16 {
        graph.set_shortcuts(Shortcuts::Rough);
    }
    passes::for_inference(graph, precision.of_graph())
}

impl Network {
    /// The precision that it is run in where the denoiser is run in `asked`: 8 bits are for the denoiser alone.
    pub fn precision(self, asked: Precision) -> Precision {
        match (self, asked) {
            (Network::Denoise { .. }, _) => asked,
            (_, Precision::Int8) => Precision::Bf16,
            _ => asked,
        }
    }

    /// The graph, made ready to run where the denoiser is run in `asked`.
    pub fn lowered(self, graph: Graph, asked: Precision) -> Graph {
        lowered(graph, self.precision(asked), matches!(self, Network::Denoise { .. }))
    }

    /// Inputs that stay the same over many runs.
    pub fn fixed(self) -> &'static [&'static str] {
        if let Network::Denoise { .. } = self { &names::FIXED } else { &[] }
    }

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
        match self {
            Network::Text { encoder, clip_skip, replaced } => {
                let last = encoder + 1 == manifest.text_encoders.len();
                let TextEncoder { prefix, config, tokenizer } = &manifest.text_encoders[encoder];
                let tokens = tokenizer.context();
                let tokens = TokenVars {
                    ids: builder.input(names::IDS, &[batch, tokens], DType::I32),
                    mask: builder.input(names::MASK, &[batch, tokens], DType::F32),
                    end_rows: builder.input(names::END_ROWS, &[batch], DType::I32),
                    replaced: replaced.then(|| Replaced {
                        kept: builder.input(names::KEPT, &[batch, tokens, 1], DType::F32),
                        vectors: builder.input(
                            names::VECTORS,
                            &[batch, tokens, config.hidden_size],
                            DType::F32,
                        ),
                    }),
                };
                let (conditioning, p) = (manifest.conditioning, params.at(prefix));
                let condition = conditioning.encode_skipping(config, &p, tokens, clip_skip as usize);
                builder.output(names::CONTEXT, condition.context);
                if last {
                    builder.output(names::POOLED, condition.pooled);
                }
            }
            Network::Denoise { tokens, texts, changes } => {
                let latents = batch / texts.max(1);
                let sample = builder.input(
                    names::SAMPLE,
                    &[latents, height, width, manifest.unet.in_channels],
                    DType::F32,
                );
                let timestep = builder.input(names::TIMESTEP, &[latents], DType::F32);
                let mask = builder.input(names::MASK, &[batch, tokens], DType::F32);
                let condition = Condition {
                    context: builder.input(
                        names::CONTEXT,
                        &[batch, tokens, manifest.context_width()],
                        DType::F32,
                    ),
                    pooled: builder.input(names::POOLED, &[batch, manifest.pooled_width()], DType::F32),
                    time_ids: manifest
                        .time_ids()
                        .filter(|&count| count > 0)
                        .map(|count| builder.input(names::TIME_IDS, &[batch, count], DType::F32)),
                };
                let unet = &manifest.unet;
                let labelled = unet.class_embedding() == Some(ClassEmbedding::Embedding);
                let deep = changes.deep.filter(|deep| deep.given);
                let deep = deep.and_then(|deep| unet.deep_shape(deep.branch, [batch, height, width]));
                let inputs = UNetInputs {
                    deep: deep.map(|shape| builder.input(names::DEEP, &shape, DType::F32)),
                    class_labels: labelled.then(|| builder.input(names::LABEL, &[latents], DType::I32)),
                    timestep_condition: unet
                        .time_cond_proj_dim
                        .map(|width| builder.input(names::GUIDANCE, &[latents, width], DType::F32)),
                    ..UNetInputs::new(sample, timestep)
                };
                let p = params.at(UNET_PREFIX);
                let output =
                    manifest.conditioning.denoise_with(unet, &p, inputs, condition, mask, &changes.of(unet));
                builder.output(names::OUTPUT, output.prediction);
                if let Some(received) = output.received {
                    builder.output(names::RECEIVED, received);
                }
                if let Some(deep) = output.deep {
                    builder.output(names::DEEP, deep);
                }
            }
            Network::Decode => {
                let shape = [batch, height, width, manifest.latent_channels()];
                let latent = builder.input(names::LATENT, &shape, DType::F32);
                let picture = manifest.autoencoder.decode(&params.at(VAE_PREFIX), latent);
                builder.output(names::OUTPUT, picture);
            }
            Network::Encode => {
                let vae = &manifest.autoencoder;
                let side = vae.downsampling();
                let shape = [batch, height * side, width * side, vae.picture_channels().0];
                let picture = builder.input(names::PICTURE, &shape, DType::F32);
                let (mean, deviation) = vae.encode(&params.at(VAE_PREFIX), picture);
                builder.output(names::MEAN, mean);
                if let Some(deviation) = deviation {
                    builder.output(names::DEVIATION, deviation);
                }
            }
        }
        builder.finish()
    }
}

/// An encoded text: what the denoiser reads beside latents and timesteps.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Encoded {
    /// Tokens of the context.
    pub tokens: usize,
    /// `[tokens, features]`.
    pub context: Vec<f32>,
    /// The pooled text of the first chunk.
    pub pooled: Vec<f32>,
    /// What SDXL is told of the picture's size.
    pub time_ids: Vec<f32>,
    /// 1 for tokens, 0 for padding.
    pub mask: Vec<f32>,
}

impl Encoded {
    /// Runs a text transformer on one chunk; its weights are not applied. The pooled text is left empty where the plan has
    /// none.
    pub fn compute(chunk: &Tokens, plan: &mut Plan, cancel: &CancelToken) -> Result<Self, Error> {
        let mut batch = TokenBatch::default();
        batch.push(&chunk.encoding);
        let mut inputs = vec![
            (names::IDS, Data::I32(&batch.ids)),
            (names::MASK, Data::F32(&batch.mask)),
            (names::END_ROWS, Data::I32(&batch.end_rows)),
        ];
        if let Some(Vectors { kept, vectors }) = &chunk.replaced {
            inputs.extend([(names::KEPT, Data::F32(kept)), (names::VECTORS, Data::F32(vectors))]);
        }
        plan.run(&inputs, cancel)?;
        let pooled = plan.output(names::POOLED).map_or(Vec::new(), <[f32]>::to_vec);
        let context = plan.output(names::CONTEXT)?.to_vec();
        Ok(Encoded { tokens: batch.ids.len(), context, pooled, time_ids: Vec::new(), mask: batch.mask })
    }

    /// A chunk that says nothing, as models with zeros in place of an empty negative prompt have it.
    pub fn zeros(manifest: &ModelManifest) -> Self {
        let tokens = manifest.context();
        Encoded {
            tokens,
            context: vec![0.0; tokens * manifest.context_width()],
            pooled: vec![0.0; manifest.pooled_width()],
            time_ids: Vec::new(),
            mask: vec![1.0; tokens],
        }
    }

    /// Lays another encoder's vectors of the same tokens beside these; its pooled text takes the place of this one's.
    pub fn lay_beside(&mut self, next: &Encoded) {
        let tokens = self.tokens.max(1);
        let (own, beside) = (self.context.len() / tokens, next.context.len() / tokens);
        let pairs = self.context.chunks_exact(own.max(1)).zip(next.context.chunks_exact(beside.max(1)));
        self.context = pairs.flat_map(|(own, beside)| own.iter().chain(beside)).copied().collect();
        self.pooled.clone_from(&next.pooled);
    }

    /// Appends the next chunk's tokens.
    pub fn append(&mut self, next: &Encoded) {
        self.tokens += next.tokens;
        self.context.extend(&next.context);
        self.mask.extend(&next.mask);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rough_shortcuts_are_for_denoisers_in_bf16() {
        let denoise = Network::Denoise { tokens: 77, texts: 2, changes: Changes::default() };
        let shortcuts = |network: Network, asked| network.lowered(Graph::default(), asked).shortcuts();
        assert_eq!(shortcuts(denoise, Precision::Bf16), Shortcuts::Rough);
        assert_eq!(shortcuts(denoise, Precision::Int8), Shortcuts::Usual);
        assert_eq!(shortcuts(Network::Decode, Precision::Bf16), Shortcuts::Usual);
        // Runs in bf16 beside a denoiser in 8 bits.
        assert_eq!(shortcuts(Network::Encode, Precision::Int8), Shortcuts::Usual);
    }
}
