//! Normalisations with their gradients: [`group_norm`] over channels-last images with an optional fused
//! activation, and [`row_norm`] (layer norm, RMS norm) over the last axis.
//!
//! Means and variances are two-pass within parts that stay in cache, and parts are combined by Chan's
//! formula in order, so that a large mean costs no accuracy and the bits depend on the image alone: not on
//! the batch it is in, nor on the number of threads.

mod group;
mod group_backward;
mod row;
#[cfg(test)]
mod tests;

pub use group::{Affine, GroupNorm, group_norm};
pub use group_backward::{GroupNormGradients, group_norm_backward};
pub use row::{RowNorm, RowNormKind, row_norm, row_norm_backward};
