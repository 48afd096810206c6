use std::collections::HashMap;
use std::sync::OnceLock;

use super::NUMBERS;
use crate::scene::{Group, Intent, Relation, Scene};
use crate::vocabulary::{ColorId, GlyphId};

/// Why a caption cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// It has no object of the vocabulary.
    #[error("the caption names no object")]
    NoObject,
    /// A word that means nothing here.
    #[error("cannot place the word \"{word}\"{}", hint(nearest))]
    UnknownWord {
        /// The word.
        word: String,
        /// Known words that look most like it.
        nearest: Vec<String>,
    },
    /// A plural without a number.
    #[error("the caption does not say how many {plural}")]
    NoCount {
        /// The noun.
        plural: &'static str,
    },
    /// More objects than a scene can hold.
    #[error("there can be 1 to {most} of {noun} here, not {count}")]
    TooMany {
        /// The noun, plural.
        noun: &'static str,
        /// How many were asked for.
        count: u32,
        /// How many there can be.
        most: u8,
    },
    /// A singular where a plural belongs, or the other way round.
    #[error("\"{found}\" does not fit its number; say \"{expected}\"")]
    WrongNumber {
        /// The noun that was found.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// Both groups are the same object.
    #[error("the same object ({name}) stands on both sides of the relation")]
    SameObject {
        /// Name of the object.
        name: &'static str,
    },
    /// More than two groups.
    #[error("a scene holds at most two kinds of objects")]
    TooManyGroups,
    /// Two groups whose relation is not in the grammar.
    #[error("the caption does not say how the {first} and the {second} stand to each other")]
    NoRelation {
        /// Name of the first object.
        first: &'static str,
        /// Name of the second object.
        second: &'static str,
    },
    /// More than one background.
    #[error("the caption names two backgrounds: {first} and {second}")]
    TwoBackgrounds {
        /// The first colour.
        first: &'static str,
        /// The second colour.
        second: &'static str,
    },
}

fn hint(nearest: &[String]) -> String {
    if nearest.is_empty() { String::new() } else { format!("; did you mean {}?", nearest.join(" or ")) }
}

/// Reads a caption.
///
/// # Errors
/// When it is not of the grammar, with the first thing that does not fit.
pub fn parse(caption: &str) -> Result<Intent, ParseError> {
    let tokens = tokenize(caption);
    let lexicon = lexicon();
    let mut items = Vec::new();
    let mut background: Option<ColorId> = None;
    let mut groups = 0;
    let mut rest = tokens.as_slice();
    while let Some(word) = rest.first() {
        if let Some((color, used)) = lexicon.background(rest) {
            if let Some(first) = background {
                return Err(ParseError::TwoBackgrounds { first: first.name(), second: color.name() });
            }
            background = Some(color);
            rest = &rest[used..];
        } else if let Some((item, used)) = lexicon.relation(rest) {
            items.push(item);
            rest = &rest[used..];
        } else if let Some((phrase, used)) = lexicon.noun_phrase(rest) {
            groups += 1;
            if groups > 2 {
                return Err(ParseError::TooManyGroups);
            }
            items.push(Item::Group(phrase?));
            rest = &rest[used..];
        } else if let Some(used) = lexicon.filler(rest) {
            rest = &rest[used..];
        } else {
            // In "a giraffe" it is the noun that is unknown.
            return Err(lexicon.unknown(rest.get(number(rest).1).unwrap_or(word)));
        }
    }
    let (groups, relation) = combine(&items)?;
    let most = if relation.is_some() { Scene::MAX_RELATED } else { Scene::MAX_ALONE };
    let groups = groups.into_iter().map(|phrase| phrase.checked(most)).collect::<Result<_, _>>()?;
    Ok(Intent { background, groups, relation })
}

/// A piece of a caption.
#[derive(Clone, Copy)]
enum Item {
    Group(Phrase),
    /// "above", between two groups.
    Between(Relation),
    /// "above it", "on the left", after a group.
    After(Relation),
    And,
    With,
    SideBySide,
}

/// Some objects with their number, not yet checked.
#[derive(Clone, Copy)]
struct Phrase {
    glyph: GlyphId,
    count: u32,
}

impl Phrase {
    fn checked(self, most: u8) -> Result<Group, ParseError> {
        let too_many = || ParseError::TooMany { noun: self.glyph.entry().plural, count: self.count, most };
        let count = u8::try_from(self.count).ok().filter(|count| (1..=most).contains(count));
        Ok(Group { glyph: self.glyph, count: count.ok_or_else(too_many)? })
    }
}

