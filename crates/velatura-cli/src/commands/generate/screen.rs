//! Pictures in the terminal: previews while they are made, and finished ones.

use std::io::{IsTerminal, Write};

use velatura::preview::{CleanLatents, Previewer};
use velatura::{Engine, Picture};

use super::args::{PreviewBy, ShowArgs};
use crate::failure::Failure;
use crate::graphics::{self, Frame, Protocol, Shown};
use crate::progress::Bar;
use crate::{models, terminal};

/// Rows of a preview and of a finished picture, where the terminal has as many.
const PREVIEW_ROWS: usize = 12;
const SHOWN_ROWS: usize = 24;
/// Previews side by side, at most.
const MOST_PREVIEWS: usize = 4;

/// What of the pictures the terminal shows. It all goes to standard error, as everything that is for people.
pub struct Screen {
    preview: Option<Preview>,
    /// Where finished pictures are shown.
    show: Option<Protocol>,
}

struct Preview {
    by: Previewer,
    frame: Frame,
    every: usize,
    /// Steps since the last one.
    steps: usize,
}

impl Screen {
    /// What was asked for, as far as the terminal can; nothing where standard error is none.
    ///
    /// # Errors
    /// A tiny autoencoder that cannot be used.
    pub fn new(args: &ShowArgs, engine: &Engine, quiet: bool) -> Result<Self, Failure> {
        let is_terminal = std::io::stderr().is_terminal();
        let protocol = Protocol::here().filter(|_| is_terminal);
        let asked = args.show || matches!(args.preview, PreviewBy::Linear | PreviewBy::Tiny(_));
        if asked && is_terminal && protocol.is_none() && !quiet {
            terminal::remark(&format!(
                "note: this terminal is not known to show pictures; set {}=kitty, iterm2 or sixel if it does",
                graphics::VARIABLE
            ));
        }
        // Found and opened in any case, so that a wrong name is told wherever the output goes.
        let by = match &args.preview {
            PreviewBy::Off => None,
            PreviewBy::Auto => Previewer::linear(engine),
            PreviewBy::Linear => {
                let linear = Previewer::linear(engine);
                if linear.is_none() && !quiet {
                    terminal::remark(
                        "note: no linear preview is known for this model's latents; --preview takes a tiny autoencoder",
                    );
                }
                linear
            }
            PreviewBy::Tiny(name) => Some(Previewer::tiny(engine, &models::locate(name, quiet)?)?),
        };
        let preview = by.zip(protocol).map(|(by, protocol)| Preview {
            by,
            frame: Frame::new(protocol, PREVIEW_ROWS),
            every: args.preview_every as usize,
            steps: 0,
        });
        Ok(Screen { preview, show: protocol.filter(|_| args.show) })
    }

    /// What makes the previews, where there are any.
    pub fn previewer(&self) -> Option<&Previewer> {
        self.preview.as_ref().map(|preview| &preview.by)
    }

    /// A step was done.
    pub fn step(&mut self, latents: &CleanLatents<'_>, bar: &Bar) {
        let Some(preview) = &mut self.preview else { return };
        preview.steps += 1;
        if preview.steps < preview.every {
            return;
        }
        preview.steps = 0;
        match preview.picture(latents) {
            Ok(Some(picture)) => {
                let drawn = preview.frame.draw(&picture);
                bar.suspend(|| put(&drawn));
            }
            Ok(None) => {}
            Err(error) => {
                bar.suspend(|| terminal::remark(&format!("note: no more previews: {error}")));
                self.preview = None;
            }
        }
    }

    /// Something else is about to be written.
    pub fn clear(&mut self, bar: &Bar) {
        if let Some(preview) = &mut self.preview {
            preview.steps = 0;
            let cleared = preview.frame.clear();
            bar.suspend(|| put(&cleared));
        }
    }

    /// A picture is finished.
    pub fn finished(&self, picture: &Picture, bar: &Bar) {
        let Picture { width, height, rgb, .. } = picture;
        self.sheet((*width, *height, rgb.clone()), bar);
    }

    /// A sheet of pictures is.
    pub fn sheet(&self, (width, height, rgb): (usize, usize, Vec<u8>), bar: &Bar) {
        if let Some(protocol) = self.show {
            let drawn = graphics::show(protocol, &Shown { width, height, rgb }, SHOWN_ROWS);
            bar.suspend(|| put(&drawn));
        }
    }
}

impl Preview {
    fn picture(&self, latents: &CleanLatents<'_>) -> Result<Option<Shown>, velatura::Error> {
        let mut shown = Vec::new();
        for image in 0..latents.images.min(MOST_PREVIEWS) {
            if let Some(preview) = self.by.picture(latents, image)? {
                shown.push(Shown { width: preview.width, height: preview.height, rgb: preview.rgb });
            }
        }
        Ok(Shown::side_by_side(&shown))
    }
}

/// Whether anyone sees it does not matter.
fn put(bytes: &[u8]) {
    let mut out = std::io::stderr().lock();
    let _ = out.write_all(bytes).and_then(|()| out.flush());
}
