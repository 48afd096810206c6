//! The text transformer in the form of CLIP's (Radford et al. 2021): learned positions, pre-norm blocks.

use serde::{Deserialize, Serialize};
use velatura_graph::{Init, Params, Var};

use crate::config::{ActFn, ConfigError, MAX_LAYERS, MAX_SIZE, ensure, read, refuse};
use crate::layers::Layers;

const NETWORK: &str = "text transformer";

/// The text transformer's configuration. In JSON its fields have transformers' names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TextConfig {
    /// Entries of the tokenizer.
    pub vocab_size: usize,
    /// Features of each token.
    pub hidden_size: usize,
    /// Features inside the feed-forward layers.
    pub intermediate_size: usize,
    /// Transformer blocks.
    #[serde(rename = "num_hidden_layers", alias = "layers")]
    pub layers: usize,
    /// Attention heads.
    #[serde(rename = "num_attention_heads", alias = "heads")]
    pub heads: usize,
    /// The most tokens that a text may have.
    #[serde(rename = "max_position_embeddings", alias = "max_positions")]
    pub max_positions: usize,
    /// Activation of the feed-forward layers.
    #[serde(rename = "hidden_act", alias = "activation")]
    pub activation: ActFn,
    /// What the norms add to the variance.
    pub layer_norm_eps: f32,
    /// The token that ends a text. CLIP's early configurations say 2 and mean the highest id of the text.
    pub eos_token_id: i32,
    /// Whether a token sees only those before it, as in CLIP.
    pub causal: bool,
    /// Width of the projection of the pooled text, for networks that have one.
    pub projection_dim: Option<usize>,
    /// Whether each block is computed again in the backward pass, to save memory in training.
    #[serde(skip)]
    pub gradient_checkpointing: bool,
}

/// What the text transformer reads.
#[derive(Clone, Copy, Debug)]
pub struct TextInputs<'g> {
    /// Token ids, i32 `[N, T]`.
    pub ids: Var<'g>,
    /// The row `n * T + position` of each text's end token, i32 `[N]` (see [`TextConfig::end_rows`]). Without it the
    /// pooled text is a mean over tokens.
    pub end_rows: Option<Var<'g>>,
    /// Weights of the tokens in that mean, f32 `[N, T]`: 1 for words, 0 for padding. All tokens count without it.
    pub pool_mask: Option<Var<'g>>,
    /// Added to the attention scores, f32 `[N or 1, heads or 1, T or 1, T]`: 0 to see, a large negative number not to.
    pub attention_mask: Option<Var<'g>>,
    /// Vectors in place of the embeddings of some ids (textual inversion).
    pub replaced: Option<Replaced<'g>>,
}

/// Vectors in place of token embeddings.
#[derive(Clone, Copy, Debug)]
pub struct Replaced<'g> {
    /// 1 where an id's own embedding stays, 0 where it is replaced, f32 `[N, T, 1]`.
    pub kept: Var<'g>,
    /// What takes its place, and 0 elsewhere, f32 `[N, T, C]`.
    pub vectors: Var<'g>,
}

impl<'g> TextInputs<'g> {
    /// Ids alone: pooling by the mean over all tokens.
    pub fn new(ids: Var<'g>) -> Self {
        TextInputs { ids, end_rows: None, pool_mask: None, attention_mask: None, replaced: None }
    }
}

/// What the text transformer makes.
#[derive(Clone, Debug)]
pub struct TextOutput<'g> {
    /// All tokens after the final norm, `[N, T, C]`.
    pub hidden: Var<'g>,
    /// All tokens before each block, and after the last one, without norm, `[N, T, C]`: transformers' `hidden_states`.
    pub states: Vec<Var<'g>>,
    /// One vector for each text, `[N, C]`, after the final norm.
    pub pooled: Var<'g>,
    /// The pooled text projected, `[N, projection_dim]`, where the network has a projection.
    pub projected: Option<Var<'g>>,
}

