//! The CPU executor of Velatura: kernels for four instruction sets, a thread pool, an arena, and the
//! interpreter that runs a planned graph with them. It knows graphs and plans; it does not know what a
//! model, a sampler or a file is. All unsafe code of the project lives here.

pub mod bench;
pub mod data;
mod error;
mod executor;
pub mod isa;
pub mod kernels;
pub mod pool;
mod profile;
mod runtime;
mod values;
mod weights;

pub use data::{AlignedBytes, Data, DataMut};
pub use error::CpuError;
pub use executor::{
    Algorithm, Arithmetic, Executor, Method, algorithm, plan, traffic, weights as weights_of,
};
pub use isa::Isa;
pub use pool::ThreadPool;
pub use profile::{Line, Profile};
pub use runtime::{CancelToken, Runtime};
pub use values::Values;
pub use weights::{Form, StoredWeights, WeightStore, resident};
