//! The drawings, decoded once from the bitmaps of an emoji font.

use std::path::Path;

use image::ImageFormat;

use crate::SceneError;
use crate::resample::{Pixel, Raster};
use crate::vocabulary::{ColorId, GlyphId};

/// Where the Debian package fonts-noto-color-emoji installs the font.
pub const DEFAULT_FONT: &str = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf";

/// Least part of a drawing that must stand out from a background for the two to be used together.
const LEAST_CONTRAST: f32 = 0.49;

/// The drawings of a vocabulary, or of a subset of it. About 40 MB for the whole.
#[derive(Debug)]
pub struct Glyphs {
    drawings: Vec<Option<Drawing>>,
    present: Vec<GlyphId>,
}

/// One drawing, cropped to what is visible, with smaller versions for fast shrinking.
#[derive(Debug)]
struct Drawing {
    levels: Vec<Raster>,
    /// For each background colour, the part of the drawing that stands out from it.
    contrast: Vec<f32>,
}

impl Glyphs {
    /// Loads the whole vocabulary. Takes about 50 ms.
    ///
    /// # Errors
    /// When the font does not exist, cannot be read, or lacks any glyph of the vocabulary (all are named).
    pub fn load(font: impl AsRef<Path>) -> Result<Self, SceneError> {
        let (font, path) = (read_font(font.as_ref())?, font.as_ref());
        Self::decode(&font, path, &GlyphId::all().collect::<Vec<_>>())
    }

    /// Loads those glyphs of the vocabulary that the font has.
    ///
    /// # Errors
    /// When the font does not exist, cannot be read, or has none of them.
    pub fn load_subset(font: impl AsRef<Path>) -> Result<Self, SceneError> {
        let (font, path) = (read_font(font.as_ref())?, font.as_ref());
        let face = parse_face(&font, path)?;
        let present: Vec<GlyphId> =
            GlyphId::all().filter(|id| face.glyph_index(id.entry().character).is_some()).collect();
        if present.is_empty() {
            let names = GlyphId::all().map(|id| id.name().to_owned()).collect();
            return Err(SceneError::GlyphsMissing { path: path.to_owned(), names });
        }
        Self::decode(&font, path, &present)
    }

    /// Loads the glyphs with these exact names only.
    ///
    /// # Errors
    /// When a name is unknown, or the font does not exist, cannot be read, or lacks one of them.
    pub fn load_named<S: AsRef<str>>(font: impl AsRef<Path>, names: &[S]) -> Result<Self, SceneError> {
        let mut wanted = Vec::with_capacity(names.len());
        for name in names.iter().map(AsRef::as_ref) {
            let id = GlyphId::named(name).ok_or_else(|| unknown_glyph(name))?;
            if !wanted.contains(&id) {
                wanted.push(id);
            }
        }
        wanted.sort();
        let (font, path) = (read_font(font.as_ref())?, font.as_ref());
        Self::decode(&font, path, &wanted)
    }

    fn decode(font: &[u8], path: &Path, wanted: &[GlyphId]) -> Result<Self, SceneError> {
        let face = parse_face(font, path)?;
        let mut drawings: Vec<Option<Drawing>> = GlyphId::all().map(|_| None).collect();
        let mut missing = Vec::new();
        for &id in wanted {
            let bitmap = face
                .glyph_index(id.entry().character)
                .and_then(|glyph| face.glyph_raster_image(glyph, u16::MAX))
                .filter(|bitmap| bitmap.format == ttf_parser::RasterImageFormat::PNG);
            let Some(bitmap) = bitmap else {
                missing.push(id.name().to_owned());
                continue;
            };
            let drawing = Drawing::decode(bitmap.data).map_err(|reason| SceneError::FontUnreadable {
                path: path.to_owned(),
                reason: format!("the bitmap of \"{}\": {reason}", id.name()),
            })?;
            drawings[id.index()] = Some(drawing);
        }
        if !missing.is_empty() {
            return Err(SceneError::GlyphsMissing { path: path.to_owned(), names: missing });
        }
        Ok(Self { drawings, present: wanted.to_vec() })
    }

    /// The glyphs that are loaded, in the vocabulary's order.
    pub fn present(&self) -> &[GlyphId] {
        &self.present
    }

