//! The arguments, by subject. Each group changes a request by what was given.

mod guidance;
mod model;
mod output;
mod prompt;
mod sampling;
mod show;
mod size;
mod start;

use velatura::GenerateRequest;

use self::guidance::GuidanceArgs;
use self::model::ModelArgs;
pub use self::output::OutputArgs;
use self::prompt::{PromptArgs, read_text};
use self::sampling::SamplingArgs;
pub use self::show::{PreviewBy, ShowArgs};
use self::size::{SizeArgs, XlArgs};
use self::start::StartArgs;
use crate::failure::Failure;
use crate::parse;

/// Makes pictures from a prompt.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    velatura generate \"two red apples above a cat on a sky blue background\"\n  \
    velatura generate \"a panda\" --batch 4 --seed 7 --output 'panda-{seed}.png'\n  \
    velatura generate \"a panda\" --batch 16 --grid --output pandas.png\n  \
    velatura generate --prompts-from prompts.txt --output '{number:03}-{prompt}.png'\n  \
    velatura generate \"a panda\" --output panda.webp --quality 85\n  \
    velatura generate --from panda-7.png --steps 50\n  \
    velatura generate \"a panda in the snow\" --init panda-7.png --strength 0.6\n  \
    velatura generate \"a hat\" --init panda-7.png --mask head.png --model inpainting.safetensors\n  \
    echo \"a panda\" | velatura generate - --output - | feh -\n\n\
    Placeholders of --output: {seed} {index} {number} {prompt} {width} {height} {steps}; {index:03} pads with zeros.\n\
    {number} is the lowest that is free. Without --output pictures are named velatura-{number:04}.png. The extension says the format: png, jpg, webp.")]
pub struct Args {
    /// What the picture shows; `-` reads it from standard input
    #[arg(required_unless_present_any = ["from", "more", "prompts_from"])]
    prompt: Option<String>,
    /// One more prompt, with pictures of its own; may be given many times
    #[arg(long = "prompt", value_name = "PROMPT")]
    more: Vec<String>,
    /// A file with one prompt in each line (`-`: standard input), each with pictures of its own
    #[arg(long, value_name = "FILE")]
    prompts_from: Option<String>,
    /// Take the request from a picture of velatura, A1111 or ComfyUI (`-`: from standard input); other flags change it
    #[arg(long, value_name = "PICTURE")]
    pub from: Option<String>,
    /// Threads; all processors when not given. The picture does not depend on it
    #[arg(long, value_name = "N", value_parser = parse::threads, allow_negative_numbers = true, env = "VELATURA_THREADS")]
    pub threads: Option<usize>,
    /// Memory that may be used, like 6G or 6GiB; what the machine has free when not given. `velatura plan` shows what for
    #[arg(long, value_name = "BYTES", value_parser = parse::bytes, allow_negative_numbers = true, env = "VELATURA_MEMORY")]
    pub memory: Option<u64>,
    #[command(flatten)]
    pub prompts: PromptArgs,
    #[command(flatten)]
    size: SizeArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    guidance: GuidanceArgs,
    #[command(flatten)]
    start: StartArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    xl: XlArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub show: ShowArgs,
}

impl Args {
    /// A request for each prompt: that of the picture or a new one, changed by the flags.
    pub fn requests(&self, from: Option<&GenerateRequest>) -> Result<Vec<GenerateRequest>, Failure> {
        let request = self.request(from)?;
        let prompts = self.prompts()?;
        let mut requests: Vec<GenerateRequest> = if prompts.is_empty() {
            vec![request]
        } else {
            prompts.into_iter().map(|prompt| GenerateRequest { prompt, ..request.clone() }).collect()
        };
        requests.iter_mut().try_for_each(|request| self.prompts.style(request))?;
        Ok(requests)
    }

    /// The prompts in their order; none where the picture's is to stay.
    fn prompts(&self) -> Result<Vec<String>, Failure> {
        let inputs = [&self.prompt, &self.from, &self.prompts_from];
        if inputs.iter().filter(|input| input.as_deref() == Some("-")).count() > 1 {
            let two = "standard input can be one of the prompt, the file of prompts and the picture";
            return Err(Failure::Usage(two.into()));
        }
        let mut prompts = match self.prompt.as_deref() {
            Some("-") => {
                vec![read_text("-", "the prompt")?.trim_end_matches(['\r', '\n']).to_string()]
            }
            Some(prompt) => vec![prompt.to_string()],
            None => Vec::new(),
        };
        prompts.extend(self.more.iter().cloned());
        if let Some(file) = &self.prompts_from {
            let text = read_text(file, "the file of prompts")?;
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            let before = prompts.len();
            prompts.extend(lines.map(String::from));
            if prompts.len() == before {
                return Err(Failure::Usage(format!("there is no prompt in {file}; write one in each line")));
            }
        }
        Ok(prompts)
    }

    /// The request: that of the picture or a new one, changed by the flags other than the prompts.
    fn request(&self, from: Option<&GenerateRequest>) -> Result<GenerateRequest, Failure> {
        let mut request = from.cloned().unwrap_or_default();
        self.prompts.apply(&mut request);
        self.size.apply(&mut request);
        self.sampling.apply(&mut request, from.is_some());
        self.guidance.apply(&mut request);
        self.sampling.check(&request)?;
        self.start.apply(&mut request);
        self.model.apply(&mut request);
        self.xl.apply(&mut request);
        Ok(request)
    }
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
