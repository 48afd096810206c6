//! OpenAI's vocabulary as the files of a model folder.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::bpe::openai_tokens;
use super::stored::Vocabulary;
use super::{CONTEXT, ClipTokenizer, END, START};

impl ClipTokenizer {
    /// Whether prompts are read as [`ClipTokenizer::openai_padded`] reads them, however a folder describes the special
    /// tokens.
    pub fn is_openai_padded(&self, pad: i32) -> bool {
        let special = [Self::OPENAI_START, Self::OPENAI_END, pad];
        self.vocabulary == Vocabulary::Openai
            && self.context == CONTEXT
            && [self.special.start, self.special.end, self.special.pad] == special
            && self.added.iter().all(|token| special.contains(&token.id))
    }

    /// The files of a folder that [`ClipTokenizer::from_folder`] and transformers read as OpenAI's vocabulary, by their
    /// names. `pad` is the token that prompts are padded with: `<|endoftext|>` for Stable Diffusion 1 and the first text
    /// model of SDXL, `!` for Stable Diffusion 2 and the second.
    pub fn openai_files(pad: &str) -> BTreeMap<&'static str, String> {
        let (tokens, merges) = openai_tokens();
        let mut vocabulary: BTreeMap<String, i32> =
            tokens.into_iter().enumerate().map(|(id, token)| (token, id as i32)).collect();
        vocabulary.insert(START.into(), Self::OPENAI_START);
        vocabulary.insert(END.into(), Self::OPENAI_END);
        let special = |content: &str, normalized: bool| json!({"content": content, "lstrip": false, "normalized": normalized, "rstrip": false, "single_word": false});
        let map = json!({
            "bos_token": special(START, true), "eos_token": special(END, false),
            "pad_token": pad, "unk_token": special(END, false),
        });
        let mut config = json!({
            "add_prefix_space": false, "do_lower_case": true, "errors": "replace",
            "model_max_length": CONTEXT, "tokenizer_class": "CLIPTokenizer",
        });
        for (key, value) in map.as_object().into_iter().flatten() {
            config[key.as_str()] = value.clone();
        }
        let pretty = |value: &Value| format!("{value:#}\n");
        BTreeMap::from([
            ("merges.txt", format!("#version: 0.2\n{}\n", merges.join("\n"))),
            ("special_tokens_map.json", pretty(&map)),
            ("tokenizer_config.json", pretty(&config)),
            ("vocab.json", json!(vocabulary).to_string()),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_as_openais() {
        for (pad, id) in [(END, ClipTokenizer::OPENAI_END), ("!", 0)] {
            let files = ClipTokenizer::openai_files(pad);
            let read = ClipTokenizer::from_files("folder".as_ref(), |name| {
                files.get(name).cloned().ok_or_else(|| std::io::ErrorKind::NotFound.into())
            });
            let read = read.unwrap();
            assert!(read.is_openai_padded(id) && !read.is_openai_padded(7));
            let prompt = "A photo of a Caf\u{e9}, they're 3";
            assert_eq!(read.encode(prompt), ClipTokenizer::openai_padded(id).encode(prompt));
        }
    }
}
