//! Styles by name, from a file.

use std::path::Path;

use velatura_text::prompt::styles::{Style, parse};

use crate::failure::Failure;

/// A larger file is no list of styles.
const LONGEST: u64 = 64 << 20;
/// Names that a message lists.
const MOST_NAMED: usize = 20;

/// The styles of these names, in this order; capitals do not matter where one name alone fits.
pub fn find(file: &Path, names: &[String]) -> Result<Vec<Style>, Failure> {
    let shown = file.display();
    let failed =
        |reason: String| Failure::Failed(format!("the styles file {shown} cannot be read: {reason}"));
    let unread = |e: std::io::Error| failed(format!("{e}; --styles-file names another"));
    if std::fs::metadata(file).map_err(unread)?.len() > LONGEST {
        return Err(failed("it is too large to be one".into()));
    }
    let bytes = std::fs::read(file).map_err(unread)?;
    let text = String::from_utf8(bytes).map_err(|_| failed("it is not UTF-8 text".into()))?;
    let styles = parse(&text).map_err(|e| failed(e.to_string()))?;
    names.iter().map(|name| one(&styles, name, file)).collect()
}

fn one(styles: &[Style], name: &str, file: &Path) -> Result<Style, Failure> {
    if let Some(style) = styles.iter().find(|style| style.name == name) {
        return Ok(style.clone());
    }
    let alike: Vec<&Style> =
        styles.iter().filter(|style| style.name.to_lowercase() == name.to_lowercase()).collect();
    if let [style] = alike[..] {
        return Ok(style.clone());
    }
    let known: Vec<&str> = styles.iter().map(|style| style.name.as_str()).take(MOST_NAMED).collect();
    let more = if styles.len() > MOST_NAMED { " and more" } else { "" };
    Err(Failure::Usage(format!(
        "there is no style \"{name}\" in {}; it has {}{more}",
        file.display(),
        if known.is_empty() { "none".to_string() } else { known.join(", ") }
    )))
}
