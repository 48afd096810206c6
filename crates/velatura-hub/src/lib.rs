//! Models by name: files of the models folder by their short names, and repositories of the Hugging Face hub, which are
//! downloaded into the hub's ordinary cache where other tools find them too.
//!
//! The crate finds and fetches files; what is in them it does not know.

mod cache;
mod choose;
mod download;
mod error;
mod folder;
mod hub;
mod name;

pub use cache::{Cached, cached};
pub use choose::{RepoFile, choose};
pub use error::HubError;
pub use folder::{Found, ModelsFolder};
pub use hub::{Event, Hub, HubSettings};
pub use name::HubName;
