//! `velatura generate PROMPT`

mod args;
mod output;
mod screen;

use std::collections::HashSet;
use std::io::Read;
use std::sync::Arc;
use std::time::Instant;

use velatura::picture::{PictureInfo, tile};
use velatura::{
    CancelToken, Encoding, Engine, EngineOptions, Error, GenerateRequest, Origin, Progress, SourceRef,
};

pub use self::args::Args;
use self::args::OutputArgs;
use self::output::{Target, check_stdout, keep, keep_grid, report, targets};
use self::screen::Screen;
use crate::failure::Failure;
use crate::progress::Bar;
use crate::{interrupt, models, terminal};

/// More of a prompt than this is not read from standard input.
const LONGEST_INPUT: u64 = 64 << 20;

/// Makes the pictures.
pub fn run(args: Args, quiet: bool) -> Result<(), Failure> {
    let from = args.from.as_deref().map(read_origin).transpose()?;
    let asked = args.requests(from.as_ref().map(|(request, _)| request))?;
    asked.iter().try_for_each(GenerateRequest::check)?;
    check_stdout(&args.output, &asked)?;
    let encoding = args.output.encoding()?;
    let embeddings = args.prompts.embeddings()?;
    let Some(first) = asked.first() else { return Ok(()) };
    // Ctrl-C ends a download at once; what arrived of it is kept.
    let located = models::located(first, quiet)?;
    let cancel = interrupt::token();
    let one_run = asked.len() == 1;
    let options = EngineOptions { threads: args.threads, memory: args.memory, one_run };
    let engine = Engine::for_request(&located, options)?;
    let engine = engine.with_embeddings(Arc::new(embeddings));
    let mut screen = Screen::new(&args.show, &engine, quiet)?;
    let engine = match screen.previewer() {
        Some(previewer) => engine.with_previewer(previewer),
        None => engine,
    };
    let plans = asked.iter().map(|asked| engine.plan_run(asked)).collect::<Result<Vec<_>, _>>()?;
    let mut decisions = Vec::new();
    for decision in plans.iter().flat_map(|plan| &plan.decisions) {
        let decision = decision.to_string();
        if !decisions.contains(&decision) {
            decisions.push(decision);
        }
    }
    let requests: Vec<GenerateRequest> = plans.into_iter().map(|plan| plan.request).collect();
    let targets = targets(&args.output, encoding, &requests)?;
    if let (Some((_, Some(origin))), Some(request)) = (&from, requests.first()) {
        warn_of_changes(origin, &engine, request)?;
    }
    if !quiet {
        for remark in engine.remarks() {
            terminal::remark(&format!("note: {remark}"));
        }
        if let Some(chosen) = requests.first().and_then(|request| chosen(&engine, first, request)) {
            terminal::remark(&format!("note: {chosen}"));
        }
        for decision in &decisions {
            terminal::remark(&format!("note: to fit into memory, {decision}"));
        }
        let mut said = HashSet::new();
        for warning in requests.iter().flat_map(|request| engine.request_warnings(request)) {
            let warning = warning.to_string();
            if said.insert(warning.clone()) {
                terminal::remark(&format!("warning: {warning}"));
            }
        }
    }
    let mut reports = Vec::new();
    let (mut finished, mut stopped) = (0, false);
    for (request, target) in requests.iter().zip(&targets) {
        let made = make(&args.output, encoding, &engine, (request, target), (&mut screen, &cancel), quiet)?;
        reports.push(made.report);
        finished += made.pictures;
        stopped = made.stopped;
        if stopped {
            break;
        }
    }
    if args.output.json {
        // One prompt's report stands alone.
        match (reports.pop(), requests.len()) {
            (Some(only), 1) => terminal::print_json(&only)?,
            (last, _) => terminal::print_json(&reports.into_iter().chain(last).collect::<Vec<_>>())?,
        }
    }
    if !stopped {
        return Ok(());
    }
    let all: u32 = requests.iter().map(|request| request.batch).sum();
    Err(Failure::Interrupted(match finished {
        0 => "interrupted; no picture was finished and nothing was written".to_string(),
        n => format!("interrupted; {n} of {all} pictures were finished and are kept"),
    }))
}

/// What came of a request.
struct Made {
    /// What was made, as JSON.
    report: serde_json::Value,
    /// How many pictures were finished.
    pictures: usize,
    /// Whether a person stopped it.
    stopped: bool,
}

