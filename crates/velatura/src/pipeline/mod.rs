//! Pipelines: what the engine does with its networks to serve a request. One file for each.

mod text_to_image;

pub(crate) use text_to_image::{Job, text_to_image};
