//! One optimizer step over flat buffers: norm, clipping, AdamW or Muon, and the running average.

use velatura_cpu::Runtime;
use velatura_cpu::kernels::optimizer::{AdamW, Ema, Matrix, Muon, Segment, adamw, muon, squared_norm};

use crate::parameters::{State, Table};
use crate::recipe::{OptimizerName, TrainingSettings};

/// The optimizer with its constants.
#[derive(Clone, Debug)]
pub struct Optimization {
    settings: TrainingSettings,
    /// What AdamW updates.
    segments: Vec<Segment>,
    /// What Muon updates.
    matrices: Vec<Matrix>,
}

impl Optimization {
    /// The optimizer of a recipe for these weights.
    pub fn new(settings: &TrainingSettings, table: &Table) -> Self {
        let weight_decay = settings.weight_decay as f32;
        let (segments, matrices) = match settings.optimizer {
            OptimizerName::Adamw => (table.segments(weight_decay, |_| true), Vec::new()),
            OptimizerName::Muon => {
                (table.segments(weight_decay, |e| !e.is_hidden_matrix()), table.matrices(weight_decay))
            }
        };
        Optimization { settings: settings.clone(), segments, matrices }
    }

    /// Norm of the mean gradient, from sums over the accumulated batches. Not finite if any gradient is not.
    pub fn gradient_norm(&self, runtime: &Runtime, gradients: &[f32]) -> f64 {
        squared_norm(&runtime.pool, runtime.isa, gradients).sqrt() / self.settings.accumulation as f64
    }

    /// Takes a step with gradients that are sums over the accumulated batches and have this norm; returns the
    /// learning rate.
    pub fn step(&self, runtime: &Runtime, state: &mut State, gradients: &[f32], norm: f64) -> f64 {
        let settings = &self.settings;
        let (lr, decay) = (settings.learning_rate(state.step), settings.ema_decay(state.step));
        // As torch.nn.utils.clip_grad_norm_.
        let clip = (settings.clip / (norm + 1e-6)).min(1.0) / settings.accumulation as f64;
        let constants = AdamW {
            lr: lr as f32,
            beta1: settings.betas[0] as f32,
            beta2: settings.betas[1] as f32,
            eps: settings.eps as f32,
            step: state.step + 1,
            clip_scale: clip as f32,
        };
        let State { step, weights, m, v, ema } = state;
        let (pool, isa, decay) = (&runtime.pool, runtime.isa, decay as f32);
        if !self.matrices.is_empty() {
            let constants =
                Muon { lr: lr as f32, momentum: settings.momentum as f32, clip_scale: clip as f32 };
            let average = Ema { average: ema, decay };
            muon(pool, isa, &constants, &self.matrices, weights, gradients, m, Some(average));
        }
        let average = Ema { average: ema, decay };
        adamw(pool, isa, &constants, &self.segments, weights, gradients, m, v, Some(average));
        *step += 1;
        lr
    }
}
