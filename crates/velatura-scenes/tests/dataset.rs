//! The data set as its users see it, on a small font that is committed with the tests.

use std::collections::HashSet;
use std::sync::Arc;

use velatura_scenes::split::{glyphs_held_out, pair_held_out};
use velatura_scenes::{Cell, ColorId, GlyphId, Glyphs, Intent, Mix, SceneError, Scenes, Split, caption};

const FONT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/emoji-subset.ttf");

fn scenes(seed: u64, split: Split, size: u32) -> Scenes {
    Scenes::with_glyphs(Arc::new(Glyphs::load_subset(FONT).unwrap()), seed, split, size).unwrap()
}

fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[test]
fn examples_depend_on_seed_split_and_index_alone() {
    let first = scenes(7, Split::Seen, 33);
    let mut hash = 0xcbf2_9ce4_8422_2325;
    for index in 0..100 {
        let example = first.get(index);
        hash = fnv(fnv(hash, example.caption.as_bytes()), example.image.as_raw());
    }
    // Backwards, in another data set, at one index only: the same.
    let second = scenes(7, Split::Seen, 33);
    for index in [99, 50, 3] {
        assert_eq!(first.get(index).image, second.get(index).image);
        assert_eq!(first.prompt(index).caption, second.get(index).caption);
    }
    // A trained model refers to its data by recipe, so the data may not change unnoticed.
    assert_eq!(hash, GOLDEN, "{hash:#x}");
    assert_ne!(first.get(0).image, scenes(8, Split::Seen, 33).get(0).image);
}

const GOLDEN: u64 = 0xafc6_a769_ce7c_2d4e;

#[test]
fn splits_are_disjoint() {
    let attributes = |split: Split| {
        let (mut backgrounds, mut companions) = (HashSet::new(), HashSet::new());
        let scenes = scenes(1, split, 16);
        for index in 0..20_000 {
            let scene = scenes.prompt(index).scene;
            assert_eq!(Split::of(&scene), split);
            backgrounds.extend(scene.groups.iter().map(|group| (group.glyph, scene.background)));
            if let [a, b] = scene.groups.as_slice() {
                companions.insert((a.glyph.min(b.glyph), a.glyph.max(b.glyph)));
            }
        }
        (backgrounds, companions)
    };
    let (seen_backgrounds, seen_companions) = attributes(Split::Seen);
    assert!(seen_backgrounds.iter().all(|&(glyph, color)| !pair_held_out(glyph, color)));
    assert!(seen_companions.iter().all(|&(a, b)| !glyphs_held_out(a, b)));
    let (backgrounds, companions) = attributes(Split::HeldOut);
    let rare = backgrounds.iter().filter(|&&(glyph, color)| pair_held_out(glyph, color)).count();
    assert!(rare >= 8, "{rare}");
    assert!(companions.iter().any(|&(a, b)| glyphs_held_out(a, b)));
    // Every pair that may occur does: 10 glyphs, 45 pairs of them.
    let possible = companions.union(&seen_companions).count();
    assert_eq!(possible, 45);
}

#[test]
fn every_kind_of_scene_occurs_as_often_as_asked() {
    let scenes = scenes(3, Split::Seen, 16);
    let mut alone = [0; 5];
    let (mut pairs, mut groups, mut unsaid) = (0, 0, 0);
    for index in 0..10_000 {
        let prompt = scenes.prompt(index);
        match prompt.scene.groups.as_slice() {
            [a] => alone[usize::from(a.count)] += 1,
            [a, b] if a.count == 1 && b.count == 1 => pairs += 1,
            _ => groups += 1,
        }
        unsaid += usize::from(prompt.intent.background.is_none());
    }
    assert!((2_800..3_200).contains(&alone[1]), "{alone:?}");
    assert!(alone[2..].iter().all(|count| (600..1_000).contains(count)), "{alone:?}");
    assert!((3_000..3_400).contains(&pairs) && (1_350..1_650).contains(&groups), "{pairs} {groups}");
    assert!((500..700).contains(&unsaid), "{unsaid}");
    let short = scenes.with_mix(Mix::up_to_two_objects()).unwrap();
    assert!((0..2_000).all(|index| {
        let prompt = short.prompt(index);
        prompt.scene.objects() <= 2 && prompt.intent.background.is_some()
    }));
}

#[test]
fn captions_say_what_the_scene_is() {
    for split in [Split::Seen, Split::HeldOut] {
        let scenes = scenes(11, split, 16);
        for index in 0..5_000 {
            let prompt = scenes.prompt(index);
            let parsed = caption::parse(&prompt.caption).unwrap();
            assert_eq!(parsed.canonical(), prompt.intent.clone().canonical(), "{}", prompt.caption);
            let whole = prompt.scene.intent();
            let unsaid = Intent { background: prompt.intent.background, ..whole };
            assert_eq!(unsaid, prompt.intent);
        }
    }
}

