//! What holds for any text that is given as a prompt or as a stored tokenizer.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use velatura_text::prompt::{Dialect, Prompt, PromptOptions, StepNumbers, Steps, styles};
use velatura_text::{ClipTokenizer, Tokenizer};

fn openai() -> &'static Tokenizer {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    TOKENIZER.get_or_init(|| ClipTokenizer::openai().into())
}

/// A prompt's tokens; and the bytes as a tokenizer that came with a model.
pub fn tokenizer(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    tokens(openai(), &text);
    if let Ok(own) = Tokenizer::from_json(&text) {
        tokens(&own, "a photo of a Caf\u{e9}, 3 \u{1f408}s they're </w>");
        let again = own.to_json().expect("a tokenizer can be stored");
        assert_eq!(Tokenizer::from_json(&again).expect("what was stored can be read"), own);
    }
}

fn tokens(tokenizer: &Tokenizer, text: &str) {
    let size = i32::try_from(tokenizer.vocabulary_size()).expect("the ids are of 32 bits");
    let known = |ids: &[i32]| ids.iter().all(|id| (0..size).contains(id));
    assert!(known(&tokenizer.prompt_ids(text)));
    let encoding = tokenizer.encode(text);
    assert!(known(&encoding.ids));
    assert_eq!(encoding.ids.len(), tokenizer.context());
    assert!(encoding.length <= encoding.ids.len());
}

/// The prompt grammars. The first byte chooses among them.
pub fn prompt(bytes: &[u8]) {
    let Some((&flags, rest)) = bytes.split_first() else { return };
    let flag = |bit: u8| flags >> bit & 1 == 1;
    let text = String::from_utf8_lossy(rest);
    let dialect = if flag(0) { Dialect::ComfyUi } else { Dialect::A1111 };
    let steps = Steps {
        count: usize::from(flags >> 5) * 10,
        first_pass: flag(1).then_some(10),
        numbers: if flag(2) { StepNumbers::BelowOneIsFraction } else { StepNumbers::PointIsFraction },
    };
    let options =
        if flag(3) { PromptOptions::negative(dialect, steps) } else { PromptOptions::new(dialect, steps) };
    let read = Prompt::read(&text, &PromptOptions { weights: !flag(4), ..options });
    let mut next = 0;
    for range in read.ranges() {
        assert_eq!(range.first, next);
        next = range.last + 1;
        assert!(range.parts.iter().all(|&(weight, text)| weight.is_finite() && text < read.texts.len()));
    }
    assert_eq!(next, steps.count);
    for number in 0..read.texts.len().min(8) {
        let encoded = read.encode(number, openai(), &BTreeMap::new());
        assert!(!encoded.chunks.is_empty());
        for chunk in &encoded.chunks {
            assert_eq!((chunk.ids.len(), chunk.multipliers.len()), (openai().context(), openai().context()));
            assert!(chunk.multipliers.iter().all(|m| m.is_finite()));
        }
    }
    let _ = styles::parse(&text);
}
