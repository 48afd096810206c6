//! Nodes that are matrix products at heart (until the kernels arrive: by the reference).

use velatura_graph::{Graph, Node};

use super::dispatch::Frame;
use crate::error::CpuError;
use crate::runtime::Runtime;
use crate::weights::Form;

pub(super) fn packed_weight(_: &Graph, _: usize, _: &Runtime) -> Option<(usize, Form)> {
    None
}

pub(super) fn scratch_bytes(_: &Graph, _: usize, _: &Runtime) -> usize {
    0
}

impl Frame<'_> {
    pub(super) fn product(&self, _: usize, _: &Node, _: Option<usize>) -> Result<bool, CpuError> {
        Ok(false)
    }
}