#[test]
fn objects_lie_in_their_boxes_and_fill_them() {
    for size in [64, 127, 256] {
        let scenes = scenes(5, Split::Seen, size);
        let mut cells = HashSet::new();
        for index in 0..150 {
            let example = scenes.get(index);
            let background = example.scene.background.rgb();
            let scale = f64::from(size);
            let boxes: Vec<[f64; 4]> = example
                .layout
                .objects
                .iter()
                .map(|object| {
                    let square = object.square;
                    cells.insert(object.cell);
                    assert!(square.x >= 0.0 && square.y >= 0.0, "{square:?}");
                    assert!(square.x + square.side <= 1.0 && square.y + square.side <= 1.0, "{square:?}");
                    let [x, y, side] = [square.x, square.y, square.side].map(|v| f64::from(v) * scale);
                    [x, y, x + side, y + side]
                })
                .collect();
            assert_eq!(boxes.len(), example.scene.objects());
            // Extent of what differs from the background, for each box.
            let mut extents = vec![[f64::MAX, f64::MAX, 0.0, 0.0]; boxes.len()];
            for (x, y, pixel) in example.image.enumerate_pixels() {
                let differs = pixel.0.iter().zip(background).any(|(&a, b)| a.abs_diff(b) > 24);
                if !differs {
                    continue;
                }
                let (x, y) = (f64::from(x) + 0.5, f64::from(y) + 0.5);
                // The soft edge of an object may reach a pixel or two out of its box.
                let inside =
                    |b: &[f64; 4]| x > b[0] - 2.0 && x < b[2] + 2.0 && y > b[1] - 2.0 && y < b[3] + 2.0;
                let owner = boxes.iter().position(inside);
                let owner = owner.unwrap_or_else(|| panic!("{x} {y} of {size}: {}", example.caption));
                let e = &mut extents[owner];
                *e = [e[0].min(x), e[1].min(y), e[2].max(x), e[3].max(y)];
            }
            for (extent, square) in extents.iter().zip(&boxes) {
                let longer = (extent[2] - extent[0]).max(extent[3] - extent[1]);
                // Parts of an object may have the colour of the background: most of the side must show.
                let part = longer / (square[2] - square[0]);
                assert!((0.6..1.2).contains(&part), "{part} {}", example.caption);
            }
        }
        assert_eq!(cells.len(), Cell::ALL.len());
    }
}

#[test]
fn relations_are_drawn_as_said() {
    let scenes = scenes(9, Split::Seen, 16);
    for index in 0..3_000 {
        let example = scenes.get(index);
        if let Some(relation) = example.scene.relation {
            let middle = |group: usize| {
                let objects: Vec<_> = example.layout.objects.iter().filter(|o| o.group == group).collect();
                let sum =
                    objects.iter().map(|o| o.square.center()).fold((0.0, 0.0), |s, c| (s.0 + c.0, s.1 + c.1));
                (sum.0 / objects.len() as f32, sum.1 / objects.len() as f32)
            };
            assert!(relation.holds(middle(0), middle(1)), "{}", example.caption);
            assert!(relation.inverse().holds(middle(1), middle(0)), "{}", example.caption);
        }
    }
}

#[test]
fn what_cannot_be_seen_is_not_shown() {
    let glyphs = Glyphs::load_subset(FONT).unwrap();
    let id = |name| GlyphId::named(name).unwrap();
    let color = |name| ColorId::named(name).unwrap();
    assert!(!glyphs.stands_out(id("skull"), color("white")));
    assert!(!glyphs.stands_out(id("star"), color("yellow")));
    assert!(glyphs.stands_out(id("panda"), color("white")));
    assert!(glyphs.stands_out(id("red apple"), color("sky blue")));
    // Not loaded at all.
    assert!(!glyphs.stands_out(id("guitar"), color("white")));
}

#[test]
fn a_wrong_font_is_explained() {
    let missing = Glyphs::load("/no/such/font.ttf").unwrap_err().to_string();
    assert!(missing.contains("/no/such/font.ttf") && missing.contains("fonts-noto-color-emoji"), "{missing}");
    let error = Glyphs::load(FONT).unwrap_err();
    assert!(matches!(&error, SceneError::GlyphsMissing { names, .. } if names.len() == 71), "{error}");
    assert!(error.to_string().contains("guitar"), "{error}");
    let not_a_font = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let error = Glyphs::load_subset(not_a_font).unwrap_err().to_string();
    assert!(error.contains("Cargo.toml"), "{error}");
    let error = Glyphs::load_named(FONT, &["cat", "dgo"]).unwrap_err().to_string();
    assert!(error.contains("\"dgo\"") && error.contains("dog"), "{error}");
    // A font cut off anywhere is refused or lacks glyphs; it never panics.
    let whole = std::fs::read(FONT).unwrap();
    let path = std::env::temp_dir().join(format!("velatura-cut-font-{}.ttf", std::process::id()));
    for part in 0..16 {
        std::fs::write(&path, &whole[..whole.len() * part / 16]).unwrap();
        Glyphs::load_named(&path, &["cat", "dog", "skull"]).unwrap_err();
    }
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn bad_settings_are_refused() {
    let glyphs = Arc::new(Glyphs::load_subset(FONT).unwrap());
    for size in [0, 15, 2049] {
        let error = Scenes::with_glyphs(glyphs.clone(), 0, Split::Seen, size).unwrap_err();
        assert!(matches!(error, SceneError::BadSize { .. }));
    }
    let scenes = scenes(0, Split::Seen, 16);
    for single in [-1.0, f32::NAN, f32::INFINITY] {
        let mix = Mix { single, ..Mix::default() };
        assert!(matches!(scenes.clone().with_mix(mix), Err(SceneError::BadMix)));
    }
}
