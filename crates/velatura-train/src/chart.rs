//! Charts as PNG files.

use std::path::Path;
use std::sync::Once;

use image::imageops::{FilterType, resize};
use plotters::coord::Shift;
use plotters::prelude::{BitMapBackend, DrawingArea, IntoDrawingArea, WHITE};
use plotters::style::{FontStyle, register_font};
use velatura_scenes::RgbImage;

use crate::TrainError;
use crate::picture;

/// Where a chart is drawn: white, in pixels from the top left.
pub type Paper<'a> = DrawingArea<BitMapBackend<'a>, Shift>;

/// The font of charts, for labels that fit into a chart whatever the system has.
pub const FONT: &str = "sans-serif";

/// Draws a chart of this width and height, and writes it as PNG, whole or not at all. `oversampling` says how many times as
/// wide and high the paper is that `plot` draws on: its pixels are averaged, so that slanted lines and circles are smooth.
///
/// # Errors
/// What `plot` says, or a file that cannot be written.
pub fn draw(
    output: &Path,
    (width, height): (u32, u32),
    oversampling: u32,
    plot: impl FnOnce(&Paper<'_>) -> Result<(), Box<dyn std::error::Error>>,
) -> Result<(), TrainError> {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        // A font that cannot be read leaves the chart without labels, which the drawing then reports.
        let _ = register_font(FONT, FontStyle::Normal, dejavu::sans::regular());
    });
    let failed =
        |reason: &dyn std::fmt::Display| TrainError::Internal(format!("no chart can be drawn: {reason}"));
    let large = (width * oversampling, height * oversampling);
    let mut pixels = vec![255; large.0 as usize * large.1 as usize * 3];
    {
        let paper = BitMapBackend::with_buffer(&mut pixels, large).into_drawing_area();
        paper.fill(&WHITE).map_err(|e| failed(&e))?;
        plot(&paper).map_err(|e| failed(&e))?;
        paper.present().map_err(|e| failed(&e))?;
    }
    let image = RgbImage::from_raw(large.0, large.1, pixels).ok_or_else(|| failed(&"its size"))?;
    let image = if oversampling == 1 { image } else { resize(&image, width, height, FilterType::Triangle) };
    picture::save(output, &image)
}
