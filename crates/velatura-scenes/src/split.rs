//! Which combinations are kept out of training.
//!
//! About a tenth of the (object, background) pairs and of the (object, object) pairs never occur in
//! [`Split::Seen`]; every scene of [`Split::HeldOut`] has at least one of them. Whether a pair is held out
//! depends on the two names only, so the sets stay what they are when the vocabulary grows.

use serde::{Deserialize, Serialize};

use crate::rng::{hash_str, mix};
use crate::scene::Scene;
use crate::vocabulary::{ColorId, GlyphId};

/// A part of the data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// What a model is trained on.
    Seen,
    /// Scenes with a combination that never occurs in training.
    HeldOut,
}

impl Split {
    /// The name in reports and recipes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Seen => "seen",
            Self::HeldOut => "held_out",
        }
    }

    /// The split that a scene belongs to.
    pub fn of(scene: &Scene) -> Self {
        let on_background = scene.groups.iter().any(|group| pair_held_out(group.glyph, scene.background));
        let together = matches!(scene.groups.as_slice(), [a, b] if glyphs_held_out(a.glyph, b.glyph));
        if on_background || together { Self::HeldOut } else { Self::Seen }
    }
}

/// Has no purpose but to be fixed. Chosen such that red apples, cats and sky blue, the example of the
/// README, may occur together in training.
const SALT: u64 = 2;

/// One pair in this many is held out.
const ONE_IN: u64 = 10;

/// True when this object on this background is kept out of training.
pub fn pair_held_out(glyph: GlyphId, background: ColorId) -> bool {
    mix(hash_str(glyph.name()) ^ mix(hash_str(background.name()).wrapping_add(SALT))).is_multiple_of(ONE_IN)
}

/// True when these two objects together are kept out of training, in either order.
pub fn glyphs_held_out(a: GlyphId, b: GlyphId) -> bool {
    let (low, high) =
        (hash_str(a.name()).min(hash_str(b.name())), hash_str(a.name()).max(hash_str(b.name())));
    a != b && mix(low ^ mix(high.wrapping_add(SALT))).is_multiple_of(ONE_IN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_a_tenth_is_held_out() {
        let pairs: Vec<bool> =
            GlyphId::all().flat_map(|g| ColorId::all().map(move |c| pair_held_out(g, c))).collect();
        let part = pairs.iter().filter(|&&held| held).count() as f64 / pairs.len() as f64;
        assert!((0.08..0.12).contains(&part), "{part}");
        let both: Vec<bool> =
            GlyphId::all().flat_map(|a| GlyphId::all().map(move |b| glyphs_held_out(a, b))).collect();
        let part = both.iter().filter(|&&held| held).count() as f64 / both.len() as f64;
        assert!((0.08..0.12).contains(&part), "{part}");
    }

    #[test]
    fn the_example_of_the_readme_is_seen() {
        let scene = crate::caption::parse("two red apples above a cat on a sky blue background").unwrap();
        let scene =
            Scene { background: scene.background.unwrap(), groups: scene.groups, relation: scene.relation };
        assert_eq!(Split::of(&scene), Split::Seen);
    }

    #[test]
    fn order_does_not_matter() {
        for a in GlyphId::all() {
            for b in GlyphId::all() {
                assert_eq!(glyphs_held_out(a, b), glyphs_held_out(b, a));
            }
        }
    }
}
