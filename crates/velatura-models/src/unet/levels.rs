//! The levels of the U-Net: down, middle, up, and the skip connections between.

use std::cell::Cell;

use velatura_graph::{Params, Var};

use super::attention::{Context, Looks, Transformer, transformer};
use super::changes::UNetChanges;
use super::config::{DownBlock, MidBlock, UNetConfig, UpBlock};
use super::deep::Deep;
use super::pictures::alike;
use crate::blocks::{BlockStyle, downsample, pixel_attention, res_block, upsample};

/// What all levels share.
pub(super) struct Levels<'a, 'g> {
    pub config: &'a UNetConfig,
    pub style: BlockStyle,
    /// The activated embedding of timestep and company, `[N, D]`.
    pub time: Var<'g>,
    pub context: Option<Context<'g>>,
    pub changes: &'a UNetChanges,
    /// Length of the path of the network's own parameters.
    pub root: usize,
    /// Where the middle leaves how much each token is looked at.
    pub received: &'a Cell<Option<Var<'g>>>,
    /// Where the deep part begins.
    pub deep: Deep<'a, 'g>,
}

/// What follows each residual block of a level.
enum Then {
    Nothing,
    Transformer,
    SelfAttention,
}

impl<'g> Levels<'_, 'g> {
    /// The way down, as far as it is not left out. Returns the result, and every intermediate one for the way up.
    pub fn down(&self, p: &Params<'g>, x: Var<'g>) -> (Var<'g>, Vec<Var<'g>>) {
        let (mut x, mut skips) = (x, vec![x]);
        for (level, kind) in self.config.down_block_types.iter().enumerate() {
            let p = p.at("down_blocks").at(level);
            let then = match kind {
                DownBlock::DownBlock2D => Then::Nothing,
                DownBlock::CrossAttnDownBlock2D => Then::Transformer,
                DownBlock::AttnDownBlock2D => Then::SelfAttention,
            };
            for layer in 0..self.config.layers(level) {
                if self.deep.leaves_out(skips.len()) {
                    return (x, skips);
                }
                x = self.residual(&p, layer, x, level);
                x = self.then(&then, &p, x, (level, layer), false);
                skips.push(x);
            }
            if level + 1 < self.config.levels() && !self.deep.leaves_out(skips.len()) {
                x = downsample(&p.at("downsamplers").at(0), x, self.config.downsample_padding);
                skips.push(x);
            }
        }
        (x, skips)
    }

    /// The middle, at the coarsest level.
    pub fn middle(&self, p: &Params<'g>, x: Var<'g>) -> Var<'g> {
        let (p, level) = (p.at("mid_block"), self.config.levels() - 1);
        match self.config.mid_block_type {
            None => x,
            Some(MidBlock::UNetMidBlock2D) => self.residual(&p, 0, x, level),
            Some(MidBlock::UNetMidBlock2DCrossAttn) => {
                let x = self.residual(&p, 0, x, level);
                let looks = Looks { received: self.changes.watched.then_some(self.received), ..self.looks() };
                let shape = Transformer { only_cross_attention: false, ..self.transformer(level, 0, false) };
                let x = transformer(&p.at("attentions").at(0), &self.style, &shape, x, looks);
                self.residual(&p, 1, x, level)
            }
        }
    }

    /// The way up, as far as it is not left out: before each residual block the mirror image's result is joined.
    pub fn up(&self, p: &Params<'g>, x: Var<'g>, mut skips: Vec<Var<'g>>) -> Var<'g> {
        let (mut x, mut left) = (x, self.config.branches());
        for (i, kind) in self.config.up_block_types.iter().enumerate() {
            let (p, level) = (p.at("up_blocks").at(i), self.config.levels() - 1 - i);
            let then = match kind {
                UpBlock::UpBlock2D => Then::Nothing,
                UpBlock::CrossAttnUpBlock2D => Then::Transformer,
                UpBlock::AttnUpBlock2D => Then::SelfAttention,
            };
            for layer in 0..=self.config.layers(level) {
                left = left.saturating_sub(1);
                if self.deep.leaves_out(left) {
                    continue;
                }
                x = self.deep.reaches(left, x);
                if let Some(mut skip) = skips.pop() {
                    (x, skip) = alike(x, skip);
                    if let Some(freeu) = &self.changes.freeu {
                        (x, skip) = freeu.apply(i, x, skip);
                    }
                    x = x.concat(&[skip], 3);
                }
                x = self.residual(&p, layer, x, level);
                x = self.then(&then, &p, x, (level, layer), true);
            }
            let is_left_out = self.deep.leaves_out(left);
            if let Some(next) = skips.last().filter(|_| level > 0 && !is_left_out) {
                // The size of the skip connection, since halving an odd size rounded up.
                let [_, height, width, _] = next.dims();
                x = upsample(&p.at("upsamplers").at(0), x, [height, width]);
            }
        }
        x
    }

    fn residual(&self, p: &Params<'g>, index: usize, x: Var<'g>, level: usize) -> Var<'g> {
        let channels = self.config.block_out_channels[level];
        let (x, time) = alike(x, self.time);
        res_block(&p.at("resnets").at(index), &self.style, x, Some(time), channels)
    }

    fn then(
        &self,
        kind: &Then,
        p: &Params<'g>,
        x: Var<'g>,
        (level, layer): (usize, usize),
        up: bool,
    ) -> Var<'g> {
        let p = p.at("attentions").at(layer);
        match kind {
            Then::Nothing => x,
            Then::SelfAttention => pixel_attention(&p, &self.style, x, self.config.plain_heads(level)),
            Then::Transformer => {
                let shape = self.transformer(level, layer, up);
                transformer(&p, &self.style, &shape, x, self.looks())
            }
        }
    }

    fn transformer(&self, level: usize, layer: usize, up: bool) -> Transformer {
        Transformer {
            heads: self.config.transformer_heads(level),
            layers: self.config.transformer_layers(level, layer, up),
            only_cross_attention: self.config.only_cross_attention.get(level).copied().unwrap_or(false),
            linear_projection: self.config.use_linear_projection,
        }
    }

    /// What the attentions look at.
    fn looks(&self) -> Looks<'_, 'g> {
        let identity = &self.changes.identity;
        Looks { context: self.context_of(), identity, root: self.root, received: None }
    }

    /// The context, for networks whose transformers look at one.
    fn context_of(&self) -> Option<Context<'g>> {
        self.context.filter(|_| self.config.cross_attention_dim.is_some())
    }
}
