//! One run of a sampler: the latent, the plan, and the three things that the caller supplies.

use std::ops::ControlFlow;

use super::Sampler;
use crate::noise::NoiseSource;
use crate::{Level, Plan, RunError, Step};

/// One question to the network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Call {
    /// Index of the step, from 0. Second-order samplers ask more than once in a step.
    pub step: usize,
    /// Steps of the plan.
    pub steps: usize,
    /// Number of this question, from 0.
    pub evaluation: usize,
    /// What the network is given as its timestep.
    pub timestep: f32,
    /// Noise level of the latent.
    pub level: Level,
}

/// What the observer sees after each step.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Steps that are finished, from 1.
    pub done: usize,
    /// Steps of the plan.
    pub steps: usize,
    /// Level of `latent`.
    pub level: Level,
    /// The latent after the step, in the model's space.
    pub latent: &'a [f32],
    /// The clean latent as the network last saw it: the thing to preview.
    pub x0: &'a [f32],
}

/// The run has to end; the reason is kept by the [`Run`]. Samplers pass it on with `?`.
#[derive(Debug)]
pub struct Halt(());

enum Reason {
    Denoise { step: usize },
    Cancelled,
    Length { found: usize },
    NotFinite { step: usize },
}

type Model<'a> = dyn FnMut(&[f32], Call) -> Result<Vec<f32>, Halt> + 'a;
type Observer<'a> = dyn FnMut(&Progress<'_>) -> ControlFlow<()> + 'a;

/// A sampler's view of its run.
pub struct Run<'a> {
    plan: &'a Plan,
    latent: Vec<f32>,
    images: usize,
    model: &'a mut Model<'a>,
    noise: &'a mut dyn NoiseSource,
    observer: &'a mut Observer<'a>,
    done: usize,
    evaluations: usize,
    reason: Option<Reason>,
}

impl Run<'_> {
    /// The plan.
    pub fn plan(&self) -> &Plan {
        self.plan
    }

    /// Number of steps.
    pub fn steps(&self) -> usize {
        self.plan.len()
    }

    /// Step `index` of the plan.
    pub fn step(&self, index: usize) -> Step {
        self.plan.steps[index]
    }

    /// The latent as it stands.
    pub fn latent(&self) -> &[f32] {
        &self.latent
    }

    /// Asks the network about the current latent at the beginning of a step; gives the clean latent.
    ///
    /// # Errors
    /// The network failed or answered with the wrong length.
    pub fn predict_x0(&mut self, index: usize) -> Result<Vec<f32>, Halt> {
        let Step { timestep, from, .. } = self.step(index);
        let latent = std::mem::take(&mut self.latent);
        let x0 = self.predict_x0_at(&latent, index, timestep, from);
        self.latent = latent;
        x0
    }

    /// Asks the network about any latent, during step `index`; gives the clean latent.
    ///
    /// # Errors
    /// The network failed or answered with the wrong length.
    pub fn predict_x0_at(
        &mut self,
        latent: &[f32],
        index: usize,
        timestep: f32,
        level: Level,
    ) -> Result<Vec<f32>, Halt> {
        let call = Call { step: index, steps: self.steps(), evaluation: self.evaluations, timestep, level };
        self.evaluations += 1;
        let output = match (self.model)(latent, call) {
            Ok(output) => output,
            Err(halt) => {
                self.reason = Some(Reason::Denoise { step: index });
                return Err(halt);
            }
        };
        if output.len() != latent.len() {
            self.reason = Some(Reason::Length { found: output.len() });
            return Err(Halt(()));
        }
        Ok(self.plan.prediction.x0(latent, &output, level))
    }

    /// Unit normal noise for the whole batch, each image's from its own generator.
    pub fn draw_noise(&mut self) -> Vec<f32> {
        let mut noise = vec![0.0; self.latent.len()];
        let image = (noise.len() / self.images).max(1);
        for (index, part) in noise.chunks_mut(image).enumerate() {
            self.noise.draw(index, part);
        }
        noise
    }

    /// Makes `next` the latent and ends step `index`; `x0`, the clean latent as last predicted, is shown to
    /// the observer.
    ///
    /// # Errors
    /// The observer asked to stop, or the latent is no longer finite.
    pub fn advance(&mut self, index: usize, next: Vec<f32>, x0: &[f32]) -> Result<(), Halt> {
        self.latent = next;
        if !self.latent.iter().all(|v| v.is_finite()) {
            self.reason = Some(Reason::NotFinite { step: index });
            return Err(Halt(()));
        }
        self.done = index + 1;
        let progress = Progress {
            done: self.done,
            steps: self.plan.len(),
            level: self.plan.steps[index].to,
            latent: &self.latent,
            x0,
        };
        match (self.observer)(&progress) {
            ControlFlow::Continue(()) => Ok(()),
            // Nothing is left to stop after the last step.
            ControlFlow::Break(()) if self.done == self.plan.len() => Ok(()),
            ControlFlow::Break(()) => {
                self.reason = Some(Reason::Cancelled);
                Err(Halt(()))
            }
        }
    }
}

