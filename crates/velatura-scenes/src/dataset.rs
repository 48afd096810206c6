//! An endless data set with random access: example `i` depends on (seed, split, `i`) alone.

use std::path::Path;
use std::sync::Arc;

use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::caption;
use crate::glyphs::Glyphs;
use crate::rng::Rng;
use crate::scene::{Group, Intent, Layout, Relation, Scene};
use crate::split::{Split, glyphs_held_out, pair_held_out};
use crate::vocabulary::{ColorId, GlyphId};
use crate::{SceneError, caption::write};

/// How often each kind of scene occurs, as weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mix {
    /// One object.
    pub single: f32,
    /// Two of one object.
    pub two: f32,
    /// Three of one object.
    pub three: f32,
    /// Four of one object.
    pub four: f32,
    /// Two objects in a relation.
    pub pair: f32,
    /// Two groups in a relation, at least one of them of two objects.
    pub groups: f32,
    /// Part of the captions (0 to 1) that leave the background unsaid. Always 0 in the held-out split, whose
    /// point it would defeat.
    pub unsaid_background: f32,
}

impl Default for Mix {
    fn default() -> Self {
        Self {
            single: 30.0,
            two: 9.0,
            three: 7.0,
            four: 7.0,
            pair: 32.0,
            groups: 15.0,
            unsaid_background: 0.06,
        }
    }
}

impl Mix {
    /// Scenes of one or two objects in all, with the background always said: what the shipped model is
    /// measured on.
    pub fn up_to_two_objects() -> Self {
        Self {
            single: 35.0,
            two: 15.0,
            three: 0.0,
            four: 0.0,
            pair: 50.0,
            groups: 0.0,
            unsaid_background: 0.0,
        }
    }

    fn weights(&self) -> [f32; 6] {
        [self.single, self.two, self.three, self.four, self.pair, self.groups]
    }

    fn is_valid(&self) -> bool {
        let weights = self.weights();
        weights.iter().all(|weight| weight.is_finite() && *weight >= 0.0)
            && weights.iter().any(|&weight| weight > 0.0)
            && (0.0..=1.0).contains(&self.unsaid_background)
    }
}

/// A picture with its caption and everything that is known about it.
#[derive(Clone, Debug)]
pub struct Example {
    /// The picture, RGB.
    pub image: RgbImage,
    /// Its caption.
    pub caption: String,
    /// What is in it.
    pub scene: Scene,
    /// What the caption says of it: the scene, unless the background was left unsaid.
    pub intent: Intent,
    /// Where the objects stand.
    pub layout: Layout,
}

/// A caption without a picture, which is all that generating needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prompt {
    /// The caption.
    pub caption: String,
    /// What it asks for.
    pub intent: Intent,
    /// A scene that fulfils it.
    pub scene: Scene,
}

/// The data set. Cheap to clone; shares the drawings.
#[derive(Clone, Debug)]
pub struct Scenes {
    glyphs: Arc<Glyphs>,
    seed: u64,
    split: Split,
    size: u32,
    mix: Mix,
    /// Backgrounds on which each loaded glyph may stand in this split, by the glyph's place in `usable`.
    usable: Vec<(GlyphId, Vec<ColorId>)>,
    /// Held-out pairs that can be shown, for the held-out split.
    rare_backgrounds: Vec<(GlyphId, ColorId)>,
    rare_companions: Vec<(GlyphId, GlyphId)>,
}

impl Scenes {
    /// The data set with the drawings of a font file, pictures of `size` by `size` pixels (16 to 2048).
    ///
    /// # Errors
    /// When the font does not exist, cannot be read or lacks a glyph of the vocabulary, or the size is out of range.
    pub fn new(font: impl AsRef<Path>, seed: u64, split: Split, size: u32) -> Result<Self, SceneError> {
        Self::with_glyphs(Arc::new(Glyphs::load(font)?), seed, split, size)
    }

    /// The data set with drawings that are already loaded, perhaps a subset.
    ///
    /// # Errors
    /// When the size is out of range, or the glyphs are too few for the split to have a scene.
    pub fn with_glyphs(glyphs: Arc<Glyphs>, seed: u64, split: Split, size: u32) -> Result<Self, SceneError> {
        if !(16..=2048).contains(&size) {
            return Err(SceneError::BadSize { size });
        }
        let held_out = split == Split::HeldOut;
        let (mut usable, mut rare_backgrounds, mut rare_companions) = (Vec::new(), Vec::new(), Vec::new());
        for &glyph in glyphs.present() {
            let visible = ColorId::all().filter(|&color| glyphs.stands_out(glyph, color));
            let (rare, common): (Vec<_>, Vec<_>) = visible.partition(|&color| pair_held_out(glyph, color));
            rare_backgrounds.extend(rare.iter().map(|&color| (glyph, color)));
            rare_companions.extend(
                glyphs
                    .present()
                    .iter()
                    .filter(|&&other| glyphs_held_out(glyph, other))
                    .map(|&other| (glyph, other)),
            );
            if !common.is_empty() {
                usable.push((glyph, common));
            }
        }
        // Pairs of objects that share no background on which both can be seen cannot be shown.
        rare_companions.retain(|&(a, b)| !shared_backgrounds(&glyphs, a, b).is_empty());
        let empty = if held_out { rare_backgrounds.is_empty() } else { usable.is_empty() };
        if empty {
            return Err(SceneError::EmptySplit { split: split.name(), glyphs: glyphs.present().len() });
        }
        let mix = Mix::default();
        Ok(Self { glyphs, seed, split, size, mix, usable, rare_backgrounds, rare_companions })
    }

