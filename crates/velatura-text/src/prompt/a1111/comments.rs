/// A prompt without its comments, each from `#` to the end of its line. A comment that fills a line leaves one line
/// end of the two around it, as it does in A1111, which removes those first.
pub fn strip_comments(text: &str) -> String {
    if !text.contains('#') {
        return text.to_owned();
    }
    let mut lines = String::with_capacity(text.len());
    let mut rest = text;
    if rest.starts_with('#') {
        lines.push('\n');
        rest = after_line(rest);
    }
    while let Some(at) = rest.find("\n#") {
        lines.push_str(&rest[..=at]);
        rest = after_line(&rest[at + 1..]);
    }
    lines.push_str(rest);

    let mut clean = String::with_capacity(lines.len());
    let mut rest = lines.as_str();
    while let Some(at) = rest.find('#') {
        clean.push_str(&rest[..at]);
        clean.push('\n');
        rest = after_line(&rest[at..]);
    }
    clean.push_str(rest);
    clean
}

/// What follows the first line and its end.
fn after_line(text: &str) -> &str {
    text.split_once('\n').map_or("", |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::strip_comments;

    #[test]
    fn comments_end_with_their_line() {
        for (text, wanted) in [
            ("a cat", "a cat"),
            ("a # b\nc", "a \nc"),
            ("# b\nc", "\nc"),
            ("a\n# b\nc", "a\nc"),
            ("a\n# b\n# c\nd", "a\n\nd"),
            ("a # b # c", "a \n"),
            ("#", "\n"),
        ] {
            assert_eq!(strip_comments(text), wanted, "{text:?}");
        }
    }
}
