//! The prompt grammar against the tools' own functions, by fixtures of scripts/fixtures/prompts.py, and against any
//! input.

use std::collections::BTreeMap;
use std::time::Instant;

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::Value;
use velatura_text::prompt::{
    Chunk, Dialect, Encoded, NetworkKind, Prompt, PromptOptions, PromptWarning, Segment, StepNumbers, Steps,
    Weighting, attention, empty_chunk, prompt_schedule, strip_comments, token_weights, weighting,
};
use velatura_text::{ClipTokenizer, Tokenizer};

#[derive(Deserialize)]
struct Fixture {
    schedules: Vec<Schedule>,
    weights: Vec<(String, Weighted)>,
    composed: Vec<(String, Weighted)>,
    commented: Vec<(String, String)>,
    tagged: Vec<(String, String, Vec<Tag>)>,
    embeddings: BTreeMap<String, usize>,
    chunked: Vec<(String, String, usize, Vec<WebChunk>)>,
    grouped: Vec<(String, Weighted)>,
    windowed: Vec<(String, String, Vec<Window>)>,
    arithmetic: BTreeMap<String, Vec<f32>>,
}

/// Prompt, steps, steps of a second pass, whether by the old rule, and the schedule.
type Schedule = (String, usize, Option<usize>, bool, Vec<(usize, String)>);
/// Texts with weights.
type Weighted = Vec<(String, f64)>;
/// Kind, arguments by place, arguments by name.
type Tag = (String, Vec<String>, BTreeMap<String, String>);
/// Ids, multipliers, embeddings with their places.
type WebChunk = (Vec<i32>, Vec<f32>, Vec<(usize, String)>);
/// Ids, or embeddings with the number of a vector; and weights.
type Window = (Vec<Value>, Vec<f32>);

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("fixtures/prompts.json")).unwrap()
}

fn a1111(steps: usize) -> PromptOptions {
    PromptOptions::new(Dialect::A1111, Steps::new(steps))
}

fn tokenizer(padding: &str) -> Tokenizer {
    ClipTokenizer::openai_padded(if padding == "zero" { 0 } else { ClipTokenizer::OPENAI_END }).into()
}

/// Segments as the web UI lists them.
fn listed(segments: Vec<Segment>) -> Vec<(String, f64)> {
    let pair = |segment| match segment {
        Segment::Text { text, weight } => (text, weight),
        Segment::Break => ("BREAK".to_owned(), -1.0),
    };
    segments.into_iter().map(pair).collect()
}

/// Whether two lists are the same but for the last bit of a weight, of which the JSON parser is not sure.
#[track_caller]
fn assert_same(got: &[(String, f64)], wanted: &[(String, f64)], prompt: &str) {
    let same =
        |(a, b): (&(String, f64), &(String, f64))| a.0 == b.0 && (a.1 - b.1).abs() <= 4e-16 * b.1.abs();
    assert!(
        got.len() == wanted.len() && got.iter().zip(wanted).all(same),
        "{prompt:?}: {got:?}, not {wanted:?}"
    );
}

/// A text without weights, as one piece.
fn plain(segments: &[Segment]) -> String {
    listed(segments.to_vec()).into_iter().map(|(text, _)| text).collect()
}

#[test]
fn schedules_are_those_of_the_web_ui() {
    for (prompt, base, second, old, wanted) in fixture().schedules {
        let numbers = if old { StepNumbers::BelowOneIsFraction } else { StepNumbers::PointIsFraction };
        let steps = match second {
            Some(count) if !old => Steps { count, first_pass: Some(base), numbers },
            _ => Steps { count: base, first_pass: None, numbers },
        };
        let got = prompt_schedule(&prompt, &steps);
        let got: Vec<_> = got.into_iter().map(|entry| (entry.last_step, entry.text)).collect();
        assert_eq!(got, wanted, "{prompt:?} {steps:?}");
    }
}

#[test]
fn weights_are_those_of_the_web_ui() {
    for (prompt, wanted) in fixture().weights {
        assert_same(&listed(attention(&prompt)), &wanted, &prompt);
    }
}

#[test]
fn where_the_web_ui_stops_with_an_error_the_colon_is_text() {
    assert_eq!(listed(attention("(cat:.)")), [("cat:.".to_owned(), 1.1)]);
    assert_eq!(listed(attention("(a:1.2.3) b")), [("a:1.2.3".to_owned(), 1.1), (" b".to_owned(), 1.0)]);
    let long = format!("(a:{})", "9".repeat(400));
    assert!(listed(attention(&long)).iter().all(|(_, weight)| *weight == 1.1));
}

