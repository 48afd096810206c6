use image::RgbImage;

use super::pyramid::{Pyramid, View, energy};
use super::templates::{Bank, Size};
use super::{COARSE, FINE, Found, Judge, LEAST_LIKENESS, Reading, SCALES};
use crate::scene::Cell;
use crate::vocabulary::ColorId;

/// The arrangements of objects that scenes have, as the indices of places in [`Cell::ALL`].
const ARRANGEMENTS: [&[usize]; 8] =
    [&[0], &[1, 2], &[3, 4], &[3, 7, 8], &[5, 6, 4], &[5, 7, 2], &[1, 6, 8], &[5, 6, 7, 8]];

/// How many drawings per place are compared at the second resolution.
const CANDIDATES: usize = 6;

/// What each further object must explain to be believed, as a part of the typical energy of a drawing: some
/// pair of small drawings always explains a soft large one quite well.
const COST: f32 = 0.08;

/// How far an object may be from the usual position of its place, in pixels of the second resolution.
const FARTHEST: [i32; 2] = [5, 3];

/// Part of the typical energy of a drawing from which a place that resembles nothing holds *something*.
const LEAST_ENERGY: f32 = 0.2;

/// How a drawing fits at one position and size.
#[derive(Clone, Copy)]
struct Match {
    /// Index into the judge's glyphs.
    glyph: usize,
    /// How much of the picture's squared difference from the background it explains, at its best opacity.
    gain: f32,
    /// Position of the window, from the usual one, in pixels.
    shift: (i32, i32),
    /// Index into [`SCALES`].
    scale: usize,
}

/// The best match at a place, and whether there is anything at all.
struct Place {
    best: Match,
    /// What it explains, less [`COST`].
    gain: f32,
    likeness: f32,
    occupied: bool,
    center: (f32, f32),
}

impl Judge {
    /// Reads a picture of any size. A picture without pixels has no objects and counts as black.
    pub fn read(&self, picture: &RgbImage) -> Reading {
        let Some(pyramid) = Pyramid::new(picture) else {
            return Reading {
                background: ColorId::nearest([0.0; 3]),
                background_rgb: [0.0; 3],
                objects: Vec::new(),
            };
        };
        let background_rgb = pyramid.background.map(|v| v * 255.0);
        let places = Cell::ALL.map(|cell| self.place(&pyramid, cell));
        let explained = |arrangement: &[usize]| -> f32 {
            arrangement.iter().filter_map(|&i| places[i].as_ref()).map(|place| place.gain).sum()
        };
        let arrangement = ARRANGEMENTS
            .into_iter()
            .max_by(|a, b| explained(a).total_cmp(&explained(b)))
            .unwrap_or(ARRANGEMENTS[0]);
        let mut objects = Vec::new();
        for &index in arrangement {
            let Some(place) = places[index].as_ref().filter(|place| place.occupied) else { continue };
            let nearest = self.glyphs[place.best.glyph];
            objects.push(Found {
                glyph: (place.likeness >= LEAST_LIKENESS).then_some(nearest),
                nearest,
                likeness: place.likeness,
                cell: Cell::ALL[index],
                center: place.center,
            });
        }
        objects.sort_by_key(|object| object.cell);
        Reading { background: ColorId::nearest(background_rgb), background_rgb, objects }
    }

    fn place(&self, pyramid: &Pyramid, cell: Cell) -> Option<Place> {
        let kind = Size::of(cell) as usize;
        let coarse = Search::new(&pyramid.coarse, &self.coarse[kind], cell, COARSE, pyramid.background);
        let reach = if cell == Cell::Whole { 2 } else { 1 };
        let mut matches = coarse.all(reach);
        matches.sort_by(|a, b| b.gain.total_cmp(&a.gain).then(a.glyph.cmp(&b.glyph)));
        matches.truncate(CANDIDATES);
        let searches: Vec<Search> = self.fine[kind]
            .iter()
            .map(|bank| Search::new(&pyramid.fine, bank, cell, FINE, pyramid.background))
            .collect();
        let best = matches
            .into_iter()
            .map(|found| refine(&searches, found, FARTHEST[kind]))
            .max_by(|a, b| a.gain.total_cmp(&b.gain).then(b.glyph.cmp(&a.glyph)))?;
        let search = &searches[best.scale];
        let typical = search.typical_energy(self.glyphs.len());
        let mut window = Vec::new();
        search.window(best.shift, &mut window);
        let (own, product) = search.measure(best.glyph, &window);
        let energy = energy(&window);
        let likeness = 2.0 * product / (own + energy).max(1e-6);
        let occupied = likeness >= LEAST_LIKENESS || energy >= LEAST_ENERGY * typical;
        let gain = best.gain - COST * typical;
        Some(Place { best, gain, likeness, occupied, center: search.center(best.shift) })
    }
}

