//! Matrix products and convolutions, forward and backward.
//!
//! One kernel does all of them (see `tile`): six rows by one panel of columns, where each row of each
//! filter tap has its own pointer. A linear layer is one tap; a convolution names its pixels and points at
//! zeros for its padding; the gradient of its input is a convolution with other pointers; weight gradients
//! step through pixels instead of channels. Weights are packed once ([`PackedMatrix`]). Where the processor multiplies tiles of
//! 16 by 16, all products in bf16 run on those (see `amx`) but those of Strassen's algorithm, and of weight gradients by Winograd's; of
//! those in single precision linear layers and convolutions as they are written do (see `thirds`).
//!
//! Sums are accumulated in single precision, each as one chain in a fixed order, so results depend neither on
//! the number of threads nor on the batch. Functions that need memory to work in come with another that says
//! how much (`.._scratch_bytes`); nothing is allocated in steady state.

// The entry points take their operands one by one, as the operations of the graph do.
#![allow(clippy::too_many_arguments)]
// Loops over constant counts with indices are what becomes straight code with registers.
#![allow(clippy::needless_range_loop)]

#[cfg(target_arch = "x86_64")]
mod amx;
mod conv;
mod driver;
mod epilogue;
mod error;
mod finish;
mod gather;
mod int8;
mod lanes;
#[cfg(target_arch = "x86_64")]
mod lanes_x86;
mod linear;
mod linear_gradient;
mod matmul;
mod pack;
mod packed;
mod peak;
mod prepare;
mod scratch;
mod strassen;
mod sums;
#[cfg(test)]
mod tests;
mod thirds;
mod tile;
mod weight_gradient;
mod winograd;

pub use conv::{
    ConvAlgorithm, ConvGeometry, conv2d, conv2d_input_gradient, conv2d_input_gradient_scratch_bytes,
    conv2d_scratch_bytes,
};
pub use epilogue::Epilogue;
pub use error::GemmError;
pub use linear::{LinearAlgorithm, Orders, linear, linear_int8_scratch_bytes, linear_scratch_bytes};
pub use linear_gradient::{linear_weight_gradient, linear_weight_gradient_scratch_bytes};
pub use matmul::{MatmulGeometry, matmul, matmul_scratch_bytes};
pub(crate) use packed::Purpose;
pub use packed::{PackedMatrix, compute_dtype, in_thirds, on_tiles};
pub use peak::{byte_peak, fma_peak};
pub use strassen::{Levels, strassen_pays};
pub use sums::{column_sums, column_sums_scratch_bytes};
pub use thirds::PRODUCTS as PRODUCTS_OF_THIRDS;
pub use weight_gradient::{conv2d_weight_gradient, conv2d_weight_gradient_scratch_bytes};
pub use winograd::{Tiling, winograd_pays, winograd_pays_for_weight_gradient};
