//! Noise and the way from it to a picture.

use velatura::{DeepCache, GenerateRequest, RngKind, StepNoise};

use super::{set, set_some};
use crate::failure::Failure;
use crate::parse;

/// Noise and the way from it.
#[derive(clap::Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Seed of the first picture; the others count up from it. A list (7,12,40) is one for each picture
    #[arg(long, value_name = "N", value_parser = parse::seeds, allow_negative_numbers = true)]
    seed: Option<std::vec::Vec<u64>>,
    /// A second seed whose noise is mixed into the first's; drawn when only its strength is given. In a batch it counts up
    /// in place of the first
    #[arg(long, value_name = "N", value_parser = parse::seed, allow_negative_numbers = true)]
    variation_seed: Option<u64>,
    /// How far to go from the first seed's noise to the second's: 0 to 1; 0.1 to 0.4 keeps the picture's layout
    #[arg(long, value_name = "X", value_parser = parse::variation_strength, allow_negative_numbers = true)]
    variation_strength: Option<f64>,
    /// Make a picture that resembles the one of the same seed in another size: that size
    #[arg(long, value_name = "WxH", value_parser = parse::size)]
    seed_resize_from: Option<[u32; 2]>,
    /// Whose random numbers a seed stands for: cpu (ComfyUI, diffusers) or cuda (A1111)
    #[arg(long, value_name = "NAME", value_parser = parse::rng)]
    rng: Option<RngKind>,
    /// Sampling steps
    #[arg(long, value_name = "N", value_parser = parse::steps, allow_negative_numbers = true)]
    steps: Option<u32>,
    /// Sampler; `velatura samplers` lists them
    #[arg(long, value_name = "NAME", value_parser = parse::sampler)]
    sampler: Option<String>,
    /// Spacing of the sampler's steps; `velatura samplers` lists them
    #[arg(long, value_name = "NAME", value_parser = parse::schedule)]
    schedule: Option<String>,
    /// Share of fresh noise in each step, 0 to 1; the sampler's own when not given (`velatura samplers` says which read it)
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    eta: Option<f64>,
    /// Factor of that noise; 1 when not given
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    s_noise: Option<f64>,
    /// Noise added before each step of euler, heun and dpm_2; 0 when not given
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    s_churn: Option<f64>,
    /// Lowest sigma at which that is done; 0 when not given
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    s_tmin: Option<f64>,
    /// Highest sigma at which that is done; no limit when not given
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    s_tmax: Option<f64>,
    /// Exponent of the karras schedule (7 when not given) and of polyexponential (1)
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    rho: Option<f64>,
    /// Noise levels in place of a schedule, falling, as in 14.6,6,2.5,1,0.3; as many steps are taken
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        allow_negative_numbers = true,
        conflicts_with = "schedule"
    )]
    sigmas: Vec<f64>,
    /// Begin with noise of variance 1, as ComfyUI does and A1111 with "SGM noise multiplier"
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    unit_start: Option<bool>,
    /// Noise of the steps: continue (diffusers, A1111), comfy (ComfyUI on a GPU), comfy-cpu, or A1111's ENSD, a number that is
    /// added to the seed
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    step_noise: Option<String>,
    /// DeepCache: compute the deep part of the denoiser at every N-th step only. Faster and lossy: the picture changes, the more
    /// so the larger N; 2 to 5 is usual, 1 is off
    #[arg(long, value_name = "N", value_parser = parse::deepcache, allow_negative_numbers = true)]
    deepcache: Option<u32>,
    /// Which skip connection of the denoiser that part begins behind; 0 when not given, the fastest. Higher ones lose less
    #[arg(long, value_name = "N", requires = "deepcache")]
    deepcache_branch: Option<u32>,
}

impl SamplingArgs {
    /// A second seed alone would change nothing.
    pub(super) fn check(&self, request: &GenerateRequest) -> Result<(), Failure> {
        if let Some(name) = &self.step_noise
            && step_noise(name, request.rng).is_none()
        {
            let text =
                "--step-noise must be continue, comfy, comfy-cpu, or a whole number to add to the seed";
            return Err(Failure::Usage(text.into()));
        }
        let strength = request.seeds.variation.map(|variation| variation.strength);
        if self.variation_seed.is_some() && self.variation_strength.is_none() && strength == Some(0.0) {
            return Err(Failure::Usage("--variation-seed needs a --variation-strength, such as 0.2".into()));
        }
        Ok(())
    }

    /// `of_a_picture` where the request is a picture's.
    pub(super) fn apply(&self, request: &mut GenerateRequest, of_a_picture: bool) {
        set(&mut request.rng, &self.rng);
        if let Some(seeds) = &self.seed {
            request.seed = seeds.first().copied();
            request.seeds.each = if seeds.len() > 1 { seeds.clone() } else { Vec::new() };
        }
        if self.variation_strength.is_some() || self.variation_seed.is_some() {
            let variation = request.seeds.variation.get_or_insert_default();
            set_some(&mut variation.seed, &self.variation_seed);
            set(&mut variation.strength, &self.variation_strength);
        }
        set_some(&mut request.seeds.resize_from, &self.seed_resize_from);
        set_some(&mut request.steps, &self.steps);
        if self.sampler.is_some() && self.schedule.is_none() && of_a_picture {
            // The new sampler's name may carry its own schedule; the picture's stays where it does not.
            let carries = self.sampler.as_deref().and_then(|s| velatura_samplers::parse_sampler(s).ok()?.1);
            if carries.is_some() {
                request.schedule = None;
            }
        }
        set_some(&mut request.sampler, &self.sampler);
        set_some(&mut request.schedule, &self.schedule);
        let options = &mut request.sampling;
        let given = [
            (&mut options.eta, self.eta),
            (&mut options.s_noise, self.s_noise),
            (&mut options.s_churn, self.s_churn),
            (&mut options.s_tmin, self.s_tmin),
            (&mut options.s_tmax, self.s_tmax),
            (&mut options.rho, self.rho),
        ];
        given.into_iter().for_each(|(field, flag)| set_some(field, &flag));
        set(&mut options.unit_start, &self.unit_start);
        if let Some(noise) = self.step_noise.as_deref().and_then(|name| step_noise(name, request.rng)) {
            options.step_noise = noise;
        }
        if !self.sigmas.is_empty() {
            options.sigmas.clone_from(&self.sigmas);
            request.steps = self.steps;
            request.schedule = None;
        } else if self.steps.is_some() || self.schedule.is_some() {
            // A picture's sigmas are another number of steps, or in the place of the schedule.
            options.sigmas.clear();
        }
        if let Some(interval) = self.deepcache {
            let branch = self.deepcache_branch.unwrap_or_default();
            request.deepcache = Some(DeepCache { interval, branch });
        }
    }
}

/// Where the noise of the steps comes from, by name.
fn step_noise(name: &str, rng: RngKind) -> Option<StepNoise> {
    Some(match name.trim() {
        "continue" => StepNoise::Continue,
        "comfy" => StepNoise::Anew { kind: RngKind::Cuda, delta: 0 },
        "comfy-cpu" => StepNoise::Anew { kind: RngKind::Cpu, delta: 1 },
        number => match number.parse::<i64>().ok()? {
            0 => StepNoise::Continue,
            delta => StepNoise::Anew { kind: rng, delta: delta as u64 },
        },
    })
}
