//! ComfyUI's grammar: round brackets that weigh, and `embedding:name`.
//!
//! ComfyUI reads brackets by recursion from the outside in. The same reading comes out of one pass that pairs them
//! and one that walks the pairs with a stack of its own.

use std::collections::VecDeque;

use super::{Embeddings, PromptWarning, Segment, finite, is_space};

const WEIGHT: f64 = 1.1;

/// A text's pieces with their weights, as ComfyUI's `token_weights` gives them: `(a)` times 1.1, `(a:1.3)` is 1.3
/// whatever is around it. `\(` and `\)` are letters. A `)` without partner is text and makes text of the next `(`.
/// A `(` without partner makes text of everything behind it, unless the prompt ends in `)`: then ComfyUI takes the
/// two for a pair and reads what is between.
///
/// Numbers as Python reads them, but for those that nothing can be multiplied with: `(a:nan)` and `(a:inf)` are
/// text in an ordinary bracket.
pub fn token_weights(text: &str) -> Vec<Segment> {
    let mut brackets = Brackets::read(text);
    let mut pieces = Pieces { text, list: Vec::new() };
    let mut weight = 1.0;
    let (mut from, mut to) = (0, text.len());
    loop {
        let Some(unclosed) = brackets.unclosed.pop_front() else {
            brackets.walk(from, to, weight, &mut pieces);
            break;
        };
        brackets.walk(from, unclosed, weight, &mut pieces);
        let partner = (to > unclosed + 1).then(|| brackets.partner(to - 1)).flatten();
        let Some(partner) = partner else {
            pieces.push(unclosed, to, weight);
            break;
        };
        // It comes behind all that are unclosed: what it closed lies behind them.
        brackets.unclosed.push_back(partner);
        (weight, to) = weigh(text, unclosed + 1, to - 1, weight);
        from = unclosed + 1;
    }
    pieces.list
}

/// Weight and end of what stands in brackets between `from` and `to`.
fn weigh(text: &str, from: usize, to: usize, around: f64) -> (f64, usize) {
    let content = &text[from..to];
    let number_like = |c: char| c.is_ascii_digit() || "+-.eE_".contains(c) || is_space(c);
    let head = content.trim_end_matches(number_like);
    let number = content[head.len()..].trim_matches(is_space);
    // A colon at the very start is text.
    match python_number(number).filter(|_| head.len() > 1 && head.ends_with(':')) {
        Some(weight) => (weight, from + head.len() - 1),
        None => ((around * WEIGHT).clamp(f64::MIN, f64::MAX), to),
    }
}

/// A number as Python's `float` reads it: single underscores may part digits.
fn python_number(text: &str) -> Option<f64> {
    if !text.contains('_') {
        return finite(text);
    }
    let digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_digit);
    let bytes = text.as_bytes();
    let parts = |(i, &byte): (usize, &u8)| {
        byte != b'_' || digit(i.checked_sub(1).and_then(|i| bytes.get(i))) && digit(bytes.get(i + 1))
    };
    bytes.iter().enumerate().all(parts).then(|| finite(&text.replace('_', "")))?
}

/// Round brackets that are not escaped, in order.
struct Brackets {
    /// Place of each, and the place of its partner where it has one.
    list: Vec<(usize, Option<usize>)>,
    /// Opening brackets that nothing closes.
    unclosed: VecDeque<usize>,
}

impl Brackets {
    fn read(text: &str) -> Self {
        let mut list: Vec<(usize, Option<usize>)> = Vec::new();
        let mut open: Vec<usize> = Vec::new();
        let mut surplus = 0usize;
        let mut bytes = text.bytes().enumerate().peekable();
        while let Some((at, byte)) = bytes.next() {
            match byte {
                b'\\' => {
                    bytes.next_if(|&(_, next)| matches!(next, b'(' | b')'));
                }
                b'(' if surplus > 0 => surplus -= 1,
                b'(' => {
                    open.push(list.len());
                    list.push((at, None));
                }
                b')' => match open.pop() {
                    Some(index) => {
                        list[index].1 = Some(at);
                        let partner = list[index].0;
                        list.push((at, Some(partner)));
                    }
                    None => surplus += 1,
                },
                _ => (),
            }
        }
        let unclosed = open.into_iter().map(|index| list[index].0).collect();
        Self { list, unclosed }
    }

    /// Where the bracket opens that closes at `at`.
    fn partner(&self, at: usize) -> Option<usize> {
        let index = self.list.binary_search_by_key(&at, |&(at, _)| at).ok()?;
        self.list[index].1.filter(|&partner| partner < at)
    }

