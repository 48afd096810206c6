//! The template judge on true renders, clean and damaged, with shuffled captions as the control.
//!
//! The numbers for the whole vocabulary come from `examples/calibrate.rs`.

use std::sync::Arc;

use velatura_scenes::{Example, Glyphs, Judge, RgbImage, Rng, Scenes, Scores, Split};

const FONT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/emoji-subset.ttf");

fn examples(split: Split, size: u32, count: u64) -> (Judge, Vec<Example>) {
    let glyphs = Arc::new(Glyphs::load_subset(FONT).unwrap());
    let scenes = Scenes::with_glyphs(glyphs.clone(), 21, split, size).unwrap();
    (Judge::new(&glyphs), (0..count).map(|index| scenes.get(index)).collect())
}

fn scores(judge: &Judge, examples: &[Example], damage: impl Fn(&RgbImage, u64) -> RgbImage) -> Scores {
    let mut scores = Scores::default();
    for (index, example) in examples.iter().enumerate() {
        scores.add(&judge.read(&damage(&example.image, index as u64)).verdict(&example.intent));
    }
    scores
}

fn least(scores: &Scores) -> f64 {
    scores.named().iter().filter_map(|(_, tally)| tally.fraction()).fold(1.0, f64::min)
}

#[test]
fn true_renders_are_read_right_at_any_size() {
    for (split, size) in [(Split::Seen, 64), (Split::HeldOut, 128), (Split::Seen, 48), (Split::Seen, 101)] {
        let (judge, examples) = examples(split, size, 150);
        let scores = scores(&judge, &examples, |image, _| image.clone());
        assert!(least(&scores) >= 0.99, "{size}: {scores:?}");
    }
}

#[test]
fn objects_are_found_where_they_are() {
    let (judge, examples) = examples(Split::Seen, 96, 100);
    for example in &examples {
        for found in judge.read(&example.image).objects {
            let near = example.layout.objects.iter().any(|object| {
                let (x, y) = object.square.center();
                Some(object.glyph) == found.glyph
                    && object.cell == found.cell
                    && (x - found.center.0).abs() < 0.03
                    && (y - found.center.1).abs() < 0.03
            });
            assert!(near, "{found:?} {:?}", example.layout);
        }
    }
}

#[test]
fn soft_and_noisy_pictures_are_still_read() {
    let (judge, examples) = examples(Split::Seen, 64, 150);
    let blurred = scores(&judge, &examples, |image, _| image::imageops::blur(image, 1.0));
    assert!(least(&blurred) >= 0.97, "{blurred:?}");
    let noisy = scores(&judge, &examples, |image, index| {
        let mut rng = Rng::new(&[index]);
        let mut image = image.clone();
        for value in image.iter_mut() {
            *value = (f32::from(*value) + rng.range(-20.0, 20.0)).clamp(0.0, 255.0) as u8;
        }
        image
    });
    assert!(least(&noisy) >= 0.97, "{noisy:?}");
}

#[test]
fn shuffled_captions_and_ruined_pictures_score_low() {
    let (judge, examples) = examples(Split::Seen, 64, 200);
    let mut shuffled = Scores::default();
    for (index, example) in examples.iter().enumerate() {
        let other = &examples[(index + 1) % examples.len()];
        shuffled.add(&judge.read(&example.image).verdict(&other.intent));
    }
    // Ten glyphs and fourteen colours: chance gives a tenth and a fourteenth.
    assert!(shuffled.all.fraction() < Some(0.02), "{shuffled:?}");
    assert!(shuffled.glyph.fraction() < Some(0.12), "{shuffled:?}");
    assert!(shuffled.color.fraction() < Some(0.15), "{shuffled:?}");
    // An eighth of the side of blur leaves blots: the background stays, the glyphs must not.
    let blots = scores(&judge, &examples[..60], |image, _| image::imageops::blur(image, 8.0));
    assert!(blots.glyph.fraction() < Some(0.35), "{blots:?}");
    let noise = scores(&judge, &examples[..60], |image, index| {
        let mut rng = Rng::new(&[index]);
        RgbImage::from_fn(image.width(), image.height(), |_, _| {
            image::Rgb([0; 3].map(|_: u8| rng.below(256) as u8))
        })
    });
    assert_eq!(noise.all.hits, 0, "{noise:?}");
}

#[test]
fn the_wrong_object_colour_and_count_are_told_apart() {
    let (judge, examples) = examples(Split::Seen, 64, 400);
    for example in &examples {
        let reading = judge.read(&example.image);
        let mut wrong = example.scene.intent();
        wrong.groups[0].count = wrong.groups[0].count % 4 + 1;
        let verdict = reading.verdict(&wrong);
        assert!(!verdict.count && !verdict.all && verdict.glyph, "{}", example.caption);
        let mut wrong = example.scene.intent();
        if let Some(relation) = wrong.relation {
            wrong.relation = Some(relation.inverse());
            let beside = relation == velatura_scenes::Relation::Beside;
            assert_eq!(reading.verdict(&wrong).position, Some(beside), "{}", example.caption);
        }
    }
}

#[test]
fn odd_pictures_do_not_panic() {
    let (judge, _) = examples(Split::Seen, 16, 1);
    for (width, height) in [(0, 0), (1, 1), (3, 700), (64, 1), (200, 130)] {
        let reading = judge.read(&RgbImage::from_pixel(width, height, image::Rgb([250, 250, 250])));
        assert!(reading.objects.is_empty(), "{width}x{height}: {reading:?}");
    }
}
