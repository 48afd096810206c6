//! The training step of a published U-Net, whole or of low-rank adapters in it.

use velatura_cpu::{CancelToken, Runtime};
use velatura_graph::passes::{LowRank, add_low_rank};
use velatura_graph::{Builder, DType, Graph, loss};
use velatura_models::{UNetConfig, UNetInputs};
use velatura_samplers::noise::CounterRng;

use super::super::names;
use super::{Clock, STREAM, StepTimes};
use crate::TrainError;
use crate::parameters::{Entry, Table};
use crate::recipe::PrecisionName;
use crate::step::{Batch, Frozen, LOSS, Step};

/// The layers of a transformer block beside which diffusers' `train_text_to_image_lora.py` lays adapters.
const ADAPTED: [&str; 4] = [".to_q", ".to_k", ".to_v", ".to_out.0"];

/// Tokens of the prompt.
const TOKENS: usize = 77;

/// SDXL's original size, crop and target size.
const TIME_IDS: usize = 6;

/// The seed of weights and data.
const SEED: u64 = 1;

/// What is measured.
#[derive(Clone, Debug, PartialEq)]
pub struct UNetStep {
    /// The network; checkpointed if it says so.
    pub config: UNetConfig,
    /// Height and width of the latents; what the configuration says where not given.
    pub side: Option<usize>,
    /// Samples of a step.
    pub batch: usize,
    /// The rank of the adapters that are trained; all weights where not given.
    pub lora: Option<usize>,
    /// How products are computed.
    pub precision: PrecisionName,
    /// Threads; all processors where not given.
    pub threads: Option<usize>,
    /// Steps that are timed, after one that is not.
    pub runs: usize,
    /// Whether to note where the time goes.
    pub by_layer: bool,
}

/// Times loss and gradient of a U-Net with random weights, and packing all weights from f32 where all are trained and have
/// therefore changed: what PyTorch does under autocast between two steps of an optimizer. (Adapters are packed once; their
/// share is a thousandth.) Memory holds the weights and the gradients in f32, and all weights packed for both directions.
///
/// # Errors
/// [`TrainError`] of a configuration that cannot be built, or when the caller stops it.
pub fn unet_step(options: &UNetStep, cancel: &CancelToken) -> Result<StepTimes, TrainError> {
    let (mut forward, batch) = forward_graph(options)?;
    if let Some(rank) = options.lora {
        let size = LowRank { rank, alpha: rank as f32 };
        forward = add_low_rank(&forward, size, |name| ADAPTED.iter().any(|end| name.ends_with(end)));
    }
    let runtime = Runtime::new(options.threads);
    let frozen = match options.lora {
        Some(_) => {
            Table::of_graph(&forward, |name| !name.contains(".lora_")).entries().iter().map(drawn).collect()
        }
        None => Frozen::new(),
    };
    let mut step = Step::new(&runtime, forward, options.precision.into(), &[], frozen)?;
    let weights = step.table().initial(SEED);
    step.load(&weights)?;

    let mut parts = vec![("packing", 0.0), ("gradients", 0.0)];
    let (mut seconds, mut losses) = (Vec::new(), Vec::new());
    let runs = options.runs.max(1);
    for run in 0..=runs {
        if run == 1 && options.by_layer {
            step.watch();
        }
        let mut clock = Clock::start();
        if options.lora.is_none() {
            step.load(&weights)?;
        }
        clock.lap();
        let loss = step.differentiate(&batch, cancel)?;
        clock.lap();
        // The first touches all memory for the first time.
        if run > 0 {
            parts.iter_mut().zip(&clock.laps).for_each(|((_, sum), lap)| *sum += lap / runs as f64);
            seconds.push(clock.laps.iter().sum());
            losses.push(loss);
        }
    }
    Ok(StepTimes {
        batch: options.batch,
        threads: runtime.pool.threads(),
        parameters: step.table().len(),
        arena_bytes: step.arena_bytes(),
        seconds,
        losses,
        parts,
        profile: step.profile().cloned(),
    })
}

/// A weight's name and how it begins.
fn drawn(entry: &Entry) -> (String, Vec<f32>) {
    (entry.name.clone(), entry.initial(SEED))
}

/// The mean squared error of the prediction, and a batch for it: Gaussian numbers, timesteps in the middle of the schedule.
fn forward_graph(options: &UNetStep) -> Result<(Graph, Batch), TrainError> {
    let (config, n) = (&options.config, options.batch);
    let side =
        options.side.or(config.sample_size.as_ref().and_then(|sides| sides.get(0).copied())).unwrap_or(64);
    let b = Builder::new();
    let mut batch = Batch::new();
    let mut gaussian = |name: &'static str, shape: &[usize]| {
        let mut values = vec![0.0; shape.iter().product()];
        CounterRng::new(SEED, STREAM).at(batch.len() as u64).fill_normal(&mut values);
        batch.push((name, values.into()));
        b.input(name, shape, DType::F32)
    };
    let sample = gaussian(names::SAMPLE, &[n, side, side, config.in_channels]);
    let target = gaussian(names::TARGET, &[n, side, side, config.out_channels]);
    let mut inputs = UNetInputs::new(sample, b.input(names::TIMESTEP, &[n], DType::F32));
    if let Some(&width) = config.cross_attention_dim.as_ref().and_then(|widths| widths.get(0)) {
        inputs.context = Some(gaussian("context", &[n, TOKENS, width]));
    }
    if let (Some(all), Some(each)) =
        (config.projection_class_embeddings_input_dim, config.addition_time_embed_dim)
    {
        inputs.time_ids = Some(gaussian("time_ids", &[n, TIME_IDS]));
        inputs.pooled = Some(gaussian("pooled", &[n, all.saturating_sub(TIME_IDS * each)]));
    }
    batch.push((names::TIMESTEP, vec![500.0; n].into()));
    b.output(LOSS, loss::mse(config.build(&b.params(), inputs), target));
    Ok((b.finish()?, batch))
}
