//! Names of output files: patterns with placeholders, checked before any work is done.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use velatura::{Format, GenerateRequest};
use velatura_weights::check_writable;

use crate::failure::Failure;

/// What pictures are called when nobody says.
const DEFAULT: &str = "velatura-{number:04}";
/// The placeholders, for messages.
const KNOWN: &str = "{seed}, {index}, {number}, {prompt}, {width}, {height}, {steps}";
/// More numbered files than this in one folder are not looked through.
const MOST_NUMBERS: usize = 1_000_000;

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(String),
    Field { field: Field, digits: usize },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Seed,
    Index,
    Number,
    Prompt,
    Width,
    Height,
    Steps,
}

/// What kind of picture a name says, by its extension. A folder's says nothing.
pub fn format(name: &str) -> Option<Format> {
    let is_folder = name.ends_with(std::path::is_separator) || Path::new(name).is_dir();
    Format::named(Path::new(name).extension()?.to_str()?).filter(|_| !is_folder)
}

/// A file name with placeholders.
#[derive(Clone, Debug, PartialEq)]
pub struct Pattern {
    parts: Vec<Part>,
    /// Length of the extension at the end, with its dot.
    extension: usize,
    /// Whether it names a device or a pipe, which takes everything.
    special: bool,
}

impl Pattern {
    /// Reads a pattern; `None` is the default one. A folder gets the default names; a name without extension gets that of
    /// the pictures' format.
    pub fn new(pattern: Option<&str>, format: Format) -> Result<Self, Failure> {
        let mut text = pattern.unwrap_or(DEFAULT).to_string();
        if text.is_empty() {
            return Err(Failure::Usage("the output's name is empty".into()));
        }
        if text.contains('\0') {
            return Err(Failure::Usage("the output's name has a NUL in it".into()));
        }
        let is_folder = text.ends_with(std::path::is_separator) || Path::new(&text).is_dir();
        if is_folder {
            text = Path::new(&text).join(DEFAULT).to_string_lossy().into_owned();
        }
        let special = std::fs::metadata(&text).is_ok_and(|m| !m.is_file() && !m.is_dir());
        let mut extension = 0;
        if !special {
            match Path::new(&text).extension().and_then(|e| e.to_str()) {
                Some(e) if Format::named(e).is_some() => extension = e.len() + 1,
                // `{seed}` or `v1.5-{seed}` has no extension.
                Some(e) if !e.contains(['{', '}', '-', ' ']) && e.chars().any(char::is_alphabetic) => {
                    return Err(Failure::Usage(format!(
                        "the output is named {text}, but pictures are written as PNG, JPEG or WebP only; end the name in \
                         .png, .jpg or .webp"
                    )));
                }
                _ => {
                    let usual = format!(".{}", format.extensions()[0]);
                    extension = usual.len();
                    text.push_str(&usual);
                }
            }
        }
        Ok(Pattern { parts: parse(&text)?, extension, special })
    }

    /// The names of files with what each request makes. `{number}` takes the lowest numbers that are free now; several
    /// files of one name get `-1`, `-2` and so on.
    pub fn names(&self, files: &[GenerateRequest]) -> Result<Vec<PathBuf>, Failure> {
        let names = self.filled(files)?;
        let distinct = names.iter().collect::<HashSet<_>>().len() == names.len();
        if distinct || self.special {
            return Ok(names);
        }
        let mut parts = self.parts.clone();
        if let Some(Part::Text(last)) = parts.last_mut() {
            let extension = last.split_off(last.len().saturating_sub(self.extension));
            last.push('-');
            parts.extend([Part::Field { field: Field::Index, digits: 0 }, Part::Text(extension)]);
        }
        Pattern { parts, ..*self }.filled(files)
    }

    fn filled(&self, files: &[GenerateRequest]) -> Result<Vec<PathBuf>, Failure> {
        let mut taken = HashSet::new();
        let mut number = 0;
        let mut names = Vec::with_capacity(files.len());
        for (index, request) in files.iter().enumerate() {
            let counts = self.parts.iter().any(|p| matches!(p, Part::Field { field: Field::Number, .. }));
            let name = loop {
                number += 1;
                let name = self.fill(request, index, number);
                if !counts || (!name.exists() && !taken.contains(&name)) {
                    break name;
                }
                if number > MOST_NUMBERS {
                    return Err(Failure::Failed(format!("no number is free for {}", name.display())));
                }
            };
            taken.insert(name.clone());
            names.push(name);
        }
        Ok(names)
    }

    fn fill(&self, request: &GenerateRequest, index: usize, number: usize) -> PathBuf {
        let mut name = String::new();
        for part in &self.parts {
            let (field, digits) = match part {
                Part::Text(text) => {
                    name.push_str(text);
                    continue;
                }
                Part::Field { field, digits } => (*field, *digits),
            };
            let value = match field {
                Field::Prompt => {
                    name.push_str(&slug(&request.prompt));
                    continue;
                }
                Field::Seed => request.seed.unwrap_or_default(),
                Field::Index => index as u64 + 1,
                Field::Number => number as u64,
                Field::Width => request.width.unwrap_or_default().into(),
                Field::Height => request.height.unwrap_or_default().into(),
                Field::Steps => request.steps.unwrap_or_default().into(),
            };
            name.push_str(&format!("{value:0digits$}"));
        }
        PathBuf::from(name)
    }
}

