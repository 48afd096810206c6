//! Styles: named texts that a prompt is put into, from a file `styles.csv` as A1111's web UI keeps it.

use super::{is_space, strip_comments};

/// A named pair of texts for the prompt and the negative prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Style {
    /// Its name.
    pub name: String,
    /// What becomes of the prompt: `{prompt}` stands for it; without, the text goes behind it.
    pub prompt: String,
    /// The same for the negative prompt.
    pub negative: String,
}

/// What can go wrong with styles.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StylesError {
    /// The first line does not name the columns.
    #[error(
        "the first line of a styles file must name the columns: name, prompt, negative_prompt; it has no \"{column}\""
    )]
    NoColumn {
        /// The column that is missing.
        column: &'static str,
    },
    /// Styles that contain `{prompt}` many times can grow without bound.
    #[error("with the style \"{name}\" the prompt grows beyond {} MiB", MOST_BYTES >> 20)]
    TooLong {
        /// The style at which it did.
        name: String,
    },
}

/// No prompt anybody reads is longer.
const MOST_BYTES: usize = 4 << 20;

/// Reads a styles file. Lines whose name begins with `#` are comments, a column `text` stands in for `prompt` in
/// old files, missing columns are empty, and of two styles of one name the later counts, in the earlier's place.
///
/// # Errors
/// When the first line does not name the columns.
pub fn parse(csv: &str) -> Result<Vec<Style>, StylesError> {
    let mut rows = rows(csv.trim_start_matches('\u{feff}')).into_iter();
    let header = rows.next().unwrap_or_default();
    let column = |name: &str| header.iter().position(|column| column == name);
    let name = column("name").ok_or(StylesError::NoColumn { column: "name" })?;
    let prompt =
        column("prompt").or_else(|| column("text")).ok_or(StylesError::NoColumn { column: "prompt" })?;
    let negative = column("negative_prompt");
    let mut styles: Vec<Style> = Vec::new();
    let mut places = std::collections::HashMap::new();
    for row in rows {
        let field = |index: usize| row.get(index).cloned().unwrap_or_default();
        let style = Style {
            name: field(name),
            prompt: field(prompt),
            negative: negative.map(field).unwrap_or_default(),
        };
        if style.name.starts_with('#') {
            continue;
        }
        match places.get(&style.name) {
            Some(&at) => styles[at] = style,
            None => {
                places.insert(style.name.clone(), styles.len());
                styles.push(style);
            }
        }
    }
    Ok(styles)
}

/// The prompt in its styles, one after the other. Comments go, in the prompt and in the styles. Pass each style's
/// name with its text for the prompt or for the negative prompt.
///
/// # Errors
/// When the prompt grows beyond all measure.
pub fn apply<'a>(
    prompt: &str,
    styles: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<String, StylesError> {
    let mut prompt = strip_comments(prompt).trim_matches(is_space).to_owned();
    for (name, style) in styles {
        let style = strip_comments(style);
        let style = style.trim_matches(is_space);
        let places = style.matches(PLACE).count();
        if places.saturating_mul(prompt.len()).saturating_add(style.len() + prompt.len()) > MOST_BYTES {
            return Err(StylesError::TooLong { name: name.to_owned() });
        }
        if places > 0 {
            prompt = style.replace(PLACE, &prompt);
        } else if !style.is_empty() {
            if !prompt.is_empty() {
                prompt.push_str(", ");
            }
            prompt.push_str(style);
        }
    }
    Ok(prompt)
}

const PLACE: &str = "{prompt}";

/// The rows of a file in the dialect of Python's `csv` module with spaces skipped behind commas, which the `csv`
/// crate cannot read: it would take the quotes in `a, "b, c"` for letters.
fn rows(csv: &str) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut row = Vec::new();
    let mut field = String::new();
    let mut state = State::Start;
    for c in csv.chars() {
        state = match (state, c) {
            (State::Quoted, '"') => State::Quote,
            (State::Quoted, c) => {
                field.push(c);
                State::Quoted
            }
            (State::Quote, '"') => {
                field.push('"');
                State::Quoted
            }
            (_, ',') => {
                row.push(std::mem::take(&mut field));
                State::Start
            }
            (state, '\n' | '\r') => {
                // Empty lines are no rows.
                if !(row.is_empty() && matches!(state, State::Start)) {
                    row.push(std::mem::take(&mut field));
                    rows.push(std::mem::take(&mut row));
                }
                State::Start
            }
            (State::Start, ' ') => State::Start,
            (State::Start, '"') => State::Quoted,
            (_, c) => {
                field.push(c);
                State::Plain
            }
        };
    }
    if !row.is_empty() || !matches!(state, State::Start) {
        row.push(field);
        rows.push(row);
    }
    rows
}

#[derive(Clone, Copy)]
enum State {
    /// At the start of a field.
    Start,
    /// In a field without quotes.
    Plain,
    /// In a field with quotes.
    Quoted,
    /// Behind a quote in such a field: its end, or the first of two.
    Quote,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn style(name: &str, prompt: &str, negative: &str) -> Style {
        Style { name: name.to_owned(), prompt: prompt.to_owned(), negative: negative.to_owned() }
    }

    #[test]
    fn files_are_read_as_the_web_ui_reads_them() {
        let csv = "\u{feff}name,prompt,negative_prompt\r\nfilm,\"{prompt}, film, \"\"35 mm\"\"\",  \"cgi, 3d\"\r\n\r\n\
                   # off,x,y\nshort\nlines,\"a\nb\",c,extra\nfilm2, plain \"quoted\" text,\n";
        let wanted = [
            style("film", "{prompt}, film, \"35 mm\"", "cgi, 3d"),
            style("short", "", ""),
            style("lines", "a\nb", "c"),
            style("film2", "plain \"quoted\" text", ""),
        ];
        assert_eq!(parse(csv).unwrap(), wanted);
        assert_eq!(parse("name,text\nold,words").unwrap(), [style("old", "words", "")]);
        assert_eq!(parse("name,prompt\na,1\nb,2\na,3").unwrap(), [style("a", "3", ""), style("b", "2", "")]);
        assert_eq!(parse(""), Err(StylesError::NoColumn { column: "name" }));
        assert_eq!(parse("name,x\n"), Err(StylesError::NoColumn { column: "prompt" }));
    }

    #[test]
    fn a_prompt_is_put_into_its_styles() {
        let apply = |prompt, styles: &[&'static str]| apply(prompt, styles.iter().map(|&s| ("", s)));
        assert_eq!(apply(" a cat # mine\n", &["oil", "", "by {prompt}!"]).unwrap(), "by a cat, oil!");
        assert_eq!(apply("", &["oil", "ink"]).unwrap(), "oil, ink");
        let doubling = ["{prompt}{prompt}"; 30];
        assert!(matches!(apply("a cat", &doubling), Err(StylesError::TooLong { .. })));
    }
}