fn combine(items: &[Item]) -> Result<(Vec<Phrase>, Option<Relation>), ParseError> {
    use Item::{After, And, Between, Group, SideBySide, With};
    let (first, relation, second) = match *items {
        [Group(only)] => return Ok((vec![only], None)),
        [Group(a), Between(relation), Group(b)] => (a, relation, b),
        [Group(a), And, Group(b)] | [Group(a), And, Group(b), SideBySide] => (a, Relation::Beside, b),
        [Group(a), With, Group(b), After(relation)] => (b, relation, a),
        [Group(a), After(here), And, Group(b), After(there)]
        | [Group(a), After(here), Group(b), After(there)]
            if there == here.inverse() && here != Relation::Beside =>
        {
            (a, here, b)
        }
        _ => {
            let groups: Vec<&Phrase> = items
                .iter()
                .filter_map(|i| if let Group(phrase) = i { Some(phrase) } else { None })
                .collect();
            return Err(match groups.as_slice() {
                [] => ParseError::NoObject,
                [only, others @ ..] => ParseError::NoRelation {
                    first: only.glyph.name(),
                    second: others.first().map_or("rest", |phrase| phrase.glyph.name()),
                },
            });
        }
    };
    if first.glyph == second.glyph {
        return Err(ParseError::SameObject { name: first.glyph.name() });
    }
    Ok((vec![first, second], Some(relation)))
}

/// Words as [`super::words`] has them, and commas, which separate.
fn tokenize(caption: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    for (index, part) in caption.split(',').enumerate() {
        if index > 0 {
            tokens.push(",".to_owned());
        }
        tokens.extend(super::words(part));
    }
    tokens
}

#[derive(Clone, Copy)]
struct Noun {
    glyph: GlyphId,
    singular: &'static str,
    plural: &'static str,
}

/// All phrases by their words. Objects, colours and relations are looked up longest first.
struct Lexicon {
    nouns: HashMap<String, Noun>,
    colors: HashMap<String, ColorId>,
    relations: HashMap<&'static str, Item>,
    words: Vec<String>,
}

/// No phrase of the lexicon is longer, in words.
const LONGEST: usize = 4;

const RELATIONS: &[(Item, &[&str])] = &[
    (Item::Between(Relation::LeftOf), &["to the left of", "on the left of", "left of"]),
    (Item::Between(Relation::RightOf), &["to the right of", "on the right of", "right of"]),
    (Item::Between(Relation::Above), &["above", "over", "on top of"]),
    (Item::Between(Relation::Below), &["below", "under", "beneath", "underneath"]),
    (Item::Between(Relation::Beside), &["next to", "beside"]),
    (
        Item::After(Relation::LeftOf),
        &["to its left", "to their left", "on its left", "on their left", "on the left", "to the left"],
    ),
    (
        Item::After(Relation::RightOf),
        &["to its right", "to their right", "on its right", "on their right", "on the right", "to the right"],
    ),
    (
        Item::After(Relation::Above),
        &["above it", "above them", "over it", "over them", "on top", "at the top", "on top of it"],
    ),
    (
        Item::After(Relation::Below),
        &["below it", "below them", "under it", "under them", "beneath it", "beneath them", "at the bottom"],
    ),
    (Item::After(Relation::Beside), &["next to it", "next to them", "beside it", "beside them"]),
    (Item::And, &["and"]),
    (Item::With, &["with"]),
    (Item::SideBySide, &["side by side"]),
];

fn lexicon() -> &'static Lexicon {
    static LEXICON: OnceLock<Lexicon> = OnceLock::new();
    LEXICON.get_or_init(|| {
        let mut nouns = HashMap::new();
        for glyph in GlyphId::all() {
            for (singular, plural) in glyph.entry().nouns() {
                for form in [singular, plural] {
                    nouns.insert(form.to_owned(), Noun { glyph, singular, plural });
                }
            }
        }
        let colors = ColorId::all()
            .flat_map(|id| {
                id.entry().synonyms.iter().chain([&id.entry().name]).map(move |&n| (n.to_owned(), id))
            })
            .collect();
        let relations = RELATIONS
            .iter()
            .flat_map(|&(item, phrases)| phrases.iter().map(move |&phrase| (phrase, item)))
            .collect();
        Lexicon { nouns, colors, relations, words: super::all_words() }
    })
}

/// The longest phrase at the start of `tokens` that `find` knows, and its length in words.
fn longest<T>(tokens: &[String], find: impl Fn(&str) -> Option<T>) -> Option<(T, usize)> {
    (1..=tokens.len().min(LONGEST))
        .rev()
        .find_map(|used| find(&tokens[..used].join(" ")).map(|found| (found, used)))
}

/// How many words of `tokens` are one of the phrases: the first that fits, or 0.
fn skip(tokens: &[String], phrases: &[&str]) -> usize {
    let fits = |phrase: &&&str| {
        let mut at = 0;
        phrase.split(' ').all(|word| {
            at += 1;
            tokens.get(at - 1).is_some_and(|token| token == word)
        })
    };
    phrases.iter().find(fits).map_or(0, |phrase| phrase.split(' ').count())
}

const ARTICLES: &[&str] = &["a", "an", "the"];

