//! Layers with their weights: what a parameter's place in the name space can compute.
//!
//! Weights start as PyTorch starts them (uniform on `1 / sqrt(fan_in)`), unless a layer's literature has it otherwise.

use velatura_graph::op::Window;
use velatura_graph::{Init, Params, Var};

/// Layers whose weights live at this place of the name space. Linear layers and norms work on the last axis,
/// convolutions on images `[N, H, W, C]`.
pub trait Layers<'g> {
    /// Linear layer with bias, from `C` to `out` features: `weight [out, C]`, `bias [out]`.
    fn linear(&self, x: Var<'g>, out: usize) -> Var<'g>;

    /// Linear layer without bias.
    fn linear_no_bias(&self, x: Var<'g>, out: usize) -> Var<'g>;

    /// Linear layer with bias that starts at zero when `zero` holds: the last layer of a residual branch, so that the
    /// branch begins as the identity.
    fn linear_or_zero(&self, x: Var<'g>, out: usize, zero: bool) -> Var<'g>;

    /// Linear layer with these beginnings of weight and bias; no bias for `None`.
    fn linear_with(&self, x: Var<'g>, out: usize, weight: Init, bias: Option<Init>) -> Var<'g>;

    /// Square convolution with bias: `weight [out, C, kernel, kernel]`, `bias [out]`; equal padding on all sides.
    fn conv(&self, x: Var<'g>, out: usize, kernel: usize, stride: usize, padding: usize) -> Var<'g>;

    /// Convolution that keeps the image's size (for an odd kernel), starting at zero when `zero` holds.
    fn conv_same(&self, x: Var<'g>, out: usize, kernel: usize, zero: bool) -> Var<'g>;

    /// Convolution with bias whose window moves in any way.
    fn conv_window(&self, x: Var<'g>, out: usize, kernel: usize, window: Window) -> Var<'g>;

    /// Group normalisation with `weight [C]`, `bias [C]`.
    fn group_norm(&self, x: Var<'g>, groups: usize, eps: f32) -> Var<'g>;

    /// As [`Layers::group_norm`], then each image scaled and shifted by its row of a modulation `[N, 2 C]`.
    fn group_norm_modulated(&self, x: Var<'g>, modulation: Var<'g>, groups: usize, eps: f32) -> Var<'g>;

    /// Layer normalisation with `weight [C]`, `bias [C]`.
    fn layer_norm(&self, x: Var<'g>, eps: f32) -> Var<'g>;

    /// Table `weight [rows, width]` looked up by i32 ids; starts Gaussian with this deviation.
    fn embedding(&self, ids: Var<'g>, rows: usize, width: usize, deviation: f32) -> Var<'g>;
}

impl<'g> Layers<'g> for Params<'g> {
    fn linear(&self, x: Var<'g>, out: usize) -> Var<'g> {
        self.linear_or_zero(x, out, false)
    }

    fn linear_no_bias(&self, x: Var<'g>, out: usize) -> Var<'g> {
        self.linear_with(x, out, Init::fan_in(x.channels()), None)
    }

    fn linear_or_zero(&self, x: Var<'g>, out: usize, zero: bool) -> Var<'g> {
        let init = if zero { Init::Zeros } else { Init::fan_in(x.channels()) };
        self.linear_with(x, out, init, Some(init))
    }

    fn linear_with(&self, x: Var<'g>, out: usize, weight: Init, bias: Option<Init>) -> Var<'g> {
        let weight = self.get("weight", &[out, x.channels()], weight);
        let bias = bias.map(|init| self.get("bias", &[out], init));
        x.linear(weight, bias)
    }

    fn conv(&self, x: Var<'g>, out: usize, kernel: usize, stride: usize, padding: usize) -> Var<'g> {
        self.conv_window(x, out, kernel, Window::new(stride, padding))
    }

    fn conv_same(&self, x: Var<'g>, out: usize, kernel: usize, zero: bool) -> Var<'g> {
        convolution(self, x, out, kernel, Window::new(1, kernel.saturating_sub(1) / 2), zero)
    }

    fn conv_window(&self, x: Var<'g>, out: usize, kernel: usize, window: Window) -> Var<'g> {
        convolution(self, x, out, kernel, window, false)
    }

    fn group_norm(&self, x: Var<'g>, groups: usize, eps: f32) -> Var<'g> {
        let (gamma, beta) = scale_and_shift(self, x.channels());
        x.group_norm(gamma, beta, groups, eps)
    }

    fn group_norm_modulated(&self, x: Var<'g>, modulation: Var<'g>, groups: usize, eps: f32) -> Var<'g> {
        let (gamma, beta) = scale_and_shift(self, x.channels());
        x.group_norm_modulated(gamma, beta, modulation, groups, eps)
    }

    fn layer_norm(&self, x: Var<'g>, eps: f32) -> Var<'g> {
        let (gamma, beta) = scale_and_shift(self, x.channels());
        x.layer_norm(Some(gamma), Some(beta), eps)
    }

    fn embedding(&self, ids: Var<'g>, rows: usize, width: usize, deviation: f32) -> Var<'g> {
        self.get("weight", &[rows, width], Init::Normal(deviation)).embedding(ids)
    }
}

fn convolution<'g>(
    p: &Params<'g>,
    x: Var<'g>,
    out: usize,
    kernel: usize,
    window: Window,
    zero: bool,
) -> Var<'g> {
    let inputs = x.channels() / window.groups.max(1);
    let init = if zero { Init::Zeros } else { Init::fan_in(inputs * kernel * kernel) };
    let weight = p.get("weight", &[out, inputs, kernel, kernel], init);
    let bias = p.get("bias", &[out], init);
    x.conv2d(weight, Some(bias), window)
}

fn scale_and_shift<'g>(p: &Params<'g>, channels: usize) -> (Var<'g>, Var<'g>) {
    (p.get("weight", &[channels], Init::Ones), p.get("bias", &[channels], Init::Zeros))
}