/// `sum of coefficient * vector`, taken in f64 and rounded once; a coefficient of 0 switches its vector
/// off even where that holds infinities. All vectors have the length of the first.
pub(super) fn combine<const N: usize>(terms: [(f64, &[f32]); N]) -> Vec<f32> {
    let mut sum = vec![0.0f64; terms[0].1.len()];
    for (coefficient, vector) in terms {
        if coefficient != 0.0 {
            for (sum, &value) in sum.iter_mut().zip(vector) {
                *sum += coefficient * f64::from(value);
            }
        }
    }
    sum.into_iter().map(|v| v as f32).collect()
}

/// Runs a sampler over a plan and gives the final latent.
///
/// - `latent` is `[images, ...]` flattened, usually from [`Plan::start`]; it is in the model's own space,
///   `alpha * x0 + sigma * noise`, throughout.
/// - `denoise` gives the *model output* (already guided) for a latent; [`Call`] says where the run is.
/// - `noise` is drawn from by stochastic samplers, separately for each image.
/// - `observe` is called after each step and may stop the run.
///
/// # Errors
/// [`RunError`]: the closure's own error, a stop, a wrong length, or values that are not finite.
pub fn sample<E>(
    sampler: &dyn Sampler,
    plan: &Plan,
    latent: Vec<f32>,
    images: usize,
    noise: &mut dyn NoiseSource,
    mut denoise: impl FnMut(&[f32], Call) -> Result<Vec<f32>, E>,
    mut observe: impl FnMut(&Progress<'_>) -> ControlFlow<()>,
) -> Result<Vec<f32>, RunError<E>> {
    let expected = latent.len();
    if images == 0 || !expected.is_multiple_of(images) {
        return Err(RunError::Batch { len: expected, batch: images });
    }
    let mut error = None;
    let mut model = |x: &[f32], call: Call| {
        denoise(x, call).map_err(|e| {
            error = Some(e);
            Halt(())
        })
    };
    let mut run = Run {
        plan,
        latent,
        images,
        model: &mut model,
        noise,
        observer: &mut observe,
        done: 0,
        evaluations: 0,
        reason: None,
    };
    let result = sampler.sample(&mut run);
    let Run { latent, done, reason, .. } = run;
    let steps = plan.len();
    match (result, reason, error) {
        (_, Some(Reason::Denoise { step }), Some(source)) => Err(RunError::Denoise { step, source }),
        (_, Some(Reason::Length { found }), _) => {
            Err(RunError::Length { what: "the model output", found, expected })
        }
        (_, Some(Reason::NotFinite { step }), _) => Err(RunError::NotFinite { step, steps }),
        (Err(_), _, _) => Err(RunError::Cancelled { done, steps, latent }),
        (Ok(()), _, _) => Ok(latent),
    }
}
