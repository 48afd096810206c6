//! `velatura convert FROM TO`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use velatura_text::ClipTokenizer;
use velatura_weights::{
    Checkpoint, DType, Family, GgufType, OpenOptions, PartKind, SaveOptions, SaveProgress, Storage,
    TensorEntry, TensorSource, WeightsError, check_writable,
};

use crate::failure::Failure;
use crate::progress::Bar;
use crate::{interrupt, models, terminal};

/// Writes a model in another layout or format.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    velatura convert v1-5-pruned-emaonly.ckpt v1-5.safetensors\n  \
    velatura convert stable-diffusion-v1-5 v1-5.gguf --storage q8_0\n  \
    velatura convert v1-5.safetensors stable-diffusion-v1-5/ --storage f16\n  \
    velatura convert sdxl.safetensors sdxl-vae.safetensors --parts vae\n\n\
    Without --format the extension of TO decides: .safetensors is ldm, .gguf is gguf, a folder is diffusers.\n\
    What TO cannot hold is said and nothing is written, unless --lossy is given.")]
pub struct Args {
    /// A model: a file of any format that is read, a folder in diffusers' layout, or a name as for generate --model
    from: String,
    /// The file or folder to write
    to: PathBuf,
    /// diffusers (a folder), ldm (one safetensors file in the original naming) or gguf
    #[arg(long, value_name = "NAME")]
    format: Option<Format>,
    /// f32, f16, bf16, or for GGUF f16 or q8_0; as it is stored now when not given
    #[arg(long, value_name = "NAME")]
    storage: Option<Stored>,
    /// Which of a folder's variants to read, for example fp16
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,
    /// Only these parts: unet, vae, text_encoder, text_encoder_2
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = part)]
    parts: Vec<PartKind>,
    /// Write although something is lost; what it is, is said
    #[arg(long)]
    lossy: bool,
    /// Replace a file that is there
    #[arg(long)]
    force: bool,
}

/// Layouts that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Diffusers,
    Ldm,
    Gguf,
}

/// How numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Stored {
    F32,
    F16,
    Bf16,
    #[value(name = "q8_0")]
    Q8_0,
}

fn part(text: &str) -> Result<PartKind, String> {
    let found = PartKind::ALL.iter().find(|kind| kind.name() == text.trim());
    found.copied().ok_or_else(|| "must be unet, vae, text_encoder or text_encoder_2".to_string())
}

/// Converts.
pub fn run(args: &Args, quiet: bool) -> Result<(), Failure> {
    let format = format(args)?;
    let to = args.to.as_path();
    if format != Format::Diffusers {
        if to.is_file() && !args.force {
            return Err(Failure::Usage(format!("{} is there already; --force replaces it", to.display())));
        }
        check_writable(to)?;
    }
    let from = models::locate(&args.from, quiet)?;
    // What is to be written need not be there; its folder is.
    let place = to.canonicalize().or_else(|_| to.parent().unwrap_or(to).canonicalize());
    if let (Ok(whole), Ok(place)) = (from.canonicalize(), place)
        && place.starts_with(&whole)
    {
        return Err(Failure::Usage("what is read and what is written are the same".into()));
    }
    let mut model = Checkpoint::open(&from, &OpenOptions { variant: args.variant.clone() })?;
    if let Some(lacking) = args.parts.iter().find(|kind| model.part(**kind).is_none()) {
        let has: Vec<&str> = model.parts().iter().map(|part| part.kind.name()).collect();
        return Err(Failure::Usage(format!("{} has no {lacking}; it has {}", args.from, has.join(", "))));
    }
    let lost = lost(args, &model, format);
    if !args.parts.is_empty() {
        model.keep_parts(&args.parts);
    }
    let lost = [lost, lost_in(&model, format)?].concat();
    if !lost.is_empty() && !args.lossy {
        return Err(Failure::Failed(format!(
            "{} cannot say all of {}, and nothing was written; --lossy writes it without:\n  {}",
            to.display(),
            args.from,
            lost.join("\n  ")
        )));
    }
    if !quiet {
        lost.iter().for_each(|what| terminal::remark(&format!("warning: left out: {what}")));
        if model.scaled() > 0 && args.storage.is_none() && format != Format::Gguf {
            let n = model.scaled();
            terminal::remark(&format!(
                "note: {n} scaled weights are written as f32, which holds all of them; --storage f16 takes half"
            ));
        }
        remarks(&model).iter().for_each(|what| terminal::remark(&format!("note: not written: {what}")));
    }
    write(args, &model, format, quiet)
}

fn format(args: &Args) -> Result<Format, Failure> {
    let ending = args.to.extension().map(|e| e.to_string_lossy().to_lowercase());
    let folder = args.to.is_dir() || args.to.as_os_str().to_string_lossy().ends_with(std::path::is_separator);
    let format = match (args.format, ending.as_deref()) {
        (Some(format), _) => format,
        _ if folder => Format::Diffusers,
        (_, Some("safetensors")) => Format::Ldm,
        (_, Some("gguf")) => Format::Gguf,
        (_, Some(other @ ("ckpt" | "pt" | "pth" | "bin"))) => {
            return Err(Failure::Usage(format!(
                ".{other} files are read and not written, since pickles can hold code; end the name in .safetensors"
            )));
        }
        _ => Format::Diffusers,
    };
    match (format, args.storage) {
        (Format::Gguf, Some(Stored::F32 | Stored::Bf16)) => {
            Err(Failure::Usage("GGUF is written with --storage f16 or q8_0".into()))
        }
        (Format::Diffusers | Format::Ldm, Some(Stored::Q8_0)) => {
            Err(Failure::Usage("--storage q8_0 is GGUF's; end the name in .gguf or choose f16".into()))
        }
        _ => Ok(format),
    }
}