/// Says which files are no longer what they were when a picture was made.
fn warn_of_changes(origin: &Origin, engine: &Engine, request: &GenerateRequest) -> Result<(), Failure> {
    let (was, is) = (&origin.model.hash, engine.model_ref().hash);
    if !was.is_empty() && *was != is {
        terminal::remark(&format!(
            "warning: the picture was made with another model file (hash {was}, this one is {is}); expect another picture"
        ));
    }
    let embeddings = engine.embeddings_of(request)?;
    for was in origin.embeddings.iter().filter(|was| !embeddings.contains(was)) {
        terminal::remark(&format!(
            "warning: the embedding {} (hash {}) is not there as it was when the picture was made, or is no longer named; expect another picture",
            was.name, was.hash
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
    args: &OutputArgs,
    encoding: Encoding,
    engine: &Engine,
    (request, target): (&GenerateRequest, &Target),
    (screen, cancel): (&mut Screen, &CancelToken),
    quiet: bool,
) -> Result<Made, Failure> {
    let began = Instant::now();
    let bar = Bar::new(quiet);
    let mut lost: Option<Failure> = None;
    let mut warnings = Vec::new();
    let stop = cancel.clone();
    let result = {
        let mut observe = |progress: Progress<'_>| match progress {
            Progress::Started { steps, .. } => bar.start(steps),
            Progress::Step { done, clean, .. } => {
                bar.set(done);
                screen.step(&clean, &bar);
            }
            Progress::Picture(picture) if !args.grid => {
                screen.clear(&bar);
                // Written at once, so that nothing that is finished can be lost any more.
                let kept = bar.suspend(|| keep(args, encoding, target, picture, quiet));
                match kept {
                    Ok(()) => screen.finished(picture, &bar),
                    Err(failure) => {
                        lost.get_or_insert(failure);
                        stop.cancel();
                    }
                }
            }
            Progress::Picture(_) => {}
            Progress::Warning(warning) => {
                if !quiet {
                    screen.clear(&bar);
                    bar.suspend(|| terminal::remark(&format!("warning: {warning}")));
                }
                warnings.push(warning.to_string());
            }
        };
        engine.generate(request, &mut observe, cancel)
    };
    screen.clear(&bar);
    bar.finish();
    if let Some(failure) = lost {
        return Err(failure);
    }
    let (pictures, stopped) = match result {
        Ok(made) => (made.pictures, false),
        Err(Error::Cancelled { finished, .. }) => (finished, true),
        Err(error) => return Err(error.into()),
    };
    if args.grid && !pictures.is_empty() {
        keep_grid(args, encoding, (target, request), &pictures, quiet)?;
        screen.sheet(tile(&pictures, 0), &bar);
    }
    let seconds = began.elapsed().as_secs_f64();
    let before = engine.request_warnings(request);
    warnings.splice(0..0, before.iter().map(ToString::to_string));
    let report = report(args, engine, request, target, &pictures, (seconds, warnings));
    tracing::info!(seconds, pictures = pictures.len(), "done");
    Ok(Made { report, pictures: pictures.len(), stopped })
}

/// The request that a picture carries, and how it was made where Velatura made it.
pub(super) fn read_origin(path: &str) -> Result<(GenerateRequest, Option<Origin>), Failure> {
    let (name, info) = if path == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().lock().take(LONGEST_INPUT).read_to_end(&mut bytes)?;
        ("standard input", PictureInfo::from_bytes("standard input", &bytes)?)
    } else {
        (path, PictureInfo::open(path)?)
    };
    let taken = info.taken_over();
    for left in taken.iter().flat_map(|taken| &taken.left_out) {
        terminal::remark(&format!("note: not taken over from {name}: {left}"));
    }
    let (mut request, origin) = (info.request(name)?, info.origin());
    if let Some(model) = taken.and_then(|taken| taken.model) {
        let found = models::of_another_tool(&model);
        terminal::remark(&match &found {
            Some(path) => format!("note: {name} was made with {model}; taking {}", path.display()),
            None => format!(
                "note: {name} was made with {model}, which is not in the models folder; --model takes one"
            ),
        });
        request.model = found.and_then(|path| path.into_os_string().into_string().ok());
    }
    // A1111 names a refiner without its path.
    if origin.is_none()
        && let Some(refiner) = request.refiner.take_if(|refiner| !models::is_here(refiner))
    {
        request.refiner_switch = None;
        terminal::remark(&format!(
            "note: {name} was refined by {refiner}, which is not in the models folder, so that is left out; --refiner takes one"
        ));
    }
    Ok((request, origin))
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
