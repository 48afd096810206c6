//! `velatura generate PROMPT`

use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;
use std::time::Instant;

use serde_json::json;
use velatura::picture::{PictureInfo, grid};
use velatura::{
    CancelToken, Engine, EngineOptions, Error, GenerateRequest, Origin, Picture, Precision, Prediction,
    Progress, RngKind, SourceRef, Tiling,
};
use velatura_weights::atomic_write;

use crate::failure::Failure;
use crate::naming::{Pattern, check_all_writable};
use crate::progress::Bar;
use crate::{interrupt, models, parse, terminal};

/// More of a prompt than this is not read from standard input.
const LONGEST_INPUT: u64 = 64 << 20;

/// Makes pictures from a prompt.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    velatura generate \"two red apples above a cat on a sky blue background\"\n  \
    velatura generate \"a panda\" --batch 4 --seed 7 --output 'panda-{seed}.png'\n  \
    velatura generate \"a panda\" --batch 16 --grid --output pandas.png\n  \
    velatura generate --from panda-7.png --steps 50\n  \
    velatura generate \"a panda in the snow\" --init panda-7.png --strength 0.6\n  \
    velatura generate \"a hat\" --init panda-7.png --mask head.png --model inpainting.safetensors\n  \
    echo \"a panda\" | velatura generate - --output - | feh -\n\n\
    Placeholders of --output: {seed} {index} {number} {prompt} {width} {height} {steps}; {index:03} pads with zeros.\n\
    {number} is the lowest that is free. Without --output pictures are named velatura-{number:04}.png.")]
