//! A file that holds no part of a known model: adapters, embeddings, and what nobody knows.

use std::fmt::Write;

use serde_json::json;
use velatura_weights::{Other, OtherKind, TensorSource};

use super::table::{Table, size};
use super::{Args, checkpoint, metadata};
use crate::failure::Failure;
use crate::terminal;

/// Prints what the file is, as far as its names tell.
pub fn print(args: &Args, source: &dyn TensorSource) -> Result<(), Failure> {
    let other = Other::of(source);
    let table = Table::by_prefix(source.tensors());
    let format = checkpoint::format(source.path());
    let mut texts = metadata(source);
    texts.remove("format");
    if args.json {
        return terminal::print_json(&json!({
            "kind": "other", "format": format, "title": title(&other), "bytes": table.total.bytes,
            "what": other.kind.name(), "family": other.family.map(|f| f.name()), "ranks": other.ranks,
            "vectors": other.vectors, "parts": table.parts, "total": table.total, "metadata": texts,
            "tensors": args.listed(source),
        }));
    }
    let mut text = format!("{format}, {}\n{}\n", size(table.total.bytes), title(&other));
    if other.kind == OtherKind::Unknown {
        text.push_str("its tensors are named like no model or adapter that velatura knows\n");
    } else {
        text.push_str("it is no model by itself, or none that velatura runs\n");
    }
    table.write(&mut text);
    super::write_metadata(&mut text, &texts);
    args.write_tensors(&mut text, source);
    terminal::print(&text)
}

/// The file in a few words.
pub fn title(other: &Other) -> String {
    let mut title = other.kind.name().to_string();
    if other.vectors > 0 {
        let _ =
            write!(title, " of {} {}", other.vectors, if other.vectors == 1 { "vector" } else { "vectors" });
    }
    if let Some((rank, _)) = other.ranks.iter().max_by_key(|(_, n)| **n) {
        let updates: usize = other.ranks.values().sum();
        let mostly = if other.ranks.len() > 1 { "mostly " } else { "" };
        let _ = write!(title, ", {mostly}rank {rank}, {updates} updates");
    }
    if let Some(family) = other.family {
        let _ = write!(title, ", for {}", family.name());
    }
    title
}
