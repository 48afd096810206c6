//! How long a network of a published architecture, or of the model that ships, takes on this machine.
//!
//! Weights and inputs are random: the time does not depend on them, and no file is needed.

mod error;
mod random;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use velatura_cpu::{CancelToken, Data, Profile, Runtime, Values, WeightStore};
use velatura_graph::{Builder, DType, Graph, GraphError, ParameterInfo};
use velatura_models::{AutoencoderConfig, TextConfig, TextInputs, UNetConfig, UNetInputs};
use velatura_samplers::noise::CounterRng;

use crate::networks::{Changes, Network, lowered, names};
use crate::prelude::{Plan, Planned};
use crate::{Error, ModelManifest, Precision, shipped};
pub use error::layer_error;
use random::{Draws, Spread};

/// Whose networks are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// Stable Diffusion 1.5.
    Sd15,
    /// Stable Diffusion 2.1.
    Sd21,
    /// Stable Diffusion XL.
    Sdxl,
    /// The model that ships with the program.
    Shipped,
}

impl Arch {
    /// Width and height of the pictures that it was trained for.
    pub fn side(self) -> usize {
        match self {
            Arch::Sd15 => 512,
            Arch::Sd21 => 768,
            Arch::Sdxl => 1024,
            Arch::Shipped => 128,
        }
    }
}

/// Which network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The denoiser: one prediction, as every step of a run but the first computes it.
    Unet,
    /// The autoencoder: latents to pictures.
    Decoder,
    /// The autoencoder: pictures to latents.
    Encoder,
    /// The text encoder, or the larger one where there are two.
    Text,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NetworkOptions {
    /// Whose.
    pub arch: Arch,
    /// Which.
    pub part: Part,
    /// Images or prompts at once. Of a U-Net 2 is a guided step: one latent with two texts.
    pub batch: usize,
    /// Width and height of the pictures in pixels, a multiple of 8; [`Arch::side`] when `None`.
    pub side: Option<usize>,
    /// In which precision.
    pub precision: Precision,
    /// Threads; all processors when `None`.
    pub threads: Option<usize>,
    /// Runs that are timed, after one that is not.
    pub runs: usize,
    /// Whether to note where the time goes.
    pub by_layer: bool,
    /// Whether to compare the result with that of single precision.
    pub error: bool,
}

impl NetworkOptions {
    /// Texts that a U-Net looks at each latent with.
    fn texts(&self) -> usize {
        if self.batch == 2 { 2 } else { 1 }
    }
}

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkTimes {
    /// Seconds of each run, in order.
    pub seconds: Vec<f64>,
    /// Arithmetic of a run, as direct convolutions count it ([`Graph::flops`]).
    pub flops: f64,
    /// The same of what depends on the prompt alone, such as its keys and values: it runs once a prompt, before what is timed.
    pub prelude_flops: f64,
    /// Bytes of packed weights.
    pub weight_bytes: usize,
    /// Bytes of activations and scratch memory, and of what was computed of the prompt.
    pub arena_bytes: usize,
    /// Threads in use.
    pub threads: usize,
    /// With [`NetworkOptions::error`]: root mean square of the difference from single precision, over that of the result.
    pub error: Option<f64>,
    /// With [`NetworkOptions::by_layer`]: over all timed runs.
    pub profile: Option<Profile>,
}

impl NetworkTimes {
    /// Median seconds of a run.
    pub fn median_s(&self) -> f64 {
        velatura_cpu::bench::median(self.seconds.clone())
    }
}

