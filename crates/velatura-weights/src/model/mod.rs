//! Whole models: which parts a file or a folder holds, of which family they are, and what lacks.

mod checkpoint;
mod family;
mod folder;
mod other;
mod part;
mod single;
mod unused;

pub use checkpoint::{Checkpoint, OpenOptions};
pub use family::{Family, KnownBy, Prediction, Task};
pub use other::{Other, OtherKind};
pub use part::{Part, PartKind};
