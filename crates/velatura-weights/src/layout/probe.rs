//! Looking at a file's names and shapes, to tell a network's dimensions.

use std::collections::BTreeMap;

use super::Naming;
use crate::TensorEntry;

/// The tensors under one prefix, under one of the two namings.
#[derive(Clone, Copy)]
pub(crate) struct Probe<'a> {
    pub tensors: &'a BTreeMap<String, TensorEntry>,
    pub prefix: &'a str,
    pub naming: Naming,
}

impl<'a> Probe<'a> {
    pub(crate) fn shape(&self, name: &str) -> Option<&'a [usize]> {
        self.tensors.get(&format!("{}{name}", self.prefix)).map(|e| e.shape.as_slice())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.shape(name).is_some()
    }

    /// The shape of the tensor that has this name in diffusers and that one in the original.
    pub(crate) fn either(&self, diffusers: &str, original: &str) -> Option<&'a [usize]> {
        self.shape(match self.naming {
            Naming::Diffusers => diffusers,
            Naming::Original => original,
        })
    }

    /// How many of `name(0)`, `name(1)`, ... there are. A file has at most as many as it has tensors.
    pub(crate) fn count(&self, name: impl Fn(usize) -> String) -> usize {
        (0..self.tensors.len()).take_while(|&i| self.has(&name(i))).count()
    }
}

/// No network here has a dimension this large; sums and products of smaller ones cannot overflow.
const MAX_DIMENSION: usize = 1 << 24;

/// A dimension of a shape; one beyond all bounds is none.
pub(crate) fn dim(shape: Option<&[usize]>, d: usize) -> Option<usize> {
    shape.and_then(|s| s.get(d)).copied().filter(|&n| n <= MAX_DIMENSION)
}