    /// The same data set with another mixture of scene kinds.
    ///
    /// # Errors
    /// When a weight is negative or not finite, or all are zero.
    pub fn with_mix(mut self, mix: Mix) -> Result<Self, SceneError> {
        if !mix.is_valid() {
            return Err(SceneError::BadMix);
        }
        self.mix = mix;
        Ok(self)
    }

    /// The drawings.
    pub fn glyphs(&self) -> &Arc<Glyphs> {
        &self.glyphs
    }

    /// Pixels a side.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// The split.
    pub fn split(&self) -> Split {
        self.split
    }

    /// Example number `index`, rendered.
    pub fn get(&self, index: u64) -> Example {
        let Prompt { caption, intent, scene } = self.prompt(index);
        let layout = self.layout(index, &scene);
        let image = self.glyphs.render(&scene, &layout, self.size);
        Example { image, caption, scene, intent, layout }
    }

    /// Caption and scene of example number `index`, without rendering.
    pub fn prompt(&self, index: u64) -> Prompt {
        let scene = self.scene(&mut self.stream(index, 0));
        let mut rng = self.stream(index, 1);
        let mention = self.split == Split::HeldOut || !rng.chance(self.mix.unsaid_background);
        let caption = write(&scene, mention, &mut rng);
        let mut intent = scene.intent();
        intent.background = intent.background.filter(|_| mention);
        debug_assert_eq!(caption::parse(&caption).map(Intent::canonical), Ok(intent.clone().canonical()));
        Prompt { caption, intent, scene }
    }

    /// Where the objects of `scene`, which is that of example number `index`, stand in its picture.
    pub fn layout(&self, index: u64, scene: &Scene) -> Layout {
        scene.layout(&mut self.stream(index, 2))
    }

    fn stream(&self, index: u64, purpose: u64) -> Rng {
        Rng::new(&[self.seed, self.split as u64, index, purpose])
    }

    fn scene(&self, rng: &mut Rng) -> Scene {
        let kind = rng.weighted(&self.mix.weights());
        let (related, several) = (kind >= 4, kind == 5);
        let (glyph, background, companion) = match self.split {
            Split::Seen => self.seen(related, rng),
            Split::HeldOut => self.held_out(related, rng),
        };
        let Some(companion) = companion else {
            let count = if related { 1 } else { kind as u8 + 1 };
            return Scene { background, groups: vec![Group { glyph, count }], relation: None };
        };
        let counts = if several { [(2, 1), (1, 2), (2, 2)][rng.weighted(&[0.4, 0.4, 0.2])] } else { (1, 1) };
        use Relation::{Above, Below, Beside, LeftOf, RightOf};
        let relations = [LeftOf, RightOf, Above, Below, Beside];
        let mut groups = vec![Group { glyph, count: counts.0 }, Group { glyph: companion, count: counts.1 }];
        if rng.chance(0.5) {
            groups.reverse();
        }
        let relation = relations[rng.weighted(&[0.2, 0.2, 0.22, 0.22, 0.16])];
        Scene { background, groups, relation: Some(relation) }
    }

    /// An object, a background, and a second object when one is asked for and the glyphs allow one.
    fn seen(&self, related: bool, rng: &mut Rng) -> (GlyphId, ColorId, Option<GlyphId>) {
        let (glyph, backgrounds) = &self.usable[rng.below(self.usable.len())];
        let background = backgrounds[rng.below(backgrounds.len())];
        let companions: Vec<GlyphId> = if related {
            let fits = |&&(other, ref colors): &&(GlyphId, Vec<ColorId>)| {
                other != *glyph && colors.contains(&background) && !glyphs_held_out(*glyph, other)
            };
            self.usable.iter().filter(fits).map(|&(other, _)| other).collect()
        } else {
            Vec::new()
        };
        (*glyph, background, rng.pick(&companions).copied())
    }

    /// The same with a held-out pair among the three. The rest may be held out too.
    fn held_out(&self, related: bool, rng: &mut Rng) -> (GlyphId, ColorId, Option<GlyphId>) {
        if related && !self.rare_companions.is_empty() && rng.chance(0.5) {
            let (glyph, companion) = self.rare_companions[rng.below(self.rare_companions.len())];
            let backgrounds = shared_backgrounds(&self.glyphs, glyph, companion);
            return (glyph, backgrounds[rng.below(backgrounds.len())], Some(companion));
        }
        let (glyph, background) = self.rare_backgrounds[rng.below(self.rare_backgrounds.len())];
        let companions: Vec<GlyphId> = if related {
            let fits = |other: &&GlyphId| **other != glyph && self.glyphs.stands_out(**other, background);
            self.glyphs.present().iter().filter(fits).copied().collect()
        } else {
            Vec::new()
        };
        (glyph, background, rng.pick(&companions).copied())
    }
}

fn shared_backgrounds(glyphs: &Glyphs, a: GlyphId, b: GlyphId) -> Vec<ColorId> {
    ColorId::all().filter(|&color| glyphs.stands_out(a, color) && glyphs.stands_out(b, color)).collect()
}
