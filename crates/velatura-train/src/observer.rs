//! What a run tells whoever started it.

use std::path::PathBuf;

/// Known when a run starts.
#[derive(Clone, Debug, PartialEq)]
pub struct RunInfo {
    /// What is trained: `autoencoder`, `diffusion` or `classifier`.
    pub kind: &'static str,
    /// Where everything is written.
    pub output: PathBuf,
    /// Trained weights.
    pub parameters: usize,
    /// Steps done before, when resumed.
    pub from_step: u64,
    /// The last step.
    pub steps: u64,
    /// Samples of one step: batch times accumulation.
    pub samples_per_step: usize,
    /// Bytes of activations, as planned.
    pub arena_bytes: usize,
}

/// What one step was like.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// The step that is done, from 1.
    pub step: u64,
    /// The last step.
    pub steps: u64,
    /// The loss, averaged over the accumulated batches.
    pub loss: f64,
    /// Further numbers by name.
    pub metrics: Vec<(&'static str, f64)>,
    /// Norm of all gradients before clipping.
    pub gradient_norm: f64,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Samples a second, over the last steps.
    pub samples_per_second: f64,
    /// Estimated seconds until the last step.
    pub seconds_left: f64,
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// Steps done in all.
    pub step: u64,
    /// Whether the caller stopped it before the last step; it can be resumed.
    pub stopped: bool,
    /// The finished model or, when stopped, the checkpoint.
    pub file: PathBuf,
    /// What was measured at the end, by name.
    pub measured: Vec<(&'static str, f64)>,
}

/// Is told how a run goes. Every method may be left out.
pub trait Observer {
    /// The run begins.
    fn started(&mut self, _info: &RunInfo) {}
    /// A step is done.
    fn step(&mut self, _report: &StepReport) {}
    /// Something else that takes a while begins or goes on: what, how much is done, and of how much. It is over
    /// when `done` reaches `total`.
    fn stage(&mut self, _what: &str, _done: u64, _total: u64) {}
    /// Something worth a line.
    fn note(&mut self, _message: &str) {}
}

/// Listens to nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {}
