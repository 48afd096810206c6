//! The U-Net's configuration, in diffusers' fields.

use serde::{Deserialize, Serialize};

use super::NETWORK;
use crate::config::{ActFn, ConfigError, OneOrMany, Only, read};

/// A level on the way down. Each halves the image at its end, except the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DownBlock {
    /// Residual blocks.
    DownBlock2D,
    /// Residual blocks, each followed by a transformer over pixels that looks at the context.
    CrossAttnDownBlock2D,
    /// Residual blocks, each followed by self-attention over pixels.
    AttnDownBlock2D,
}

/// The middle of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MidBlock {
    /// One residual block.
    UNetMidBlock2D,
    /// Residual block, transformer, residual block.
    UNetMidBlock2DCrossAttn,
}

/// A level on the way up. Each doubles the image at its end, except the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpBlock {
    /// Residual blocks.
    UpBlock2D,
    /// Residual blocks, each followed by a transformer over pixels that looks at the context.
    CrossAttnUpBlock2D,
    /// Residual blocks, each followed by self-attention over pixels.
    AttnUpBlock2D,
}

/// How residual blocks take the timestep in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeScaleShift {
    /// Added between the convolutions.
    Default,
    /// Adaptive norm: it scales and shifts the second norm's result (Dhariwal and Nichol 2021).
    ScaleShift,
}

/// How class labels become an embedding beside the timestep's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassEmbedding {
    /// A learned table: labels i32 `[N]`, below `num_class_embeds`. In diffusers' files: `class_embed_type` null with
    /// `num_class_embeds` given.
    Embedding,
    /// Labels are numbers, f32 `[N]`, embedded as timesteps are (the noise level of an upscaler).
    Timestep,
    /// Labels are vectors, f32 `[N, projection_class_embeddings_input_dim]`, through two linear layers.
    Projection,
    /// As `Projection`, through one linear layer.
    #[serde(alias = "simple")]
    SimpleProjection,
    /// Labels are embeddings already, f32 `[N, time_embed_dim]`.
    Identity,
}

/// What else is embedded beside the timestep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdditionEmbedding {
    /// Pooled text and sinusoids of the sizes that a picture was cut from (SDXL).
    TextTime,
}

/// The conditional U-Net's configuration. Field names are those of diffusers' `UNet2DConditionModel`, except the last
/// three.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UNetConfig {
    /// Height and width of the latent that it was trained on.
    pub sample_size: Option<OneOrMany<usize>>,
    /// Channels of the sample; more than `out_channels` where a condition is concatenated (inpainting: 9).
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Whether the sample is taken as `2 x - 1`.
    pub center_input_sample: bool,
    /// Whether the sinusoidal embedding has cosines first.
    pub flip_sin_to_cos: bool,
    /// Shifts the sinusoids' frequencies.
    pub freq_shift: f32,
    /// The levels on the way down, finest first.
    pub down_block_types: Vec<DownBlock>,
    /// The middle; null leaves it out.
    pub mid_block_type: Option<MidBlock>,
    /// The levels on the way up, coarsest first.
    pub up_block_types: Vec<UpBlock>,
    /// Whether the transformers' first attention looks at the context instead of the image, for each level.
    pub only_cross_attention: OneOrMany<bool>,
    /// Channels of each level, finest first.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of each level on the way down; one more on the way up.
    pub layers_per_block: OneOrMany<usize>,
    /// Zeros around the image when it is halved; 0 means below and to the right only.
    pub downsample_padding: usize,
    /// Activation function.
    pub act_fn: ActFn,
    /// Groups of the group norms.
    pub norm_num_groups: usize,
    /// What the group norms add to the variance (the transformers' own: 1e-6).
    pub norm_eps: f32,
    /// Features of the context tokens; null for transformers without cross-attention.
    pub cross_attention_dim: Option<OneOrMany<usize>>,
    /// Transformer blocks after each residual block, for each level, or even for each of its residual blocks.
    pub transformer_layers_per_block: OneOrMany<OneOrMany<usize>>,
    /// The same for the way up, coarsest first, where it is not the mirror image.
    pub reverse_transformer_layers_per_block: Option<OneOrMany<OneOrMany<usize>>>,
    /// For the transformers, the *number* of heads of each level (a historical misnomer); for `Attn..Block2D`, truly
    /// the channels of a head.
    pub attention_head_dim: OneOrMany<usize>,
    /// The number of heads of each level, in every kind of attention. Overrides `attention_head_dim`.
    pub num_attention_heads: Option<OneOrMany<usize>>,
    /// Whether the transformers' projections in and out are stored as linear layers rather than 1x1 convolutions.
    pub use_linear_projection: bool,
    /// What class labels are.
    pub class_embed_type: Option<ClassEmbedding>,
    /// Rows of the class table, the null class included.
    pub num_class_embeds: Option<usize>,
    /// Whether the class embedding is laid beside the timestep's instead of being added.
    pub class_embeddings_concat: bool,
    /// Length of the vectors that are projected: class labels, or SDXL's pooled text and sizes together.
    pub projection_class_embeddings_input_dim: Option<usize>,
    /// What else is embedded.
    pub addition_embed_type: Option<AdditionEmbedding>,
    /// Features of the sinusoid of each of SDXL's sizes.
    pub addition_time_embed_dim: Option<usize>,
    /// Asks other programs for f32 scores; here they always are.
    pub upcast_attention: bool,
    /// How residual blocks take the timestep in.
    pub resnet_time_scale_shift: TimeScaleShift,
    /// Length of the timestep's embedding; four times the finest level's channels if null.
    pub time_embedding_dim: Option<usize>,
    /// Length of a guidance embedding that is added to the timestep's sinusoid (LCM).
    pub time_cond_proj_dim: Option<usize>,
    /// Size of the first convolution, odd.
    pub conv_in_kernel: usize,
    /// Size of the last convolution, odd.
    pub conv_out_kernel: usize,
    /// Length of a pooled text that goes through two linear layers and is added to the timestep's embedding, as in
    /// SD3. Not in diffusers; the layers are `pooled_embedding.linear_1` and `.linear_2`.
    pub pooled_projection_dim: Option<usize>,
    /// Whether the last layers of residual branches and of the network start at zero when trained from scratch. Not in
    /// diffusers.
    pub zero_init: bool,
    /// Whether each block is computed again in the backward pass, to save memory in training.
    #[serde(skip)]
    pub gradient_checkpointing: bool,
}

