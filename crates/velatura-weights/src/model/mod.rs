//! Whole models: which parts a file or a folder holds, of which family they are, and what lacks.

mod checkpoint;
mod family;
mod folder;
mod part;
mod single;
mod unused;

pub use checkpoint::{Checkpoint, OpenOptions};
pub use family::{Family, Prediction, Task};
pub use part::{Part, PartKind};
