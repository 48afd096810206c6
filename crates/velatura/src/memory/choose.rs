//! The decisions that make a run fit, in a fixed order.

use super::parts::{Choice, Kind, Part, parts};
use super::{Decision, PartPlan, RunPlan, available};
use crate::engine::Engine;
use crate::networks::Network;
use crate::pipeline::{Job, MOST_TOGETHER, PIXELS_TOGETHER, TILE};
use crate::plans::PlanKey;
use crate::request::{GenerateRequest, Precision, RequestError, Settings, Tiling};
use crate::{Error, Task};

/// Sizes of groups of equal size, give or take one, so that few plans serve them all; none larger than `together`.
pub(crate) fn group_sizes(pictures: usize, together: usize) -> Vec<usize> {
    let groups = pictures.div_ceil(together.max(1));
    let mut left = pictures;
    (1..=groups)
        .rev()
        .map(|group| {
            let now = left.div_ceil(group);
            left -= now;
            now
        })
        .collect()
}

/// Bytes that a preview of this size takes while a run is at work: its weights, its activations, its values.
fn preview(previewer: &Engine, width: usize, height: usize) -> Result<u64, Error> {
    let factor = previewer.manifest().latent_factor() as usize;
    let (height, width) = (height / factor, width / factor);
    let precision = previewer.default_precision();
    let needs = previewer.needs(PlanKey { network: Network::Decode, batch: 1, height, width, precision })?;
    let weights: usize = needs.weights.values().sum();
    Ok((weights + needs.arena + height * width * factor * factor * 3 * 5) as u64)
}

/// A run while it is being made to fit.
struct Fit<'a> {
    engine: &'a Engine,
    settings: &'a Settings,
    jobs: &'a [Job],
    reads_pictures: bool,
    choice: Choice,
    released: bool,
    parts: Vec<Part>,
    pictures: u64,
}

impl Fit<'_> {
    fn collect(&mut self) -> Result<(), Error> {
        self.parts = parts(self.engine, self.settings, self.jobs, self.reads_pictures, self.choice)?;
        let Settings { width, height, .. } = *self.settings;
        let pixels = (width * height) as u64;
        // Finished ones in bytes; the one at work as its values, their sum over tiles and their weights; and latents with
        // the noise and history of a sampler.
        let latents = (self.choice.together * self.engine.manifest().latent_channels()) as u64
            * (pixels / u64::from(self.engine.manifest().latent_factor()).pow(2).max(1));
        let largest = self.parts.iter().flat_map(|part| part.packed.last()).max().copied().unwrap_or(0);
        self.pictures = self.jobs.len() as u64 * pixels * 3 + pixels * 4 * 7 + latents * 4 * 8 + largest;
        if let Some(previewer) = self.engine.previewer() {
            self.pictures += preview(previewer, width, height)?;
        }
        Ok(())
    }

    /// Bytes of the packed weights of denoisers that may be streamed, and of the largest of them.
    fn streamable(&self) -> (u64, u64) {
        let denoisers = || self.parts.iter().filter(|part| part.kind == Kind::Denoise);
        let all = denoisers().flat_map(|part| &part.packed).sum();
        (all, denoisers().flat_map(|part| part.packed.last()).sum())
    }

    /// The most bytes held at once where `resident` bytes of the denoisers' packed weights are kept, or all.
    fn peak(&self, resident: Option<u64>) -> u64 {
        let sum = |kind: Kind, of: fn(&Part) -> u64| -> u64 {
            self.parts.iter().filter(|part| part.kind == kind).map(of).sum()
        };
        let weights = |kind: Kind| {
            let all = sum(kind, |part| part.raw + part.packed.iter().sum::<u64>());
            match (kind, resident) {
                (Kind::Denoise, Some(resident)) => {
                    let (streamable, largest) = self.streamable();
                    all - streamable + resident + largest
                }
                _ => all,
            }
        };
        let arena = |kind: Kind| sum(kind, |part| part.all_activations);
        let kinds = [Kind::Text, Kind::Encode, Kind::Denoise, Kind::Decode];
        if !self.released {
            return kinds.iter().map(|&kind| weights(kind) + arena(kind)).sum::<u64>() + self.pictures;
        }
        let of_group = sum(Kind::Denoise, |part| part.activations.iter().max().copied().unwrap_or(0));
        let several = group_sizes(self.jobs.len(), self.choice.together).len() > 1;
        let decoder = if several { weights(Kind::Decode) } else { 0 };
        let done = self.engine.options().one_run && !several;
        let denoiser = if done { 0 } else { weights(Kind::Denoise) };
        let at_once = [
            weights(Kind::Text) + arena(Kind::Text),
            weights(Kind::Encode) + arena(Kind::Encode),
            weights(Kind::Denoise) + of_group + decoder,
            denoiser + weights(Kind::Decode) + arena(Kind::Decode),
        ];
        at_once.into_iter().max().unwrap_or(0) + self.pictures
    }
}

