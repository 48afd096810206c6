use image::{Rgb, RgbImage};

use crate::glyphs::Glyphs;
use crate::resample::Patch;
use crate::scene::{Layout, Scene, Square};
use crate::vocabulary::GlyphId;

impl Glyphs {
    /// Draws a scene, `size` by `size` pixels, anti-aliased. Glyphs that are not loaded are left out.
    ///
    /// The same input gives the same bytes on every machine: only additions, multiplications, divisions and
    /// roundings in fixed order.
    pub fn render(&self, scene: &Scene, layout: &Layout, size: u32) -> RgbImage {
        let mut picture = RgbImage::from_pixel(size, size, Rgb(scene.background.rgb()));
        for object in &layout.objects {
            if let Some(patch) = self.draw(object.glyph, object.square, size) {
                blend(&patch, &mut picture);
            }
        }
        picture
    }

    /// One object at its place on a canvas of `size` pixels; `None` when it is not loaded.
    pub(crate) fn draw(&self, glyph: GlyphId, square: Square, size: u32) -> Option<Patch> {
        let scale = size as f32;
        let side = square.side * scale;
        let level = self.level(glyph, side)?;
        let longer = level.extent.0.max(level.extent.1);
        let (width, height) = (level.extent.0 / longer * side, level.extent.1 / longer * side);
        let (x, y) = square.center();
        Some(level.draw(x * scale - width / 2.0, y * scale - height / 2.0, width, height))
    }
}

fn blend(patch: &Patch, picture: &mut RgbImage) {
    let (width, height) = picture.dimensions();
    let (width, height) = (width as i32, height as i32);
    let raster = &patch.raster;
    let columns = patch.left.max(0)..(patch.left + raster.width as i32).min(width);
    let rows = patch.top.max(0)..(patch.top + raster.height as i32).min(height);
    let canvas: &mut [u8] = picture;
    for y in rows {
        let row = &raster.pixels[(y - patch.top) as usize * raster.width..][..raster.width];
        for x in columns.clone() {
            let [r, g, b, a] = row[(x - patch.left) as usize];
            if a > 0.0 {
                let at = (y * width + x) as usize * 3;
                for (target, color) in canvas[at..at + 3].iter_mut().zip([r, g, b]) {
                    // Adding a half and cutting rounds to nearest; the sum is within 0 to 255.5.
                    *target = (color * 255.0 + (1.0 - a) * f32::from(*target) + 0.5) as u8;
                }
            }
        }
    }
}
