//! Reading the tokenizer of a model folder as transformers does.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::added::AddedToken;
use super::stored::{OwnVocabulary, Vocabulary, check_id};
use super::{CONTEXT, ClipTokenizer, END, START, openai_bpe};
use crate::TokenizerError;

/// No tokenizer file of this kind is larger; CLIP's own has 3.6 MB.
const LARGEST_FILE: u64 = 64 << 20;
/// Transformers writes 10^30 where it means "no limit"; beyond this there is none.
const LONGEST_CONTEXT: f64 = 65536.0;

/// A special token in a settings file: its text, or its text with flags.
#[derive(Deserialize)]
#[serde(untagged)]
enum Special {
    Text(String),
    Full {
        content: String,
        #[serde(default)]
        normalized: bool,
    },
}

impl Special {
    fn content(&self) -> &str {
        match self {
            Self::Text(content) | Self::Full { content, .. } => content,
        }
    }

    fn normalized(&self) -> bool {
        matches!(self, Self::Full { normalized: true, .. })
    }
}

/// What matters here of `tokenizer_config.json` and `special_tokens_map.json`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Settings {
    bos_token: Option<Special>,
    eos_token: Option<Special>,
    unk_token: Option<Special>,
    pad_token: Option<Special>,
    model_max_length: Option<f64>,
    added_tokens_decoder: BTreeMap<i32, Special>,
}

/// What matters here of `tokenizer.json`.
#[derive(Deserialize)]
struct Whole {
    model: Model,
    #[serde(default)]
    added_tokens: Vec<WholeToken>,
}

