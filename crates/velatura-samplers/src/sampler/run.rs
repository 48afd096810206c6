//! One run of a sampler: the latent, the plan, and the three things that the caller supplies.

use std::ops::ControlFlow;

use super::Sampler;
use super::axis::Axis;
use crate::noise::{NoiseSource, Way};
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

/// What the network answers to one [`Call`].
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The model output, guided.
    pub guided: Vec<f32>,
    /// The model output without the prompt, where there is guidance and it is at hand. Only the CFG++ samplers
    /// read it; without it they are their plain counterparts.
    pub unguided: Option<Vec<f32>>,
}

impl From<Vec<f32>> for Answer {
    fn from(guided: Vec<f32>) -> Self {
        Answer { guided, unguided: None }
    }
}

/// Clean latents that one answer implies.
pub struct Denoised {
    /// From the guided output.
    pub x0: Vec<f32>,
    /// From the output without the prompt; the same as `x0` where there is no guidance.
    pub unguided: Option<Vec<f32>>,
}

impl Denoised {
    /// The clean latent without the prompt.
    pub fn unguided(&self) -> &[f32] {
        self.unguided.as_deref().unwrap_or(&self.x0)
    }
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

type Model<'a> = dyn FnMut(&[f32], Call) -> Result<Answer, Halt> + 'a;
/// Changes the latent after each step: to hold a part of it fast. It is told the latent and its level, which after the
/// last step is [`Level::CLEAN`].
pub type Amend<'a> = dyn FnMut(&mut [f32], Level) + 'a;

/// Where a run begins, and what is held fast in it.
pub struct Start<'a> {
    /// `[images, ...]` flattened, in the model's own space.
    pub latent: Vec<f32>,
    /// How many images.
    pub images: usize,
    /// What becomes of the latent after each step, before the observer sees it.
    pub amend: Option<&'a mut Amend<'a>>,
}

type Observer<'a> = dyn FnMut(&Progress<'_>) -> ControlFlow<()> + 'a;

