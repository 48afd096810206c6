//! CLIP's tokenizer against transformers' and open_clip's, by fixtures of scripts/fixtures/clip_tokenizer.py.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use velatura_text::{ClipTokenizer, Tokenizer, TokenizerError};

#[derive(Deserialize)]
struct Fixture {
    texts: Vec<(String, Vec<i32>)>,
    original_differs: Vec<(String, Vec<i32>)>,
    folders: BTreeMap<String, Folder>,
    folder_texts: Vec<String>,
    small: Small,
    configs: BTreeMap<String, Value>,
    sweep: Vec<(String, Vec<(u32, u32)>)>,
}

#[derive(Deserialize)]
struct Folder {
    ids: Vec<Vec<i32>>,
    padded: Vec<Vec<i32>>,
    pad: i32,
}

#[derive(Deserialize)]
struct Small {
    vocab: Value,
    merges: Vec<String>,
    config: Value,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("fixtures/clip_tokenizer.json")).unwrap()
}

/// OpenAI's vocabulary as `vocab.json` and `merges.txt` have it, undone from the merges that ship.
fn openai_files() -> (Value, Vec<String>) {
    let visible = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut tokens: Vec<String> =
        (0..=255).filter(|&b| visible(b)).map(|b| char::from(b).to_string()).collect();
    tokens.extend(('\u{100}'..).take(256 - tokens.len()).map(String::from));
    tokens.extend(tokens.clone().iter().map(|token| format!("{token}</w>")));
    let mut merges = Vec::new();
    for pair in include_bytes!("../src/clip/openai.merges").chunks_exact(4) {
        let token = |at: usize| tokens[usize::from(u16::from_le_bytes([pair[at], pair[at + 1]]))].clone();
        let (left, right) = (token(0), token(2));
        merges.push(format!("{left} {right}"));
        tokens.push(left + &right);
    }
    tokens.extend(["<|startoftext|>".to_owned(), "<|endoftext|>".to_owned()]);
    let vocabulary = tokens.into_iter().enumerate().map(|(id, token)| (token, id.into())).collect();
    (Value::Object(vocabulary), merges)
}

fn write_folder(folder: &Path, vocab: &Value, merges: &[String], config: &Value) {
    std::fs::write(folder.join("vocab.json"), vocab.to_string()).unwrap();
    std::fs::write(folder.join("merges.txt"), format!("#version: 0.2\n{}\n", merges.join("\n"))).unwrap();
    std::fs::write(folder.join("tokenizer_config.json"), config.to_string()).unwrap();
}

#[test]
fn texts_become_the_ids_of_transformers() {
    let tokenizer = ClipTokenizer::openai();
    for (text, ids) in fixture().texts {
        assert_eq!(tokenizer.ids(&text), ids, "{text:?}");
    }
}

#[test]
fn the_original_reads_the_same_but_for_text_that_it_repairs() {
    let fixture = fixture();
    let unusual = |c: char| !c.is_ascii() || c.is_ascii_control();
    for (text, ids) in &fixture.original_differs {
        assert_ne!(&ClipTokenizer::openai().ids(text), ids);
        assert!(text.contains(unusual) || text.contains('&') || text.contains("<|"), "{text:?}");
    }
    assert!(fixture.original_differs.len() * 4 < fixture.texts.len());
}

#[test]
fn every_assigned_character_is_read_as_transformers_reads_it() {
    let tokenizer = ClipTokenizer::openai();
    for (wanted, ranges) in fixture().sweep {
        let mut hash = Sha256::new();
        for c in ranges.iter().flat_map(|&(first, last)| first..=last) {
            hash.update(c.to_le_bytes());
            for id in tokenizer.ids(&format!("a{}b", char::from_u32(c).unwrap())) {
                hash.update(id.to_le_bytes());
            }
        }
        let got: String = hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(got, wanted, "between U+{:04X} and U+{:04X}", ranges[0].0, ranges.last().unwrap().1);
    }
}

