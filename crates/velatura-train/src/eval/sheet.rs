//! The contact sheet: sample pictures with their prompts written under them.

use std::path::Path;
use std::sync::Once;

use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};
use velatura_scenes::RgbImage;

use crate::TrainError;
use crate::picture;

/// Pictures in a row, and rows.
pub const SIDE: usize = 8;
/// Least pixels of a picture on the sheet; smaller ones are enlarged by a whole factor.
const LEAST: u32 = 128;
const GAP: u32 = 8;
const FONT_SIZE: u32 = 11;
const LINE: u32 = 13;
const LINES: usize = 4;

/// Writes a PNG file with up to 64 pictures of one size and their prompts.
pub fn write(path: &Path, pictures: &[(RgbImage, String)]) -> Result<(), TrainError> {
    let failed =
        |e: &dyn std::fmt::Display| TrainError::Internal(format!("the contact sheet cannot be drawn: {e}"));
    let sheet = draw(pictures).map_err(|e| failed(&e))?;
    picture::save(path, &sheet)
}

fn draw(pictures: &[(RgbImage, String)]) -> Result<RgbImage, Box<dyn std::error::Error>> {
    static FONT: Once = Once::new();
    FONT.call_once(|| {
        // Drawing reports a font that could not be read.
        let _ = register_font("sans-serif", FontStyle::Normal, dejavu::sans::regular());
    });
    let pictures = &pictures[..pictures.len().min(SIDE * SIDE)];
    let Some((first, _)) = pictures.first() else { return Ok(RgbImage::new(1, 1)) };
    let enlarged = LEAST.div_ceil(first.width().max(1)).max(1);
    let (width, height) = (first.width() * enlarged, first.height() * enlarged);
    let columns = pictures.len().min(SIDE) as u32;
    let rows = (pictures.len() as u32).div_ceil(SIDE as u32);
    let step = (width + GAP, height + GAP + LINES as u32 * LINE);
    let size = (columns * step.0 + GAP, rows * step.1 + GAP);
    let mut sheet = RgbImage::from_pixel(size.0, size.1, image::Rgb([255; 3]));
    let place = |i: usize| (GAP + i as u32 % SIDE as u32 * step.0, GAP + i as u32 / SIDE as u32 * step.1);
    for (i, (picture, _)) in pictures.iter().enumerate() {
        let (x, y) = place(i);
        let filter = image::imageops::FilterType::Nearest;
        let large = image::imageops::resize(picture, width, height, filter);
        image::imageops::replace(&mut sheet, &large, i64::from(x), i64::from(y));
    }
    {
        let root = BitMapBackend::with_buffer(&mut sheet, size).into_drawing_area();
        let style = ("sans-serif", FONT_SIZE).into_text_style(&root).color(&BLACK);
        for (i, (_, prompt)) in pictures.iter().enumerate() {
            let (x, y) = place(i);
            let wide = |text: &str| root.estimate_text_size(text, &style).map(|(w, _)| w);
            let mut lines = vec![String::new()];
            for word in prompt.split_whitespace() {
                let last = lines.len() - 1;
                let longer =
                    format!("{}{}{word}", lines[last], if lines[last].is_empty() { "" } else { " " });
                if lines[last].is_empty() || wide(&longer)? <= width {
                    lines[last] = longer;
                } else {
                    lines.push(word.to_string());
                }
            }
            for (n, line) in lines.iter().take(LINES).enumerate() {
                root.draw_text(line, &style, (x as i32, (y + height + 1 + n as u32 * LINE) as i32))?;
            }
        }
        root.present()?;
    }
    Ok(sheet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_stand_in_rows_above_their_prompts() {
        let picture =
            |i: u8| (RgbImage::from_pixel(64, 64, image::Rgb([i, 200, 9])), "a red apple on teal".into());
        let sheet = draw(&(0..10).map(picture).collect::<Vec<_>>()).unwrap();
        assert_eq!(sheet.get_pixel(GAP, GAP).0, [0, 200, 9]);
        let second_row = GAP + LEAST + GAP + LINES as u32 * LINE;
        assert_eq!(sheet.get_pixel(GAP + LEAST + GAP, second_row).0, [9, 200, 9]);
        let dark = |y: std::ops::Range<u32>| {
            y.flat_map(|y| (0..LEAST).map(move |x| (x, y))).any(|(x, y)| sheet.get_pixel(x + GAP, y)[0] < 90)
        };
        assert!(dark(GAP + LEAST + 1..GAP + LEAST + 20), "no text under the first picture");
    }
}
