//! How a picture was made.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::json;
use velatura::PictureInfo;

use super::Args;
use crate::failure::Failure;
use crate::terminal;

/// Prints a picture's metadata.
pub fn print(args: &Args) -> Result<(), Failure> {
    let info = PictureInfo::open(&args.file)?;
    if args.json {
        let texts: BTreeMap<&str, &str> = info.texts.iter().map(|(k, t)| (k.as_str(), t.as_str())).collect();
        let request = info.request(&args.file.display().to_string()).ok();
        return terminal::print_json(&json!({
            "kind": "picture", "width": info.width, "height": info.height,
            "request": request, "origin": info.origin(), "texts": texts,
        }));
    }
    let mut text = format!("{} picture, {}x{}\n", info.format.name(), info.width, info.height);
    if let Some(origin) = info.origin() {
        let _ = writeln!(
            text,
            "made by velatura {} ({}) with {} [{}]\n",
            origin.version, origin.instructions, origin.model.name, origin.model.hash
        );
    }
    match info.text("parameters") {
        Some(parameters) => {
            let _ = writeln!(text, "{parameters}");
        }
        None if info.texts.is_empty() => text.push_str("no metadata: nothing says how it was made\n"),
        None => {}
    }
    for (keyword, content) in info.texts.iter().filter(|(k, _)| k != "parameters" && k != "velatura") {
        let _ = writeln!(text, "\n{keyword}:\n{content}");
    }
    if info.request("").is_ok() {
        let _ = writeln!(text, "\nmake it again: velatura generate --from {}", args.file.display());
    }
    terminal::print(&text)
}