impl Engine {
    /// What a request that went through [`GenerateRequest::resolve`] but for its tiling needs, and what is decided to make it
    /// fit. `precision` says whether the request named one.
    pub(crate) fn fit(
        &self,
        mut request: GenerateRequest,
        precision_asked: bool,
        jobs: &[Job],
    ) -> Result<RunPlan, Error> {
        let settings = request.settings(self.manifest())?;
        let limit = self.memory_limit();
        let fits = |bytes: u64| limit.is_none_or(|limit| bytes <= limit);
        let pixels = (settings.width * settings.height).max(1);
        let most = (PIXELS_TOGETHER / pixels).clamp(1, MOST_TOGETHER);
        let together = group_sizes(jobs.len(), most).first().copied().unwrap_or(1);
        let (tiled, precision) = (request.vae_tiling == Tiling::On, settings.precision);
        let choice = Choice { tiled, together, precision };
        let reads_pictures =
            (request.init.is_some() && settings.task != Task::Upscaling) || settings.task == Task::Inpainting;
        let mut fit = Fit {
            engine: self,
            settings: &settings,
            jobs,
            reads_pictures,
            choice,
            released: self.options().one_run,
            parts: Vec::new(),
            pictures: 0,
        };
        fit.collect()?;
        let mut decisions = Vec::new();
        let large = settings.width.max(settings.height) > TILE;
        if !fits(fit.peak(None)) && large && request.vae_tiling == Tiling::Auto {
            fit.choice.tiled = true;
            fit.collect()?;
            decisions.push(Decision::TiledVae);
        }
        if !fits(fit.peak(None)) && !fit.released {
            fit.released = true;
            decisions.push(Decision::Released);
        }
        let mut fewer = None;
        while !fits(fit.peak(None)) && fit.choice.together > 1 {
            fit.choice.together -= 1;
            // The groups are of equal size, so that not every number changes something.
            fit.choice.together = group_sizes(jobs.len(), fit.choice.together)[0];
            fit.collect()?;
            fewer = Some(Decision::Together(fit.choice.together));
        }
        decisions.extend(fewer);
        let mut resident = stream(&fit, limit);
        let default = !precision_asked && precision == Precision::F32;
        if resident.is_some_and(|resident| !fits(fit.peak(Some(resident)))) && default {
            fit.choice.precision = Precision::Bf16;
            fit.collect()?;
            resident = stream(&fit, limit);
        }
        if let Some(resident) = resident {
            decisions.push(Decision::Streamed { resident, of: fit.streamable().0 });
        }
        if fit.choice.precision != precision {
            decisions.push(Decision::LowerPrecision);
        }
        let peak = fit.peak(resident);
        if let Some(limit) = limit.filter(|&limit| peak > limit) {
            return Err(RequestError::Memory {
                width: settings.width as u32,
                height: settings.height as u32,
                pictures: jobs.len(),
                needed_mib: peak.div_ceil(1 << 20),
                available_mib: limit >> 20,
            }
            .into());
        }
        request.vae_tiling = if fit.choice.tiled { Tiling::On } else { Tiling::Off };
        request.precision = Some(fit.choice.precision);
        let (streamable, _) = fit.streamable();
        let part = |part: &Part| {
            let packed: u64 = part.packed.iter().sum();
            let streamed = match (part.kind, resident) {
                (Kind::Denoise, Some(resident)) => {
                    (streamable - resident) as f64 * packed as f64 / streamable.max(1) as f64
                }
                _ => 0.0,
            } as u64;
            PartPlan {
                name: part.name.clone(),
                precision: part.precision,
                weights: part.raw + packed - streamed,
                activations: part.all_activations,
                flops: part.flops,
                packed: part.raw + packed - streamed + streamed * part.calls,
            }
        };
        // Each denoiser keeps the same share.
        let resident = resident.map(|resident| {
            let denoisers = fit.parts.iter().filter(|part| part.kind == Kind::Denoise);
            let share = |part: &Part| {
                let packed: u64 = part.packed.iter().sum();
                (u128::from(resident) * u128::from(packed) / u128::from(streamable.max(1))) as u64
            };
            let mut shares = denoisers.map(share);
            [shares.next().unwrap_or(0), shares.next().unwrap_or(0)]
        });
        Ok(RunPlan {
            parts: fit.parts.iter().map(part).collect(),
            decisions,
            pictures: fit.pictures,
            peak,
            limit,
            together: fit.choice.together,
            released: fit.released,
            resident,
            request,
        })
    }

    /// Bytes that may be held: what was given, or a little less than what is free beside what is held already.
    fn memory_limit(&self) -> Option<u64> {
        if self.options().memory.is_some() {
            return self.options().memory;
        }
        let free = available()?;
        let held = |engine: &Engine| {
            let (weights, activations) = engine.memory();
            (weights + activations) as u64
        };
        // The rest is for the program itself, and for what else runs.
        Some(free - free / 16 + held(self))
    }
}

/// Bytes of the denoisers' packed weights that can be kept; `None` where all can.
fn stream(fit: &Fit<'_>, limit: Option<u64>) -> Option<u64> {
    let limit = limit.filter(|&limit| fit.peak(None) > limit)?;
    let (all, _) = fit.streamable();
    // The peak does not fall below what other networks need while the denoiser rests.
    let (mut kept, mut step) = (0, all);
    while step > 0 {
        step /= 2;
        if kept + step <= all && fit.peak(Some(kept + step)) <= limit {
            kept += step;
        }
    }
    Some(kept)
}

#[cfg(test)]
mod tests {
    use super::group_sizes;

    #[test]
    fn groups_are_of_equal_size_and_cover_all() {
        assert_eq!(group_sizes(10, 4), [4, 3, 3]);
        assert_eq!(group_sizes(3, 8), [3]);
        assert_eq!(group_sizes(0, 8), [0; 0]);
        for pictures in 1..40 {
            for together in 1..9 {
                let sizes = group_sizes(pictures, together);
                assert_eq!(sizes.iter().sum::<usize>(), pictures);
                assert!(sizes.iter().all(|&size| size <= together && size + 1 >= sizes[0]));
            }
        }
    }
}
