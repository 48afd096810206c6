//! The configurations of published networks.

use crate::config::{ActFn, OneOrMany};
use crate::text::TextConfig;
use crate::unet::{AdditionEmbedding, DownBlock, MidBlock, TimeScaleShift, UNetConfig, UpBlock};
use crate::vae::AutoencoderConfig;

/// diffusers' defaults, which are Stable Diffusion 1.5's but for the context and latent size.
impl Default for UNetConfig {
    fn default() -> Self {
        UNetConfig {
            sample_size: None,
            in_channels: 4,
            out_channels: 4,
            center_input_sample: false,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            down_block_types: vec![
                DownBlock::CrossAttnDownBlock2D,
                DownBlock::CrossAttnDownBlock2D,
                DownBlock::CrossAttnDownBlock2D,
                DownBlock::DownBlock2D,
            ],
            mid_block_type: Some(MidBlock::UNetMidBlock2DCrossAttn),
            up_block_types: vec![
                UpBlock::UpBlock2D,
                UpBlock::CrossAttnUpBlock2D,
                UpBlock::CrossAttnUpBlock2D,
                UpBlock::CrossAttnUpBlock2D,
            ],
            only_cross_attention: OneOrMany::One(false),
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: OneOrMany::One(2),
            downsample_padding: 1,
            act_fn: ActFn::Silu,
            norm_num_groups: 32,
            norm_eps: 1e-5,
            cross_attention_dim: Some(OneOrMany::One(1280)),
            transformer_layers_per_block: OneOrMany::One(OneOrMany::One(1)),
            reverse_transformer_layers_per_block: None,
            attention_head_dim: OneOrMany::One(8),
            num_attention_heads: None,
            use_linear_projection: false,
            class_embed_type: None,
            num_class_embeds: None,
            class_embeddings_concat: false,
            projection_class_embeddings_input_dim: None,
            addition_embed_type: None,
            addition_time_embed_dim: None,
            upcast_attention: false,
            resnet_time_scale_shift: TimeScaleShift::Default,
            time_embedding_dim: None,
            time_cond_proj_dim: None,
            conv_in_kernel: 3,
            conv_out_kernel: 3,
            pooled_projection_dim: None,
            zero_init: false,
            gradient_checkpointing: false,
        }
    }
}

impl UNetConfig {
    /// Stable Diffusion 1.x: 860 million weights, latents of 64x64 for pictures of 512x512.
    pub fn sd15() -> Self {
        UNetConfig {
            sample_size: Some(OneOrMany::One(64)),
            cross_attention_dim: Some(OneOrMany::One(768)),
            ..Self::default()
        }
    }

    /// Stable Diffusion 2.x at 768x768 (its 512x512 models differ in `sample_size` only).
    pub fn sd21() -> Self {
        UNetConfig {
            sample_size: Some(OneOrMany::One(96)),
            cross_attention_dim: Some(OneOrMany::One(1024)),
            attention_head_dim: OneOrMany::Many(vec![5, 10, 20, 20]),
            use_linear_projection: true,
            ..Self::default()
        }
    }

    /// Stable Diffusion XL base: 2.6 billion weights, latents of 128x128 for pictures of 1024x1024.
    pub fn sdxl() -> Self {
        let layers = [1, 2, 10].map(OneOrMany::One).to_vec();
        UNetConfig {
            sample_size: Some(OneOrMany::One(128)),
            down_block_types: vec![
                DownBlock::DownBlock2D,
                DownBlock::CrossAttnDownBlock2D,
                DownBlock::CrossAttnDownBlock2D,
            ],
            up_block_types: vec![
                UpBlock::CrossAttnUpBlock2D,
                UpBlock::CrossAttnUpBlock2D,
                UpBlock::UpBlock2D,
            ],
            block_out_channels: vec![320, 640, 1280],
            cross_attention_dim: Some(OneOrMany::One(2048)),
            transformer_layers_per_block: OneOrMany::Many(layers),
            attention_head_dim: OneOrMany::Many(vec![5, 10, 20]),
            use_linear_projection: true,
            addition_embed_type: Some(AdditionEmbedding::TextTime),
            addition_time_embed_dim: Some(256),
            projection_class_embeddings_input_dim: Some(2816),
            ..Self::default()
        }
    }