pub struct Args {
    /// What the picture shows; `-` reads it from standard input
    #[arg(required_unless_present = "from")]
    prompt: Option<String>,
    /// What it should not show
    #[arg(long, value_name = "PROMPT")]
    negative: Option<String>,
    /// A model: a file, a folder in diffusers' layout, a short name that `velatura models` lists, or a hub's owner/name,
    /// perhaps with @revision; the model that ships with velatura when not given
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Another autoencoder than the model's own: a file, a folder in diffusers' layout, or a name as for --model
    #[arg(long, value_name = "MODEL")]
    vae: Option<String>,
    /// A model that takes over towards the end, as the refiner of Stable Diffusion XL: as for --model
    #[arg(long, value_name = "MODEL")]
    refiner: Option<String>,
    /// Share of the way after which it does; 0.8 when not given
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    refiner_switch: Option<f32>,
    /// What the model predicts, where its file does not say or says it wrongly: eps, v, sample or flow
    #[arg(long, value_name = "NAME", value_parser = parse::prediction)]
    prediction: Option<Prediction>,
    /// Whether large pictures go through the autoencoder in tiles, which takes less memory: auto, on or off
    #[arg(long, value_name = "WHEN")]
    vae_tiling: Option<Tiling>,
    /// A picture to begin from: PNG, JPEG, WebP or BMP; its size is the default
    #[arg(long, value_name = "PICTURE")]
    init: Option<String>,
    /// How much of that picture may change, above 0 and up to 1
    #[arg(long, value_name = "X", value_parser = parse::strength, allow_negative_numbers = true)]
    strength: Option<f64>,
    /// White where that picture is to be made anew, black where it stays; a picture of the same size
    #[arg(long, value_name = "PICTURE")]
    mask: Option<String>,
    /// How closely a model that edits pictures keeps to the picture; 1 is no guidance
    #[arg(long, value_name = "X", value_parser = parse::image_guidance, allow_negative_numbers = true)]
    image_guidance: Option<f32>,
    /// How much noise an upscaler lays over the picture that it reads; more lets it invent more
    #[arg(long, value_name = "N", value_parser = parse::noise_level, allow_negative_numbers = true)]
    noise_level: Option<u32>,
    /// Seed of the first picture; the others count up from it
    #[arg(long, value_name = "N", value_parser = parse::seed, allow_negative_numbers = true)]
    seed: Option<u64>,
    /// Sampling steps
    #[arg(long, value_name = "N", value_parser = parse::steps, allow_negative_numbers = true)]
    steps: Option<u32>,
    /// How closely to follow the prompt; 1 is no guidance
    #[arg(long, value_name = "X", value_parser = parse::guidance, allow_negative_numbers = true)]
    guidance: Option<f32>,
    /// Width in pixels
    #[arg(long, value_name = "PIXELS", value_parser = parse::side, allow_negative_numbers = true)]
    width: Option<u32>,
    /// Height in pixels
    #[arg(long, value_name = "PIXELS", value_parser = parse::side, allow_negative_numbers = true)]
    height: Option<u32>,
    /// How many pictures
    #[arg(long, value_name = "N", value_parser = parse::batch, allow_negative_numbers = true)]
    batch: Option<u32>,
    /// Sampler; `velatura samplers` lists them
    #[arg(long, value_name = "NAME", value_parser = parse::sampler)]
    sampler: Option<String>,
    /// Spacing of the sampler's steps; `velatura samplers` lists them
    #[arg(long, value_name = "NAME", value_parser = parse::schedule)]
    schedule: Option<String>,
    /// Block of the text transformer to take the prompt from, counted from its end as A1111 counts; 1 is the model's own
    #[arg(long, value_name = "N", value_parser = parse::clip_skip, allow_negative_numbers = true)]
    clip_skip: Option<u32>,
    /// f32 or bf16; bf16 where the processor multiplies it when not given
    #[arg(long, value_name = "NAME", value_parser = parse::precision)]
    precision: Option<Precision>,
    /// Whose random numbers a seed stands for: cpu (ComfyUI, diffusers) or cuda (A1111)
    #[arg(long, value_name = "NAME", value_parser = parse::rng)]
    rng: Option<RngKind>,
    /// Stable Diffusion XL: size that the picture shall seem to have been scaled from; its own when not given
    #[arg(long, value_name = "WxH", value_parser = parse::size)]
    original_size: Option<[u32; 2]>,
    /// Stable Diffusion XL: pixels that shall seem to have been cut off at the left and top; 0,0 when not given
    #[arg(long, value_name = "X,Y", value_parser = parse::crop)]
    crop: Option<[u32; 2]>,
    /// Stable Diffusion XL: size that the picture shall seem to have; its own when not given
    #[arg(long, value_name = "WxH", value_parser = parse::size)]
    target_size: Option<[u32; 2]>,
    /// Refiner of Stable Diffusion XL: how much the picture shall be liked, 1 to 10; 6 when not given
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    aesthetic_score: Option<f32>,
    /// The same for what it shall not be; 2.5 when not given
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    negative_aesthetic_score: Option<f32>,
    /// Threads; all processors when not given. The picture does not depend on it
    #[arg(long, value_name = "N", value_parser = parse::threads, allow_negative_numbers = true, env = "VELATURA_THREADS")]
    threads: Option<usize>,
    /// File, folder or pattern to write to; `-` is standard output
    #[arg(short, long, value_name = "PATTERN")]
    output: Option<String>,
    /// One sheet of all pictures instead of a file for each
    #[arg(long)]
    grid: bool,
    /// Take the request from a picture of velatura, A1111 or ComfyUI (`-`: from standard input); other flags change it
    #[arg(long, value_name = "PICTURE")]
    from: Option<String>,
    /// Print what was made as JSON
    #[arg(long)]
    json: bool,
}

/// Where pictures go.
enum Target {
    Stdout,
    Files(Vec<PathBuf>),
}

