//! Prompts in other dialects, against what the tools make of them.

use crate::parity::error;
use crate::pipelines::{Case, Expected};
use crate::runs::{Fixture, latents};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use velatura::{
    CancelToken, Dialect, EmbeddingsFolder, Emphasis, Engine, EngineOptions, GenerateRequest, Precision,
    Warning,
};

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

fn embeddings() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/embeddings")
}

/// A tiny pipeline with the embeddings of a folder.
fn open_with(case: &Case, folder: &Path) -> (tempfile::TempDir, Engine) {
    let (temporary, engine) = open(case);
    (temporary, engine.with_embeddings(Arc::new(EmbeddingsFolder::open(folder).unwrap())))
}

#[test]
fn embeddings_are_as_in_diffusers() {
    let (_temporary, engine) = open_with(&Expected::sd().case("sd15"), &embeddings());
    let vectors = |request: &GenerateRequest| engine.text_vectors(request, false).unwrap();
    let prompt = "a lake in mist, inkwash, at dawn";
    let bare = vectors(&GenerateRequest::new(prompt));
    close(bare.values(), "sd15/embedded");
    // The same vectors in another form, and in ComfyUI's spelling; there a bare name is a word.
    assert_eq!(vectors(&GenerateRequest::new(prompt.replace("inkwash", "inkwash-file"))), bare);
    let spelled = "a lake in embedding:mist, embedding:inkwash.pt, at dawn";
    assert_eq!(vectors(&comfy(spelled)), bare);
    let words = vectors(&comfy(prompt));
    assert_ne!(words, bare);
    let (_other, plain) = open(&Expected::sd().case("sd15"));
    assert_eq!(plain.text_vectors(&GenerateRequest::new(prompt), false).unwrap(), words);

    let (_temporary, engine) = open_with(&Expected::xl().case("sdxl"), &embeddings());
    let vectors = engine.text_vectors(&GenerateRequest::new("a lake, both, at dawn"), false).unwrap();
    close(vectors.values(), "sdxl/embedded");
    close(vectors.pooled(), "sdxl/embedded_pooled");
}

#[test]
fn pictures_name_their_embeddings() {
    let (_temporary, engine) = open_with(&Expected::sd().case("sd15"), &embeddings());
    let request = GenerateRequest {
        negative: "(mist:1.3)".into(),
        steps: Some(1),
        width: Some(32),
        height: Some(32),
        ..GenerateRequest::new("a lake in INKWASH")
    };
    let made = engine.generate(&request, &mut |_| (), &CancelToken::default()).unwrap();
    let named = &made.pictures[0].origin.embeddings;
    assert_eq!(named.iter().map(|e| e.name.as_str()).collect::<Vec<_>>(), ["inkwash", "mist"]);
    assert!(named.iter().all(|e| e.hash.len() == 12) && named[0].hash != named[1].hash);
}

#[test]
fn embeddings_that_cannot_be_used_are_named() {
    let temporary = tempfile::tempdir().unwrap();
    let file = |name: &str| embeddings().join(name);
    let pt = std::fs::read(file("inkwash.pt")).unwrap();
    std::fs::write(temporary.path().join("cut.pt"), &pt[..pt.len() / 2]).unwrap();
    std::fs::write(temporary.path().join("noise.bin"), b"no tensors at all").unwrap();
    std::fs::create_dir(temporary.path().join("more")).unwrap();
    std::fs::copy(file("both.safetensors"), temporary.path().join("more/both.safetensors")).unwrap();
    std::fs::copy(file("mist.bin"), temporary.path().join("mist.bin")).unwrap();
    let refusal = |case: &Case, prompt: &str| {
        let (_temporary, engine) = open_with(case, temporary.path());
        let error = engine.text_vectors(&GenerateRequest::new(prompt), false).err().unwrap().to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    };
    let sd15 = Expected::sd().case("sd15");
    assert!(refusal(&sd15, "a cut").contains("cut.pt"));
    assert!(refusal(&sd15, "some noise").contains("noise.bin"));
    // What no prompt names is not looked at; and what is missing is said.
    let (_temporary, engine) = open_with(&sd15, temporary.path());
    engine.text_vectors(&GenerateRequest::new("a lake"), false).unwrap();
    let warnings = engine.request_warnings(&comfy("a embedding:nowhere lake"));
    assert!(warnings[0].to_string().contains("nowhere"), "{warnings:?}");
    // Names are looked up, not opened, so that none leads out of the folder.
    let outside = embeddings().join("mist");
    for name in ["../embeddings/mist", "mist\0", "..", r"\\host\mist", "CON", outside.to_str().unwrap()] {
        let warnings = engine.request_warnings(&comfy(&format!("a embedding:{name} lake")));
        assert!(warnings[0].to_string().contains("there is no embedding"), "{name:?}: {warnings:?}");
    }
    // In a folder, as ComfyUI spells it.
    engine.text_vectors(&comfy("a embedding:more/both lake"), false).unwrap();
}

