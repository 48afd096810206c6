//! The tensor graph: operations with their shape rules, gradients and slow reference meaning; reverse-mode
//! differentiation from graph to graph; passes; and the planner that lays activations into one arena. Pure
//! data and pure functions: this crate has no unsafe code, no threads, and knows no device, model or file.

mod alone;
mod autodiff;
mod builder;
mod cost;
mod display;
mod error;
mod graph;
pub mod loss;
pub mod op;
pub mod passes;
mod planner;
pub mod reference;
mod shortcuts;
mod types;
mod validate;
mod var;

pub use alone::ALONE;
pub use autodiff::gradients;
pub use builder::{Builder, Params};
pub use error::GraphError;
pub use graph::{Graph, Init, Node, ParameterInfo, Value, ValueId};
pub use op::Op;
pub use planner::{MemoryPlan, Placement, plan_memory};
pub use shortcuts::Shortcuts;
pub use types::{Activation, DType, TensorType};
pub use validate::validate;
pub use var::Var;
