//! What the classifier sees: crops, cut from pictures or drawn for training.

use std::sync::Arc;

use image::imageops::{self, FilterType};
use velatura_scenes::{
    Cell, ColorId, GlyphId, Glyphs, Group, Layout, Placed, RgbImage, Rng, Scene, scene::Square,
};

/// The square around a centre (x, y), all as fractions of the picture's width, at `size` pixels a side. Beyond the
/// edge the picture goes on as at its edge.
pub(super) fn cut(picture: &RgbImage, center: (f32, f32), side: f32, size: u32) -> RgbImage {
    let (width, height) = picture.dimensions();
    if width == 0 || height == 0 {
        return RgbImage::new(size, size);
    }
    let scale = width.max(height) as f32;
    let pixels = (side * scale).round().max(1.0);
    let left = (center.0 * width as f32 - pixels / 2.0).round() as i64;
    let top = (center.1 * height as f32 - pixels / 2.0).round() as i64;
    let within = |at: i64, length: u32| at.clamp(0, i64::from(length) - 1) as u32;
    let crop = RgbImage::from_fn(pixels as u32, pixels as u32, |x, y| {
        *picture.get_pixel(within(left + i64::from(x), width), within(top + i64::from(y), height))
    });
    if crop.width() == size { crop } else { imageops::resize(&crop, size, size, FilterType::Triangle) }
}

/// Draws crops of single glyphs, each from its number alone.
pub(super) struct Crops {
    glyphs: Arc<Glyphs>,
    /// For each class the backgrounds on which it can be seen.
    backgrounds: Vec<Vec<ColorId>>,
    seed: u64,
    size: u32,
}

impl Crops {
    pub fn new(glyphs: &Arc<Glyphs>, seed: u64, size: u32) -> Self {
        let visible = |&glyph: &GlyphId| {
            let clear: Vec<ColorId> = ColorId::all().filter(|&c| glyphs.stands_out(glyph, c)).collect();
            if clear.is_empty() { ColorId::all().collect() } else { clear }
        };
        let backgrounds = glyphs.present().iter().map(visible).collect();
        Crops { glyphs: Arc::clone(glyphs), backgrounds, seed, size }
    }

    /// Crop and class of a number.
    pub fn get(&self, index: u64) -> (RgbImage, usize) {
        let mut rng = Rng::new(&[self.seed, 0xc105, index]);
        let present = self.glyphs.present();
        let class = rng.below(present.len());
        let background = rng.pick(&self.backgrounds[class]).copied();
        let side = rng.range(0.56, 0.95);
        let jitter = 0.09;
        let center = (0.5 + rng.range(-jitter, jitter), 0.5 + rng.range(-jitter, jitter));
        let mut objects = vec![placed(present[class], center, side)];
        if rng.chance(0.4)
            && let Some(&other) = rng.pick(present)
        {
            // A neighbour reaches into the crop, as in a picture of several.
            let far = rng.range(0.98, 1.25) * if rng.chance(0.5) { 1.0 } else { -1.0 };
            let along = rng.range(-0.3, 0.3);
            let (dx, dy) = if rng.chance(0.5) { (far, along) } else { (along, far) };
            objects.push(placed(other, (center.0 + dx * 1.05, center.1 + dy * 1.05), side));
        }
        let scene = Scene {
            background: background.unwrap_or(ColorId::nearest([255.0; 3])),
            groups: vec![Group { glyph: present[class], count: 1 }],
            relation: None,
        };
        let native = 24 + rng.below(88) as u32;
        let mut picture = self.glyphs.render(&scene, &Layout { objects }, native.max(16));
        if rng.chance(0.5) {
            picture = imageops::blur(&picture, rng.range(0.2, 0.035 * native as f32 + 0.3));
        }
        let mut crop = imageops::resize(&picture, self.size, self.size, FilterType::Triangle);
        let tint = [0; 3].map(|_: u8| rng.range(-12.0, 12.0));
        let noise = if rng.chance(0.5) { rng.range(0.0, 14.0) } else { 0.0 };
        for pixel in crop.pixels_mut() {
            for (value, tint) in pixel.0.iter_mut().zip(tint) {
                let moved =
                    f32::from(*value) + tint + if noise > 0.0 { rng.range(-noise, noise) } else { 0.0 };
                *value = moved.round().clamp(0.0, 255.0) as u8;
            }
        }
        (crop, class)
    }
}

fn placed(glyph: GlyphId, center: (f32, f32), side: f32) -> Placed {
    let square = Square { x: center.0 - side / 2.0, y: center.1 - side / 2.0, side };
    Placed { group: 0, glyph, cell: Cell::Whole, square }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crops_go_on_beyond_the_edge() {
        let picture = RgbImage::from_fn(40, 40, |x, y| image::Rgb([x as u8 * 6, y as u8 * 6, 7]));
        assert_eq!(cut(&picture, (0.5, 0.5), 1.0, 40), picture);
        let corner = cut(&picture, (0.0, 0.0), 0.5, 20);
        assert_eq!(corner.get_pixel(0, 0), picture.get_pixel(0, 0));
        assert_eq!(corner.get_pixel(19, 15).0, [54, 30, 7]);
        assert_eq!(cut(&picture, (0.5, 0.5), 0.6, 32).dimensions(), (32, 32));
        assert_eq!(cut(&RgbImage::new(0, 0), (0.5, 0.5), 0.6, 32).dimensions(), (32, 32));
    }
}
