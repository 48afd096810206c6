//! Scenes in words, and words back into what they ask for.
//!
//! [`write()`] picks one of many natural wordings; [`parse()`] understands every one of them (and a few more), so
//! that a picture made from any caption of this grammar can be judged.

mod parse;
mod write;

use std::collections::BTreeSet;

pub use parse::{ParseError, parse};
pub use write::write;

use crate::vocabulary::{ColorId, GlyphId};

/// Number words by count; the digits are understood too.
const NUMBERS: [&str; 5] = ["", "one", "two", "three", "four"];

/// The words of the grammar that are neither objects, adjectives, colours nor numbers.
const GRAMMAR_WORDS: &str = "a an the pair couple of picture drawing image photo emoji on against in front with \
                             background plain to left right its their it them above over top below under \
                             beneath underneath next beside and at bottom side by there is are";

/// Lower-case words of a text: runs of letters, and runs of digits.
pub fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut digits = false;
    for c in text.chars() {
        if !word.is_empty() && (!c.is_alphanumeric() || c.is_numeric() != digits) {
            words.push(std::mem::take(&mut word));
        }
        if c.is_alphanumeric() {
            digits = c.is_numeric();
            // Some lower-case forms carry a combining mark, which is no letter.
            word.extend(c.to_lowercase().filter(|c| c.is_alphanumeric()));
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// Every word that a caption can contain, sorted, without duplicates: what a word tokenizer must know.
pub fn all_words() -> Vec<String> {
    let mut all = BTreeSet::new();
    let mut add = |text: &str| all.extend(words(text));
    add(GRAMMAR_WORDS);
    NUMBERS.iter().for_each(|number| add(number));
    (1..=4).for_each(|count: u8| add(&count.to_string()));
    for entry in GlyphId::all().map(GlyphId::entry) {
        for (singular, plural) in entry.nouns() {
            add(singular);
            add(plural);
        }
        entry.adjectives.iter().for_each(|adjective| add(adjective));
    }
    for color in ColorId::all() {
        add(color.name());
        color.entry().synonyms.iter().for_each(|synonym| add(synonym));
    }
    all.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;
    use crate::scene::{Group, Intent, Relation, Scene};

    fn random_scene(rng: &mut Rng) -> Scene {
        let glyphs: Vec<GlyphId> = GlyphId::all().collect();
        let colors: Vec<ColorId> = ColorId::all().collect();
        let background = *rng.pick(&colors).unwrap();
        let first = *rng.pick(&glyphs).unwrap();
        let second = *rng.pick(&glyphs).unwrap();
        if first == second || rng.chance(0.4) {
            let groups = vec![Group { glyph: first, count: 1 + rng.below(4) as u8 }];
            return Scene { background, groups, relation: None };
        }
        use Relation::{Above, Below, Beside, LeftOf, RightOf};
        let relation = rng.pick(&[LeftOf, RightOf, Above, Below, Beside]).copied();
        let mut group = |glyph| Group { glyph, count: 1 + rng.below(2) as u8 };
        Scene { background, groups: vec![group(first), group(second)], relation }
    }

    #[test]
    fn captions_parse_back_and_use_known_words_only() {
        let known: BTreeSet<String> = all_words().into_iter().collect();
        let mut longest = 0;
        for index in 0..20_000 {
            let mut rng = Rng::new(&[index]);
            let scene = random_scene(&mut rng);
            let mention = rng.chance(0.9);
            let caption = write(&scene, mention, &mut rng);
            let mut want = scene.intent();
            want.background = want.background.filter(|_| mention);
            let got = parse(&caption).unwrap_or_else(|error| panic!("{caption:?}: {error}"));
            assert_eq!(got.canonical(), want.canonical(), "{caption:?}");
            let words = words(&caption);
            longest = longest.max(words.len());
            for word in words {
                assert!(known.contains(&word), "{word:?} of {caption:?}");
            }
        }
        // The shipped tokenizer has room for 32 ids, two of which mark start and end.
        assert!(longest <= 30, "{longest} words");
    }

    fn intent(background: &str, groups: &[(&str, u8)], relation: Option<Relation>) -> Intent {
        Intent {
            background: ColorId::named(background),
            groups: groups
                .iter()
                .map(|&(name, count)| Group { glyph: GlyphId::named(name).unwrap(), count })
                .collect(),
            relation,
        }
    }

    #[test]
    fn free_wordings_are_understood() {
        use Relation::{Above, Beside, LeftOf, RightOf};
        let cases = [
            (
                "two red apples above a cat on a sky blue background",
                intent("sky blue", &[("red apple", 2), ("cat", 1)], Some(Above)),
            ),
            ("a cat with two apples above it, sky blue background", {
                intent("sky blue", &[("red apple", 2), ("cat", 1)], Some(Above))
            }),
            ("an owl to the left of a car, on red", intent("red", &[("owl", 1), ("car", 1)], Some(LeftOf))),
            ("3 bananas on white", intent("white", &[("banana", 3)], None)),
            ("An orange on an orange background.", intent("orange", &[("orange", 1)], None)),
            ("orange background, two oranges", intent("orange", &[("orange", 2)], None)),
            ("  A RED AUTOMOBILE ", intent("", &[("car", 1)], None)),
            ("a photo of a cat and a dog", intent("", &[("cat", 1), ("dog", 1)], Some(Beside))),
            ("a pair of kittens right of one ice cream cone", {
                intent("", &[("cat", 2), ("ice cream", 1)], Some(RightOf))
            }),
            ("a slice of pizza on the left and a dog on the right, against navy", {
                intent("dark blue", &[("pizza", 1), ("dog", 1)], Some(LeftOf))
            }),
            ("frog", intent("", &[("frog", 1)], None)),
        ];
        for (caption, want) in cases {
            let got = parse(caption).unwrap_or_else(|error| panic!("{caption:?}: {error}"));
            assert_eq!(got.canonical(), want.canonical(), "{caption:?}");
        }
    }

    #[test]
    fn what_cannot_be_judged_is_refused_with_a_reason() {
        for (caption, reason) in [
            ("", "names no object"),
            ("on a red background", "names no object"),
            ("a giraffe on red", "\"giraffe\""),
            ("two catz on red", "cats"),
            ("cats on red", "how many cats"),
            ("nine cats", "\"nine\""),
            ("9 cats", "1 to 4"),
            ("three cats above a dog", "1 to 2"),
            ("a cat above a cat", "same object"),
            ("a cat above a dog above a pig", "two"),
            ("a cat a dog", "how"),
            ("a cat on red, on blue", "two backgrounds"),
            ("two dog", "two dogs"),
            ("a dogs", "dogs"),
            ("a green car", "\"green\""),
        ] {
            let error = parse(caption).expect_err(caption).to_string();
            assert!(error.contains(reason), "{caption:?}: {error}");
        }
        // No input may panic or take long.
        parse(&"a cat above ".repeat(20_000)).expect_err("too many objects");
        parse("\u{0}¼ ９ cats ß\u{301}").expect_err("nonsense");
    }

    #[test]
    fn words_are_split_as_the_tokenizer_does() {
        assert_eq!(words("An owl,3 Cats/dogs — 2x"), ["an", "owl", "3", "cats", "dogs", "2", "x"]);
    }
}