/// Makes the pictures.
pub fn run(args: Args, quiet: bool) -> Result<(), Failure> {
    let from = args.from.as_deref().map(read_origin).transpose()?;
    let request = request(&args, from.as_ref().map(|(request, _)| request))?;
    request.check()?;
    check_stdout(&args, &request)?;
    // Ctrl-C ends a download at once; what arrived of it is kept.
    let located = models::located(&request, quiet)?;
    let cancel = interrupt::token();
    let engine = Engine::for_request(&located, EngineOptions { threads: args.threads })?;
    let asked = request;
    let request = engine.resolve(&asked)?;
    let target = target(&args, &request)?;
    if let Some((_, Some(origin))) = &from {
        warn_of_changes(origin, &engine, &request)?;
    }
    if !quiet {
        for remark in engine.remarks() {
            terminal::remark(&format!("note: {remark}"));
        }
        if let Some(chosen) = chosen(&engine, &asked, &request) {
            terminal::remark(&format!("note: {chosen}"));
        }
        for warning in engine.request_warnings(&request) {
            terminal::remark(&format!("warning: {warning}"));
        }
    }
    make(&args, &engine, &request, &target, &cancel, quiet)
}

/// Says which files are no longer what they were when a picture was made.
fn warn_of_changes(origin: &Origin, engine: &Engine, request: &GenerateRequest) -> Result<(), Failure> {
    let (was, is) = (&origin.model.hash, engine.model_ref().hash);
    if !was.is_empty() && *was != is {
        terminal::remark(&format!(
            "warning: the picture was made with another model file (hash {was}, this one is {is}); expect another picture"
        ));
    }
    let named = [&request.init, &request.mask];
    for source in origin.sources.iter().filter(|source| named.contains(&&Some(source.file.clone()))) {
        if SourceRef::of(&source.file)? != *source {
            terminal::remark(&format!(
                "warning: {} has changed since the picture was made; expect another picture",
                source.file
            ));
        }
    }
    Ok(())
}

fn make(
    args: &Args,
    engine: &Engine,
    request: &GenerateRequest,
    target: &Target,
    cancel: &CancelToken,
    quiet: bool,
) -> Result<(), Failure> {
    let began = Instant::now();
    let bar = Bar::new(quiet);
    let mut lost: Option<Failure> = None;
    let mut warnings = Vec::new();
    let stop = cancel.clone();
    let result = {
        let mut observe = |progress: Progress<'_>| match progress {
            Progress::Started { steps, .. } => bar.start(steps),
            Progress::Step { done, .. } => bar.set(done),
            Progress::Picture(picture) if !args.grid => {
                // Written at once, so that nothing that is finished can be lost any more.
                let kept = bar.suspend(|| keep(args, target, picture, quiet));
                if let Err(failure) = kept {
                    lost.get_or_insert(failure);
                    stop.cancel();
                }
            }
            Progress::Picture(_) => {}
            Progress::Warning(warning) => {
                if !quiet {
                    bar.suspend(|| terminal::remark(&format!("warning: {warning}")));
                }
                warnings.push(warning.to_string());
            }
        };
        engine.generate(request, &mut observe, cancel)
    };
    bar.finish();
    if let Some(failure) = lost {
        return Err(failure);
    }
    let (pictures, asked) = match result {
        Ok(made) => (made.pictures, None),
        Err(Error::Cancelled { finished, asked }) => (finished, Some(asked)),
        Err(error) => return Err(error.into()),
    };
    if args.grid && !pictures.is_empty() {
        keep_grid(args, target, request, &pictures, quiet)?;
    }
    let seconds = began.elapsed().as_secs_f64();
    if args.json {
        let before = engine.request_warnings(request);
        warnings.splice(0..0, before.iter().map(ToString::to_string));
        report(args, engine, request, target, &pictures, (seconds, warnings))?;
    }
    tracing::info!(seconds, pictures = pictures.len(), "done");
    match asked {
        None => Ok(()),
        Some(asked) => Err(Failure::Interrupted(match pictures.len() {
            0 => "interrupted; no picture was finished and nothing was written".to_string(),
            n => format!("interrupted; {n} of {asked} pictures were finished and are kept"),
        })),
    }
}

