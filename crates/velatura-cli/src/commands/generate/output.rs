//! Where pictures go.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use serde_json::json;
use velatura::picture::LONGEST_JPEG_TEXT;
use velatura::picture::grid;
use velatura::{Encoding, Engine, Format, GenerateRequest, Picture};
use velatura_weights::atomic_write;

use super::args::OutputArgs;
use crate::failure::Failure;
use crate::naming::{Pattern, check_all_writable};
use crate::terminal;

/// Where pictures go.
pub enum Target {
    Stdout,
    Files(Vec<PathBuf>),
}

/// Whether standard output can take what is asked for.
pub fn check_stdout(args: &OutputArgs, requests: &[GenerateRequest]) -> Result<(), Failure> {
    if args.output.as_deref() != Some("-") {
        return Ok(());
    }
    if args.json {
        return Err(Failure::Usage("--json and --output - both want standard output; name a file".into()));
    }
    let pictures = |request: &GenerateRequest| request.seeds.each.len().max(request.batch as usize);
    if requests.len() > 1 || requests.iter().any(|request| pictures(request) > 1 && !args.grid) {
        return Err(Failure::Usage(
            "standard output takes one picture; name files, or add --grid for one sheet of one prompt's"
                .into(),
        ));
    }
    if std::io::stdout().is_terminal() {
        return Err(Failure::Usage(
            "--output - would write the picture's bytes to the terminal; pipe it or name a file".into(),
        ));
    }
    Ok(())
}

/// Where the pictures of each request go.
pub fn targets(
    args: &OutputArgs,
    encoding: Encoding,
    requests: &[GenerateRequest],
) -> Result<Vec<Target>, Failure> {
    requests.iter().try_for_each(|request| check_format(encoding, request))?;
    if args.output.as_deref() == Some("-") {
        return Ok(requests.iter().map(|_| Target::Stdout).collect());
    }
    let count = |request: &GenerateRequest| if args.grid { 1 } else { request.batch as usize };
    let files =
        requests.iter().flat_map(|request| (0..count(request)).map(|index| request.of_picture(index)));
    let names = Pattern::new(args.output.as_deref(), encoding.format)?.names(&files.collect::<Vec<_>>())?;
    check_all_writable(&names)?;
    let mut names = names.into_iter();
    Ok(requests.iter().map(|request| Target::Files(names.by_ref().take(count(request)).collect())).collect())
}

/// Whether the format can hold a picture and how it was made, found out before it is made.
fn check_format(encoding: Encoding, request: &GenerateRequest) -> Result<(), Failure> {
    let side = |side: Option<u32>| side.unwrap_or_default() as usize;
    encoding.check(side(request.width), side(request.height))?;
    let bytes = request.prompt.len() + request.negative.len();
    if encoding.format == Format::Jpeg && bytes > LONGEST_JPEG_TEXT {
        return Err(Failure::Usage(format!(
            "prompt and negative prompt have {bytes} bytes, and a JPEG file has room for {LONGEST_JPEG_TEXT}; write PNG or \
             WebP"
        )));
    }
    Ok(())
}

/// Writes a finished picture and says its name.
pub fn keep(
    args: &OutputArgs,
    encoding: Encoding,
    target: &Target,
    picture: &Picture,
    quiet: bool,
) -> Result<(), Failure> {
    write(args, target, picture.index, &picture.file(encoding)?, quiet)
}

pub fn keep_grid(
    args: &OutputArgs,
    encoding: Encoding,
    (target, request): (&Target, &GenerateRequest),
    pictures: &[Picture],
    quiet: bool,
) -> Result<(), Failure> {
    let mut pictures = pictures.to_vec();
    if let Some(first) = pictures.first_mut() {
        // The sheet is made again by the whole request.
        first.origin.request = request.clone();
    }
    write(args, target, 0, &grid(&pictures, 0, encoding)?, quiet)
}

pub fn write(
    args: &OutputArgs,
    target: &Target,
    index: usize,
    file: &[u8],
    quiet: bool,
) -> Result<(), Failure> {
    match target {
        Target::Stdout => {
            let mut out = std::io::stdout().lock();
            out.write_all(file)?;
            Ok(out.flush()?)
        }
        Target::Files(names) => {
            let Some(name) = names.get(index) else {
                return Err(Failure::Failed(format!("picture {index} has no name")));
            };
            let replaced = name.is_file();
            atomic_write(name, |out| out.write_all(file))?;
            if replaced && !quiet {
                terminal::remark(&format!("note: {} was there already and is replaced", name.display()));
            }
            if args.json { Ok(()) } else { terminal::print_line(&name.display().to_string()) }
        }
    }
}

/// What was made, as JSON.
pub fn report(
    args: &OutputArgs,
    engine: &Engine,
    request: &GenerateRequest,
    target: &Target,
    pictures: &[Picture],
    (seconds, warnings): (f64, Vec<String>),
) -> serde_json::Value {
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
    json!({
        "pictures": list,
        "request": request,
        "model": engine.model_ref(),
        "warnings": warnings,
        "seconds": seconds,
    })
}
