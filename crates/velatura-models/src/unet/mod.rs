//! The conditional U-Net of latent diffusion (Rombach et al. 2022), as diffusers' `UNet2DConditionModel` has it:
//! residual blocks steered by the timestep, transformers that look at a context, skip connections.

mod attention;
mod changes;
mod check;
mod config;
mod deep;
mod embedding;
mod levels;
mod pictures;

pub use changes::{FreeU, UNetChanges, UNetOutput};
pub use config::{
    AdditionEmbedding, ClassEmbedding, DownBlock, MidBlock, TimeScaleShift, UNetConfig, UpBlock,
};
pub use embedding::sinusoid;

use std::cell::Cell;

use velatura_graph::op::ResizeMode;
use velatura_graph::{Params, Var};

use self::attention::Context;
use self::deep::Deep;
use self::levels::Levels;
use self::pictures::alike;
use crate::blocks::BlockStyle;
use crate::config::refuse;
use crate::layers::Layers;

const NETWORK: &str = "U-Net";

/// What the U-Net reads. Which of the optional inputs are needed follows from the configuration.
///
/// Where one picture is to be looked at with several texts, as guidance does, the latents may be fewer than the conditions: `N`
/// of them for `c * N`, of which those at `i`, `N + i`, `2 N + i` and so on are for latent `i`. Everything before the first
/// condition is then computed once for each latent; the prediction is `[c * N, H, W, out_channels]`.
#[derive(Clone, Copy, Debug)]
pub struct UNetInputs<'g> {
    /// The noisy latent, `[N, H, W, in_channels]`, any concatenated condition included.
    pub sample: Var<'g>,
    /// The timestep of each image, f32 `[N]`; it need not be whole.
    pub timestep: Var<'g>,
    /// Tokens to look at, `[N, T, cross_attention_dim]`.
    pub context: Option<Var<'g>>,
    /// Added to the scores of the cross-attentions, f32 `[N or 1, T]` or `[N or 1, heads or 1, H * W or 1, T]`: 0 to
    /// see a token, a large negative number not to.
    pub context_mask: Option<Var<'g>>,
    /// Class labels, of the shape and type that [`ClassEmbedding`] says.
    pub class_labels: Option<Var<'g>>,
    /// Pooled text `[N, P]`.
    pub pooled: Option<Var<'g>>,
    /// SDXL's original size, crop and target size, f32 `[N, 6]`.
    pub time_ids: Option<Var<'g>>,
    /// LCM's guidance embedding, f32 `[N, time_cond_proj_dim]`; it may be left out.
    pub timestep_condition: Option<Var<'g>>,
    /// What came up to a skip connection at another timestep ([`UNetOutput::deep`]), of [`UNetConfig::deep_shape`] with as
    /// many images as conditions. Everything below the skip connection that [`UNetChanges::branch`] names is then left out.
    pub deep: Option<Var<'g>>,
}

impl<'g> UNetInputs<'g> {
    /// A latent and its timesteps, unconditioned.
    pub fn new(sample: Var<'g>, timestep: Var<'g>) -> Self {
        UNetInputs {
            sample,
            timestep,
            context: None,
            context_mask: None,
            class_labels: None,
            pooled: None,
            time_ids: None,
            timestep_condition: None,
            deep: None,
        }
    }
}

impl UNetConfig {
    /// Records the network; the result is the prediction `[N, H, W, out_channels]`. Its parameters lie below `p` under
    /// diffusers' names.
    ///
    /// What does not fit (a configuration that does not divide, an input that lacks or has another shape) is the error
    /// of [`velatura_graph::Builder::finish`].
    pub fn build<'g>(&self, p: &Params<'g>, inputs: UNetInputs<'g>) -> Var<'g> {
        self.build_changed(p, inputs, &UNetChanges::default()).prediction
    }