impl<'g> TextOutput<'g> {
    /// The tokens at a place counted from the end of [`TextOutput::states`]: 1 is after the last block, 2 before it (what
    /// SDXL reads); numbers beyond the first are the first.
    pub fn state(&self, from_end: usize) -> Var<'g> {
        self.states[self.states.len().saturating_sub(from_end.max(1))]
    }
}

impl TextConfig {
    /// Reads a transformers `config.json`. Whether there is a projection follows from `architectures`, since
    /// transformers writes `projection_dim` for networks without one too.
    ///
    /// # Errors
    /// [`ConfigError`], naming the field that has a wrong type or asks for what is not supported.
    pub fn from_json(json: &str) -> Result<Self, ConfigError> {
        let (mut config, value) = read::<TextConfig>(NETWORK, json, &[])?;
        if let Some(architectures) = value.get("architectures").and_then(|a| a.as_array()) {
            let projects = |a: &serde_json::Value| a.as_str().is_some_and(|a| a.ends_with("WithProjection"));
            if !architectures.iter().any(projects) {
                config.projection_dim = None;
            }
        }
        config.check()?;
        Ok(config)
    }

    /// Whether the values fit together.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`], naming the field.
    pub fn check(&self) -> Result<(), ConfigError> {
        let size = |x: usize| (1..=MAX_SIZE).contains(&x);
        ensure!(NETWORK, size(self.vocab_size), "vocab_size", "must be in 1..={MAX_SIZE}");
        ensure!(NETWORK, size(self.hidden_size), "hidden_size", "must be in 1..={MAX_SIZE}");
        ensure!(NETWORK, size(self.intermediate_size), "intermediate_size", "must be in 1..={MAX_SIZE}");
        ensure!(NETWORK, size(self.max_positions), "max_position_embeddings", "must be in 1..={MAX_SIZE}");
        ensure!(
            NETWORK,
            (1..=MAX_LAYERS).contains(&self.layers),
            "num_hidden_layers",
            "must be in 1..={MAX_LAYERS}"
        );
        ensure!(
            NETWORK,
            self.heads > 0 && self.hidden_size.is_multiple_of(self.heads),
            "num_attention_heads",
            "({}) must divide hidden_size ({})",
            self.heads,
            self.hidden_size
        );
        let eps = self.layer_norm_eps.is_finite() && self.layer_norm_eps >= 0.0;
        ensure!(NETWORK, eps, "layer_norm_eps", "({}) must not be negative", self.layer_norm_eps);
        ensure!(NETWORK, self.projection_dim.is_none_or(size), "projection_dim", "must be in 1..={MAX_SIZE}");
        Ok(())
    }

    /// For each text of `tokens` ids, the row of its end token in all texts laid end to end: what
    /// [`TextInputs::end_rows`] wants. A text without end token ends at its last one.
    pub fn end_rows(&self, ids: &[i32], tokens: usize) -> Vec<i32> {
        let row = |(n, text): (usize, &[i32])| {
            let end = match self.eos_token_id {
                2 => text.iter().copied().max().unwrap_or(0),
                id => id,
            };
            let position = text.iter().position(|&id| id == end).unwrap_or(text.len() - 1);
            (n * tokens + position) as i32
        };
        ids.chunks(tokens.max(1)).enumerate().map(row).collect()
    }