#[test]
fn a_break_within_brackets_breaks() {
    let text = |text: &str, weight| Segment::Text { text: text.to_owned(), weight };
    assert_eq!(attention("(a BREAK b:1.2)"), [text("a", 1.2), Segment::Break, text("b", 1.2)]);
}

#[test]
fn prompts_joined_by_and_are_those_of_the_web_ui() {
    let unweighted = |steps| PromptOptions { weights: false, ..a1111(steps) };
    for (prompt, wanted) in fixture().composed {
        let read = Prompt::read(&prompt, &unweighted(10));
        let got: Vec<_> =
            read.at(0).iter().map(|&(weight, text)| (plain(&read.texts[text]), weight)).collect();
        assert_eq!(got, wanted, "{prompt:?}");
        let negative = Prompt::read(&prompt, &PromptOptions { negative: true, ..unweighted(10) });
        assert_eq!((negative.parts.len(), plain(&negative.texts[0])), (1, prompt));
    }
    let read = Prompt::read("score: 9", &a1111(10));
    assert_eq!(read.warnings, [PromptWarning::WholePromptWeight { weight: 9.0 }]);
}

#[test]
fn comments_and_tags_go_as_in_the_web_ui() {
    for (text, wanted) in fixture().commented {
        assert_eq!(strip_comments(&text), wanted, "{text:?}");
    }
    for (text, clean, found) in fixture().tagged {
        let read = Prompt::read(&text, &PromptOptions { weights: false, ..a1111(10) });
        assert_eq!(plain(&read.texts[0]), clean.trim_end(), "{text:?}");
        let known = |kind: &str| match kind {
            "lora" => Some(NetworkKind::Lora),
            "hypernet" => Some(NetworkKind::Hypernetwork),
            _ => None,
        };
        let mut wanted = Vec::new();
        for (kind, positional, named) in found {
            let number = |place: usize, name: &str| {
                named.get(name).or(positional.get(place)).map(|number| number.parse::<f64>().unwrap())
            };
            let te = number(1, "te").unwrap_or(1.0);
            if let Some(kind) = known(&kind) {
                wanted.push((kind, positional[0].clone(), te, number(2, "unet").unwrap_or(te)));
            }
        }
        let mut got: Vec<_> =
            read.networks.iter().map(|n| (n.kind, n.name.clone(), n.text_encoder, n.unet)).collect();
        got.sort_by_key(|n| n.0 != NetworkKind::Lora);
        assert_eq!(got, wanted, "{text:?}");
    }
}

fn check_chunk(chunk: &Chunk) {
    assert_eq!((chunk.ids.len(), chunk.multipliers.len()), (77, 77));
    assert!(chunk.multipliers.iter().all(|multiplier| multiplier.is_finite()));
    for embedding in &chunk.embeddings {
        assert!(embedding.at >= 1 && embedding.at + embedding.count <= 76, "{embedding:?}");
        assert!(chunk.ids[embedding.at..][..embedding.count].iter().all(|&id| id == 0));
    }
}

#[test]
fn chunks_are_those_of_the_web_ui() {
    let fixture = fixture();
    for (prompt, padding, count, wanted) in fixture.chunked {
        let read = Prompt::read(&prompt, &a1111(10));
        let got = read.encode(0, &tokenizer(&padding), &fixture.embeddings);
        assert_eq!(got.tokens, count, "{prompt:?}");
        assert_eq!(got.chunks.len(), wanted.len(), "{prompt:?}");
        for (chunk, (ids, multipliers, embeddings)) in got.chunks.iter().zip(&wanted) {
            check_chunk(chunk);
            assert_eq!((&chunk.ids, &chunk.multipliers), (ids, multipliers), "{prompt:?}");
            let at: Vec<_> = chunk.embeddings.iter().map(|e| (e.at - 1, e.name.clone())).collect();
            assert_eq!(&at, embeddings, "{prompt:?}");
        }
    }
}

