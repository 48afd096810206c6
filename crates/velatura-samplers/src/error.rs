//! Typed errors; each says what was wrong and what would be right.

use thiserror::Error;

/// A [`NoiseSchedule`](crate::NoiseSchedule) that cannot be computed.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum ScheduleError {
    /// `train_timesteps` outside the supported range.
    #[error("noise schedule: train_timesteps is {0}, but must be from 2 to 1000000")]
    TrainTimesteps(usize),
    /// Beta range that is not `0 < beta_start <= beta_end < 1`.
    #[error("noise schedule: betas must satisfy 0 < beta_start <= beta_end < 1, but are {start} and {end}")]
    BetaRange {
        /// First beta.
        start: f64,
        /// Last beta.
        end: f64,
    },
    /// Shift of the rectified flow that is not a positive finite number.
    #[error("noise schedule: shift is {0}, but must be a positive finite number (1 leaves the times alone)")]
    Shift(f64),
    /// Zero-terminal-SNR asked of a schedule that has no betas.
    #[error(
        "noise schedule: zero_snr applies to beta schedules; rectified flow ends in pure noise by itself"
    )]
    ZeroSnrOfFlow,
    /// A configuration of another tool with a value that is not known here.
    #[error("scheduler configuration: {field} is {value:?}, which is not supported")]
    Unsupported {
        /// Name of the field in the foreign file.
        field: &'static str,
        /// Its value there.
        value: String,
    },
    /// A timestep outside the schedule.
    #[error("timestep {timestep} is outside the schedule, which runs from 0 to {last}")]
    Timestep {
        /// The offending timestep.
        timestep: f64,
        /// The last one allowed.
        last: f64,
    },
    /// Buffers whose lengths do not belong together.
    #[error("{what} has {found} values where {expected} were expected")]
    Length {
        /// Which buffer.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length it should have.
        expected: usize,
    },
}

/// A run that cannot be laid out.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum PlanError {
    /// No steps.
    #[error("steps is 0; ask for at least one (20 to 30 is usual)")]
    ZeroSteps,
    /// More steps than the model has training timesteps for this spacing.
    #[error("steps is {steps}, but {spacing} spacing of this model allows at most {limit}")]
    TooManySteps {
        /// Steps asked for.
        steps: usize,
        /// Largest possible number.
        limit: usize,
        /// Name of the spacing.
        spacing: &'static str,
    },
    /// Strength outside `(0, 1]`.
    #[error("strength is {0}, but must be above 0 and at most 1 (1 starts from pure noise)")]
    Strength(f64),
    /// Exponent outside `(0, 100]`.
    #[error("rho is {0}, but must be above 0 and at most 100 (7 is usual for karras)")]
    Rho(f64),
    /// Strength so low that no step remains.
    #[error("strength {strength} of {steps} steps leaves none; raise either")]
    NoStepsLeft {
        /// Strength asked for.
        strength: f64,
        /// Steps of the whole plan.
        steps: usize,
    },
    /// A karras/exponential request on top of a spacing that is itself a sigma formula.
    #[error(
        "the range of {spacing} spacing can be taken from linspace, leading or trailing, not from {base}"
    )]
    Base {
        /// The spacing asked for.
        spacing: &'static str,
        /// The unsuitable base.
        base: &'static str,
    },
    /// Custom sigmas that are empty, not finite, not positive or not decreasing.
    #[error("custom sigmas must be positive, finite and strictly decreasing; entry {index} is {value}")]
    Sigmas {
        /// Index of the offending entry.
        index: usize,
        /// Its value.
        value: f64,
    },
}

/// A sampler option outside its range.
#[derive(Debug, Clone, PartialEq, Error)]
#[error("sampler option {name} is {value}, but must be {range}")]
pub struct OptionError {
    /// Name of the option.
    pub name: &'static str,
    /// The value given.
    pub value: f64,
    /// The values allowed, in words.
    pub range: &'static str,
}