#[test]
fn embeddings_of_another_family_are_words_as_in_a1111_or_left_out_as_in_comfyui() {
    let (_temporary, engine) = open_with(&Expected::xl().case("sdxl"), &embeddings());
    let (_other, plain) = open(&Expected::xl().case("sdxl"));
    let vectors = |engine: &Engine, request: &GenerateRequest| engine.text_vectors(request, false).unwrap();
    let note = |request: &GenerateRequest| match &engine.request_warnings(request)[..] {
        [Warning::Prompt(note)] => note.clone(),
        other => panic!("{other:?}"),
    };
    // Made for Stable Diffusion 1.5: the first of the two text encoders could read it, the second could not.
    let bare = GenerateRequest::new("a lake in mist, at dawn");
    assert_eq!(vectors(&engine, &bare), vectors(&plain, &bare));
    let said = note(&bare);
    assert!(said.contains("mist.bin") && said.contains("64") && said.contains("128"), "{said}");
    assert!(said.contains("read as text") && !said.contains('\n'), "{said}");
    let request = GenerateRequest { steps: Some(1), width: Some(32), height: Some(32), ..bare };
    let made = engine.generate(&request, &mut |_| (), &CancelToken::default()).unwrap();
    assert!(made.pictures[0].origin.embeddings.is_empty());
    let spelled = comfy("a lake in embedding:mist, at dawn");
    assert!(note(&spelled).contains("left out"), "{}", note(&spelled));
    let without = vectors(&plain, &comfy("a lake in , at dawn"));
    let (found, width) = (vectors(&engine, &spelled), without.values().len() / without.tokens());
    // The second encoder's features, behind the first's 64.
    for (found, without) in found.values().chunks(width).zip(without.values().chunks(width)) {
        assert_eq!(found[64..], without[64..]);
    }
    assert_ne!(found.values()[..77 * 64], without.values()[..77 * 64]);
}

#[test]
fn texts_that_change_within_a_run_are_followed() {
    let Fixture { expected, engine, _temporary } = Fixture::open(Expected::sampling());
    let plain = expected.case("sd15").request("plain");
    for precision in [Precision::F32, Precision::Bf16] {
        let of = |prompt: &str| {
            let precision = Some(precision);
            latents(&engine, &GenerateRequest { prompt: prompt.into(), precision, ..plain.clone() })
        };
        let (lake, boat) = (of("a lake"), of("a boat"));
        for prompt in ["[a lake:a boat:1]", "[a lake|a boat]"] {
            let edited = of(prompt);
            assert!(edited != lake && edited != boat && lake != boat, "{prompt}");
        }
        assert!(of("[a lake:a boat:1000]") == lake);
        // More parts than are asked together: the same plan is given different texts within a step, and only the third counts.
        let third = of("a lake:0 AND snow:0 AND a boat AND snow:0");
        let bound = if precision == Precision::F32 { 1e-3 } else { 2e-2 };
        assert!(
            error(&third, &boat) < bound && error(&third, &lake) > 2.0 * bound,
            "{}",
            error(&third, &boat)
        );
    }
}
