//! Transformers over the pixels of an image that look at a context of tokens (Rombach et al. 2022, section 3.3).

use std::cell::Cell;

use velatura_graph::{Activation, Params, Var};

use super::pictures::alike;
use crate::blocks::BlockStyle;
use crate::layers::Layers;

/// What the norms inside transformers add to the variance, in diffusers and the original code.
const GROUP_NORM_EPS: f32 = 1e-6;
const LAYER_NORM_EPS: f32 = 1e-5;

/// What the cross-attentions look at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context<'g> {
    /// Tokens `[N, T, D]`.
    pub tokens: Var<'g>,
    /// Added to the scores, `[N or 1, 1, 1, T]`.
    pub mask: Option<Var<'g>>,
}

/// What the attentions of a network look at.
#[derive(Clone, Copy)]
pub(super) struct Looks<'a, 'g> {
    /// What the cross-attentions look at.
    pub context: Option<Context<'g>>,
    /// Self-attentions in which every pixel looks at itself alone, by name.
    pub identity: &'a [String],
    /// Length of the path that is no part of those names.
    pub root: usize,
    /// Where the first self-attention leaves how much each token is looked at, where that is asked for.
    pub received: Option<&'a Cell<Option<Var<'g>>>>,
}

impl Looks<'_, '_> {
    fn is_identity(&self, p: &Params<'_>) -> bool {
        let name = p.path().get(self.root..).unwrap_or_default().trim_start_matches('.');
        self.identity.iter().any(|identity| identity == name)
    }
}

/// The shape of one transformer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transformer {
    /// Attention heads.
    pub heads: usize,
    /// Blocks one after another.
    pub layers: usize,
    /// Whether the first attention of each block looks at the context as well.
    pub only_cross_attention: bool,
    /// Whether the projections in and out are stored as linear layers.
    pub linear_projection: bool,
}

/// Norm, projection, blocks, projection, beside a residual connection: `[N, H, W, C]` to the same.
pub(super) fn transformer<'g>(
    p: &Params<'g>,
    style: &BlockStyle,
    shape: &Transformer,
    x: Var<'g>,
    looks: Looks<'_, 'g>,
) -> Var<'g> {
    let [n, height, width, c] = x.dims();
    let tokens = [n, height * width, c];
    let mut h = p.at("norm").group_norm(x, style.groups, GROUP_NORM_EPS);
    h = match shape.linear_projection {
        true => p.at("proj_in").linear(h.reshape(&tokens), c),
        false => p.at("proj_in").conv(h, c, 1, 1, 0).reshape(&tokens),
    };
    for layer in 0..shape.layers {
        let p = p.at("transformer_blocks").at(layer);
        h = style.block(&p, || block(&p, shape, h, looks));
    }
    // There may be more pictures since the first look at the context.
    let (x, h) = alike(x, h);
    let (image, zero) = (x.dims::<4>(), style.zero_init);
    x + match shape.linear_projection {
        true => p.at("proj_out").linear_or_zero(h, c, zero).reshape(&image),
        false => p.at("proj_out").conv_same(h.reshape(&image), c, 1, zero),
    }
}

/// Self-attention, cross-attention, feed-forward, each after a norm and beside a residual connection.
fn block<'g>(p: &Params<'g>, shape: &Transformer, x: Var<'g>, looks: Looks<'_, 'g>) -> Var<'g> {
    let context = looks.context;
    let norm = |name: &str, x| p.at(name).layer_norm(x, LAYER_NORM_EPS);
    let first = if shape.only_cross_attention { context } else { None };
    let as_many = |x, context: Option<Context<'g>>| context.map_or(x, |c| alike(x, c.tokens).0);
    let x = as_many(x, first);
    let own = p.at("attn1");
    let mut h = x + match looks.is_identity(&own) {
        true => identity_attention(&own, norm("norm1", x)),
        false => attention(&own, norm("norm1", x), first, shape.heads, looks.received),
    };
    if context.is_some() {
        h = as_many(h, context);
        h = h + attention(&p.at("attn2"), norm("norm2", h), context, shape.heads, None);
    }
    h + feed_forward(&p.at("ff").at("net"), norm("norm3", h))
}

/// Attention of tokens to the context, or to themselves without one.
fn attention<'g>(
    p: &Params<'g>,
    x: Var<'g>,
    context: Option<Context<'g>>,
    heads: usize,
    received: Option<&Cell<Option<Var<'g>>>>,
) -> Var<'g> {
    let c = x.channels();
    let source = context.map_or(x, |c| c.tokens);
    let q = p.at("to_q").linear_no_bias(x, c);
    let k = p.at("to_k").linear_no_bias(source, c);
    let v = p.at("to_v").linear_no_bias(source, c);
    if let Some(received) = received.filter(|received| received.get().is_none()) {
        received.set(Some(attention_received(q, k, heads)));
    }
    let mixed = q.attention(k, v, context.and_then(|c| c.mask), heads, None, false);
    p.at("to_out").at(0).linear(mixed, c)
}

/// How much each token is looked at, `[N, T]`: its attention summed over all queries, in the mean of the heads. The map is
/// written out for it, which the attention itself never does, so this is for the few tokens of the coarsest level.
fn attention_received<'g>(q: Var<'g>, k: Var<'g>, heads: usize) -> Var<'g> {
    let [n, tokens, c] = q.dims();
    let width = c / heads.max(1);
    let by_head = |x: Var<'g>| x.reshape(&[n, tokens, heads, width]).permute(&[0, 2, 1, 3]);
    let scores = by_head(q).matmul_transposed(by_head(k), false, true);
    let map = scores.affine(1.0 / (width.max(1) as f32).sqrt(), 0.0).softmax();
    map.sum(&[2], false).mean(&[1], false)
}

/// Self-attention with the identity in place of the map: every token keeps its own value.
fn identity_attention<'g>(p: &Params<'g>, x: Var<'g>) -> Var<'g> {
    let c = x.channels();
    p.at("to_out").at(0).linear(p.at("to_v").linear_no_bias(x, c), c)
}

/// GEGLU (Shazeer 2020): half of the features gate the other half; four times as wide inside.
fn feed_forward<'g>(p: &Params<'g>, x: Var<'g>) -> Var<'g> {
    let c = x.channels();
    let inner = p.at(0).at("proj").linear(x, 8 * c);
    p.at(2).linear(inner.gated(Activation::Gelu), c)
}