fn parse(text: &str) -> Result<Vec<Part>, Failure> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let unknown = |what: &str| {
            Failure::Usage(format!(
                "the output's name has the placeholder {{{what}}}, which is not known; known are {KNOWN}"
            ))
        };
        let Some((inside, behind)) = after.split_once('}') else {
            return Err(Failure::Usage(format!(
                "the output's name has a {{ without }}; placeholders are {KNOWN}"
            )));
        };
        let (word, digits) = inside.split_once(':').unwrap_or((inside, "0"));
        let field = match word {
            "seed" => Field::Seed,
            "index" => Field::Index,
            "number" => Field::Number,
            "prompt" => Field::Prompt,
            "width" => Field::Width,
            "height" => Field::Height,
            "steps" => Field::Steps,
            _ => return Err(unknown(inside)),
        };
        let digits = digits.parse().ok().filter(|d| *d <= 20).ok_or_else(|| unknown(inside))?;
        parts.push(Part::Text(before.to_string()));
        parts.push(Part::Field { field, digits });
        rest = behind;
    }
    parts.push(Part::Text(rest.to_string()));
    Ok(parts)
}

/// The beginning of a prompt in letters, digits and hyphens: safe in any file system.
fn slug(prompt: &str) -> String {
    let mut slug = String::new();
    for word in prompt.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()) {
        if slug.len() + word.len() > 60 {
            break;
        }
        if !slug.is_empty() {
            slug.push('-');
        }
        slug.extend(word.chars().flat_map(char::to_lowercase));
    }
    if slug.is_empty() { "picture".into() } else { slug }
}

/// Whether every name can be written, found out once for each folder.
pub fn check_all_writable(names: &[PathBuf]) -> Result<(), Failure> {
    let mut folders = HashSet::new();
    for name in names {
        let special = std::fs::metadata(name).is_ok_and(|m| !m.is_file());
        if special || folders.insert(name.parent().map(Path::to_path_buf)) {
            check_writable(name)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(pattern: &str, files: usize) -> Vec<String> {
        let request =
            GenerateRequest { seed: Some(7), width: Some(64), ..GenerateRequest::new("A cat, & 2 dogs!") };
        let requests: Vec<_> = (0..files).map(|index| request.of_picture(index)).collect();
        let names = Pattern::new(Some(pattern), Format::Png).unwrap().names(&requests).unwrap();
        names.into_iter().map(|n| n.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn placeholders_are_filled() {
        assert_eq!(names("no-such/{seed}-{index:03}.png", 2), ["no-such/7-001.png", "no-such/8-002.png"]);
        assert_eq!(names("{prompt}-{width}", 1), ["a-cat-2-dogs-64.png"]);
        assert_eq!(names("cat.png", 1), ["cat.png"]);
        assert_eq!(names("cat.PNG", 2), ["cat-1.PNG", "cat-2.PNG"]);
        assert_eq!(names("v1.5", 1), ["v1.5.png"]);
        assert_eq!(names("cat.jpeg", 2), ["cat-1.jpeg", "cat-2.jpeg"]);
        assert_eq!(names("cat.WebP", 1), ["cat.WebP"]);
        let webp = Pattern::new(Some("cat"), Format::WebP).unwrap();
        assert_eq!(webp.names(&[GenerateRequest::new("")]).unwrap(), [PathBuf::from("cat.webp")]);
    }

    #[test]
    fn one_seed_makes_files_of_many_names() {
        let request = |prompt: &str| GenerateRequest { seed: Some(7), ..GenerateRequest::new(prompt) };
        let requests = [request("a cat"), request("a dog"), request("a cat")];
        let names =
            |pattern: &str| Pattern::new(Some(pattern), Format::Png).unwrap().names(&requests).unwrap();
        let paths = |names: [&str; 3]| names.map(PathBuf::from).to_vec();
        assert_eq!(names("{seed}"), paths(["7-1.png", "7-2.png", "7-3.png"]));
        assert_eq!(names("{prompt}-{seed}"), paths(["a-cat-7-1.png", "a-dog-7-2.png", "a-cat-7-3.png"]));
    }

    #[test]
    fn numbers_skip_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("velatura-0002.png"), "x").unwrap();
        let found = names(folder.path().to_str().unwrap(), 2);
        assert!(found[0].ends_with("velatura-0001.png"), "{found:?}");
        assert!(found[1].ends_with("velatura-0003.png"), "{found:?}");
    }

    #[test]
    fn bad_patterns_are_refused() {
        for (pattern, word) in [
            ("", "empty"),
            ("{sed}.png", "{sed}"),
            ("{seed", "without }"),
            ("{seed:x}.png", "{seed:x}"),
            ("{seed:99}.png", "{seed:99}"),
            ("cat.gif", ".png"),
            ("a\0b.png", "NUL"),
        ] {
            match Pattern::new(Some(pattern), Format::Png) {
                Err(Failure::Usage(text)) => assert!(text.contains(word), "{text}"),
                other => panic!("{pattern}: {other:?}"),
            }
        }
    }
}