#[test]
fn an_embedding_moves_with_its_place_to_the_next_chunk() {
    let embeddings = BTreeMap::from([("one".to_owned(), 3)]);
    let prompt = format!("{}, one {}", "cat ".repeat(60), "dog ".repeat(20));
    let got = Prompt::read(&prompt, &a1111(10)).encode(0, &tokenizer("end"), &embeddings);
    assert_eq!(got.chunks.len(), 2);
    assert!(got.chunks[0].embeddings.is_empty());
    assert_eq!((got.chunks[1].embeddings[0].at, got.chunks[1].embeddings[0].count), (1, 3));
    got.chunks.iter().for_each(check_chunk);
}

#[test]
fn an_embedding_longer_than_a_chunk_is_cut() {
    let embeddings = BTreeMap::from([("big".to_owned(), 200), ("none".to_owned(), 0)]);
    let a1111 = Prompt::read("big big none", &a1111(10)).encode(0, &tokenizer("end"), &embeddings);
    a1111.chunks.iter().for_each(check_chunk);
    let warning = PromptWarning::LongEmbedding { name: "big".to_owned(), vectors: 200, used: 75 };
    assert_eq!((a1111.chunks.len(), a1111.warnings), (3, vec![warning]));
    let options = PromptOptions::new(Dialect::ComfyUi, Steps::new(10));
    let comfy = Prompt::read("embedding:big", &options).encode(0, &tokenizer("end"), &embeddings);
    comfy.chunks.iter().for_each(check_chunk);
    let parts: Vec<_> = comfy.chunks.iter().flat_map(|c| &c.embeddings).map(|e| (e.first, e.count)).collect();
    assert_eq!(parts, [(0, 75), (75, 75), (150, 50)]);
}

#[test]
fn weights_are_those_of_comfy_ui() {
    for (prompt, wanted) in fixture().grouped {
        assert_same(&listed(token_weights(&prompt)), &wanted, &prompt);
    }
    assert_eq!(listed(token_weights("(cat:nan)")), [("cat:nan".to_owned(), 1.1)]);
    assert_eq!(listed(token_weights("(cat:1e999)")), [("cat:1e999".to_owned(), 1.1)]);
}

#[test]
fn windows_are_those_of_comfy_ui() {
    let fixture = fixture();
    // It looks for files, which cannot have spaces in their names here.
    let embeddings: BTreeMap<_, _> = fixture
        .embeddings
        .iter()
        .filter(|(name, _)| !name.contains(' '))
        .map(|(n, &c)| (n.clone(), c))
        .collect();
    for (prompt, padding, wanted) in fixture.windowed {
        let options = PromptOptions::new(Dialect::ComfyUi, Steps::new(10));
        let got = Prompt::read(&prompt, &options).encode(0, &tokenizer(&padding), &embeddings);
        assert_eq!(got.chunks.len(), wanted.len(), "{prompt:?}");
        for (chunk, (tokens, weights)) in got.chunks.iter().zip(&wanted) {
            check_chunk(chunk);
            let mut ids: Vec<Value> = chunk.ids.iter().map(|&id| id.into()).collect();
            for embedding in &chunk.embeddings {
                for i in 0..embedding.count {
                    ids[embedding.at + i] = serde_json::json!([embedding.name, embedding.first + i]);
                }
            }
            assert_eq!((&ids, &chunk.multipliers), (tokens, weights), "{prompt:?}");
        }
        let missing = prompt.contains("nothere");
        assert_eq!(got.warnings.len(), usize::from(missing), "{prompt:?}");
    }
}

#[test]
fn the_empty_prompt_has_the_empty_chunk() {
    for padding in ["end", "zero"] {
        for dialect in [Dialect::A1111, Dialect::ComfyUi] {
            let read = Prompt::read("", &PromptOptions::new(dialect, Steps::new(10)));
            let Encoded { chunks, tokens, .. } =
                read.encode(0, &tokenizer(padding), &BTreeMap::<String, usize>::new());
            assert_eq!((chunks, tokens), (vec![empty_chunk(&tokenizer(padding))], 0));
        }
    }
}

