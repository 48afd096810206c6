//! The subcommands, one file for each.

pub mod bench;
pub mod completions;
pub mod convert;
pub mod eval;
pub mod generate;
pub mod inspect;
pub mod man;
pub mod models;
pub mod plan;
pub mod samplers;
pub mod train;