/// A sampler's view of its run.
pub struct Run<'a> {
    plan: &'a Plan,
    latent: Vec<f32>,
    images: usize,
    amend: &'a mut Amend<'a>,
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

    /// Replaces the latent without ending a step.
    pub(super) fn set_latent(&mut self, latent: Vec<f32>) {
        self.latent = latent;
    }

    /// Asks the network about the current latent at the beginning of a step; gives the clean latent.
    ///
    /// # Errors
    /// The network failed or answered with the wrong length.
    pub fn predict_x0(&mut self, index: usize) -> Result<Vec<f32>, Halt> {
        let Step { timestep, from, .. } = self.step(index);
        self.predict_here(index, timestep, from)
    }

    /// Asks the network about the current latent during step `index`, as one at another level; gives the clean latent.
    ///
    /// # Errors
    /// The network failed or answered with the wrong length.
    pub fn predict_here(&mut self, index: usize, timestep: f32, level: Level) -> Result<Vec<f32>, Halt> {
        let latent = std::mem::take(&mut self.latent);
        let x0 = self.predict_x0_at(&latent, index, timestep, level);
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
        self.ask(latent, index, timestep, level).map(|denoised| denoised.x0)
    }

    /// Asks the network about any latent at any level, during step `index`; gives the clean latent.
    ///
    /// # Errors
    /// The network failed or answered with the wrong length.
    pub fn predict_x0_between(
        &mut self,
        latent: &[f32],
        index: usize,
        level: Level,
    ) -> Result<Vec<f32>, Halt> {
        let timestep = self.plan.timestep(level);
        self.predict_x0_at(latent, index, timestep, level)
    }

    /// Asks the network about the current latent at the beginning of a step; gives the clean latents with and
    /// without the prompt.
    ///
    /// # Errors
    /// The network failed or answered with the wrong length.
    pub fn predict_both(&mut self, index: usize) -> Result<Denoised, Halt> {
        let Step { timestep, from, .. } = self.step(index);
        let latent = std::mem::take(&mut self.latent);
        let denoised = self.ask(&latent, index, timestep, from);
        self.latent = latent;
        denoised
    }

    /// As [`predict_both`](Self::predict_both), about any latent at any level.
    ///
    /// # Errors
    /// The network failed or answered with the wrong length.
    pub fn predict_both_between(
        &mut self,
        latent: &[f32],
        index: usize,
        level: Level,
    ) -> Result<Denoised, Halt> {
        let timestep = self.plan.timestep(level);
        self.ask(latent, index, timestep, level)
    }

    fn ask(&mut self, latent: &[f32], index: usize, timestep: f32, level: Level) -> Result<Denoised, Halt> {
        let call = Call { step: index, steps: self.steps(), evaluation: self.evaluations, timestep, level };
        self.evaluations += 1;
        let answer = match (self.model)(latent, call) {
            Ok(answer) => answer,
            Err(halt) => {
                self.reason = Some(Reason::Denoise { step: index });
                return Err(halt);
            }
        };
        for output in [Some(&answer.guided), answer.unguided.as_ref()].into_iter().flatten() {
            if output.len() != latent.len() {
                self.reason = Some(Reason::Length { found: output.len() });
                return Err(Halt(()));
            }
        }
        let x0 = |output: &Vec<f32>| self.plan.prediction.x0(latent, output, level);
        Ok(Denoised { x0: x0(&answer.guided), unguided: answer.unguided.as_ref().map(x0) })
    }

    /// Ends the run because of values that are not finite, in step `index`.
    pub(super) fn not_finite(&mut self, index: usize) -> Halt {
        self.reason = Some(Reason::NotFinite { step: index });
        Halt(())
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

    /// Unit normal noise for one image of the batch; 0 for the others.
    pub(super) fn draw_noise_for(&mut self, image: usize) -> Vec<f32> {
        let mut noise = vec![0.0; self.latent.len()];
        let part = self.image(image);
        self.noise.draw(image, &mut noise[part]);
        noise
    }

    /// Where an image lies in the batch.
    pub(super) fn image(&self, image: usize) -> std::ops::Range<usize> {
        let len = self.latent.len() / self.images;
        image * len..(image + 1) * len
    }

    /// Images of the batch.
    pub fn images(&self) -> usize {
        self.images
    }

    /// Unit normal noise for the way from one level to another: the increment of each image's Brownian motion over
    /// the sigmas of that way, divided by its deviation.
    ///
    /// Sources that have no such motion give fresh noise (see [`NoiseSource::draw_between`]).
    pub fn draw_noise_between(&mut self, from: Level, to: Level) -> Vec<f32> {
        let axis = Axis::of(self.plan.path);
        let sigma = |level| axis.position(level) as f32;
        let whole =
            self.plan.steps.iter().flat_map(|step| [step.from, step.to]).map(sigma).filter(|&s| s > 0.0);
        let (least, most) =
            whole.fold((f32::INFINITY, 0.0f32), |(least, most), s| (least.min(s), most.max(s)));
        let way = Way { from: sigma(from), to: sigma(to), least, most };
        let mut noise = vec![0.0; self.latent.len()];
        let image = (noise.len() / self.images).max(1);
        for (index, part) in noise.chunks_mut(image).enumerate() {
            self.noise.draw_between(index, way, part);
        }
        noise
    }

    /// Makes `next` the latent and ends step `index`; `x0`, the clean latent as last predicted, is shown to
    /// the observer.
    ///
    /// # Errors
    /// The observer asked to stop, or the latent is no longer finite.
    pub fn advance(&mut self, index: usize, next: Vec<f32>, x0: &[f32]) -> Result<(), Halt> {
        self.advance_to(index + 1, self.plan.steps[index].to, next, x0)
    }

    /// As [`advance`](Self::advance) for samplers whose steps are not those of the plan: `done` of the plan's steps
    /// are then finished, and `level` is that of `next`.
    ///
    /// # Errors
    /// As [`advance`](Self::advance).
    pub fn advance_to(&mut self, done: usize, level: Level, next: Vec<f32>, x0: &[f32]) -> Result<(), Halt> {
        self.latent = next;
        (self.amend)(&mut self.latent, if done == self.plan.len() { Level::CLEAN } else { level });
        if !self.latent.iter().all(|v| v.is_finite()) {
            return Err(self.not_finite(done.saturating_sub(1)));
        }
        self.done = done;
        let progress = Progress { done: self.done, steps: self.plan.len(), level, latent: &self.latent, x0 };
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
    weighted_sum(&terms)
}

/// As [`combine`], for any number of terms.
pub(super) fn weighted_sum(terms: &[(f64, &[f32])]) -> Vec<f32> {
    let len = terms.first().map_or(0, |(_, vector)| vector.len());
    let mut sum = vec![0.0f64; len];
    for (coefficient, vector) in terms {
        if *coefficient != 0.0 {
            for (sum, &value) in sum.iter_mut().zip(*vector) {
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
    observe: impl FnMut(&Progress<'_>) -> ControlFlow<()>,
) -> Result<Vec<f32>, RunError<E>> {
    let answer = |x: &[f32], call: Call| denoise(x, call).map(Answer::from);
    sample_both(sampler, plan, latent, images, noise, answer, observe)
}

/// As [`sample`], for a closure that also gives the output without the prompt, which the CFG++ samplers need
/// ([`Guidance::answer`](crate::Guidance::answer) makes both of a guided batch).
///
/// # Errors
/// As [`sample`].
pub fn sample_both<E>(
    sampler: &dyn Sampler,
    plan: &Plan,
    latent: Vec<f32>,
    images: usize,
    noise: &mut dyn NoiseSource,
    denoise: impl FnMut(&[f32], Call) -> Result<Answer, E>,
    observe: impl FnMut(&Progress<'_>) -> ControlFlow<()>,
) -> Result<Vec<f32>, RunError<E>> {
    sample_from(sampler, plan, Start { latent, images, amend: None }, noise, denoise, observe)
}

/// As [`sample_both`], with a part of the latent held fast.
///
/// # Errors
/// As [`sample`].
pub fn sample_from<E>(
    sampler: &dyn Sampler,
    plan: &Plan,
    start: Start<'_>,
    noise: &mut dyn NoiseSource,
    mut denoise: impl FnMut(&[f32], Call) -> Result<Answer, E>,
    mut observe: impl FnMut(&Progress<'_>) -> ControlFlow<()>,
) -> Result<Vec<f32>, RunError<E>> {
    let Start { latent, images, mut amend } = start;
    let expected = latent.len();
    if images == 0 || !expected.is_multiple_of(images) {
        return Err(RunError::Batch { len: expected, batch: images });
    }
    let mut hold = |latent: &mut [f32], level: Level| {
        if let Some(amend) = &mut amend {
            amend(latent, level);
        }
    };
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
        amend: &mut hold,
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
