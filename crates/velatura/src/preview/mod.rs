//! What a picture looks like while it is made: the clean latent that the denoiser sees at a step, made visible cheaply.
//!
//! The observer of a run is given the clean latents at each step ([`Progress::Step`](crate::Progress::Step)); which of them
//! are made visible, and how, is up to it.

mod linear;
mod shipped;

pub use self::linear::LatentRgb;

use std::path::Path;
use std::sync::Arc;

use crate::engine::{Engine, EngineOptions};
use crate::opened::Opened;
use crate::pipeline::to_byte;
use crate::request::Tiling;
use crate::{Error, RequestError};

/// Clean latents as the denoiser saw them at a step.
#[derive(Clone, Copy, Debug)]
pub struct CleanLatents<'a> {
    /// `[images, height, width, channels]` in the denoiser's scale.
    pub values: &'a [f32],
    /// How many pictures are made together.
    pub images: usize,
    /// The place of the first of them among all that were asked for.
    pub first: usize,
    /// Height and width of a latent.
    pub size: [usize; 2],
}

impl<'a> CleanLatents<'a> {
    /// One picture's latent, counted from 0 within those that are made together.
    pub fn image(&self, image: usize) -> Option<&'a [f32]> {
        let length = self.values.len() / self.images.max(1);
        self.values.get(image * length..(image + 1) * length).filter(|_| image < self.images)
    }
}

/// A preview.
#[derive(Clone, Debug, PartialEq)]
pub struct Preview {
    /// Width in pixels; a latent's own where the projection is linear.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Red, green, blue, row by row.
    pub rgb: Vec<u8>,
}

/// How latents are made visible.
pub enum Previewer {
    /// Each pixel of the latent one of the preview, its colour a linear function of the channels. It takes no time.
    Linear(LatentRgb),
    /// By a tiny autoencoder's decoder (TAESD), in the picture's size.
    Tiny(Arc<Engine>),
}

impl Previewer {
    /// By the linear function that is known for the model's latents; nothing where none is.
    pub fn linear(engine: &Engine) -> Option<Self> {
        LatentRgb::of(engine.manifest()).map(Previewer::Linear)
    }

    /// By an autoencoder other than the model's own: a file or folder, as [`GenerateRequest::vae`](crate::GenerateRequest::vae)
    /// takes it. What it needs is in the plans of an engine that is told of it ([`Engine::with_previewer`]).
    ///
    /// # Errors
    /// As [`Engine::for_request`] for the autoencoder.
    pub fn tiny(engine: &Engine, vae: &Path) -> Result<Self, Error> {
        let own = || RequestError::Vae { model: format!("the model {:?}", engine.manifest().name) };
        let model = engine.model_path().filter(|_| engine.file().is_none()).ok_or_else(own)?;
        let decoder = Engine::of(Opened::path(model, Some(vae))?, EngineOptions::default());
        Ok(Previewer::Tiny(Arc::new(decoder.on_runtime_of(engine))))
    }

    /// One picture of those that are made together; nothing where there are fewer.
    ///
    /// # Errors
    /// What keeps the decoder from running.
    pub fn picture(&self, latents: &CleanLatents<'_>, image: usize) -> Result<Option<Preview>, Error> {
        let Some(latent) = latents.image(image) else { return Ok(None) };
        let [height, width] = latents.size;
        match self {
            Previewer::Linear(factors) => {
                let rgb = factors.project(latent).into_iter().map(to_byte).collect();
                Ok(Some(Preview { width, height, rgb }))
            }
            Previewer::Tiny(engine) => {
                let pixels = engine.decode(latent, latents.size, Tiling::Off, engine.default_precision())?;
                let factor = engine.manifest().latent_factor() as usize;
                let rgb = pixels.into_iter().map(to_byte).collect();
                Ok(Some(Preview { width: width * factor, height: height * factor, rgb }))
            }
        }
    }
}