/// An option of a picture's noise outside its range.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum NoiseError {
    /// Strength of a variation outside 0..=1.
    #[error("variation strength is {0}, but must be from 0 (the seed alone) to 1 (the second seed alone)")]
    Strength(f64),
    /// Size to resize a seed from.
    #[error("the latent to resize the seed from is {height}x{width}, but each side must be from 1 to {most}")]
    Size {
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
        /// Most of either.
        most: usize,
    },
}

/// A guidance setting outside its range, or buffers that do not fit.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum GuidanceError {
    /// Scale that is not a finite number.
    #[error("guidance scale is {0}, but must be a finite number (1 is no guidance, 3 to 8 is usual)")]
    Scale(f32),
    /// Rescale outside 0..=1.
    #[error("guidance rescale is {0}, but must be from 0 (off) to 1")]
    Rescale(f32),
    /// Interval that is not `0 <= start <= end <= 1`.
    #[error("guidance interval is {start}..{end}, but must satisfy 0 <= start <= end <= 1")]
    Interval {
        /// Start, as a fraction of the run.
        start: f32,
        /// End, as a fraction of the run.
        end: f32,
    },
    /// No condition to guide towards.
    #[error("guidance by several prompts needs at least one")]
    NoCondition,
    /// Weight of a prompt that is not a finite number.
    #[error("weight of a prompt is {0}, but must be a finite number")]
    Weight(f32),
    /// Two answers of different length.
    #[error("an answer has {found} values where {expected} were expected")]
    Length {
        /// Its length.
        found: usize,
        /// The length of the others.
        expected: usize,
    },
    /// A setting of dynamic thresholding, or of attention guidance, outside its range.
    #[error("{name} is {value}, but must be {range}")]
    Setting {
        /// Name of the setting.
        name: &'static str,
        /// Its value.
        value: f64,
        /// The values allowed, in words.
        range: &'static str,
    },
    /// A batch that does not split into two halves of whole images.
    #[error("{len} values do not split into two halves of {images} images")]
    Halves {
        /// Length of the model output.
        len: usize,
        /// Images of one half.
        images: usize,
    },
}

/// Why a run ended before its last step. `E` is the error of the denoise closure.
#[derive(Debug, Error)]
pub enum RunError<E> {
    /// The denoise closure failed.
    #[error("step {step}: {source}")]
    Denoise {
        /// Index of the step, from 0.
        step: usize,
        /// What the closure said.
        source: E,
    },
    /// The observer asked to stop.
    #[error("stopped after {done} of {steps} steps")]
    Cancelled {
        /// Steps that were finished.
        done: usize,
        /// Steps of the plan.
        steps: usize,
        /// The latent as it stood.
        latent: Vec<f32>,
    },
    /// A buffer of the wrong length: the starting latent, or an answer of the closure.
    #[error("{what} has {found} values where {expected} were expected")]
    Length {
        /// Which buffer.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length it should have.
        expected: usize,
    },
    /// The batch is 0 or does not divide the latent.
    #[error("a latent of {len} values does not split into {batch} images")]
    Batch {
        /// Length of the latent.
        len: usize,
        /// Images.
        batch: usize,
    },
    /// The latent is no longer finite.
    #[error("step {step} of {steps} gave a value that is not finite; try full precision or less guidance")]
    NotFinite {
        /// Index of the step, from 0.
        step: usize,
        /// Steps of the plan.
        steps: usize,
    },
}

/// A name that no entry of a registry has.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct UnknownName {
    /// What was looked up: `sampler` or `schedule`.
    pub kind: &'static str,
    /// The name given, cut to a printable length.
    pub name: String,
    /// Known names, nearest first; all of them when none is near.
    pub nearest: Vec<&'static str>,
    /// Whether [`nearest`](Self::nearest) holds near names rather than all.
    pub near: bool,
}

impl std::fmt::Display for UnknownName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.nearest.join(", ");
        if self.near {
            write!(f, "unknown {} {:?}; did you mean {names}?", self.kind, self.name)
        } else {
            write!(f, "unknown {} {:?}; known are {names}", self.kind, self.name)
        }
    }
}
