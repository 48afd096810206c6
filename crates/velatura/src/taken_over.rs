//! What the metadata of other tools gives.

use crate::request::GenerateRequest;

/// A request read from another tool's metadata.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TakenOver {
    /// What could be taken over.
    pub request: GenerateRequest,
    /// The model, as that tool names it.
    pub model: Option<String>,
    /// What could not; one phrase each.
    pub left_out: Vec<String>,
}
