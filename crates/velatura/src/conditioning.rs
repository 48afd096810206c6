//! How a prompt reaches the denoiser: the part that training and generation must do alike.

use serde::{Deserialize, Serialize};
use velatura_graph::{Params, Var};
use velatura_models::unet::{UNetChanges, UNetOutput};
use velatura_models::{Replaced, TextConfig, TextInputs, UNetConfig, UNetInputs};
use velatura_text::Encoding;

/// Added to the score of a token that is not to be seen: as good as infinite after the exponential.
const HIDDEN: f32 = -1e4;

/// Which of the text transformer's results the denoiser reads, and how padding is treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Conditioning {
    /// Whether padding is hidden from the attentions of both networks. Stable Diffusion shows it.
    pub mask_padding: bool,
    /// Which tokens the denoiser looks at.
    pub tokens: TextLayer,
    /// What the pooled text is, for a denoiser that takes one ([`UNetConfig::reads_pooled`]).
    pub pooling: Pooling,
}

/// A result of the text transformer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextLayer {
    /// After the final norm.
    #[default]
    Last,
    /// Before the last block, without norm (Stable Diffusion XL).
    Penultimate,
}

/// One vector from many tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Mean over the tokens that are not padding.
    #[default]
    Mean,
    /// The end token's.
    End,
}

/// A batch of prompts as the networks read them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenBatch {
    /// Prompts.
    pub prompts: usize,
    /// Token ids, `[prompts, context]`.
    pub ids: Vec<i32>,
    /// 1 for tokens, 0 for padding, `[prompts, context]`.
    pub mask: Vec<f32>,
    /// Row of each prompt's last token that is not padding, in all rows laid end to end, `[prompts]`.
    pub end_rows: Vec<i32>,
}

impl TokenBatch {
    /// Adds a prompt; all must have the same context length.
    pub fn push(&mut self, encoding: &Encoding) {
        let (context, length) = (encoding.ids.len(), encoding.length.min(encoding.ids.len()));
        self.ids.extend(&encoding.ids);
        self.mask.extend((0..context).map(|i| if i < length { 1.0 } else { 0.0 }));
        self.end_rows.push((self.prompts * context + length.saturating_sub(1)) as i32);
        self.prompts += 1;
    }
}

/// Prompts as values of a graph.
#[derive(Clone, Copy, Debug)]
pub struct TokenVars<'g> {
    /// i32 `[N, T]`.
    pub ids: Var<'g>,
    /// f32 `[N, T]`, as in [`TokenBatch::mask`].
    pub mask: Var<'g>,
    /// i32 `[N]`, as in [`TokenBatch::end_rows`].
    pub end_rows: Var<'g>,
    /// Vectors in place of some tokens.
    pub replaced: Option<Replaced<'g>>,
}

/// Encoded prompts, and what goes with them, as values of a graph.
#[derive(Clone, Copy, Debug)]
pub struct Condition<'g> {
    /// `[N, T, C]`.
    pub context: Var<'g>,
    /// `[N, P]`.
    pub pooled: Var<'g>,
    /// What SDXL is told of the picture's size, f32 `[N, 6]` (its refiner: 5).
    pub time_ids: Option<Var<'g>>,
}

impl Conditioning {
    /// Stable Diffusion XL's: the penultimate blocks, and the end token's projection.
    pub fn sdxl() -> Self {
        Conditioning { mask_padding: false, tokens: TextLayer::Penultimate, pooling: Pooling::End }
    }

    /// Records the text transformer, its parameters below `p`.
    pub fn encode<'g>(&self, config: &TextConfig, p: &Params<'g>, tokens: TokenVars<'g>) -> Condition<'g> {
        self.encode_skipping(config, p, tokens, 1)
    }

    /// As [`Conditioning::encode`], the tokens taken after the block `clip_skip` from the end, where 1 is the last. A
    /// conditioning that reads the penultimate block anyway reads none behind it, and the pooled text is that of the
    /// whole transformer; otherwise the final norm follows the block taken, as if it were the last.
    pub fn encode_skipping<'g>(
        &self,
        config: &TextConfig,
        p: &Params<'g>,
        tokens: TokenVars<'g>,
        clip_skip: usize,
    ) -> Condition<'g> {
        let [n, length] = tokens.ids.dims();
        let inputs = TextInputs {
            ids: tokens.ids,
            end_rows: (self.pooling == Pooling::End).then_some(tokens.end_rows),
            pool_mask: (self.pooling == Pooling::Mean).then_some(tokens.mask),
            attention_mask: self.mask_padding.then(|| scores(tokens.mask).reshape(&[n, 1, 1, length])),
            replaced: tokens.replaced,
        };
        let layers = match self.tokens {
            TextLayer::Last => config.layers.saturating_sub(clip_skip.saturating_sub(1)),
            TextLayer::Penultimate => config.layers,
        };
        let output = TextConfig { layers, ..config.clone() }.build(p, inputs);
        let context = match self.tokens {
            TextLayer::Last => output.hidden,
            TextLayer::Penultimate => output.state(clip_skip.max(2)),
        };
        Condition { context, pooled: output.projected.unwrap_or(output.pooled), time_ids: None }
    }

    /// Records the denoiser, its parameters below `p`: the prediction for noisy latents `[N, H, W, C]` at timesteps `[N]`.
    /// `mask` is [`TokenVars::mask`].
    pub fn denoise<'g>(
        &self,
        config: &UNetConfig,
        p: &Params<'g>,
        (sample, timestep): (Var<'g>, Var<'g>),
        condition: Condition<'g>,
        mask: Var<'g>,
    ) -> Var<'g> {
        self.denoise_with(
            config,
            p,
            UNetInputs::new(sample, timestep),
            condition,
            mask,
            &UNetChanges::default(),
        )
        .prediction
    }

    /// As [`Conditioning::denoise`], for a denoiser that reads more than latents and timesteps: a class label, or the
    /// guidance.
    pub fn denoise_with<'g>(
        &self,
        config: &UNetConfig,
        p: &Params<'g>,
        inputs: UNetInputs<'g>,
        condition: Condition<'g>,
        mask: Var<'g>,
        changes: &UNetChanges,
    ) -> UNetOutput<'g> {
        let inputs = UNetInputs {
            context: config.reads_context().then_some(condition.context),
            context_mask: (self.mask_padding && config.reads_context()).then(|| scores(mask)),
            pooled: config.reads_pooled().then_some(condition.pooled),
            time_ids: condition.time_ids,
            ..inputs
        };
        config.build_changed(p, inputs, changes)
    }
}

/// What a mask `[N, T]` of 1 and 0, as in [`TokenBatch::mask`], adds to attention scores.
pub fn scores(mask: Var<'_>) -> Var<'_> {
    mask.affine(-HIDDEN, HIDDEN)
}