/// The request: that of the picture or a new one, changed by the flags.
fn request(args: &Args, from: Option<&GenerateRequest>) -> Result<GenerateRequest, Failure> {
    let mut request = from.cloned().unwrap_or_default();
    match args.prompt.as_deref() {
        Some("-") if args.from.as_deref() == Some("-") => {
            return Err(Failure::Usage("standard input cannot be both the prompt and the picture".into()));
        }
        Some("-") => request.prompt = read_prompt()?,
        Some(prompt) => request.prompt = prompt.to_string(),
        None => {}
    }
    fn set<T: Clone>(field: &mut T, flag: &Option<T>) {
        if let Some(value) = flag {
            *field = value.clone();
        }
    }
    fn set_some<T: Clone>(field: &mut Option<T>, flag: &Option<T>) {
        if flag.is_some() {
            field.clone_from(flag);
        }
    }
    set(&mut request.negative, &args.negative);
    set(&mut request.batch, &args.batch);
    set(&mut request.rng, &args.rng);
    set_some(&mut request.model, &args.model);
    set_some(&mut request.vae, &args.vae);
    set_some(&mut request.refiner, &args.refiner);
    set_some(&mut request.refiner_switch, &args.refiner_switch);
    set_some(&mut request.prediction, &args.prediction);
    set_some(&mut request.sizes.original_size, &args.original_size);
    set_some(&mut request.sizes.crop, &args.crop);
    set_some(&mut request.sizes.target_size, &args.target_size);
    set_some(&mut request.sizes.aesthetic_score, &args.aesthetic_score);
    set_some(&mut request.sizes.negative_aesthetic_score, &args.negative_aesthetic_score);
    set(&mut request.vae_tiling, &args.vae_tiling);
    set_some(&mut request.init, &args.init);
    set_some(&mut request.strength, &args.strength);
    set_some(&mut request.mask, &args.mask);
    set_some(&mut request.image_guidance, &args.image_guidance);
    set_some(&mut request.noise_level, &args.noise_level);
    set_some(&mut request.seed, &args.seed);
    set_some(&mut request.steps, &args.steps);
    set_some(&mut request.guidance, &args.guidance);
    set_some(&mut request.width, &args.width);
    set_some(&mut request.height, &args.height);
    set_some(&mut request.precision, &args.precision);
    set_some(&mut request.clip_skip, &args.clip_skip);
    if args.sampler.is_some() && args.schedule.is_none() && args.from.is_some() {
        // The new sampler's name may carry its own schedule; the picture's stays where it does not.
        let carries = args.sampler.as_deref().and_then(|s| velatura_samplers::parse_sampler(s).ok()?.1);
        if carries.is_some() {
            request.schedule = None;
        }
    }
    set_some(&mut request.sampler, &args.sampler);
    set_some(&mut request.schedule, &args.schedule);
    Ok(request)
}

/// The request that a picture carries, and how it was made where Velatura made it.
fn read_origin(path: &str) -> Result<(GenerateRequest, Option<Origin>), Failure> {
    let (name, info) = if path == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().lock().take(LONGEST_INPUT).read_to_end(&mut bytes)?;
        ("standard input", PictureInfo::from_bytes("standard input", &bytes)?)
    } else {
        (path, PictureInfo::open(path)?)
    };
    if let Some(workflow) = info.workflow() {
        for left in &workflow.left_out {
            terminal::remark(&format!("note: not taken over from {name}: {left}"));
        }
        if let Some(model) = &workflow.model {
            terminal::remark(&format!("note: {name} was made with {model}; --model takes one"));
        }
    }
    Ok((info.request(name)?, info.origin()))
}

fn read_prompt() -> Result<String, Failure> {
    let mut bytes = Vec::new();
    std::io::stdin().lock().take(LONGEST_INPUT).read_to_end(&mut bytes)?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text.trim_end_matches(['\r', '\n']).to_string()),
        Err(_) => Err(Failure::Usage("the prompt on standard input is not UTF-8 text".into())),
    }
}

