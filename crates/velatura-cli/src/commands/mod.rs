//! The subcommands, one file for each.

pub mod bench;
mod by_layer;
pub mod completions;
pub mod eval;
pub mod generate;
pub mod inspect;
pub mod man;
pub mod samplers;
pub mod train;
