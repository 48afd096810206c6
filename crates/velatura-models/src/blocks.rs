//! What the U-Net and the autoencoder are both made of: residual blocks, attention over pixels, resampling.

use velatura_graph::op::{ResizeMode, Window};
use velatura_graph::{Activation, Params, Var};

use crate::layers::Layers;

/// How the norms and activations of a network's blocks are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockStyle {
    /// Groups of the group norms.
    pub groups: usize,
    /// What the norms add to the variance.
    pub eps: f32,
    /// The activation function after each norm.
    pub activation: Activation,
    /// Whether the timestep scales and shifts the second norm's result (adaptive norm) instead of being added before.
    pub scale_shift: bool,
    /// Whether the last layer of each residual branch starts at zero.
    pub zero_init: bool,
    /// Whether each block is computed again in the backward pass instead of being kept.
    pub checkpoint: bool,
}

impl BlockStyle {
    /// Records a block, as a segment of its own when the network is checkpointed.
    pub fn block<'g>(&self, p: &Params<'g>, build: impl FnOnce() -> Var<'g>) -> Var<'g> {
        if self.checkpoint { p.builder().checkpoint(build) } else { build() }
    }
}

/// Residual block (He et al. 2015; with the timestep, Ho et al. 2020): norm, activation, convolution, twice, the
/// timestep between. `time` is the *activated* embedding `[N, D]`.
pub(crate) fn res_block<'g>(
    p: &Params<'g>,
    style: &BlockStyle,
    x: Var<'g>,
    time: Option<Var<'g>>,
    channels: usize,
) -> Var<'g> {
    style.block(p, || {
        let norm = |name: &str, x: Var<'g>| p.at(name).group_norm(x, style.groups, style.eps);
        let mut h =
            p.at("conv1").conv_same(norm("norm1", x).activation(style.activation), channels, 3, false);
        match time {
            Some(time) if style.scale_shift => {
                let modulation = p.at("time_emb_proj").linear(time, 2 * channels);
                h = p.at("norm2").group_norm_modulated(h, modulation, style.groups, style.eps);
            }
            Some(time) => {
                h = norm("norm2", h + over_pixels(p.at("time_emb_proj").linear(time, channels)));
            }
            None => h = norm("norm2", h),
        }
        h = p.at("conv2").conv_same(h.activation(style.activation), channels, 3, style.zero_init);
        let shortcut =
            if x.channels() == channels { x } else { p.at("conv_shortcut").conv(x, channels, 1, 1, 0) };
        shortcut + h
    })
}

/// Self-attention over the pixels of an image, with its own norm and a residual connection.
pub(crate) fn pixel_attention<'g>(p: &Params<'g>, style: &BlockStyle, x: Var<'g>, heads: usize) -> Var<'g> {
    style.block(p, || {
        let [n, h, w, c] = x.dims();
        let tokens = p.at("group_norm").group_norm(x, style.groups, style.eps).reshape(&[n, h * w, c]);
        let project = |name: &str| p.at(name).linear(tokens, c);
        let mixed = project("to_q").attention(project("to_k"), project("to_v"), None, heads, None, false);
        p.at("to_out").at(0).linear_or_zero(mixed, c, style.zero_init).reshape(&[n, h, w, c]) + x
    })
}

/// Halves an image by a strided convolution. `padding` 0 means one row and column of zeros below and to the right
/// only, as the autoencoder has it.
pub(crate) fn downsample<'g>(p: &Params<'g>, x: Var<'g>, padding: usize) -> Var<'g> {
    let window = match padding {
        0 => Window { padding: [0, 0, 1, 1], ..Window::new(2, 0) },
        _ => Window::new(2, padding),
    };
    p.at("conv").conv_window(x, x.channels(), 3, window)
}

/// Enlarges an image to a height and width by repeating pixels, and convolves it.
pub(crate) fn upsample<'g>(p: &Params<'g>, x: Var<'g>, [height, width]: [usize; 2]) -> Var<'g> {
    p.at("conv").conv_same(x.resize(ResizeMode::Nearest, height, width), x.channels(), 3, false)
}

/// Features `[N, C]` as an image of one pixel, to be broadcast.
fn over_pixels(x: Var<'_>) -> Var<'_> {
    let [n, c] = x.dims();
    x.reshape(&[n, 1, 1, c])
}
