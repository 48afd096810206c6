//! Prompts in other dialects, against what the tools make of them.

use crate::parity::error;
use crate::pipelines::{Case, Expected};
use velatura::{Dialect, Emphasis, Engine, EngineOptions, GenerateRequest};

/// A tiny pipeline, opened.
fn open(case: &Case) -> (tempfile::TempDir, Engine) {
    let temporary = tempfile::tempdir().unwrap();
    case.write_folder(&temporary.path().join(&case.name));
    let engine = Engine::open(
        temporary.path().join(&case.name),
        EngineOptions { threads: Some(2), ..EngineOptions::default() },
    )
    .unwrap();
    (temporary, engine)
}

fn close(found: &[f32], key: &str) {
    let error = error(found, &Expected::prompts().numbers(key));
    println!("{key}: {error:.1e}");
    assert!(error < 1e-4, "{key}: {error}");
}

fn comfy(prompt: &str) -> GenerateRequest {
    GenerateRequest { prompt_dialect: Dialect::ComfyUi, ..GenerateRequest::new(prompt) }
}

#[test]
fn comfyui_weighs_from_the_empty_prompt() {
    let prompt = format!("a ((red:1.3)) lake (at:0.6) [dawn] ({}:1.2)", "snow ".repeat(80));
    for case in [Expected::sd().case("sd15"), Expected::xl().case("sdxl")] {
        let (_temporary, engine) = open(&case);
        let vectors = engine.text_vectors(&comfy(&prompt), false).unwrap();
        assert_eq!(vectors.tokens(), 2 * 77);
        close(vectors.values(), &format!("{}/comfy", case.name));
        let a1111 = engine.text_vectors(&GenerateRequest::new(prompt.as_str()), false).unwrap();
        assert_ne!(a1111.values(), vectors.values());
        if case.name == "sdxl" {
            close(vectors.pooled(), "sdxl/comfy_pooled");
            close(engine.text_vectors(&comfy(""), true).unwrap().values(), "sdxl/comfy_empty");
        }
    }
}

#[test]
fn emphasis_is_chosen_by_name() {
    let (_temporary, engine) = open(&Expected::sd().case("sd15"));
    let vectors = |prompt: &str, emphasis| {
        let request = GenerateRequest { emphasis, ..GenerateRequest::new(prompt) };
        engine.text_vectors(&request, false).unwrap().values().to_vec()
    };
    let weighted = "a (red:1.5) lake";
    let plain = vectors("a red lake", None);
    assert_eq!(vectors(weighted, Some(Emphasis::Ignore)), plain);
    assert_eq!(vectors(weighted, Some(Emphasis::Original)), vectors(weighted, None));
    // The brackets are tokens.
    assert_eq!(vectors(weighted, Some(Emphasis::None)), vectors(r"a \(red:1.5\) lake", None));
    // Start, "a", and the weighted token.
    let multiplied = vectors(weighted, Some(Emphasis::NoNorm));
    let width = plain.len() / 77;
    assert_eq!(multiplied[..2 * width], plain[..2 * width]);
    for (found, plain) in multiplied[2 * width..3 * width].iter().zip(&plain[2 * width..]) {
        assert_eq!(*found, plain * 1.5);
    }
    assert_eq!(multiplied[3 * width..], plain[3 * width..]);
    let request = GenerateRequest { emphasis: Some(Emphasis::Interpolate), ..GenerateRequest::new(weighted) };
    assert_eq!(
        engine.text_vectors(&request, false).unwrap(),
        engine.text_vectors(&comfy(weighted), false).unwrap()
    );
}
