//! Where a run begins, what its denoiser reads beside the latent, and what of a picture is held fast.

use velatura_samplers::noise::{LatentShape, NoiseSource, PerImage};
use velatura_samplers::{Level, Plan};

use super::autoencoder::Moments;
use crate::request::Settings;
use crate::{Error, ModelManifest, Task};

/// The pictures of a request as the pipeline needs them, whatever the seeds.
#[derive(Default)]
pub(crate) struct Given {
    /// The latent of the picture to begin from or to edit.
    pub init: Option<Moments>,
    /// The latent of the picture without what is masked, for a denoiser that reads it.
    pub masked: Option<Moments>,
    /// 1 where the picture is to be made anew, 0 where it stays, `[h, w]` of the latent.
    pub mask: Option<Vec<f32>>,
    /// The picture to enlarge, `[h, w, 3]` of the latent.
    pub low: Option<Vec<f32>>,
}

/// The beginning of a group of pictures.
pub(crate) struct Beginning {
    /// `[images, h, w, C]`.
    pub latents: Vec<f32>,
    /// What the denoiser reads beside the latent of each image; empty where that is all.
    pub beside: Vec<Vec<f32>>,
    /// What an ordinary model must leave as it is.
    pub kept: Option<Kept>,
}

/// The part of the latents that is held fast: noised anew after every step, as diffusers does.
pub(crate) struct Kept {
    latents: Vec<f32>,
    noise: Vec<f32>,
    /// 1 where the run is free, one for each value of all latents.
    mask: Vec<f32>,
}

impl Kept {
    /// Puts the known part of the latents, at a level, in place of what the sampler made there.
    pub fn hold(&self, latents: &mut [f32], level: Level) {
        let known = self.latents.iter().zip(&self.noise);
        for ((value, (&x0, &noise)), &free) in latents.iter_mut().zip(known).zip(&self.mask) {
            let known = (level.alpha * f64::from(x0) + level.sigma * f64::from(noise)) as f32;
            *value = (1.0 - free) * known + free * *value;
        }
    }
}

/// Draws the beginning of a group, from each picture's generator in the order of diffusers' pipelines.
pub(crate) fn begin(
    settings: &Settings,
    manifest: &ModelManifest,
    given: &Given,
    noise: &mut PerImage,
    shape: LatentShape,
) -> Result<Beginning, Error> {
    let images = noise.0.len();
    let plan = &settings.plan;
    match settings.task {
        Task::Edit => {
            let latents = plan.start(&noise.initial(shape));
            let raw = given.init.as_ref().map_or(Vec::new(), |init| denormalized(manifest, &init.mean));
            Ok(Beginning { latents, beside: vec![raw; images], kept: None })
        }
        Task::Upscaling => {
            let beside = noised(settings, manifest, given.low.as_deref().unwrap_or_default(), noise, shape)?;
            Ok(Beginning { latents: plan.start(&noise.initial(shape)), beside, kept: None })
        }
        Task::Inpainting => {
            // At full strength the picture is not looked at, but for what the mask leaves of it.
            let init = given.init.as_ref().filter(|_| settings.strength < 1.0);
            let Drawn { latents, .. } = start(plan, init, noise, shape, false)?;
            let masked = given.masked.as_ref().map(|masked| draw(masked, noise, shape)).unwrap_or_default();
            let everywhere = vec![1.0; shape.height * shape.width];
            let mask = given.mask.as_ref().unwrap_or(&everywhere);
            let join = |masked: &[f32]| -> Vec<f32> {
                let pixels = mask.iter().zip(masked.chunks_exact(shape.channels));
                pixels.flat_map(|(mask, pixel)| std::iter::once(mask).chain(pixel)).copied().collect()
            };
            Ok(Beginning {
                latents,
                beside: masked.chunks_exact(shape.len()).map(join).collect(),
                kept: None,
            })
        }
        Task::TextToImage => {
            let from_noise = given.mask.is_some() && settings.strength == 1.0;
            let Drawn { latents, x0, unit } = start(plan, given.init.as_ref(), noise, shape, from_noise)?;
            let Some(mask) = &given.mask else {
                return Ok(Beginning { latents, beside: Vec::new(), kept: None });
            };
            if given.init.as_ref().is_some_and(|init| init.deviation.iter().any(|&d| d != 0.0)) {
                // diffusers encodes the masked picture also for models that do not read it, which draws.
                let mut unused = vec![0.0; shape.len()];
                (0..images).for_each(|image| noise.draw(image, &mut unused));
            }
            let each = mask.iter().flat_map(|&m| std::iter::repeat_n(m, shape.channels));
            let mask = each.collect::<Vec<f32>>().repeat(images);
            Ok(Beginning { latents, beside: Vec::new(), kept: Some(Kept { latents: x0, noise: unit, mask }) })
        }
    }
}

/// What a run from a picture, or from nothing, begins with.
struct Drawn {
    /// Starting latents.
    latents: Vec<f32>,
    /// The latents of the picture.
    x0: Vec<f32>,
    /// The unit noise between.
    unit: Vec<f32>,
}

fn start(
    plan: &Plan,
    init: Option<&Moments>,
    noise: &mut PerImage,
    shape: LatentShape,
    from_noise: bool,
) -> Result<Drawn, Error> {
    let x0 = init.map(|init| draw(init, noise, shape)).unwrap_or_default();
    let unit = noise.initial(shape);
    let latents = match init {
        Some(_) if !from_noise => plan.start_from(&x0, &unit)?,
        _ => plan.start(&unit),
    };
    Ok(Drawn { latents, x0, unit })
}

/// A latent for each image; an encoder that is sure of itself draws no numbers.
fn draw(moments: &Moments, noise: &mut PerImage, shape: LatentShape) -> Vec<f32> {
    let images = noise.0.len();
    if moments.deviation.iter().all(|&d| d == 0.0) {
        return moments.mean.repeat(images);
    }
    let mut latents = Vec::with_capacity(images * shape.len());
    let mut drawn = vec![0.0; shape.len()];
    for image in 0..images {
        noise.draw(image, &mut drawn);
        latents.extend(moments.sample(&drawn));
    }
    latents
}

/// A latent in the autoencoder's own scale, which InstructPix2Pix reads.
fn denormalized(manifest: &ModelManifest, latent: &[f32]) -> Vec<f32> {
    let (shift, scale) = manifest.autoencoder.shift_and_scale();
    latent.iter().map(|v| v / scale + shift).collect()
}

/// The picture to enlarge with its noise, for each image.
fn noised(
    settings: &Settings,
    manifest: &ModelManifest,
    picture: &[f32],
    noise: &mut PerImage,
    shape: LatentShape,
) -> Result<Vec<Vec<f32>>, Error> {
    let lacks = || Error::Internal("an upscaler without a noise schedule".into());
    let table = manifest.low_res_schedule.as_ref().ok_or_else(lacks)?.table()?;
    let level = table.level(f64::from(settings.noise_level))?;
    let rgb = LatentShape { channels: 3, ..shape };
    let images = noise.0.len();
    let image = |image: usize| {
        let (mut drawn, mut ordered) = (vec![0.0; rgb.len()], vec![0.0; rgb.len()]);
        noise.draw(image, &mut drawn);
        rgb.to_channels_last(&drawn, &mut ordered);
        let mix = |(&x, &n): (&f32, &f32)| (level.alpha * f64::from(x) + level.sigma * f64::from(n)) as f32;
        picture.iter().zip(&ordered).map(mix).collect()
    };
    Ok((0..images).map(image).collect())
}
