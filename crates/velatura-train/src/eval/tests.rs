//! The evaluation on pictures whose truth is known: true renders.

use std::sync::Arc;

use velatura_cpu::{CancelToken, Runtime};
use velatura_scenes::{Glyphs, Mix, RgbImage, Scenes, Split};

use super::judges::{Judges, Seen, score};
use super::*;
use crate::observer::Silent;

const FONT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../velatura-scenes/tests/fixtures/emoji-subset.ttf");

#[test]
fn true_renders_are_right_and_shuffled_prompts_are_not() {
    let glyphs = Arc::new(Glyphs::load_subset(FONT).unwrap());
    let scenes = Scenes::with_glyphs(Arc::clone(&glyphs), 3, Split::Seen, 64).unwrap();
    let scenes = scenes.with_mix(Mix::up_to_two_objects()).unwrap();
    let pictures: Vec<RgbImage> = (0..100).map(|i| scenes.get(i).image).collect();
    let mut judges =
        Judges::new(&glyphs, &Classifier::shipped().unwrap(), &Runtime::new(Some(2)), 2).unwrap();
    let mut seen = Seen::default();
    // In two parts, as pictures come.
    judges.look(&pictures[..33], &mut seen, &CancelToken::default()).unwrap();
    judges.look(&pictures[33..], &mut seen, &CancelToken::default()).unwrap();
    let wanted = intents(&scenes, 100);
    let right = score(&seen.a, &wanted, 0);
    assert_eq!(right.all.total, 100);
    assert!(right.named().iter().all(|(_, t)| t.fraction() >= Some(0.98)), "{right:?}");
    let shuffled = score(&seen.a, &wanted, 1);
    assert_eq!(shuffled.all.total, 100);
    assert!(shuffled.all.fraction() < Some(0.04) && shuffled.glyph.fraction() < Some(0.2), "{shuffled:?}");
    // The classifier that ships is right about true renders as well.
    let second = score(&seen.b, &wanted, 0);
    assert!(second.named().iter().all(|(_, t)| t.fraction() >= Some(0.97)), "{second:?}");
    assert_eq!(score(&seen.a[..1], &wanted[..1], 1).all.total, 0);
}

#[test]
fn a_missing_font_names_its_package() {
    let options = EvalOptions { font: "/nowhere/emoji.ttf".into(), prompts: 1, ..EvalOptions::default() };
    let error = run(&options, &mut Silent, &CancelToken::default()).unwrap_err();
    assert!(error.to_string().contains("fonts-noto-color-emoji"), "{error}");
}

#[test]
fn a_cancelled_evaluation_says_so() {
    let glyphs = Glyphs::load_subset(FONT).unwrap();
    let mut judges =
        Judges::new(&glyphs, &Classifier::shipped().unwrap(), &Runtime::new(Some(1)), 1).unwrap();
    let cancel = CancelToken::default();
    cancel.cancel();
    assert!(judges.look(&[], &mut Seen::default(), &cancel).unwrap_err().is_cancelled());
}
