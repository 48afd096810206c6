//! A model small enough for tests: every part of a real one, no meaning.

use velatura_models::{
    AutoencoderConfig, OneOrMany, TextConfig, UNetConfig,
    unet::{DownBlock, MidBlock, UpBlock},
};
use velatura_samplers::NoiseSchedule;
use velatura_text::{TokenizerError, WordTokenizer};

use crate::manifest::{Defaults, FORMAT, TEXT_PREFIX, TextEncoder, TrainingNote};
use crate::{Conditioning, ModelManifest};

/// The manifest of a tiny untrained model: 64 px pictures, f8, one level with attention, a few dozen words.
///
/// # Errors
/// Never in practice: the vocabulary is fixed.
pub fn manifest() -> Result<ModelManifest, TokenizerError> {
    let words = "a an two three red apple apples cat cats dog panda above below left right of on the sky blue green \
                 white black background";
    let tokenizer = WordTokenizer::from_texts([words], 16)?;
    let text = TextConfig {
        vocab_size: tokenizer.vocabulary_size(),
        hidden_size: 32,
        intermediate_size: 64,
        layers: 1,
        heads: 2,
        max_positions: tokenizer.context(),
        eos_token_id: WordTokenizer::END,
        causal: false,
        ..TextConfig::default()
    };
    let unet = UNetConfig {
        in_channels: 4,
        out_channels: 4,
        down_block_types: vec![DownBlock::DownBlock2D, DownBlock::CrossAttnDownBlock2D],
        mid_block_type: Some(MidBlock::UNetMidBlock2DCrossAttn),
        up_block_types: vec![UpBlock::CrossAttnUpBlock2D, UpBlock::UpBlock2D],
        block_out_channels: vec![16, 32],
        layers_per_block: OneOrMany::One(1),
        norm_num_groups: 8,
        attention_head_dim: OneOrMany::One(2),
        cross_attention_dim: Some(OneOrMany::One(32)),
        pooled_projection_dim: Some(32),
        ..UNetConfig::default()
    };
    let autoencoder = AutoencoderConfig {
        latent_channels: 4,
        block_out_channels: vec![16, 16, 16],
        layers_per_block: 1,
        norm_num_groups: 8,
        patch_size: 2,
        mid_block_add_attention: false,
        scaling_factor: 1.0,
        ..AutoencoderConfig::default()
    };
    Ok(ModelManifest {
        format: FORMAT,
        name: "tiny-untrained".to_string(),
        text_encoders: vec![TextEncoder {
            prefix: TEXT_PREFIX.to_string(),
            config: text,
            tokenizer: tokenizer.into(),
        }],
        unet,
        autoencoder: autoencoder.into(),
        schedule: NoiseSchedule::rectified_flow(1.0),
        conditioning: Conditioning { mask_padding: true, ..Conditioning::default() },
        zeros_for_empty_prompt: false,
        low_res_schedule: None,
        max_noise_level: None,
        defaults: Defaults {
            width: 64,
            height: 64,
            steps: 8,
            guidance: 3.0,
            sampler: "euler".to_string(),
            schedule: "linspace".to_string(),
        },
        training: TrainingNote::default(),
    })
}