fn check_stdout(args: &Args, request: &GenerateRequest) -> Result<(), Failure> {
    if args.output.as_deref() != Some("-") {
        return Ok(());
    }
    if args.json {
        return Err(Failure::Usage("--json and --output - both want standard output; name a file".into()));
    }
    if request.batch > 1 && !args.grid {
        return Err(Failure::Usage(
            "standard output takes one picture; add --grid for one sheet, or name files".into(),
        ));
    }
    if std::io::stdout().is_terminal() {
        return Err(Failure::Usage(
            "--output - would write a PNG to the terminal; pipe it or name a file".into(),
        ));
    }
    Ok(())
}

fn target(args: &Args, request: &GenerateRequest) -> Result<Target, Failure> {
    if args.output.as_deref() == Some("-") {
        return Ok(Target::Stdout);
    }
    let files = if args.grid { 1 } else { request.batch as usize };
    let names = Pattern::new(args.output.as_deref(), files)?.names(request, files)?;
    check_all_writable(&names)?;
    Ok(Target::Files(names))
}

/// What the program chose for a model that has no defaults of its own.
fn chosen(engine: &Engine, asked: &GenerateRequest, resolved: &GenerateRequest) -> Option<String> {
    let own = engine.file().is_some();
    let all = asked.steps.is_some() && asked.guidance.is_some() && asked.sampler.is_some();
    if own || all {
        return None;
    }
    let (sampler, schedule) = (resolved.sampler.as_deref()?, resolved.schedule.as_deref()?);
    let (steps, guidance) = (resolved.steps?, resolved.guidance?);
    Some(format!("{steps} steps of {sampler}, {schedule}, guidance {guidance}"))
}

/// Writes a finished picture and says its name.
fn keep(args: &Args, target: &Target, picture: &Picture, quiet: bool) -> Result<(), Failure> {
    let png = picture.png()?;
    write(args, target, picture.index, &png, quiet)
}

fn keep_grid(
    args: &Args,
    target: &Target,
    request: &GenerateRequest,
    pictures: &[Picture],
    quiet: bool,
) -> Result<(), Failure> {
    let mut pictures = pictures.to_vec();
    if let Some(first) = pictures.first_mut() {
        // The sheet is made again by the whole request.
        first.origin.request = request.clone();
    }
    write(args, target, 0, &grid(&pictures, 0)?, quiet)
}

fn write(args: &Args, target: &Target, index: usize, png: &[u8], quiet: bool) -> Result<(), Failure> {
    match target {
        Target::Stdout => {
            let mut out = std::io::stdout().lock();
            out.write_all(png)?;
            Ok(out.flush()?)
        }
        Target::Files(names) => {
            let Some(name) = names.get(index) else {
                return Err(Failure::Failed(format!("picture {index} has no name")));
            };
            let replaced = name.is_file();
            atomic_write(name, |out| out.write_all(png))?;
            if replaced && !quiet {
                terminal::remark(&format!("note: {} was there already and is replaced", name.display()));
            }
            if args.json { Ok(()) } else { terminal::print_line(&name.display().to_string()) }
        }
    }
}

fn report(
    args: &Args,
    engine: &Engine,
    request: &GenerateRequest,
    target: &Target,
    pictures: &[Picture],
    (seconds, warnings): (f64, Vec<String>),
) -> Result<(), Failure> {
    let name = |index: usize| match target {
        Target::Files(names) => names.get(index).map(|n| n.display().to_string()),
        Target::Stdout => None,
    };
    let list: Vec<_> = pictures
        .iter()
        .map(|p| {
            let file = name(if args.grid { 0 } else { p.index });
            json!({"file": file, "seed": p.seed(), "width": p.width, "height": p.height})
        })
        .collect();
    terminal::print_json(&json!({
        "pictures": list,
        "request": request,
        "model": engine.model_ref(),
        "warnings": warnings,
        "seconds": seconds,
    }))
}