    /// Records the network. Its parameters lie below `p` under transformers' names (`text_model...`).
    ///
    /// What does not fit (heads, sizes, too many tokens) is the error of [`velatura_graph::Builder::finish`].
    pub fn build<'g>(&self, p: &Params<'g>, inputs: TextInputs<'g>) -> TextOutput<'g> {
        let nothing = || TextOutput {
            hidden: inputs.ids,
            states: vec![inputs.ids],
            pooled: inputs.ids,
            projected: None,
        };
        if let Err(error) = self.check() {
            refuse(p, NETWORK, error.to_string(), inputs.ids);
            return nothing();
        }
        let ids = inputs.ids.ty();
        let &[_, tokens] = ids.shape.as_slice() else {
            refuse(p, NETWORK, "ids [N, T] are expected".into(), inputs.ids);
            return nothing();
        };
        if tokens > self.max_positions {
            let reason = format!("{tokens} tokens, but there are positions for {} only", self.max_positions);
            refuse(p, NETWORK, reason, inputs.ids);
            return nothing();
        }
        let model = p.at("text_model");
        let mut hidden = self.embed(&model.at("embeddings"), &inputs);
        let mut states = vec![hidden];
        for layer in 0..self.layers {
            let p = model.at("encoder").at("layers").at(layer);
            let block = || self.block(&p, hidden, inputs.attention_mask);
            hidden = if self.gradient_checkpointing { p.builder().checkpoint(block) } else { block() };
            states.push(hidden);
        }
        let hidden = model.at("final_layer_norm").layer_norm(hidden, self.layer_norm_eps);
        let pooled = pool(hidden, &inputs);
        let projected =
            self.projection_dim.map(|width| p.at("text_projection").linear_no_bias(pooled, width));
        TextOutput { hidden, states, pooled, projected }
    }

    fn embed<'g>(&self, p: &Params<'g>, inputs: &TextInputs<'g>) -> Var<'g> {
        let [_, tokens] = inputs.ids.dims();
        let table = p.at("token_embedding");
        let mut words = table.embedding(inputs.ids, self.vocab_size, self.hidden_size, 0.02);
        if let Some(Replaced { kept, vectors }) = inputs.replaced {
            words = words * kept + vectors;
        }
        let table = [self.max_positions, self.hidden_size];
        let positions = p.at("position_embedding").get("weight", &table, Init::Normal(0.02));
        words + positions.slice(0, 0, tokens)
    }

    /// Attention and feed-forward, each after a norm and beside a residual connection. Weights start as in CLIP: the
    /// deeper the network, the smaller what each block adds.
    fn block<'g>(&self, p: &Params<'g>, x: Var<'g>, mask: Option<Var<'g>>) -> Var<'g> {
        let width = self.hidden_size;
        let (near, far) = ((width as f32).powf(-0.5), (2.0 * self.layers as f32).powf(-0.5));
        let linear = |p: Params<'g>, x: Var<'g>, out: usize, deviation: f32| {
            p.linear_with(x, out, Init::Normal(deviation), Some(Init::Zeros))
        };
        let attention = p.at("self_attn");
        let h = p.at("layer_norm1").layer_norm(x, self.layer_norm_eps);
        let [q, k, v] = ["q_proj", "k_proj", "v_proj"].map(|n| linear(attention.at(n), h, width, near * far));
        let mixed = q.attention(k, v, mask, self.heads, None, self.causal);
        let x = x + linear(attention.at("out_proj"), mixed, width, near);

        let mlp = p.at("mlp");
        let h = p.at("layer_norm2").layer_norm(x, self.layer_norm_eps);
        let h = linear(mlp.at("fc1"), h, self.intermediate_size, (2.0 * width as f32).powf(-0.5));
        x + linear(mlp.at("fc2"), h.activation(self.activation.into()), width, near * far)
    }
}

/// One vector for each text: the end token's, or the mean over the tokens that count.
fn pool<'g>(hidden: Var<'g>, inputs: &TextInputs<'g>) -> Var<'g> {
    let [n, tokens, width] = hidden.dims();
    match (inputs.end_rows, inputs.pool_mask) {
        (Some(rows), _) => hidden.reshape(&[n * tokens, width]).embedding(rows),
        (None, Some(mask)) => {
            let weights = mask.reshape(&[n, tokens, 1]);
            // A text of padding alone has the mean zero, not zero by zero.
            let count = weights.sum(&[1], false).maximum(hidden.builder().fill(&[1], 1e-6));
            (hidden * weights).sum(&[1], false) / count
        }
        (None, None) => hidden.mean(&[1], false),
    }
}
