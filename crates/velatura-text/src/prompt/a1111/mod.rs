//! The grammar of A1111's web UI, in the order in which it undoes it: comments, tags of networks, `AND`, schedules
//! and alternatives, and for each text that comes out weights and breaks.

mod attention;
mod comments;
mod composition;
mod schedule;
mod tags;

use std::collections::HashMap;

pub use attention::attention;
pub use comments::strip_comments;
pub use schedule::{ScheduledText, prompt_schedule};
pub use tags::{NetworkKind, NetworkTag};

use super::{Prompt, PromptOptions, PromptPart, PromptWarning, Scheduled, Segment};

pub(super) fn read(text: &str, options: &PromptOptions) -> Prompt {
    let mut warnings = Vec::new();
    let mut networks = Vec::new();
    let text = strip_comments(text);
    let text = tags::extract(&text, options.negative, &mut networks, &mut warnings);
    let subprompts = match options.negative {
        true => vec![(text.as_str(), 1.0)],
        false => composition::split(&text),
    };
    if let [(_, weight)] = subprompts[..]
        && weight != 1.0
    {
        warnings.push(PromptWarning::WholePromptWeight { weight });
    }

    let mut texts = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    let mut parts = Vec::new();
    for (subprompt, weight) in subprompts {
        let (entries, warning) = schedule::read(subprompt, &options.steps);
        if let Some(warning) = warning
            && !warnings.contains(&warning)
        {
            warnings.push(warning);
        }
        let schedule = entries.into_iter().map(|entry| {
            let text = *known.entry(entry.text).or_insert_with_key(|text| {
                texts.push(segments(text, options, &mut warnings));
                texts.len() - 1
            });
            Scheduled { last_call: entry.last_step, text }
        });
        parts.push(PromptPart { weight, schedule: schedule.collect() });
    }
    Prompt { texts, parts, networks, warnings, options: *options }
}

fn segments(text: &str, options: &PromptOptions, warnings: &mut Vec<PromptWarning>) -> Vec<Segment> {
    if !options.weights {
        return vec![Segment::text(text, 1.0)];
    }
    let (segments, deep) = attention::read(text);
    let warning = PromptWarning::DeepBrackets { depth: attention::DEEPEST };
    if deep && !warnings.contains(&warning) {
        warnings.push(warning);
    }
    segments
}

/// Whether Python's regular expressions count a character to a word (`\w`): letters, numbers, the underscore.
fn is_word(c: char) -> bool {
    use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};
    let group = c.general_category_group();
    c == '_' || matches!(group, GeneralCategoryGroup::Letter | GeneralCategoryGroup::Number)
}

/// Where `word`, made of letters, stands in a text as a word of its own (`\bword\b`).
fn whole_words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}