impl Lexicon {
    /// "on a red background", "red background", "on red" (before a comma or the end).
    fn background(&self, tokens: &[String]) -> Option<(ColorId, usize)> {
        let mut used = skip(tokens, &["in front of", "on", "against", "with"]);
        let with = tokens.first().is_some_and(|word| word == "with");
        let preposition = used > 0 && !with;
        used += skip(&tokens[used..], ARTICLES);
        let (color, length) = longest(&tokens[used..], |phrase| self.colors.get(phrase).copied())?;
        used += length;
        match tokens.get(used).map(String::as_str) {
            Some("background") => Some((color, used + 1)),
            None | Some(",") if preposition => Some((color, used)),
            _ => None,
        }
    }

    fn relation(&self, tokens: &[String]) -> Option<(Item, usize)> {
        longest(tokens, |phrase| self.relations.get(phrase).copied())
    }

    /// "two red apples", "an owl", "a pair of yellow cats". The inner result is about number.
    fn noun_phrase(&self, tokens: &[String]) -> Option<(Result<Phrase, ParseError>, usize)> {
        let (count, mut used) = number(tokens);
        let (noun, length) = self.noun(&tokens[used..])?;
        used += length;
        let found = tokens[used - noun_words(&noun, &tokens[..used])..used].join(" ");
        let (is_singular, is_plural) = (found == noun.singular, found == noun.plural);
        let phrase = match count {
            None if is_singular => Ok(1),
            None => Err(ParseError::NoCount { plural: noun.plural }),
            Some(1) if !is_singular => {
                Err(ParseError::WrongNumber { found, expected: noun.singular.to_owned() })
            }
            Some(count) if count != 1 && !is_plural => {
                let number = NUMBERS.get(count as usize).filter(|number| !number.is_empty());
                let number = number.map_or(count.to_string(), |number| (*number).to_owned());
                Err(ParseError::WrongNumber { found, expected: format!("{number} {}", noun.plural) })
            }
            Some(count) => Ok(count),
        };
        Some((phrase.map(|count| Phrase { glyph: noun.glyph, count }), used))
    }

    /// A noun, perhaps after an adjective that is true of it.
    fn noun(&self, tokens: &[String]) -> Option<(Noun, usize)> {
        let find = |phrase: &str| self.nouns.get(phrase).copied();
        // The adjective first: in "an orange gift" the orange is no fruit.
        let described = tokens.split_first().and_then(|(adjective, rest)| {
            let (noun, used) = longest(rest, find)?;
            noun.glyph.entry().adjectives.contains(&adjective.as_str()).then_some((noun, used + 1))
        });
        described.or_else(|| longest(tokens, find))
    }

    fn filler(&self, tokens: &[String]) -> Option<usize> {
        const MEDIA: &[&str] = &["picture of", "drawing of", "image of", "photo of", "emoji of"];
        let article = skip(tokens, ARTICLES);
        let media = skip(&tokens[article..], MEDIA);
        if media > 0 {
            return Some(article + media);
        }
        let other = skip(tokens, &[",", "there is", "there are"]);
        (other > 0).then_some(other)
    }

    fn unknown(&self, word: &str) -> ParseError {
        let mut nearest: Vec<(f64, &String)> = Vec::new();
        // An overlong word is nobody's typing error, and comparing it would take long.
        if word.len() <= 40 && !self.words.iter().any(|known| known == word) {
            nearest = self.words.iter().map(|known| (strsim::jaro_winkler(known, word), known)).collect();
            nearest.retain(|&(likeness, _)| likeness > 0.8);
            nearest.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
            nearest.truncate(3);
        }
        ParseError::UnknownWord {
            word: word.chars().take(40).collect(),
            nearest: nearest.into_iter().map(|(_, known)| known.clone()).collect(),
        }
    }
}

/// How many words the noun at the end of `tokens` has.
fn noun_words(noun: &Noun, tokens: &[String]) -> usize {
    let ends_with = |form: &str| {
        let length = form.split(' ').count();
        (tokens.len() >= length && tokens[tokens.len() - length..].join(" ") == form).then_some(length)
    };
    ends_with(noun.singular).or_else(|| ends_with(noun.plural)).unwrap_or(1)
}

/// The number at the start, if there is one, and how many words it takes.
fn number(tokens: &[String]) -> (Option<u32>, usize) {
    let pair = skip(tokens, &["a pair of", "a couple of"]);
    if pair > 0 {
        return (Some(2), pair);
    }
    let Some(word) = tokens.first() else { return (None, 0) };
    if ARTICLES.contains(&word.as_str()) {
        // "the cat" and "a cat" are one cat.
        return (Some(1), 1);
    }
    if let Some(count) = NUMBERS.iter().skip(1).position(|number| number == word) {
        return (Some(count as u32 + 1), 1);
    }
    match word.parse() {
        Ok(count) => (Some(count), 1),
        Err(_) => (None, 0),
    }
}
