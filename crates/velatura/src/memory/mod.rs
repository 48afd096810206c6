//! What a run needs of memory, known before it begins, and what is done where that is too much.

mod available;
mod choose;
mod parts;
mod time;

use serde::Serialize;

pub(crate) use available::available;
pub(crate) use choose::group_sizes;

use crate::request::{GenerateRequest, Precision};

/// A run before it begins: the request with everything decided, what it needs, and what was decided to make it fit.
#[derive(Clone, Debug, Serialize)]
pub struct RunPlan {
    /// The request with everything decided.
    pub request: GenerateRequest,
    /// The networks, in the order in which they run.
    pub parts: Vec<PartPlan>,
    /// What was decided so that the run fits, in the order in which it was.
    pub decisions: Vec<Decision>,
    /// Bytes of finished pictures, latents and the largest weight on its way from the file, and of what makes previews.
    pub pictures: u64,
    /// The most bytes held at once: packed weights, activations and pictures.
    pub peak: u64,
    /// Bytes that may be held; `None` where none were given and the system does not say what is free.
    pub limit: Option<u64>,
    /// Pictures denoised together.
    pub together: usize,
    /// Whether what was used is given back before the next network runs.
    #[serde(skip)]
    pub(crate) released: bool,
    /// Bytes of packed weights of the denoiser, and of a refiner's, that are kept, where not all are.
    #[serde(skip)]
    pub(crate) resident: Option<[u64; 2]>,
}

/// A network of a run.
#[derive(Clone, Debug, Serialize)]
pub struct PartPlan {
    /// Which: `text encoder`, `VAE encoder`, `denoiser`, `VAE decoder`; a refiner's begin with `refiner's`.
    pub name: String,
    /// Precision that it runs in.
    pub precision: Precision,
    /// Bytes of its weights as they are kept.
    pub weights: u64,
    /// Bytes of its activations and its kernels' scratch memory.
    pub activations: u64,
    /// Arithmetic of all its products over the whole run, a fused multiply-add counted as two.
    pub flops: f64,
    /// Bytes packed over the whole run: once, or at every call where weights are streamed.
    pub packed: u64,
}

/// Something done to make a run fit, in the order in which they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The autoencoder works in tiles, which changes the picture a little.
    TiledVae,
    /// Text encoders and the VAE's encoder are released after use, and activations before the next network runs.
    Released,
    /// So many pictures are denoised at once.
    Together(usize),
    /// So many bytes of the denoiser's weights are kept; the others are packed from the file at every step, which is slower.
    Streamed {
        /// Bytes kept.
        resident: u64,
        /// Bytes of all.
        of: u64,
    },
    /// The networks run in bf16 where f32 was the default, which changes the picture a little.
    LowerPrecision,
}

impl std::fmt::Display for Decision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Decision::TiledVae => f.write_str("the VAE works in tiles (changes the picture a little)"),
            Decision::Released => f.write_str("text encoders and activations are released after use"),
            Decision::Together(1) => f.write_str("pictures are made one at a time"),
            Decision::Together(n) => write!(f, "at most {n} pictures at once"),
            Decision::Streamed { resident, of } => write!(
                f,
                "{} of {} MiB of the denoiser's weights are read from the file at every step (slower)",
                (of - resident) >> 20,
                of >> 20
            ),
            Decision::LowerPrecision => {
                f.write_str("the networks run in bf16 (changes the picture a little)")
            }
        }
    }
}