#[test]
fn folders_are_read_with_their_padding_and_special_tokens() {
    let fixture = fixture();
    let (vocab, merges) = openai_files();
    for (name, wanted) in &fixture.folders {
        let folder = tempfile::tempdir().unwrap();
        match name.as_str() {
            "small" => {
                let small = &fixture.small;
                write_folder(folder.path(), &small.vocab, &small.merges, &small.config);
            }
            _ => {
                let config = fixture.configs.get(name).unwrap_or(&fixture.configs["sd1"]);
                write_folder(folder.path(), &vocab, &merges, config);
            }
        }
        if name == "concept" {
            let added = r#"{"<Cat-Toy>":49408,"<cat-toy>_1":49409}"#;
            std::fs::write(folder.path().join("added_tokens.json"), added).unwrap();
        }
        let tokenizer = ClipTokenizer::from_folder(folder.path()).unwrap();
        assert_eq!(tokenizer.special().pad, wanted.pad, "{name}");
        for ((text, ids), padded) in fixture.folder_texts.iter().zip(&wanted.ids).zip(&wanted.padded) {
            assert_eq!(&tokenizer.ids(text), ids, "{name}: {text:?}");
            assert_eq!(&tokenizer.encode(text).ids, padded, "{name}: {text:?}");
        }
        let json = Tokenizer::from(tokenizer.clone()).to_json().unwrap();
        assert!(json.contains(r#""vocabulary":"openai""#) == (name != "small"), "{name}");
        assert_eq!(Tokenizer::from_json(&json).unwrap(), Tokenizer::from(tokenizer), "{name}");
    }
}

#[test]
fn a_whole_tokenizer_file_is_read_too() {
    let small = fixture().small;
    let folder = tempfile::tempdir().unwrap();
    write_folder(folder.path(), &small.vocab, &small.merges, &small.config);
    let apart = ClipTokenizer::from_folder(folder.path()).unwrap();
    for file in ["vocab.json", "merges.txt"] {
        std::fs::remove_file(folder.path().join(file)).unwrap();
    }
    let texts: Vec<Value> = small.merges.iter().map(|merge| merge.as_str().into()).collect();
    let pairs = small.merges.iter().map(|merge| merge.split(' ').collect::<Vec<_>>().into()).collect();
    for merges in [texts, pairs] {
        let model = serde_json::json!({
            "type": "BPE", "end_of_word_suffix": "</w>", "vocab": small.vocab, "merges": merges
        });
        let start = serde_json::json!({"id": 195, "content": "<|startoftext|>", "normalized": true});
        let whole = serde_json::json!({"added_tokens": [start], "model": model});
        std::fs::write(folder.path().join("tokenizer.json"), whole.to_string()).unwrap();
        assert_eq!(ClipTokenizer::from_folder(folder.path()).unwrap(), apart);
    }
}

#[test]
fn damaged_folders_are_refused_by_name() {
    let small = fixture().small;
    let refuse = |file: &str, contents: &str, wanted: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        write_folder(folder.path(), &small.vocab, &small.merges, &small.config);
        if file == "tokenizer.json" {
            std::fs::remove_file(folder.path().join("vocab.json")).unwrap();
        }
        std::fs::write(folder.path().join(file), contents).unwrap();
        let error = ClipTokenizer::from_folder(folder.path()).expect_err(contents).to_string();
        for part in wanted {
            assert!(error.contains(part), "{error}");
        }
    };
    refuse("vocab.json", "{\"a\":", &["vocab.json", "JSON", "line 1"]);
    refuse("vocab.json", "[]", &["vocab.json", "map"]);
    refuse("vocab.json", "{\"a\":0}", &["<|startoftext|>", "not in the vocabulary"]);
    refuse("merges.txt", "t h\nzz yy\n", &["/", "merge 2", "zz yy", "lacks"]);
    refuse("tokenizer_config.json", "{\"pad_token\":\"<pad>\"}", &["tokenizer_config.json", "<pad>"]);
    refuse("tokenizer_config.json", "{\"model_max_length\":2}", &["2 tokens", "too short"]);
    refuse("added_tokens.json", "{\"<x>\":-1}", &["<x>", "negative"]);
    refuse(
        "tokenizer.json",
        r#"{"model":{"type":"Unigram","vocab":[["a",0]]}}"#,
        &["tokenizer.json", "Unigram"],
    );
    refuse("tokenizer.json", r#"{"model":{"type":"BPE","vocab":{}}}"#, &["end of words"]);
    let missing = ClipTokenizer::from_folder(Path::new("/no/such/folder")).unwrap_err();
    assert!(matches!(missing, TokenizerError::File { .. }), "{missing}");
}

#[test]
fn damaged_stored_forms_are_refused() {
    let good = r#"{"kind":"clip","vocabulary":"openai","context":77,"start":49406,"end":49407,"pad":0,"unknown":49407,"added":[]}"#;
    Tokenizer::from_json(good).unwrap();
    let own = r#"{"own":{"tokens":{"a":0},"merges":["a b"]}}"#;
    for (part, instead, reason) in [
        ("\"pad\":0", "\"pad\":-1", "negative"),
        ("\"pad\":0", "\"pad\":2000000000", "beyond"),
        ("\"context\":77", "\"context\":2", "too short"),
        ("\"openai\"", "\"other\"", "other"),
        ("\"openai\"", own, "lacks"),
        ("\"added\":[]", "\"added\":[{\"content\":\"x\",\"id\":-5,\"normalized\":true}]", "negative"),
        ("\"pad\"", "\"pat\"", "pat"),
    ] {
        let error = Tokenizer::from_json(&good.replace(part, instead)).expect_err(instead).to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn prompts_for_other_tools_do_not_take_an_exclamation_mark_for_padding() {
    let fixture = fixture();
    let (vocab, merges) = openai_files();
    let folder = tempfile::tempdir().unwrap();
    write_folder(folder.path(), &vocab, &merges, &fixture.configs["sdxl"]);
    let tokenizer = ClipTokenizer::from_folder(folder.path()).unwrap();
    assert_eq!(tokenizer.ids("hello!"), [3306, 0]);
    assert_eq!(tokenizer.prompt_ids("hello!"), [3306, 256]);
    assert_eq!(tokenizer.prompt_ids("hello<|endoftext|>"), [3306, 49407]);
}

#[test]
fn the_shipped_tokenizer_is_stored_by_name_and_ready_at_once() {
    let start = Instant::now();
    let tokenizer = ClipTokenizer::openai_padded(0);
    let encoding = tokenizer.encode("a cat");
    assert!(start.elapsed().as_millis() < 100, "{:?}", start.elapsed());
    assert_eq!(encoding.ids[..5], [49406, 320, 2368, 49407, 0]);
    assert_eq!((encoding.length, encoding.dropped, encoding.ids.len()), (4, 0, 77));
    assert_eq!((tokenizer.vocabulary_size(), tokenizer.special().comma), (49408, Some(267)));
    let json = Tokenizer::from(tokenizer).to_json().unwrap();
    assert!(json.len() < 400 && json.contains("\"clip\""), "{json}");
}

#[test]
fn what_does_not_fit_is_cut_and_counted() {
    let encoding = ClipTokenizer::openai().encode(&"supercalifragilistic ".repeat(40));
    assert_eq!(encoding.ids.len(), 77);
    assert_eq!((encoding.length, encoding.ids[76]), (77, ClipTokenizer::OPENAI_END));
    let per_word = ClipTokenizer::openai().ids("supercalifragilistic").len();
    assert_eq!(encoding.dropped, 40 - 75 / per_word);
}

#[test]
fn a_megabyte_takes_no_time() {
    let tokenizer = ClipTokenizer::openai();
    let start = Instant::now();
    for text in ["a", "ha", "!", "<|endoftext|>", "\u{301}", "9 ", "'s", "(((("] {
        tokenizer.encode(&text.repeat(1_000_000 / text.len()));
    }
    assert!(start.elapsed().as_secs() < 8, "{:?}", start.elapsed());
}

proptest! {
    #[test]
    fn any_files_are_a_tokenizer_or_an_error(files in prop::collection::vec("[\\[\\]{}\":,a-c0-9<>|/w ]{0,30}", 6)) {
        let names = ["vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"];
        let read = |name: &str| {
            let at = names.iter().position(|known| *known == name);
            let present = at.filter(|&at| files[5].len() >> at & 1 == 0);
            present.map(|at| files[at].clone()).ok_or(std::io::ErrorKind::NotFound.into())
        };
        if let Ok(tokenizer) = ClipTokenizer::from_files(Path::new("x"), read) {
            tokenizer.encode("a b");
        }
    }

    #[test]
    fn any_text_encodes(text in "\\PC{0,60}|[ -~]{0,60}|.{0,60}") {
        let tokenizer = ClipTokenizer::openai();
        let encoding = tokenizer.encode(&text);
        prop_assert_eq!(encoding.ids.len(), 77);
        prop_assert!(encoding.ids.iter().all(|&id| (0..49408).contains(&id)));
        prop_assert_eq!(encoding.ids[encoding.length - 1], ClipTokenizer::OPENAI_END);
        prop_assert_eq!(encoding.length - 2, tokenizer.ids(&text).len().min(75));
    }
}