    /// Pieces of a stretch in which every bracket has its partner.
    fn walk(&self, from: usize, to: usize, weight: f64, pieces: &mut Pieces) {
        let mut next = self.list.partition_point(|&(at, _)| at < from);
        let mut spans = vec![(from, to, weight)];
        while let Some((from, to, weight)) = spans.pop() {
            match self.list.get(next) {
                Some(&(open, Some(close))) if open < to => {
                    pieces.push(from, open, weight);
                    spans.push((close + 1, to, weight));
                    let (inner, end) = weigh(pieces.text, open + 1, close, weight);
                    spans.push((open + 1, end, inner));
                    next += 1;
                }
                _ => {
                    pieces.push(from, to, weight);
                    // The bracket that closes this span, if any.
                    next += 1;
                }
            }
        }
    }
}

struct Pieces<'a> {
    text: &'a str,
    list: Vec<Segment>,
}

impl Pieces<'_> {
    /// Text without the backslashes in front of brackets; nothing for an empty stretch.
    fn push(&mut self, from: usize, to: usize, weight: f64) {
        if from < to {
            let text = self.text[from..to].replace("\\)", ")").replace("\\(", "(");
            self.list.push(Segment::text(text, weight));
        }
    }
}

/// A part of a segment that ComfyUI tokenises by itself.
pub(super) enum Piece {
    Text(String),
    Embedding { name: String, vectors: usize },
}

const IDENTIFIER: &str = "embedding:";

/// Parts a segment at `embedding:name`, at its start or behind a space. A name ends with a space, `<` or `[`;
/// commas behind it do not belong to it, unless an embedding is called so. An embedding that is not there is left
/// out; `embedding:` without a name is text.
pub(super) fn pieces(
    text: &str,
    embeddings: &dyn Embeddings,
    warnings: &mut Vec<PromptWarning>,
) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let push_text = |pieces: &mut Vec<Piece>, text: String| {
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
    };
    let starts = text.match_indices(IDENTIFIER).map(|(at, _)| at);
    let starts: Vec<usize> = starts.filter(|&at| at == 0 || text[..at].ends_with(is_space)).collect();
    push_text(&mut pieces, text[..starts.first().copied().unwrap_or(text.len())].to_owned());
    for (i, &start) in starts.iter().enumerate() {
        let part = &text[start..starts.get(i + 1).copied().unwrap_or(text.len())];
        let word = part[IDENTIFIER.len()..].trim_start_matches(is_space);
        let length = word.find(|c| is_space(c) || c == '<' || c == '[').unwrap_or(word.len());
        let (name, rest) = word.split_at(length);
        if name.is_empty() {
            push_text(&mut pieces, part.to_owned());
            continue;
        }
        let vectors = |name| embeddings.vectors(name).filter(|&vectors| vectors > 0);
        let bare = name.trim_matches(',');
        let commas = &name[name.trim_end_matches(',').len()..];
        if let Some(vectors) = vectors(name) {
            pieces.push(Piece::Embedding { name: name.to_owned(), vectors });
            push_text(&mut pieces, rest.to_owned());
            continue;
        }
        match vectors(bare) {
            Some(vectors) => pieces.push(Piece::Embedding { name: bare.to_owned(), vectors }),
            None => warnings.push(PromptWarning::NoEmbedding { name: bare.to_owned() }),
        }
        push_text(&mut pieces, format!("{commas}{rest}"));
    }
    pieces
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn embeddings_are_found_by_their_word() {
        let embeddings =
            BTreeMap::from([("one".to_owned(), 1), ("a,".to_owned(), 2), ("none".to_owned(), 0)]);
        let read = |text: &str| {
            let mut warnings = Vec::new();
            let show = |piece| match piece {
                Piece::Text(text) => text,
                Piece::Embedding { name, vectors } => format!("{{{name} {vectors}}}"),
            };
            let shown: Vec<String> = pieces(text, &embeddings, &mut warnings).into_iter().map(show).collect();
            (shown.join("+"), warnings.len())
        };
        for (text, wanted, warned) in [
            ("embedding:one", "{one 1}", 0),
            ("x embedding:one, y", "x +{one 1}+, y", 0),
            ("embedding:a, y\tembedding: one", "{a, 2}+ y\t+{one 1}", 0),
            ("embedding:one<lora:x>", "{one 1}+<lora:x>", 0),
            ("embedding:one[b]", "{one 1}+[b]", 0),
            ("xembedding:one", "xembedding:one", 0),
            ("embedding:other, y", ", y", 1),
            ("embedding:none", "", 1),
            ("embedding:", "embedding:", 0),
            ("embedding: embedding:one", "embedding: +{one 1}", 0),
        ] {
            assert_eq!(read(text), (wanted.to_owned(), warned), "{text:?}");
        }
    }
}
