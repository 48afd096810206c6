//! Which configurations of the U-Net fit together.

use super::NETWORK;
use super::config::{ClassEmbedding, DownBlock, MidBlock, UNetConfig, UpBlock};
use crate::config::{ConfigError, MAX_LAYERS, MAX_SIZE, OneOrMany, ensure};

impl UNetConfig {
    /// Whether the values fit together.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`], naming the field.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_levels()?;
        self.check_sizes()?;
        self.check_attention()?;
        self.check_embeddings()
    }

    fn check_levels(&self) -> Result<(), ConfigError> {
        let levels = self.levels();
        ensure!(
            NETWORK,
            (1..=16).contains(&levels),
            "block_out_channels",
            "needs 1 to 16 levels, has {levels}"
        );
        macro_rules! one_for_each {
            ($($field:ident: $fits:expr),*) => {
                $(ensure!(NETWORK, $fits, "block_out_channels", "has {levels} levels, {} another number", stringify!($field));)*
            };
        }
        one_for_each!(
            down_block_types: self.down_block_types.len() == levels,
            up_block_types: self.up_block_types.len() == levels,
            only_cross_attention: self.only_cross_attention.fits(levels),
            layers_per_block: self.layers_per_block.fits(levels),
            attention_head_dim: self.attention_head_dim.fits(levels),
            num_attention_heads: self.num_attention_heads.as_ref().is_none_or(|h| h.fits(levels)),
            cross_attention_dim: self.cross_attention_dim.as_ref().is_none_or(|d| d.fits(levels)),
            transformer_layers_per_block: self.transformer_layers_per_block.fits(levels),
            reverse_transformer_layers_per_block:
                self.reverse_transformer_layers_per_block.as_ref().is_none_or(|l| l.fits(levels))
        );
        let counts = |l: &OneOrMany<usize>| l.values().iter().all(|n| (1..=MAX_LAYERS).contains(n));
        ensure!(NETWORK, counts(&self.layers_per_block), "layers_per_block", "must be in 1..={MAX_LAYERS}");
        let blocks = self.transformer_layers_per_block.values().iter();
        let mut blocks =
            blocks.chain(self.reverse_transformer_layers_per_block.iter().flat_map(|l| l.values()));
        ensure!(
            NETWORK,
            blocks.all(|l| !l.values().is_empty() && l.values().iter().all(|&n| n <= MAX_LAYERS)),
            "transformer_layers_per_block",
            "must not be empty nor above {MAX_LAYERS}"
        );
        Ok(())
    }

    fn check_sizes(&self) -> Result<(), ConfigError> {
        let size = |x: &usize| (1..=MAX_SIZE).contains(x);
        ensure!(NETWORK, size(&self.in_channels), "in_channels", "must be in 1..={MAX_SIZE}");
        ensure!(NETWORK, size(&self.out_channels), "out_channels", "must be in 1..={MAX_SIZE}");
        ensure!(
            NETWORK,
            self.block_out_channels.iter().all(size),
            "block_out_channels",
            "must be in 1..={MAX_SIZE}"
        );
        ensure!(NETWORK, size(&self.norm_num_groups), "norm_num_groups", "must be at least 1");
        for channels in &self.block_out_channels {
            ensure!(
                NETWORK,
                channels.is_multiple_of(self.norm_num_groups),
                "norm_num_groups",
                "({}) must divide the channels of each level, and does not divide {channels}",
                self.norm_num_groups
            );
        }
        let eps = self.norm_eps.is_finite() && self.norm_eps >= 0.0;
        ensure!(NETWORK, eps, "norm_eps", "({}) must not be negative", self.norm_eps);
        for kernel in [self.conv_in_kernel, self.conv_out_kernel] {
            ensure!(
                NETWORK,
                kernel % 2 == 1 && kernel < 64,
                "conv_in_kernel",
                "and conv_out_kernel must be odd"
            );
        }
        ensure!(NETWORK, self.downsample_padding <= 1, "downsample_padding", "must be 0 or 1");
        Ok(())
    }

    fn check_attention(&self) -> Result<(), ConfigError> {
        for (level, channels) in self.block_out_channels.iter().enumerate() {
            let up = self.up_block_types[self.levels() - 1 - level];
            let last = level + 1 == self.levels();
            let transformer = self.down_block_types[level] == DownBlock::CrossAttnDownBlock2D
                || up == UpBlock::CrossAttnUpBlock2D
                || last && self.mid_block_type == Some(MidBlock::UNetMidBlock2DCrossAttn);
            let plain =
                self.down_block_types[level] == DownBlock::AttnDownBlock2D || up == UpBlock::AttnUpBlock2D;
            let divides = |heads: usize| channels.is_multiple_of(heads);
            ensure!(
                NETWORK,
                (!transformer || divides(self.transformer_heads(level)))
                    && (!plain || divides(self.plain_heads(level))),
                "attention_head_dim",
                "does not divide the {channels} channels of level {level} into heads"
            );
        }
        let size = |x: &usize| (1..=MAX_SIZE).contains(x);
        let widths = self.cross_attention_dim.as_ref();
        ensure!(
            NETWORK,
            widths.is_none_or(|w| w.values().iter().all(size)),
            "cross_attention_dim",
            "must be null or in 1..={MAX_SIZE}"
        );
        ensure!(
            NETWORK,
            widths.is_some() || !self.only_cross_attention.values().contains(&true),
            "only_cross_attention",
            "needs a cross_attention_dim"
        );
        Ok(())
    }

    fn check_embeddings(&self) -> Result<(), ConfigError> {
        let size = |x: Option<usize>| x.is_some_and(|x| (1..=MAX_SIZE).contains(&x));
        let fine = |x: Option<usize>| x.is_none() || size(x);
        ensure!(
            NETWORK,
            size(Some(self.time_embed_dim())),
            "time_embedding_dim",
            "must be in 1..={MAX_SIZE}"
        );
        ensure!(NETWORK, fine(self.time_cond_proj_dim), "time_cond_proj_dim", "must be in 1..={MAX_SIZE}");
        ensure!(
            NETWORK,
            fine(self.pooled_projection_dim),
            "pooled_projection_dim",
            "must be in 1..={MAX_SIZE}"
        );
        // The frequencies' exponents are divided by half the features less the shift.
        let sinusoids = [Some(self.block_out_channels[0]), self.addition_time_embed_dim];
        let shift = sinusoids.iter().flatten().all(|&width| self.freq_shift < (width / 2).max(1) as f32);
        ensure!(
            NETWORK,
            shift,
            "freq_shift",
            "({}) must be below half the sinusoid's features",
            self.freq_shift
        );
        let class = self.class_embedding();
        let table = class == Some(ClassEmbedding::Embedding);
        ensure!(
            NETWORK,
            !table || size(self.num_class_embeds),
            "num_class_embeds",
            "must be in 1..={MAX_SIZE}"
        );
        let text_time = self.addition_embed_type.is_some();
        let projects = matches!(class, Some(ClassEmbedding::Projection | ClassEmbedding::SimpleProjection));
        ensure!(
            NETWORK,
            !(projects || text_time) || size(self.projection_class_embeddings_input_dim),
            "projection_class_embeddings_input_dim",
            "must be in 1..={MAX_SIZE} for what is projected"
        );
        ensure!(
            NETWORK,
            !text_time || size(self.addition_time_embed_dim),
            "addition_time_embed_dim",
            "must be in 1..={MAX_SIZE} for addition_embed_type text_time"
        );
        ensure!(
            NETWORK,
            !self.class_embeddings_concat
                || class.is_some() && !text_time && self.pooled_projection_dim.is_none(),
            "class_embeddings_concat",
            "needs class labels, and nothing else that is added to the timestep's embedding"
        );
        Ok(())
    }
}
