//! Where pictures go and what is said of them.

use velatura::{Encoding, Format};

use crate::failure::Failure;
use crate::naming;
use crate::parse;

/// Where pictures go.
#[derive(clap::Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// File, folder or pattern to write to; `-` is standard output
    #[arg(short, long, value_name = "PATTERN")]
    pub output: Option<String>,
    /// png, jpeg or webp, where the output's name does not say it
    #[arg(long, value_name = "FORMAT", value_parser = parse::format)]
    pub format: Option<Format>,
    /// 1 (small) to 100 (good): of a JPEG, 90 when not given, or of a WebP, which keeps every bit when not given
    #[arg(long, value_name = "N", value_parser = parse::quality, allow_negative_numbers = true)]
    pub quality: Option<u8>,
    /// One sheet of all pictures instead of a file for each
    #[arg(long)]
    pub grid: bool,
    /// Print what was made as JSON
    #[arg(long)]
    pub json: bool,
}

impl OutputArgs {
    /// How pictures are written: by the extension of the output's name, else by `--format`, else as PNG.
    pub fn encoding(&self) -> Result<Encoding, Failure> {
        let named = self.output.as_deref().filter(|name| *name != "-").and_then(naming::format);
        let format = match (named, self.format) {
            (Some(named), Some(asked)) if named != asked => {
                let (output, extension) = (self.output.as_deref().unwrap_or_default(), asked.extensions()[0]);
                return Err(Failure::Usage(format!(
                    "--format is {}, but the output is named {output}; end the name in .{extension} or leave one of \
                     them out",
                    asked.name()
                )));
            }
            (named, asked) => named.or(asked).unwrap_or_default(),
        };
        if format == Format::Png && self.quality.is_some() {
            return Err(Failure::Usage(
                "--quality is for JPEG and WebP; a PNG keeps every bit, so end the output's name in .jpg or .webp"
                    .into(),
            ));
        }
        Ok(Encoding { format, quality: self.quality })
    }
}
