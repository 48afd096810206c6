//! What of the pictures is shown in the terminal.

use std::str::FromStr;

use crate::parse;

/// What of the pictures is shown in the terminal.
#[derive(clap::Args)]
#[command(next_help_heading = "In the terminal")]
pub struct ShowArgs {
    /// Show what becomes of the picture at each step: off; auto, where the terminal shows pictures; linear, a rough colour for
    /// each pixel of the latent; or a tiny autoencoder (TAESD), as for --vae
    #[arg(long, value_name = "HOW", default_value = "off")]
    pub preview: PreviewBy,
    /// Steps from one of these to the next
    #[arg(long, value_name = "N", value_parser = parse::steps, default_value = "1", allow_negative_numbers = true)]
    pub preview_every: u32,
    /// Show the finished pictures (kitty, iTerm2 and sixel; VELATURA_GRAPHICS=kitty, iterm2, sixel or none decides where the
    /// terminal is not known)
    #[arg(long)]
    pub show: bool,
}

impl ShowArgs {
    /// The tiny autoencoder that makes previews.
    pub fn preview_by_model(&self) -> Option<&str> {
        match &self.preview {
            PreviewBy::Tiny(name) => Some(name),
            _ => None,
        }
    }
}

/// How pictures are made visible while they are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PreviewBy {
    Off,
    /// Linear, where the terminal shows pictures and the function is known.
    Auto,
    Linear,
    /// A tiny autoencoder.
    Tiny(String),
}

impl FromStr for PreviewBy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "" => return Err("must be off, auto, linear, or a tiny autoencoder's file".into()),
            "off" => PreviewBy::Off,
            "auto" => PreviewBy::Auto,
            "linear" => PreviewBy::Linear,
            file => PreviewBy::Tiny(file.into()),
        })
    }
}