    /// The inpainting form of a configuration: mask (1 channel) and masked latent (4) beside the noisy latent (4).
    pub fn inpainting(self) -> Self {
        UNetConfig { in_channels: 9, ..self }
    }
}

/// diffusers' defaults; [`AutoencoderConfig::sd`] is Stable Diffusion's.
impl Default for AutoencoderConfig {
    fn default() -> Self {
        AutoencoderConfig {
            sample_size: None,
            in_channels: 3,
            out_channels: 3,
            latent_channels: 4,
            block_out_channels: vec![64],
            layers_per_block: 1,
            norm_num_groups: 32,
            act_fn: ActFn::Silu,
            mid_block_add_attention: true,
            use_quant_conv: true,
            use_post_quant_conv: true,
            scaling_factor: 0.18215,
            shift_factor: None,
            force_upcast: true,
            patch_size: 1,
            zero_init: false,
            gradient_checkpointing: false,
        }
    }
}

impl AutoencoderConfig {
    /// Stable Diffusion 1.x and 2.x: f8, four latent channels.
    pub fn sd() -> Self {
        AutoencoderConfig {
            sample_size: Some(OneOrMany::One(512)),
            block_out_channels: vec![128, 256, 512, 512],
            layers_per_block: 2,
            ..Self::default()
        }
    }

    /// Stable Diffusion XL: the same network, trained anew; it overflows f16.
    pub fn sdxl() -> Self {
        AutoencoderConfig { sample_size: Some(OneOrMany::One(1024)), scaling_factor: 0.13025, ..Self::sd() }
    }

    /// Latent diffusion's f4 autoencoder: three levels, three latent channels.
    pub fn f4() -> Self {
        AutoencoderConfig {
            latent_channels: 3,
            block_out_channels: vec![128, 256, 512],
            layers_per_block: 2,
            ..Self::default()
        }
    }

    /// In the shape of latent diffusion's f16 autoencoder: five levels, sixteen latent channels. (The original has
    /// attention at the coarsest level too, not in the middle alone.)
    pub fn f16() -> Self {
        AutoencoderConfig {
            latent_channels: 16,
            block_out_channels: vec![128, 128, 256, 256, 512],
            layers_per_block: 2,
            ..Self::default()
        }
    }
}

/// transformers' defaults; [`TextConfig::clip_l`] is Stable Diffusion's.
impl Default for TextConfig {
    fn default() -> Self {
        TextConfig {
            vocab_size: 49_408,
            hidden_size: 512,
            intermediate_size: 2048,
            layers: 12,
            heads: 8,
            max_positions: 77,
            activation: ActFn::QuickGelu,
            layer_norm_eps: 1e-5,
            eos_token_id: 49_407,
            causal: true,
            projection_dim: None,
            gradient_checkpointing: false,
        }
    }
}

impl TextConfig {
    /// CLIP ViT-L/14, of Stable Diffusion 1.x and the first of XL's two.
    pub fn clip_l() -> Self {
        TextConfig { hidden_size: 768, intermediate_size: 3072, heads: 12, ..Self::default() }
    }

    /// OpenCLIP ViT-H/14 without its last block, as Stable Diffusion 2.x has it.
    pub fn openclip_h() -> Self {
        TextConfig {
            hidden_size: 1024,
            intermediate_size: 4096,
            layers: 23,
            heads: 16,
            activation: ActFn::Gelu,
            ..Self::default()
        }
    }

    /// OpenCLIP ViT-bigG/14 with its projection, the second of Stable Diffusion XL's two.
    pub fn openclip_g() -> Self {
        TextConfig {
            hidden_size: 1280,
            intermediate_size: 5120,
            layers: 32,
            heads: 20,
            activation: ActFn::Gelu,
            projection_dim: Some(1280),
            ..Self::default()
        }
    }
}
