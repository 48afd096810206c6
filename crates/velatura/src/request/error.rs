//! What can be wrong with a request.

use velatura_samplers::UnknownName;

use super::guidance::MOST_BLUR;
use super::{LONGEST_PROMPT, LONGEST_SIDE, MOST_FREEU, MOST_GUIDANCE, MOST_PICTURES, MOST_STEPS};

/// A request that cannot be served. Each message is one sentence that names the field and the remedy.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RequestError {
    /// Steps out of range.
    #[error("steps is {0}, but must be from 1 to {MOST_STEPS} (20 to 30 is usual)")]
    Steps(u32),
    /// Guidance not a number, not positive, or absurd.
    #[error(
        "guidance is {0}, but must be a number above 0 and up to {MOST_GUIDANCE} (1 is no guidance, 2 to 8 is usual)"
    )]
    Guidance(f32),
    /// A rescale of the guided answers out of range.
    #[error("guidance rescale is {0}, but must be from 0 (none) to 1 (0.7 is usual)")]
    GuidanceRescale(f32),
    /// An interval of guidance that is none.
    #[error(
        "guidance interval is {start} to {end}, but must be two shares of the run, 0 to 1, the first smaller"
    )]
    GuidanceInterval {
        /// Where guidance begins.
        start: f32,
        /// Where it ends.
        end: f32,
    },
    /// A factor of FreeU out of range.
    #[error("a factor of FreeU is {0}, but must be above 0 and at most {MOST_FREEU} (1 changes nothing)")]
    FreeU(f32),
    /// Steps between two at which all of the denoiser is computed, out of range.
    #[error(
        "interval of DeepCache is {0}, but must be from 1 (everything at every step) to {MOST_STEPS} (2 to 5 is usual)"
    )]
    DeepCacheInterval(u32),
    /// A skip connection that the denoiser does not have.
    #[error("branch of DeepCache is {given}, but must be from 0 (the fastest) to {most} for this model")]
    DeepCacheBranch {
        /// What was asked for.
        given: u32,
        /// The last one.
        most: u32,
    },
    /// DeepCache together with guidance by parts of the denoiser that it leaves out.
    #[error(
        "DeepCache leaves out the parts of the denoiser that {guidance} guidance is about; leave one of the two out"
    )]
    DeepCacheGuidance {
        /// `perturbed-attention` or `self-attention`.
        guidance: &'static str,
    },
    /// Perturbed-attention guidance out of range.
    #[error("{field} of perturbed attention is {given}, but must be from 0 to {MOST_GUIDANCE} ({usual})")]
    PerturbedAttention {
        /// `scale` or `adaptive scale`.
        field: &'static str,
        /// What was asked for.
        given: f32,
        /// What is usual.
        usual: &'static str,
    },
    /// No self-attention in a layer that is to be perturbed.
    #[error(
        "{layer:?} names no self-attention of this model; name layers such as mid, down_blocks.1 or up_blocks.1.attentions.0"
    )]
    PerturbedLayer {
        /// The layer.
        layer: String,
    },
    /// Scale of self-attention guidance out of range.
    #[error(
        "scale of self-attention guidance is {0}, but must be from 0 to {MOST_GUIDANCE} (0.5 to 1 is usual)"
    )]
    SelfAttentionScale(f32),
    /// Blur of self-attention guidance out of range.
    #[error(
        "blur of self-attention guidance is {0}, but must be above 0 and at most {MOST_BLUR} (1 to 2 is usual)"
    )]
    SelfAttentionBlur(f64),
    /// Self-attention guidance for a model whose middle has no self-attention.
    #[error(
        "self-attention guidance needs a model with attention in the middle of its denoiser, which this one lacks; leave \
         it out"
    )]
    SelfAttentionModel,
    /// Self-attention guidance for a latent that is too small to be blurred.
    #[error(
        "self-attention guidance needs a latent of at least {least} pixels a side, but this one has {given}; make a larger \
         picture or leave it out"
    )]
    SelfAttentionSize {
        /// The shorter side.
        given: u32,
        /// The least.
        least: u32,
    },
    /// Dynamic thresholding out of range.
    #[error("dynamic thresholding: {0}")]
    Threshold(velatura_samplers::GuidanceError),
    /// An option of the sampler out of range.
    #[error("{0}")]
    SamplerOption(velatura_samplers::OptionError),
    /// A share of the picture that is noised away, out of range.
    #[error(
        "denoise is {0}, but must be above 0 and at most 1 (0.8 keeps the rough layout, 0.3 most of the picture)"
    )]
    Denoise(f64),
    /// Two ways to say how much of a picture is noised away.
    #[error("strength and denoise say the same thing in two ways; leave one of them out")]
    DenoiseAndStrength,
    /// Sigmas say where a run begins.
    #[error("denoise is a share of a schedule, which sigmas stand in place of; leave one of the two out")]
    DenoiseAndSigmas,
    /// As many sigmas as steps.
    #[error("{sigmas} sigmas are listed, the last 0 not counted, for {steps} steps; leave the steps out")]
    SigmaCount {
        /// Sigmas listed.
        sigmas: usize,
        /// Steps asked for.
        steps: u32,
    },
    /// A list of seeds of another length than the batch.
    #[error(
        "{seeds} seeds are listed for a batch of {batch}; leave the batch out, or list a seed for each picture"
    )]
    SeedCount {
        /// Seeds listed.
        seeds: usize,
        /// Pictures asked for.
        batch: u32,
    },
    /// A seed that the list of seeds does not begin with.
    #[error("the seed is {seed}, but the list of seeds begins with {first}; leave one of them out")]
    FirstSeed {
        /// The seed of the first picture.
        seed: u64,
        /// What the list says.
        first: u64,
    },
    /// Strength of a variation out of range.
    #[error(
        "variation strength is {0}, but must be from 0 (the seed's own picture) to 1 (the variation seed's)"
    )]
    VariationStrength(f64),
    /// Noise scaled to zero terminal SNR for a model of the straight path.
    #[error(
        "zero_snr is for models with betas; this one is of rectified flow, which ends in pure noise by itself, so leave it \
         out"
    )]
    ZeroSnrOfFlow,
    /// A side of zero or too long.
    #[error("{side} is {given}, but must be from {least} to {LONGEST_SIDE} pixels")]
    SizeRange {
        /// `width` or `height`.
        side: &'static str,
        /// What was asked for.
        given: u32,
        /// The smallest that the model can make.
        least: u32,
    },
    /// A side that the model's layers do not divide.
    #[error(
        "{side} is {given}, but must be a multiple of {factor} for this model; the nearest are {below} and {above}"
    )]
    SizeFactor {
        /// `width` or `height`.
        side: &'static str,
        /// What was asked for.
        given: u32,
        /// What it must be a multiple of.
        factor: u32,
        /// Nearest valid size below.
        below: u32,
        /// Nearest valid size above.
        above: u32,
    },
    /// Strength not a number, or out of range.
    #[error(
        "strength is {0}, but must be above 0 and at most 1 (0.8 keeps the rough layout, 0.3 most of the picture)"
    )]
    Strength(f64),
    /// A field that says something about a picture that is not given.
    #[error("{field} is for a picture to begin from; add one (--init), or leave {field} out")]
    NoInit {
        /// `strength`, or another field.
        field: &'static str,
    },
    /// A picture to begin from, and an autoencoder that cannot read one.
    #[error(
        "this VAE has no encoder, so no picture can be begun from; give one that has (a tiny one's encoder is found beside \
         its decoder where their names differ in that word alone)"
    )]
    NoEncoder,
    /// A model that does nothing without a picture.
    #[error("this model {does}; name that picture (--init)")]
    NeedsInit {
        /// What it does with one.
        does: &'static str,
    },
    /// A field that means nothing to the model.
    #[error("{field} means nothing to this model, which {does}; leave it out, or choose a model {of}")]
    NotTaken {
        /// The field.
        field: &'static str,
        /// What the model does.
        does: &'static str,
        /// What the field is for.
        of: &'static str,
    },
    /// A mask of another size than its picture.
    #[error(
        "the mask is {}x{} pixels and the picture {}x{}; give a mask of the picture's size",
        mask.0, mask.1, picture.0, picture.1
    )]
    MaskSize {
        /// Width and height of the mask.
        mask: (u32, u32),
        /// Width and height of the picture.
        picture: (u32, u32),
    },
    /// Guidance by the picture not a number, or out of range.
    #[error(
        "image guidance is {0}, but must be a number from 1 to {MOST_GUIDANCE} (1 is none, 1.2 to 1.8 is usual)"
    )]
    ImageGuidance(f32),
    /// Too much noise over the picture to enlarge.
    #[error("noise level is {given}, but must be from 0 to {most} for this model (20 is usual)")]
    NoiseLevel {
        /// What was asked for.
        given: u32,
        /// The most that the model knows.
        most: u32,
    },
    /// Number of pictures out of range.
    #[error("batch is {0}, but must be from 1 to {MOST_PICTURES} pictures")]
    Batch(u32),
    /// A name that is not known.
    #[error(transparent)]
    Name(#[from] UnknownName),
    /// A precision that is not known.
    #[error("precision is {0:?}, but must be f32, bf16 or int8")]
    Precision(String),
    /// A prompt of more than [`LONGEST_PROMPT`] bytes.
    #[error("the {which} is {bytes} bytes long; at most {LONGEST_PROMPT} are read")]
    PromptLength {
        /// `prompt` or `negative prompt`.
        which: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// A prompt of more than [`MOST_CHUNKS`](super::MOST_CHUNKS) chunks.
    #[error("the {which} has {tokens} tokens; at most {most} are read")]
    PromptTokens {
        /// `prompt` or `negative prompt`.
        which: &'static str,
        /// Its tokens.
        tokens: usize,
        /// How many are read.
        most: usize,
    },
    /// An autoencoder for a model of Velatura's own, whose latents no other autoencoder has.
    #[error(
        "{model} has an autoencoder of its own that no other can replace; leave the VAE out, or choose a Stable Diffusion model"
    )]
    Vae {
        /// The model.
        model: String,
    },
    /// More blocks to skip than the text transformer has, or none to count from.
    #[error("clip skip is {given}, but must be {} for this model", if *most == 1 { "1".to_string() } else { format!("from 1 to {most}") })]
    ClipSkip {
        /// What was asked for.
        given: u32,
        /// The first block, counted from the end.
        most: u32,
    },
    /// A size or crop out of range.
    #[error("{field} is {given}, but must be from {least} to {most} pixels")]
    SizeCondition {
        /// Which.
        field: &'static str,
        /// What was asked for.
        given: u32,
        /// The smallest.
        least: u32,
        /// The largest.
        most: u32,
    },
    /// An aesthetic score out of range.
    #[error("aesthetic score is {0}, but must be a number from -100 to 100 (1 to 10 is usual)")]
    Score(f32),
    /// A switch to the refiner out of range.
    #[error("refiner switch is {0}, but must be above 0 and below 1 (0.8 is usual)")]
    RefinerSwitch(f32),
    /// A switch to a refiner that is not given.
    #[error("refiner switch is for a refiner; name one (--refiner), or leave it out")]
    NoRefiner,
    /// Steps and schedule do not go together.
    #[error(transparent)]
    Plan(#[from] velatura_samplers::PlanError),
    /// The pictures cannot fit into memory, whatever is done.
    #[error(
        "{width}x{height} needs at least {needed_mib} MiB of memory and {available_mib} MiB may be used; ask for a smaller \
         picture{}, or give more memory (--memory, or close other programs)",
        if *pictures > 1 { " or fewer pictures" } else { "" }
    )]
    Memory {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Pictures asked for.
        pictures: usize,
        /// What the planner says, in MiB, rounded up.
        needed_mib: u64,
        /// What was given or is free, in MiB, rounded down.
        available_mib: u64,
    },
    /// JSON that is no request.
    #[error("this is not a request of this version of Velatura: {0}")]
    Json(String),
}