/// What is lost whichever parts are written.
fn lost(args: &Args, model: &Checkpoint, format: Format) -> Vec<String> {
    let mut lost = Vec::new();
    if args.parts.is_empty() && !model.unmatched().is_empty() {
        let some: Vec<&str> = model.unmatched().iter().take(3).map(String::as_str).collect();
        let n = model.unmatched().len();
        lost.push(format!("{n} tensors that belong to no known part ({})", some.join(", ")));
    }
    if format != Format::Diffusers {
        for (folder, pad) in tokenizers(model) {
            let own = ClipTokenizer::from_folder(&model.path().join(folder));
            if own.is_ok_and(|own| !own.is_openai_padded(pad)) {
                lost.push(format!("{folder}, which is not OpenAI's with the family's padding"));
            }
        }
    }
    lost
}

/// What is lost of the parts that are written.
fn lost_in(model: &Checkpoint, format: Format) -> Result<Vec<String>, Failure> {
    Ok(match format {
        Format::Diffusers => Vec::new(),
        Format::Ldm => model.lost_in_single_file(),
        Format::Gguf => model.lost_in_gguf(),
    })
}

/// What no layout takes over and nobody will miss.
fn remarks(model: &Checkpoint) -> Vec<String> {
    let mut left: BTreeMap<&str, usize> = BTreeMap::new();
    model.unused().iter().for_each(|(_, reason)| *left.entry(reason).or_default() += 1);
    let tensors = left.into_iter().map(|(reason, n)| format!("{n} tensors: {reason}"));
    let folders = ["safety_checker", "feature_extractor", "image_encoder", "text_encoder_3", "transformer"];
    let folders = folders.iter().filter(|f| model.path().join(f).is_dir()).map(|f| format!("its folder {f}"));
    tensors.chain(folders).collect()
}

fn write(args: &Args, model: &Checkpoint, format: Format, quiet: bool) -> Result<(), Failure> {
    let mut options = SaveOptions {
        storage: match args.storage {
            None | Some(Stored::Q8_0) => None,
            Some(Stored::F32) => Some(Storage::F32),
            Some(Stored::F16) => Some(Storage::F16),
            Some(Stored::Bf16) => Some(Storage::Bf16),
        },
        ..SaveOptions::default()
    };
    let kind = match args.storage {
        Some(Stored::Q8_0) => GgufType::Q8_0,
        _ => GgufType::F16,
    };
    let tensors = model.tensors();
    let narrowed = |e: &&TensorEntry| e.shape.len() > 1 && !matches!(e.dtype, DType::F16 | DType::Q8_0);
    if format == Format::Gguf && args.storage.is_none() && tensors.tensors().values().any(|e| narrowed(&e)) {
        return Err(Failure::Usage(
            "GGUF stores matrices as f16 or q8_0, which rounds this model's numbers; say --storage f16 or --storage q8_0"
                .into(),
        ));
    }
    let bar = Bar::percent(quiet);
    bar.start(tensors.tensors().values().map(TensorEntry::elements).sum());
    let cancel = interrupt::token();
    let (watched, asked) = (bar.clone(), cancel.clone());
    let progress = SaveProgress::new(move |elements| {
        watched.set(elements as usize);
        !asked.is_cancelled()
    });
    let result = match format {
        Format::Ldm => {
            options.progress = progress;
            model.write_single_file(&args.to, &options)
        }
        Format::Gguf => model.write_gguf(&args.to, kind, &progress),
        Format::Diffusers => {
            options.progress = progress;
            options.files = tokenizer_files(model)?;
            model.write_diffusers(&args.to, &options)
        }
    };
    bar.finish();
    match result {
        Ok(()) => terminal::print_line(&args.to.display().to_string()),
        Err(WeightsError::Write { .. }) if cancel.is_cancelled() => {
            Err(Failure::Interrupted("interrupted; nothing was written".into()))
        }
        Err(error) => Err(error.into()),
    }
}

/// The folders of the tokenizers, with the ids that the family pads with, of the text encoders that are there.
fn tokenizers(model: &Checkpoint) -> Vec<(&'static str, i32)> {
    let first = match model.family() {
        Some(Family::Sd2 | Family::X4Upscaler) => 0,
        _ => ClipTokenizer::OPENAI_END,
    };
    let all = [(PartKind::TextEncoder, "tokenizer", first), (PartKind::TextEncoder2, "tokenizer_2", 0)];
    all.into_iter().filter(|(kind, ..)| model.part(*kind).is_some()).map(|(_, f, pad)| (f, pad)).collect()
}

/// The model's own tokenizers, or OpenAI's with the family's padding.
fn tokenizer_files(model: &Checkpoint) -> Result<BTreeMap<PathBuf, Vec<u8>>, Failure> {
    const NAMES: [&str; 6] = [
        "added_tokens.json",
        "merges.txt",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
    ];
    let mut files = BTreeMap::new();
    for (folder, pad) in tokenizers(model) {
        let own = model.path().join(folder);
        if own.is_dir() {
            for name in NAMES {
                let file = own.join(name);
                if file.is_file() {
                    let read = std::fs::read(&file);
                    let bytes = read.map_err(|source| WeightsError::Read { file: file.clone(), source })?;
                    files.insert(Path::new(folder).join(name), bytes);
                }
            }
            continue;
        }
        let pad = if pad == 0 { "!" } else { "<|endoftext|>" };
        for (name, text) in ClipTokenizer::openai_files(pad) {
            files.insert(Path::new(folder).join(name), text.into_bytes());
        }
    }
    Ok(files)
}