#[test]
fn arithmetic_is_that_of_the_tools() {
    let numbers = fixture().arithmetic;
    let multipliers = &numbers["multipliers"];
    let close = |got: &[f32], wanted: &[f32]| {
        // The tools sum in f32, which moves the restored mean by some of its last bits.
        let worst = got.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 2e-6 && got.len() == wanted.len(), "{worst}");
    };
    for (weighting, name) in [
        (Dialect::A1111.weighting(), "original"),
        (Weighting::NoNorm, "no_norm"),
        (Weighting::Ignore, "ignore"),
        (Dialect::ComfyUi.weighting(), "interpolate"),
    ] {
        let mut z = numbers["z"].clone();
        weighting.apply(&mut z, &numbers["empty"], 3, multipliers);
        close(&z, &numbers[name]);
        let mut z = numbers["z"].clone();
        weighting.apply(&mut z, &[], 3, &vec![1.0; multipliers.len()]);
        assert_eq!(z, numbers["z"]);
    }
    let mut zero = [1.0, -1.0, 3.0];
    weighting::original(&mut zero, 1, &[1.0, 1.0, 0.0]);
    assert!(zero.iter().all(|value| value.is_finite()));
}

#[test]
fn texts_change_at_the_calls_of_the_denoiser() {
    let read = Prompt::read("a [cat:dog:3] AND [x|y]:0.5", &a1111(6));
    let at = |call| -> Vec<(f64, String)> {
        read.at(call).into_iter().map(|(weight, text)| (weight, plain(&read.texts[text]))).collect()
    };
    let pair = |first: &str, second: &str| vec![(1.0, first.to_owned()), (0.5, second.to_owned())];
    // The web UI lists "a cat" up to step 3 and asks with steps from 0.
    assert_eq!(at(0), pair("a cat", " x"));
    assert_eq!(at(1), pair("a cat", " x"));
    assert_eq!(at(2), pair("a cat", " y"));
    assert_eq!(at(3), pair("a cat", " x"));
    assert_eq!(at(4), pair("a dog", " y"));
    assert_eq!(at(5), pair("a dog", " x"));
    assert_eq!(at(99), pair("a dog", " y"));
    let ranges: Vec<_> = read.ranges().iter().map(|range| (range.first, range.last)).collect();
    assert_eq!(ranges, [(0, 1), (2, 2), (3, 3), (4, 4), (5, 5)]);
    assert_eq!(read.texts.len(), 4);
}

#[test]
fn what_cannot_be_read_as_a_schedule_is_text_with_a_warning() {
    for (prompt, literal) in
        [("a | b [c:d:3]", true), ("[a:b:3] \\", true), ("a | b", false), ("[a:b:c]", false)]
    {
        let read = Prompt::read(prompt, &a1111(10));
        assert_eq!(read.texts.len(), 1, "{prompt}");
        assert_eq!(read.warnings.len(), usize::from(literal), "{prompt}: {:?}", read.warnings);
    }
    let many = Steps::new(1_000_000);
    let read = Prompt::read("[a|b]", &PromptOptions::new(Dialect::A1111, many));
    assert!(matches!(read.warnings[..], [PromptWarning::LiteralSchedules { .. }]));
    let long = format!("[a|b]{}", "x".repeat(1_000_000));
    assert!(matches!(
        Prompt::read(&long, &a1111(150)).warnings[..],
        [PromptWarning::LiteralSchedules { .. }]
    ));
}

#[test]
fn a_word_tokenizer_takes_the_grammar_too() {
    let words = velatura_text::WordTokenizer::from_texts(["a red cat and a blue dog"], 8).unwrap();
    let read = Prompt::read("(a red:1.5) cat BREAK dog", &a1111(10));
    let got = read.encode(0, &words.into(), &BTreeMap::<String, usize>::new());
    assert_eq!(got.chunks.len(), 2);
    assert_eq!(got.chunks[0].multipliers, [1.0, 1.5, 1.5, 1.0, 1.0, 1.0, 1.0, 1.0]);
    assert_eq!(got.chunks[1].ids[2..], [2, 0, 0, 0, 0, 0]);
}