/// From where the first resolution found it: positions, then sizes, then positions again.
fn refine(searches: &[Search], found: Match, farthest: i32) -> Match {
    let usual = SCALES.len() / 2;
    let start = (found.shift.0 * 2, found.shift.1 * 2);
    let mut best = searches[usual].around(found.glyph, start, usual, farthest);
    for (scale, search) in searches.iter().enumerate() {
        let found = search.at(best.glyph, best.shift, scale);
        if found.gain > best.gain {
            best = found;
        }
    }
    let again = searches[best.scale].around(best.glyph, best.shift, best.scale, farthest);
    if again.gain > best.gain { again } else { best }
}

/// One set of drawings compared with one place of a picture.
struct Search<'a> {
    view: &'a View,
    bank: &'a Bank,
    background: [f32; 3],
    /// Window position for no shift.
    corner: (i32, i32),
    pixels: u32,
}

impl<'a> Search<'a> {
    fn new(view: &'a View, bank: &'a Bank, cell: Cell, pixels: u32, background: [f32; 3]) -> Self {
        let (x, y) = cell.center();
        let corner = |v: f32| (v * pixels as f32).round() as i32 - bank.window as i32 / 2;
        Self { view, bank, background, corner: (corner(x), corner(y)), pixels }
    }

    fn window(&self, shift: (i32, i32), target: &mut Vec<[f32; 4]>) {
        self.view.window(self.corner.0 + shift.0, self.corner.1 + shift.1, self.bank.window, target);
    }

    fn center(&self, shift: (i32, i32)) -> (f32, f32) {
        let middle = self.bank.window as i32 / 2;
        let fraction = |corner: i32, shift: i32| (corner + shift + middle) as f32 / self.pixels as f32;
        (fraction(self.corner.0, shift.0), fraction(self.corner.1, shift.1))
    }

    /// Median energy of the drawings on this background.
    fn typical_energy(&self, glyphs: usize) -> f32 {
        let mut energies: Vec<f32> = (0..glyphs).map(|i| self.bank.energy(i, self.background)).collect();
        energies.sort_by(f32::total_cmp);
        energies.get(glyphs / 2).copied().unwrap_or(0.0)
    }

    /// `|T|²` and `<I, T>` of a drawing.
    fn measure(&self, glyph: usize, window: &[[f32; 4]]) -> (f32, f32) {
        (self.bank.energy(glyph, self.background), self.bank.product(glyph, window))
    }

    fn compare(&self, glyph: usize, window: &[[f32; 4]], shift: (i32, i32), scale: usize) -> Match {
        let (own, product) = self.measure(glyph, window);
        let opacity = (product / own.max(1e-6)).clamp(0.0, 1.0);
        Match { glyph, gain: opacity * (2.0 * product - opacity * own), shift, scale }
    }

    /// Each drawing at the best of the shifts up to `reach`.
    fn all(&self, reach: i32) -> Vec<Match> {
        let mut best: Vec<Match> = Vec::new();
        let mut window = Vec::new();
        for shift in shifts((0, 0), reach) {
            self.window(shift, &mut window);
            for glyph in 0..self.bank.len() {
                let found = self.compare(glyph, &window, shift, 0);
                match best.get_mut(glyph) {
                    Some(best) if best.gain >= found.gain => {}
                    Some(best) => *best = found,
                    None => best.push(found),
                }
            }
        }
        best
    }

    fn at(&self, glyph: usize, shift: (i32, i32), scale: usize) -> Match {
        let mut window = Vec::new();
        self.window(shift, &mut window);
        self.compare(glyph, &window, shift, scale)
    }

    /// One drawing at the best of a shift and its eight neighbours.
    fn around(&self, glyph: usize, middle: (i32, i32), scale: usize, farthest: i32) -> Match {
        let start = self.at(glyph, middle, scale);
        shifts(middle, 1)
            .filter(|shift| shift.0.abs().max(shift.1.abs()) <= farthest)
            .map(|shift| self.at(glyph, shift, scale))
            .fold(start, |best, found| if found.gain > best.gain { found } else { best })
    }
}

fn shifts(middle: (i32, i32), reach: i32) -> impl Iterator<Item = (i32, i32)> {
    (-reach..=reach).flat_map(move |y| (-reach..=reach).map(move |x| (middle.0 + x, middle.1 + y)))
}