    /// True when the drawing of `glyph` is loaded.
    pub fn contains(&self, glyph: GlyphId) -> bool {
        self.drawings[glyph.index()].is_some()
    }

    /// True when `glyph` is loaded and stands out well enough from `background` to be seen.
    ///
    /// Training and measuring leave out the pairs for which it does not (a skull on white).
    pub fn stands_out(&self, glyph: GlyphId, background: ColorId) -> bool {
        self.drawings[glyph.index()]
            .as_ref()
            .is_some_and(|drawing| drawing.contrast[background.index()] >= LEAST_CONTRAST)
    }

    /// The smallest stored version of a drawing that need not be enlarged to `side` pixels.
    pub(crate) fn level(&self, glyph: GlyphId, side: f32) -> Option<&Raster> {
        let levels = &self.drawings[glyph.index()].as_ref()?.levels;
        let fits = levels.iter().take_while(|level| level.extent.0.max(level.extent.1) >= side).last();
        fits.or_else(|| levels.first())
    }
}

impl Drawing {
    fn decode(png: &[u8]) -> Result<Self, String> {
        let image =
            image::load_from_memory_with_format(png, ImageFormat::Png).map_err(|e| e.to_string())?.to_rgba8();
        let visible = |x: u32, y: u32| image.get_pixel(x, y)[3] > 8;
        let (width, height) = image.dimensions();
        let columns: Vec<u32> = (0..width).filter(|&x| (0..height).any(|y| visible(x, y))).collect();
        let rows: Vec<u32> = (0..height).filter(|&y| (0..width).any(|x| visible(x, y))).collect();
        let (Some(&left), Some(&right)) = (columns.first(), columns.last()) else {
            return Err("it is fully transparent".to_owned());
        };
        let (top, bottom) = (rows[0], rows[rows.len() - 1]);
        let mut pixels = Vec::new();
        for y in top..=bottom {
            for x in left..=right {
                let [r, g, b, a] = image.get_pixel(x, y).0.map(|v| f32::from(v) / 255.0);
                pixels.push([r * a, g * a, b * a, a]);
            }
        }
        let mut levels = vec![Raster::new((right - left + 1) as usize, (bottom - top + 1) as usize, pixels)];
        while let Some(last) = levels.last()
            && last.extent.0.max(last.extent.1) > 16.0
        {
            levels.push(last.halved());
        }
        let small = &levels[levels.len().saturating_sub(2)].pixels;
        let contrast = ColorId::all().map(|color| contrast(small, color)).collect();
        Ok(Self { levels, contrast })
    }
}

/// The part of a drawing, by area, whose colour is clearly apart from the background.
fn contrast(pixels: &[Pixel], background: ColorId) -> f32 {
    let background = background.rgb().map(|v| f32::from(v) / 255.0);
    let (mut apart, mut total) = (0.0, 0.0);
    for &[r, g, b, a] in pixels {
        let difference =
            [r, g, b].iter().zip(background).map(|(p, c)| (p - a * c).powi(2)).sum::<f32>().sqrt();
        total += a;
        // A distance of 0.5 (of a possible 1.73) counts in full, smaller ones in proportion.
        apart += (difference / 0.5).min(a);
    }
    if total > 0.0 { apart / total } else { 0.0 }
}

fn read_font(path: &Path) -> Result<Vec<u8>, SceneError> {
    std::fs::read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => SceneError::FontMissing { path: path.to_owned() },
        _ => SceneError::FontUnreadable { path: path.to_owned(), reason: error.to_string() },
    })
}

fn parse_face<'a>(font: &'a [u8], path: &Path) -> Result<ttf_parser::Face<'a>, SceneError> {
    ttf_parser::Face::parse(font, 0)
        .map_err(|error| SceneError::FontUnreadable { path: path.to_owned(), reason: error.to_string() })
}

fn unknown_glyph(name: &str) -> SceneError {
    let mut nearest: Vec<&str> = GlyphId::all().map(GlyphId::name).collect();
    nearest.sort_by(|a, b| strsim::jaro_winkler(b, name).total_cmp(&strsim::jaro_winkler(a, name)));
    SceneError::UnknownGlyph {
        name: name.to_owned(),
        nearest: nearest.into_iter().take(3).map(str::to_owned).collect(),
    }
}