    /// As [`build`](Self::build), with changes on the way.
    pub fn build_changed<'g>(
        &self,
        p: &Params<'g>,
        inputs: UNetInputs<'g>,
        changes: &UNetChanges,
    ) -> UNetOutput<'g> {
        if let Err(reason) = self.accepts(&inputs).and_then(|()| deep::check(self, &inputs, changes)) {
            refuse(p, NETWORK, reason, inputs.sample);
            return UNetOutput { prediction: inputs.sample, received: None, deep: None };
        }
        let sample = inputs.sample;
        let embedding = embedding::embed(self, p, &inputs);
        let context =
            inputs.context.map(|tokens| Context { tokens, mask: inputs.context_mask.map(as_score_mask) });
        let style = self.style();
        // Every residual block begins with this activation of the same embedding.
        let time = embedding.activation(style.activation);
        let (received, kept) = (Cell::default(), Cell::default());
        let root = p.path().len();
        let deep = Deep { branch: changes.branch, given: inputs.deep, kept: &kept };
        let levels = Levels { config: self, style, time, context, changes, root, received: &received, deep };

        let x = if self.center_input_sample { sample.affine(2.0, -1.0) } else { sample };
        let x = p.at("conv_in").conv_same(x, self.block_out_channels[0], self.conv_in_kernel, false);
        let (x, skips) = levels.down(p, x);
        let x = if inputs.deep.is_some() { x } else { levels.middle(p, x) };
        let x = levels.up(p, x, skips);
        let x = p.at("conv_norm_out").group_norm(x, style.groups, style.eps).activation(style.activation);
        // Without any transformer that reads it, the context may be all that tells the pictures apart.
        let x = inputs.context.map_or(x, |context| alike(x, context).0);
        let prediction =
            p.at("conv_out").conv_same(x, self.out_channels, self.conv_out_kernel, self.zero_init);
        let [_, height, width, _] = prediction.dims();
        let coarsest = |side: usize| (1..self.levels()).fold(side, |side, _| side.div_ceil(2));
        let received = received.get().map(|received: Var<'_>| {
            let n = received.shape().first().copied().unwrap_or(1);
            let map = received.reshape(&[n, coarsest(height), coarsest(width), 1]);
            alike(map.resize(ResizeMode::Nearest, height, width), prediction).0
        });
        let deep = kept.get().map(|deep| inputs.context.map_or(deep, |context| alike(deep, context).0));
        UNetOutput { prediction, received, deep }
    }

    /// Whether the configuration can be built and the inputs are what it needs.
    fn accepts(&self, inputs: &UNetInputs<'_>) -> Result<(), String> {
        self.check().map_err(|error| error.to_string())?;
        expect("sample", Some(inputs.sample), 4, Some(self.in_channels))?;
        expect("timestep", Some(inputs.timestep), 1, None)?;
        if self.reads_context() {
            for &width in self.cross_attention_dim.iter().flat_map(|d| d.values()) {
                expect("context", inputs.context, 3, Some(width))?;
            }
        }
        let labels = match self.class_embedding() {
            None => None,
            Some(ClassEmbedding::Embedding | ClassEmbedding::Timestep) => Some((1, None)),
            Some(ClassEmbedding::Projection | ClassEmbedding::SimpleProjection) => {
                Some((2, self.projection_class_embeddings_input_dim))
            }
            Some(ClassEmbedding::Identity) => Some((2, Some(self.time_embed_dim()))),
        };
        if let Some((rank, width)) = labels {
            expect("class_labels", inputs.class_labels, rank, width)?;
        }
        if let (Some(width), Some(_)) = (self.time_cond_proj_dim, inputs.timestep_condition) {
            expect("timestep_condition", inputs.timestep_condition, 2, Some(width))?;
        }
        if let Some(width) = self.pooled_projection_dim {
            expect("pooled", inputs.pooled, 2, Some(width))?;
        }
        if self.addition_embed_type.is_some() {
            expect("time_ids", inputs.time_ids, 2, None)?;
            let ids = inputs.time_ids.map_or(0, |ids| ids.channels());
            let sizes = ids.saturating_mul(self.addition_time_embed_dim.unwrap_or(0));
            let all = self.projection_class_embeddings_input_dim.unwrap_or(0);
            expect("pooled", inputs.pooled, 2, Some(all.saturating_sub(sizes)))?;
        }
        pictures::check(inputs)
    }

    fn style(&self) -> BlockStyle {
        BlockStyle {
            groups: self.norm_num_groups,
            eps: self.norm_eps,
            activation: self.act_fn.into(),
            scale_shift: self.resnet_time_scale_shift == TimeScaleShift::ScaleShift,
            zero_init: self.zero_init,
            checkpoint: self.gradient_checkpointing,
        }
    }
}

/// A mask of tokens `[N, T]` as attention wants it; a mask of four axes as it is.
fn as_score_mask(mask: Var<'_>) -> Var<'_> {
    match mask.shape().as_slice() {
        &[n, tokens] => mask.reshape(&[n, 1, 1, tokens]),
        _ => mask,
    }
}

/// That an input is given, with this many axes and, where known, this length of the last.
fn expect(name: &str, input: Option<Var<'_>>, rank: usize, width: Option<usize>) -> Result<(), String> {
    let Some(ty) = input.map(Var::ty) else {
        return Err(format!("the configuration needs the input {name}, which is not given"));
    };
    if ty.rank() == rank && width.is_none_or(|width| ty.last() == width) {
        return Ok(());
    }
    let width = width.map_or("any length".to_string(), |width| format!("length {width}"));
    Err(format!("the input {name} should have {rank} axes, the last of {width}, but is {ty}"))
}
