use crate::glyphs::Glyphs;
use crate::scene::{Cell, Square};
use crate::vocabulary::GlyphId;

/// The two usual sizes of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    Whole,
    Half,
}

impl Size {
    pub fn of(cell: Cell) -> Self {
        if cell == Cell::Whole { Self::Whole } else { Self::Half }
    }

    pub fn side(self) -> f32 {
        match self {
            Self::Whole => Cell::Whole.side(),
            Self::Half => Cell::Left.side(),
        }
    }
}

/// All drawings at one size, each in a square window of `window` pixels with the drawing in its middle.
#[derive(Debug)]
pub(super) struct Bank {
    pub window: usize,
    templates: Vec<Template>,
}

/// A drawing: for each pixel the premultiplied colour and *minus* alpha, so that one product with
/// (I, I·B) gives `<I, T>`; and its moments, for `|T|²` on any background.
#[derive(Debug)]
struct Template {
    values: Vec<[f32; 4]>,
    color_color: f32,
    alpha_color: [f32; 3],
    alpha_alpha: f32,
}

impl Bank {
    /// The drawings with their longer side at `side` of a picture of `pixels` a side.
    pub fn new(glyphs: &Glyphs, known: &[GlyphId], side: f32, pixels: u32) -> Self {
        let size = side * pixels as f32;
        // A pixel around it for the soft edge; even, so that the middle lies between pixels.
        let window = ((size / 2.0).ceil() as usize + 1) * 2;
        let fraction = side * pixels as f32 / window as f32;
        let square = Square { x: (1.0 - fraction) / 2.0, y: (1.0 - fraction) / 2.0, side: fraction };
        let templates = known.iter().map(|&id| Template::new(glyphs, id, square, window)).collect();
        Self { window, templates }
    }

    /// Number of drawings.
    pub fn len(&self) -> usize {
        self.templates.len()
    }

    /// `<I, T>` of a window of the picture with drawing number `index`.
    pub fn product(&self, index: usize, window: &[[f32; 4]]) -> f32 {
        dot(self.templates[index].values.as_flattened(), window.as_flattened())
    }

    /// `|T|²` of drawing number `index` on a background (0 to 1).
    pub fn energy(&self, index: usize, background: [f32; 3]) -> f32 {
        let template = &self.templates[index];
        let mixed: f32 = template.alpha_color.iter().zip(background).map(|(m, b)| m * b).sum();
        let square: f32 = background.iter().map(|b| b * b).sum();
        (template.color_color - 2.0 * mixed + square * template.alpha_alpha).max(0.0)
    }
}

impl Template {
    fn new(glyphs: &Glyphs, id: GlyphId, square: Square, window: usize) -> Self {
        let mut values = vec![[0.0; 4]; window * window];
        let (mut color_color, mut alpha_color, mut alpha_alpha) = (0.0, [0.0; 3], 0.0);
        if let Some(patch) = glyphs.draw(id, square, window as u32) {
            for (i, pixel) in patch.raster.pixels.iter().enumerate() {
                let x = patch.left + (i % patch.raster.width) as i32;
                let y = patch.top + (i / patch.raster.width) as i32;
                let inside = 0..window as i32;
                if !(inside.contains(&x) && inside.contains(&y)) {
                    continue;
                }
                let [r, g, b, a] = *pixel;
                values[y as usize * window + x as usize] = [r, g, b, -a];
                alpha_alpha += pixel[3] * pixel[3];
                for c in 0..3 {
                    color_color += pixel[c] * pixel[c];
                    alpha_color[c] += pixel[3] * pixel[c];
                }
            }
        }
        Self { values, color_color, alpha_color, alpha_alpha }
    }
}

/// Dot product in sixteen running sums, which the compiler keeps in vector registers.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 16];
    for (a, b) in a.as_chunks::<16>().0.iter().zip(b.as_chunks::<16>().0) {
        for i in 0..16 {
            sums[i] += a[i] * b[i];
        }
    }
    // Windows are even: four times an even square is a multiple of sixteen, so nothing is left over.
    sums.iter().sum()
}