/// Times a network.
///
/// # Errors
/// Sizes that the network does not take, too little memory, or when the caller stops it.
pub fn network(options: &NetworkOptions, cancel: &CancelToken) -> Result<NetworkTimes, Error> {
    let runtime = Runtime::new(options.threads);
    let graph = graph(options)?;
    let inputs = random_inputs(&graph);
    let given: Vec<(&str, Data<'_>)> =
        inputs.iter().map(|(name, data)| (name.as_str(), data.data())).collect();
    let prepare = |precision| prepare(&graph, options.part, precision, &runtime);
    let Prepared { mut plan, flops: [flops, prelude_flops], weight_bytes, arena_bytes } =
        prepare(options.precision)?;
    plan.run(&given, cancel)?;
    let mut profile = options.by_layer.then(|| Profile::new(runtime.isa));
    let mut seconds = Vec::new();
    for _ in 0..options.runs.max(1) {
        let start = Instant::now();
        match &mut profile {
            Some(profile) => {
                plan.run_observed(&given, cancel, |graph, node, took| profile.add(graph, node, took))?;
            }
            None => plan.run(&given, cancel)?,
        }
        seconds.push(start.elapsed().as_secs_f64());
    }
    let error = match options.error {
        true => {
            // The network's first result.
            let name = graph.outputs().first().map_or("", |(name, _)| name);
            let mut reference = prepare(Precision::F32)?.plan;
            reference.run(&given, cancel)?;
            Some(relative_error(plan.output(name)?, reference.output(name)?))
        }
        false => None,
    };
    Ok(NetworkTimes {
        seconds,
        flops,
        prelude_flops,
        weight_bytes,
        arena_bytes,
        threads: runtime.pool.threads(),
        error,
        profile,
    })
}

/// Root mean square of the difference, over that of the reference.
fn relative_error(found: &[f32], reference: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let difference: f64 =
        found.iter().zip(reference).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let size: f64 = reference.iter().map(|b| square(f64::from(*b))).sum();
    (difference / size).sqrt()
}

/// A network ready to be measured; the rest as in [`NetworkTimes`].
struct Prepared {
    plan: Plan,
    /// Of a run, and of what runs before the first.
    flops: [f64; 2],
    weight_bytes: usize,
    arena_bytes: usize,
}

/// Lowers and plans a network, and packs random weights.
fn prepare(
    graph: &Graph,
    part: Part,
    precision: Precision,
    runtime: &Arc<Runtime>,
) -> Result<Prepared, Error> {
    let parameters: HashMap<&str, (&ParameterInfo, usize)> =
        graph.parameters().iter().map(|p| (p.name.as_str(), (p, graph.ty(p.value).elements()))).collect();
    let denoiser = part == Part::Unet;
    let fixed: &[&str] = if denoiser { &names::FIXED } else { &[] };
    let planned = Planned::new(runtime, lowered(graph.clone(), precision, denoiser), fixed);
    let (flops, arena_bytes) = (planned.flops(), planned.activation_bytes());
    let store = WeightStore::new(runtime);
    let plan = Plan::new(runtime, planned, &store)?;
    let draws = Draws::new(1);
    store.load(&|name: &str| {
        let &(parameter, elements) = parameters.get(name)?;
        let numbers = draws.numbers(name, Spread::of(parameter.init), elements);
        Some(Values::F32(Cow::Owned(numbers)))
    })?;
    Ok(Prepared { plan, flops, weight_bytes: store.bytes(), arena_bytes })
}

fn graph(options: &NetworkOptions) -> Result<Graph, Error> {
    let side = options.side.unwrap_or(options.arch.side());
    let (unet, vae, text) = match options.arch {
        Arch::Sd15 => (UNetConfig::sd15(), AutoencoderConfig::sd(), TextConfig::clip_l()),
        Arch::Sd21 => (UNetConfig::sd21(), AutoencoderConfig::sd(), TextConfig::openclip_h()),
        Arch::Sdxl => (UNetConfig::sdxl(), AutoencoderConfig::sdxl(), TextConfig::openclip_g()),
        Arch::Shipped => return shipped_graph(options, side),
    };
    let builder = Builder::new();
    record(&builder, options, side / 8, &unet, &vae, &text);
    Ok(builder.finish()?)
}

fn record(
    builder: &Builder,
    options: &NetworkOptions,
    latent: usize,
    unet: &UNetConfig,
    vae: &AutoencoderConfig,
    text: &TextConfig,
) {
    let (batch, params) = (options.batch, builder.params());
    let image = |name: &str, side: usize, channels: usize| {
        builder.input(name, &[batch, side, side, channels], DType::F32)
    };
    let output = match options.part {
        Part::Unet => {
            let latents = batch / options.texts();
            let sample =
                builder.input(names::SAMPLE, &[latents, latent, latent, unet.in_channels], DType::F32);
            let timestep = builder.input(names::TIMESTEP, &[latents], DType::F32);
            let width = unet.cross_attention_dim.as_ref().and_then(|d| d.get(0)).copied().unwrap_or(0);
            let xl = unet.reads_pooled();
            unet.build(
                &params,
                UNetInputs {
                    context: Some(builder.input(names::CONTEXT, &[batch, CONTEXT, width], DType::F32)),
                    pooled: xl.then(|| builder.input(names::POOLED, &[batch, POOLED], DType::F32)),
                    time_ids: xl.then(|| builder.input(names::TIME_IDS, &[batch, 6], DType::F32)),
                    ..UNetInputs::new(sample, timestep)
                },
            )
        }
        Part::Decoder => vae.decode(&params, image("latent", latent, vae.latent_channels)),
        Part::Encoder => vae.encode(&params, image("picture", latent * 8, 3)).mean,
        Part::Text => {
            text.build(&params, TextInputs::new(builder.input("ids", &[batch, CONTEXT], DType::I32))).hidden
        }
    };
    builder.output("output", output);
}

/// Tokens of a prompt.
const CONTEXT: usize = 77;
/// Width of XL's pooled text.
const POOLED: usize = 1280;

fn shipped_graph(options: &NetworkOptions, side: usize) -> Result<Graph, Error> {
    let manifest: ModelManifest = ModelManifest::of(&shipped::file()?)?;
    let network = match options.part {
        Part::Unet => Network::Denoise {
            changes: Changes::default(),
            texts: options.texts(),
            tokens: manifest.context(),
        },
        Part::Decoder => Network::Decode,
        Part::Encoder => Network::Encode,
        Part::Text => {
            Network::Text { encoder: manifest.text_encoders.len() - 1, clip_skip: 1, replaced: false }
        }
    };
    let latent = side / manifest.autoencoder.downsampling();
    let graph: Result<Graph, GraphError> = network.graph(&manifest, options.batch, latent, latent);
    Ok(graph?)
}

enum Numbers {
    F32(Vec<f32>),
    I32(Vec<i32>),
}

impl Numbers {
    fn data(&self) -> Data<'_> {
        match self {
            Numbers::F32(x) => Data::F32(x),
            Numbers::I32(x) => Data::I32(x),
        }
    }
}

/// Noise for latents and texts; what has a meaning gets one.
fn random_inputs(graph: &Graph) -> Vec<(String, Numbers)> {
    let input = |(at, (name, value)): (usize, &(String, velatura_graph::ValueId))| {
        let ty = graph.ty(*value);
        let mut x = vec![0.0; ty.elements()];
        CounterRng::new(2, 0).at(at as u64).fill_normal(&mut x);
        let numbers = match (name.as_str(), ty.dtype) {
            ("end_rows", _) => Numbers::I32(vec![0; x.len()]),
            (_, DType::I32) => Numbers::I32(x.iter().map(|x| (x.abs() * 100.0) as i32 % 64).collect()),
            ("timestep", _) => Numbers::F32(vec![500.0; x.len()]),
            ("time_ids", _) => Numbers::F32(vec![1024.0; x.len()]),
            ("mask", _) => Numbers::F32(vec![1.0; x.len()]),
            _ => Numbers::F32(x),
        };
        (name.clone(), numbers)
    };
    graph.inputs().iter().enumerate().map(input).collect()
}