#[derive(Deserialize)]
struct WholeToken {
    id: i32,
    content: String,
    #[serde(default)]
    normalized: bool,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    vocab: serde_json::Value,
    #[serde(default)]
    merges: Vec<WholeMerge>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WholeMerge {
    Text(String),
    Pair(String, String),
}

impl ClipTokenizer {
    /// The tokenizer of a model folder (`tokenizer`, `tokenizer_2`): from `vocab.json` and `merges.txt`, or else from
    /// `tokenizer.json`; padding, length and added tokens from `tokenizer_config.json`, `special_tokens_map.json` and
    /// `added_tokens.json` where they are there. A vocabulary that is OpenAI's is recognised and stored by its name.
    ///
    /// # Errors
    /// When files are missing, too large or not what they should be, or a merge or a special token is not in the vocabulary;
    /// the error names the file.
    pub fn from_folder(folder: &Path) -> Result<Self, TokenizerError> {
        let (own, mut added) = vocabulary(folder)?;
        let config = folder.join("tokenizer_config.json");
        let settings: Settings = optional(&config)?.unwrap_or_default();
        let map: Settings = optional(&folder.join("special_tokens_map.json"))?.unwrap_or_default();
        for (content, id) in
            optional::<BTreeMap<String, i32>>(&folder.join("added_tokens.json"))?.unwrap_or_default()
        {
            insert(&mut added, AddedToken { content, id, normalized: true });
        }

        let id_of = |content: &str, added: &[AddedToken]| {
            let known = added.iter().find(|token| token.content == content).map(|token| token.id);
            let known = known.or_else(|| own.tokens.get(content).copied());
            let problem = || format!("the special token {content:?} is not in the vocabulary");
            known.ok_or_else(|| TokenizerError::File { path: config.clone(), problem: problem() })
        };
        let start = settings.bos_token.or(map.bos_token).unwrap_or(Special::Text(START.to_owned()));
        let end = settings.eos_token.or(map.eos_token).unwrap_or(Special::Text(END.to_owned()));
        let unknown = settings.unk_token.or(map.unk_token).unwrap_or(Special::Text(END.to_owned()));
        let pad = settings.pad_token.or(map.pad_token).unwrap_or(Special::Text(END.to_owned()));
        // How the file of everything says a token is found counts more; of these four the last that names a token counts.
        let whole: Vec<i32> = added.iter().map(|token| token.id).collect();
        let mut ids = [0; 4];
        for (token, slot) in [&start, &end, &unknown, &pad].into_iter().zip(&mut ids) {
            *slot = id_of(token.content(), &added)?;
            if !whole.contains(slot) {
                let content = token.content().to_owned();
                insert(&mut added, AddedToken { content, id: *slot, normalized: token.normalized() });
            }
        }
        let [start, end, unknown, pad] = ids;
        for (id, token) in settings.added_tokens_decoder {
            let normalized = token.normalized();
            insert(&mut added, AddedToken { content: token.content().to_owned(), id, normalized });
        }
        added.sort_by_key(|token| token.id);

        let length = settings.model_max_length.filter(|length| (1.0..LONGEST_CONTEXT).contains(length));
        let context = length.map_or(CONTEXT, |length| length as usize);
        for token in &added {
            check_id(&token.content, token.id)?;
        }
        let bpe = own.bpe()?;
        let (bpe, vocabulary) = match *openai_bpe() == bpe {
            true => (openai_bpe(), Vocabulary::Openai),
            false => (Arc::new(bpe), Vocabulary::Own(Arc::new(own))),
        };
        Self::build(bpe, vocabulary, added, [start, end, pad], unknown, context)
    }
}

/// Adds a token, or says anew how a known one is found.
fn insert(added: &mut Vec<AddedToken>, token: AddedToken) {
    match added.iter_mut().find(|known| known.id == token.id) {
        Some(known) => *known = token,
        None => added.push(token),
    }
}

/// The vocabulary and, from `tokenizer.json`, the added tokens.
fn vocabulary(folder: &Path) -> Result<(OwnVocabulary, Vec<AddedToken>), TokenizerError> {
    let (vocab, merges) = (folder.join("vocab.json"), folder.join("merges.txt"));
    if vocab.is_file() && merges.is_file() {
        let tokens = json(&vocab)?;
        let text = read(&merges)?;
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with("#version"));
        return Ok((OwnVocabulary { tokens, merges: lines.map(str::to_owned).collect() }, Vec::new()));
    }
    let path = folder.join("tokenizer.json");
    if !path.is_file() {
        let problem = "holds neither vocab.json with merges.txt nor tokenizer.json".to_owned();
        return Err(TokenizerError::File { path: folder.to_owned(), problem });
    }
    let whole: Whole = json(&path)?;
    let wrong = |problem: String| TokenizerError::File { path: path.clone(), problem };
    let kind = whole.model.kind.as_deref().unwrap_or("BPE");
    let suffix = whole.model.end_of_word_suffix.as_deref();
    if kind != "BPE" || suffix != Some("</w>") {
        let what = format!("a {kind} model with the end of words marked by {suffix:?}");
        return Err(wrong(format!("is not CLIP's kind of tokenizer: {what} instead of BPE with \"</w>\"")));
    }
    let tokens = serde_json::from_value(whole.model.vocab).map_err(|e| wrong(format!("model.vocab: {e}")))?;
    let merge = |merge| match merge {
        WholeMerge::Text(text) => text,
        WholeMerge::Pair(left, right) => format!("{left} {right}"),
    };
    let merges = whole.model.merges.into_iter().map(merge).collect();
    let added = |WholeToken { id, content, normalized }| AddedToken { content, id, normalized };
    Ok((OwnVocabulary { tokens, merges }, whole.added_tokens.into_iter().map(added).collect()))
}

fn optional<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, TokenizerError> {
    if path.is_file() { json(path).map(Some) } else { Ok(None) }
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<T, TokenizerError> {
    let text = read(path)?;
    serde_json::from_str(&text).map_err(|error| file(path, format!("is not the JSON it should be: {error}")))
}

fn read(path: &Path) -> Result<String, TokenizerError> {
    let unreadable = |error: std::io::Error| file(path, error.to_string());
    let mut text = String::new();
    let opened = std::fs::File::open(path).map_err(unreadable)?;
    opened.take(LARGEST_FILE + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > LARGEST_FILE {
        return Err(file(path, format!("is larger than any tokenizer ({} MiB)", LARGEST_FILE >> 20)));
    }
    Ok(text)
}

fn file(path: &Path, problem: String) -> TokenizerError {
    TokenizerError::File { path: PathBuf::from(path), problem }
}
