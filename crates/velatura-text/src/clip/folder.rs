//! Reading the tokenizer of a model folder as transformers does.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::path::Path;
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
    /// When files are missing, too large or not what they should be, or a merge or a special token is not in the
    /// vocabulary; the error names the file.
    pub fn from_folder(folder: &Path) -> Result<Self, TokenizerError> {
        Self::from_files(folder, |name| read(&folder.join(name)))
    }

    /// [`ClipTokenizer::from_folder`] for files that lie elsewhere: `read` gives the contents of the file of a
    /// name, or [`ErrorKind::NotFound`] where there is none. `folder` is only named in errors.
    ///
    /// # Errors
    /// As for a folder.
    pub fn from_files(
        folder: &Path,
        read: impl Fn(&str) -> std::io::Result<String>,
    ) -> Result<Self, TokenizerError> {
        let files = Files { folder, read: &read };
        let (own, mut added) = files.vocabulary()?;
        let settings: Settings = files.json(CONFIG)?.unwrap_or_default();
        let map: Settings = files.json("special_tokens_map.json")?.unwrap_or_default();
        let whole: Vec<i32> = added.keys().copied().collect();
        let concepts: BTreeMap<String, i32> = files.json("added_tokens.json")?.unwrap_or_default();
        added.extend(
            concepts.into_iter().map(|(content, id)| (id, AddedToken { content, id, normalized: true })),
        );

        let start = settings.bos_token.or(map.bos_token).unwrap_or(Special::Text(START.to_owned()));
        let end = settings.eos_token.or(map.eos_token).unwrap_or(Special::Text(END.to_owned()));
        let unknown = settings.unk_token.or(map.unk_token).unwrap_or(Special::Text(END.to_owned()));
        let pad = settings.pad_token.or(map.pad_token).unwrap_or(Special::Text(END.to_owned()));
        let mut ids = [0; 4];
        for (token, slot) in [&start, &end, &unknown, &pad].into_iter().zip(&mut ids) {
            let content = token.content();
            let known = added.values().find(|token| token.content == content).map(|token| token.id);
            *slot = known.or_else(|| own.tokens.get(content).copied()).ok_or_else(|| {
                files.wrong(CONFIG, format!("the special token {content:?} is not in the vocabulary"))
            })?;
            // How the file of everything says a token is found counts more; of these four the last that names one
            // counts.
            if whole.binary_search(slot).is_err() {
                let token =
                    AddedToken { content: content.to_owned(), id: *slot, normalized: token.normalized() };
                added.insert(*slot, token);
            }
        }
        let [start, end, unknown, pad] = ids;
        for (id, token) in settings.added_tokens_decoder {
            let normalized = token.normalized();
            added.insert(id, AddedToken { content: token.content().to_owned(), id, normalized });
        }

        let length = settings.model_max_length.filter(|length| (1.0..LONGEST_CONTEXT).contains(length));
        let context = length.map_or(CONTEXT, |length| length as usize);
        let added: Vec<AddedToken> = added.into_values().collect();
        let damaged = |error: TokenizerError| files.wrong("", error.to_string());
        added.iter().try_for_each(|token| check_id(&token.content, token.id)).map_err(damaged)?;
        let bpe = own.bpe().map_err(damaged)?;
        let (bpe, vocabulary) = match *openai_bpe() == bpe {
            true => (openai_bpe(), Vocabulary::Openai),
            false => (Arc::new(bpe), Vocabulary::Own(Arc::new(own))),
        };
        Self::build(bpe, vocabulary, added, [start, end, pad], unknown, context).map_err(damaged)
    }
}

const CONFIG: &str = "tokenizer_config.json";

/// The files of a tokenizer.
struct Files<'a> {
    folder: &'a Path,
    read: &'a dyn Fn(&str) -> std::io::Result<String>,
}

impl Files<'_> {
    /// The vocabulary and, from `tokenizer.json`, the added tokens by their ids.
    fn vocabulary(&self) -> Result<(OwnVocabulary, BTreeMap<i32, AddedToken>), TokenizerError> {
        if let Some(merges) = self.text("merges.txt")?
            && let Some(tokens) = self.json("vocab.json")?
        {
            let lines = merges.lines().filter(|line| !line.is_empty() && !line.starts_with("#version"));
            let merges = lines.map(str::to_owned).collect();
            return Ok((OwnVocabulary { tokens, merges }, BTreeMap::new()));
        }
        const WHOLE: &str = "tokenizer.json";
        let Some(Whole { model, added_tokens }) = self.json(WHOLE)? else {
            let problem = "holds neither vocab.json with merges.txt nor tokenizer.json";
            return Err(self.wrong("", problem.to_owned()));
        };
        let kind = model.kind.as_deref().unwrap_or("BPE");
        let suffix = model.end_of_word_suffix.as_deref();
        if kind != "BPE" || suffix != Some("</w>") {
            let what = format!("a {kind} model with the end of words marked by {suffix:?}");
            let problem = format!("is not CLIP's kind of tokenizer: {what} instead of BPE with \"</w>\"");
            return Err(self.wrong(WHOLE, problem));
        }
        let tokens = serde_json::from_value(model.vocab)
            .map_err(|e| self.wrong(WHOLE, format!("model.vocab: {e}")))?;
        let merge = |merge| match merge {
            WholeMerge::Text(text) => text,
            WholeMerge::Pair(left, right) => format!("{left} {right}"),
        };
        let merges = model.merges.into_iter().map(merge).collect();
        let added = |WholeToken { id, content, normalized }| (id, AddedToken { content, id, normalized });
        Ok((OwnVocabulary { tokens, merges }, added_tokens.into_iter().map(added).collect()))
    }

    /// What a JSON file holds; nothing where there is none.
    fn json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, TokenizerError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let parsed = serde_json::from_str(&text);
        parsed.map(Some).map_err(|error| self.wrong(name, format!("is not the JSON it should be: {error}")))
    }

    fn text(&self, name: &str) -> Result<Option<String>, TokenizerError> {
        match (self.read)(name) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.wrong(name, error.to_string())),
        }
    }

    /// An error that names a file, or the folder where `name` is empty.
    fn wrong(&self, name: &str, problem: String) -> TokenizerError {
        let path = if name.is_empty() { self.folder.to_owned() } else { self.folder.join(name) };
        TokenizerError::File { path, problem }
    }
}

/// The contents of a file of bounded size.
fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(LARGEST_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LARGEST_FILE {
        let problem = format!("larger than any tokenizer ({} MiB)", LARGEST_FILE >> 20);
        return Err(std::io::Error::new(ErrorKind::FileTooLarge, problem));
    }
    Ok(text)
}
