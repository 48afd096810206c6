//! Memory-bound kernels: functions of one and two elements, copies, reductions, softmax, resizing, pooling
//! and table lookup.
//!
//! | function | meaning |
//! |---|---|
//! | [`unary`], [`activation_backward`] | functions of one element, gradients of activations |
//! | [`gated`], [`gated_backward`] | gated linear units |
//! | [`binary`], [`add_scaled`] | functions of two elements, broadcast; weighted sum |
//! | [`cast`], [`fill`] | conversion, constant |
//! | [`strided_copy`], [`permute`], [`concat()`], [`slice()`], [`pad`], [`expand`] | moving elements |
//! | [`reduce`] | sum, mean, maximum over any axes |
//! | [`softmax`], [`softmax_backward`] | over the last axis, also of the logarithm |
//! | [`resize`], [`resize_backward`] | nearest and bilinear, `[N, H, W, C]` |
//! | [`average_pool`], [`average_pool_backward`] | `[N, H, W, C]` |
//! | [`embedding`], [`embedding_backward`] | table lookup |
//!
//! All take the pool and the instruction set first, check sizes on entry (a wrong size is an error of the
//! program and panics), and give the same bits on any number of threads.

mod binary;
mod copy;
pub(crate) mod dispatch;
mod embedding;
mod gated;
pub mod math;
mod math_bf16;
pub(crate) mod reduce;
mod resize;
mod shape;
mod softmax;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod unary;

pub use binary::{Binary, add_scaled, binary};
pub use copy::{View, cast, concat, expand, fill, pad, permute, slice, strided_copy};
pub use embedding::{embedding, embedding_backward};
pub use gated::{gated, gated_backward};
pub use reduce::{Reduce, reduce};
pub use resize::{Pool, Resize, average_pool, average_pool_backward, resize, resize_backward};
pub use shape::MAX_DIMS;
pub use softmax::{softmax, softmax_backward};
pub use unary::{Unary, activation_backward, unary};
