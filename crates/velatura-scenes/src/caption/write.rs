use super::NUMBERS;
use crate::rng::Rng;
use crate::scene::{Group, Relation, Scene};
use crate::vocabulary::ColorId;

/// A caption for a scene, one of many wordings, chosen by `rng`. With `mention_background` false it leaves
/// the background unsaid.
///
/// Lower case and without a full stop most of the time, as people type prompts.
pub fn write(scene: &Scene, mention_background: bool, rng: &mut Rng) -> String {
    let subject = match (scene.groups.as_slice(), scene.relation) {
        ([a, b, ..], relation) => related(a, b, relation.unwrap_or(Relation::Beside), rng),
        ([a], _) => noun_phrase(a, rng),
        ([], _) => String::new(),
    };
    let subject = if rng.chance(0.06) {
        let kind = ["a picture of", "a drawing of", "an image of", "a photo of"][rng.below(4)];
        format!("{kind} {subject}")
    } else {
        subject
    };
    let mut caption =
        if mention_background { with_background(&subject, scene.background, rng) } else { subject };
    if rng.chance(0.1)
        && let Some(first) = caption.get(..1)
    {
        caption = first.to_uppercase() + &caption[1..];
        if rng.chance(0.4) {
            caption.push('.');
        }
    }
    caption
}

fn with_background(subject: &str, color: ColorId, rng: &mut Rng) -> String {
    let synonyms = color.entry().synonyms;
    let name =
        if rng.chance(0.25) { rng.pick(synonyms).copied().unwrap_or(color.name()) } else { color.name() };
    let a = article(name);
    match rng.weighted(&[30.0, 16.0, 16.0, 10.0, 6.0, 6.0, 8.0, 4.0, 4.0]) {
        0 => format!("{subject} on {a} {name} background"),
        1 => format!("{subject} on {name}"),
        2 => format!("{subject}, {name} background"),
        3 => format!("{subject} against {a} {name} background"),
        4 => format!("{subject} with {a} {name} background"),
        5 => format!("{name} background, {subject}"),
        6 => format!("on {a} {name} background, {subject}"),
        7 => format!("{subject}, on {name}"),
        _ => format!("{subject} in front of {a} {name} background"),
    }
}

/// "two red apples", "an owl", "a pair of kittens".
fn noun_phrase(group: &Group, rng: &mut Rng) -> String {
    let entry = group.glyph.entry();
    let forms: Vec<(&str, &str)> = entry.nouns().collect();
    let (singular, plural) = forms[if rng.chance(0.3) { rng.below(forms.len()) } else { 0 }];
    let noun = if group.count == 1 { singular } else { plural };
    // An adjective that the noun already begins with would be said twice.
    let adjective = rng.pick(entry.adjectives).filter(|adjective| !noun.starts_with(**adjective));
    let noun = match adjective {
        Some(adjective) if rng.chance(0.2) => format!("{adjective} {noun}"),
        _ => noun.to_owned(),
    };
    let number = NUMBERS[usize::from(group.count.clamp(1, 4))];
    if group.count <= 1 {
        match rng.weighted(&[80.0, 10.0, 6.0, 4.0]) {
            0 => format!("{} {noun}", article(&noun)),
            1 => format!("one {noun}"),
            2 => format!("1 {noun}"),
            _ => noun,
        }
    } else if group.count == 2 && rng.chance(0.15) {
        format!("a {} of {noun}", if rng.chance(0.5) { "pair" } else { "couple" })
    } else if rng.chance(0.2) {
        format!("{} {noun}", group.count)
    } else {
        format!("{number} {noun}")
    }
}

/// Two groups in a relation.
fn related(a: &Group, b: &Group, relation: Relation, rng: &mut Rng) -> String {
    use Relation::{Above, Below, Beside, LeftOf, RightOf};
    let (first, second) = (noun_phrase(a, rng), noun_phrase(b, rng));
    // "them" and "their" when what is referred to is several.
    let (it, its) = if b.count == 1 { ("it", "its") } else { ("them", "their") };
    match relation {
        LeftOf | RightOf => {
            let (here, there) = if relation == LeftOf { ("left", "right") } else { ("right", "left") };
            match rng.weighted(&[40.0, 20.0, 8.0, 10.0, 8.0, 14.0]) {
                0 => format!("{first} to the {here} of {second}"),
                1 => format!("{first} {here} of {second}"),
                2 => format!("{first} on the {here} of {second}"),
                3 => format!("{second} with {first} to {its} {here}"),
                4 => format!("{second} with {first} on the {here}"),
                _ => format!("{first} on the {here} and {second} on the {there}"),
            }
        }
        Above => match rng.weighted(&[55.0, 12.0, 12.0, 14.0, 7.0]) {
            0 => format!("{first} above {second}"),
            1 => format!("{first} over {second}"),
            2 => format!("{first} on top of {second}"),
            3 => format!("{second} with {first} above {it}"),
            _ => format!("{first} at the top and {second} at the bottom"),
        },
        Below => match rng.weighted(&[45.0, 20.0, 8.0, 6.0, 14.0, 7.0]) {
            0 => format!("{first} below {second}"),
            1 => format!("{first} under {second}"),
            2 => format!("{first} beneath {second}"),
            3 => format!("{first} underneath {second}"),
            4 => format!("{second} with {first} below {it}"),
            _ => format!("{first} at the bottom and {second} at the top"),
        },
        Beside => match rng.weighted(&[30.0, 20.0, 40.0, 10.0]) {
            0 => format!("{first} next to {second}"),
            1 => format!("{first} beside {second}"),
            2 => format!("{first} and {second}"),
            _ => format!("{first} and {second} side by side"),
        },
    }
}

/// "a" or "an". A unicorn starts with the sound of "you".
fn article(words: &str) -> &'static str {
    if words.starts_with(['a', 'e', 'i', 'o', 'u']) && !words.starts_with("uni") { "an" } else { "a" }
}
