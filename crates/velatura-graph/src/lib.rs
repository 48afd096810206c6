//! The tensor graph: operations with their shape rules, gradients and slow reference meaning; reverse-mode
//! differentiation from graph to graph; passes; and the planner that lays activations into one arena. Pure
//! data and pure functions: this crate has no unsafe code, no threads, and knows no device, model or file.

mod types;

pub use types::{Activation, DType};