#[test]
fn a_megabyte_of_anything_is_read_at_once() {
    let tokenizer = tokenizer("end");
    let embeddings = BTreeMap::from([("cat".to_owned(), 2)]);
    let bits = [
        "(",
        "[",
        ")",
        "]",
        "(a:",
        "[[[:",
        "[a|",
        "[a:b:",
        "[a:b:3]",
        "[a|b]",
        "(a:1.1)",
        "((a)",
        "(a))",
        ":1.1)",
        "\\",
        "\\(",
        "AND ",
        "BREAK ",
        "#\n",
        "<lora:",
        "<a:b>",
        "<",
        "embedding:cat ",
        "embedding:",
        "cat, ",
        "a:1:",
        "(()",
        "[(",
        "[[a:b:3]:c:4]",
        "|",
        " ",
        "\n#x",
        ":9 AND",
        "猫",
        "((((a:1.1)",
        "[a:1]",
    ];
    let read = |text: &str, encode: bool| {
        for dialect in [Dialect::A1111, Dialect::ComfyUi] {
            let start = Instant::now();
            let read = Prompt::read(text, &PromptOptions::new(dialect, Steps::new(20)));
            let reading = start.elapsed();
            if encode {
                read.encode(0, &tokenizer, &embeddings);
            }
            let head: String = text.chars().take(9).collect();
            // A hundredth of the time that anything worse than linear would take, with room for busy machines.
            assert!(reading.as_secs() < 4, "{head} {dialect:?}: {reading:?}");
            assert!(start.elapsed().as_secs() < 10, "{head} {dialect:?}: {:?}", start.elapsed());
        }
    };
    for bit in bits {
        // A megabyte of the worst, a tenth of it of the others, to keep the test short.
        let worst = ["(", "[", "(a:", "[[[:", "[a|b]", "<", "((a)"].contains(&bit);
        let text = bit.repeat(if worst { 1_000_000 } else { 100_000 } / bit.len());
        read(&text, !worst);
        read(&format!("{text})"), false);
    }
    read(&format!("{}x{}", "(".repeat(500_000), ")".repeat(500_000)), true);
    read(&format!("{}x{}", "(".repeat(200_000), ":1.1)".repeat(160_000)), true);
}

/// Text in which the grammar's signs are frequent.
fn signs() -> impl Strategy<Value = String> {
    let bits = [
        "(",
        ")",
        "[",
        "]",
        ":",
        "|",
        "\\",
        "\n",
        "#",
        "<lora:a:1>",
        "<",
        ">",
        "AND",
        "BREAK",
        ":1.2)",
        "0.5",
        "3",
        "a",
        "cat, ",
        " ",
        "猫",
        "embedding:cat",
        "\u{301}",
        "\0",
    ];
    prop::collection::vec(prop::sample::select(bits.to_vec()), 0..40).prop_map(|bits| bits.concat())
}

proptest! {
    #[test]
    fn any_string_is_a_prompt(
        text in prop_oneof![signs(), any::<String>()],
        comfy in any::<bool>(),
        steps in 0usize..30,
        negative in any::<bool>(),
        weights in any::<bool>(),
        backtrack in 0usize..100,
    ) {
        let dialect = if comfy { Dialect::ComfyUi } else { Dialect::A1111 };
        let options = PromptOptions {
            negative, weights, comma_backtrack: backtrack, ..PromptOptions::new(dialect, Steps::new(steps))
        };
        let read = Prompt::read(&text, &options);
        prop_assert!(!read.parts.is_empty());
        let ranges = read.ranges();
        prop_assert_eq!(ranges.last().map_or(0, |range| range.last + 1), steps);
        for pair in ranges.windows(2) {
            prop_assert_eq!(pair[0].last + 1, pair[1].first);
            prop_assert_ne!(&pair[0].parts, &pair[1].parts);
        }
        for range in &ranges {
            prop_assert_eq!(&read.at(range.last), &range.parts);
        }
        let embeddings = BTreeMap::from([("cat".to_owned(), 2), ("a".to_owned(), 90)]);
        for text in 0..read.texts.len() {
            let encoded = read.encode(text, &tokenizer("zero"), &embeddings);
            prop_assert!(!encoded.chunks.is_empty());
            encoded.chunks.iter().for_each(check_chunk);
        }
        for segment in read.texts.iter().flatten() {
            if let Segment::Text { weight, .. } = segment {
                prop_assert!(weight.is_finite());
            }
        }
        for warning in &read.warnings {
            prop_assert!(!warning.to_string().is_empty());
        }
    }

    #[test]
    fn text_without_signs_is_itself(text in "[a-zA-Z ,.é猫]{0,60}") {
        prop_assume!(!text.contains("AND") && !text.contains("BREAK"));
        let read = Prompt::read(&text, &a1111(10));
        prop_assert_eq!(plain(&read.texts[0]), text.trim_end());
        let comfy = token_weights(&text);
        prop_assert_eq!(plain(&comfy), text);
    }
}