/// Fields of diffusers that are supported with some values only.
const LIMITED: &[Only] = &[
    Only { field: "dual_cross_attention", values: &["false"] },
    Only { field: "time_embedding_type", values: &["\"positional\""] },
    Only { field: "time_embedding_act_fn", values: &[] },
    Only { field: "timestep_post_act", values: &[] },
    Only { field: "encoder_hid_dim_type", values: &[] },
    Only { field: "encoder_hid_dim", values: &[] },
    Only { field: "attention_type", values: &["\"default\""] },
    Only { field: "resnet_skip_time_act", values: &["false"] },
    Only { field: "resnet_out_scale_factor", values: &["1", "1.0"] },
    Only { field: "mid_block_scale_factor", values: &["1", "1.0"] },
    Only { field: "cross_attention_norm", values: &[] },
    Only { field: "addition_embed_type", values: &["\"text_time\""] },
];

impl UNetConfig {
    /// Reads a diffusers `config.json`.
    ///
    /// # Errors
    /// [`ConfigError`], naming the field that has a wrong type, asks for what is not supported, or does not fit.
    pub fn from_json(json: &str) -> Result<Self, ConfigError> {
        let (config, _) = read::<UNetConfig>(NETWORK, json, LIMITED)?;
        config.check()?;
        Ok(config)
    }

    /// The number of levels.
    pub fn levels(&self) -> usize {
        self.block_out_channels.len()
    }

    /// Length of the timestep's embedding.
    pub fn time_embed_dim(&self) -> usize {
        self.time_embedding_dim.unwrap_or_else(|| 4 * self.block_out_channels.first().copied().unwrap_or(1))
    }

    /// What class labels are, if there are any.
    pub fn class_embedding(&self) -> Option<ClassEmbedding> {
        self.class_embed_type.or(self.num_class_embeds.map(|_| ClassEmbedding::Embedding))
    }

    /// Heads of the transformers of a level.
    pub(crate) fn transformer_heads(&self, level: usize) -> usize {
        let heads = self.num_attention_heads.as_ref().unwrap_or(&self.attention_head_dim);
        heads.get(level).copied().unwrap_or(1).max(1)
    }

    /// Heads of the plain self-attention of a level.
    pub(crate) fn plain_heads(&self, level: usize) -> usize {
        match &self.num_attention_heads {
            Some(heads) => heads.get(level).copied().unwrap_or(1).max(1),
            None => {
                let width = self.attention_head_dim.get(level).copied().unwrap_or(1).max(1);
                (self.block_out_channels[level] / width).max(1)
            }
        }
    }

    /// Residual blocks of a level on the way down.
    pub(crate) fn layers(&self, level: usize) -> usize {
        self.layers_per_block.get(level).copied().unwrap_or(1)
    }

    /// Transformer blocks after residual block `layer` of a level on the way down, or of its mirror image.
    pub(crate) fn transformer_layers(&self, level: usize, layer: usize, up: bool) -> usize {
        let layers = match (&self.reverse_transformer_layers_per_block, up) {
            (Some(layers), true) => layers.get(self.levels() - 1 - level),
            _ => self.transformer_layers_per_block.get(level),
        };
        layers.and_then(|l| l.get(layer)).copied().unwrap_or(1)
    }

    /// Whether a pooled text is embedded beside the timestep.
    pub fn reads_pooled(&self) -> bool {
        self.pooled_projection_dim.is_some() || self.addition_embed_type.is_some()
    }

    /// Whether any block looks at the context.
    pub fn reads_context(&self) -> bool {
        let has_transformer = self.down_block_types.contains(&DownBlock::CrossAttnDownBlock2D)
            || self.up_block_types.contains(&UpBlock::CrossAttnUpBlock2D)
            || self.mid_block_type == Some(MidBlock::UNetMidBlock2DCrossAttn);
        has_transformer && self.cross_attention_dim.is_some()
    }
}
