//! The engine end to end on a tiny untrained model: the bits of a picture depend on its request and on nothing else.

use std::sync::Arc;

use velatura::manifest::FORMAT;
use velatura::picture::{PictureInfo, tile};
use velatura::preview::Previewer;
use velatura::request::MOST_PICTURES;
use velatura::{
    CancelToken, Engine, EngineOptions, Error, GenerateRequest, ModelManifest, Picture, Precision, Progress,
    RequestError, RngKind, Warning, write_model,
};
use velatura_weights::{SafetensorsFile, Storage};

fn engine(threads: usize) -> Engine {
    let manifest = velatura::tiny::manifest().unwrap();
    let weights = Arc::new(manifest.random_weights(7).unwrap());
    Engine::from_weights(
        manifest,
        weights,
        EngineOptions { threads: Some(threads), ..EngineOptions::default() },
    )
    .unwrap()
}

fn request() -> GenerateRequest {
    GenerateRequest {
        negative: "white".into(),
        seed: Some(40),
        steps: Some(3),
        batch: 3,
        precision: Some(Precision::F32),
        ..GenerateRequest::new("two red apples above a cat")
    }
}

fn make(engine: &Engine, request: &GenerateRequest) -> Vec<Picture> {
    engine.generate(request, &mut |_| (), &CancelToken::default()).unwrap().pictures
}

#[test]
fn bits_do_not_depend_on_batch_threads_or_what_ran_before() {
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let request = GenerateRequest { precision: Some(precision), ..request() };
        let (one, two) = (engine(1), engine(2));
        let together = make(&one, &request);
        assert_eq!(together.len(), 3);
        assert_ne!(together[0].rgb, together[1].rgb);
        assert!(together == make(&two, &request), "threads, {precision:?}");
        for (i, picture) in together.iter().enumerate() {
            assert_eq!(picture.seed(), 40 + i as u64);
            let alone =
                make(&two, &GenerateRequest { seed: Some(40 + i as u64), batch: 1, ..request.clone() });
            assert!(alone[0].rgb == picture.rgb, "batch, picture {i}, {precision:?}");
        }
    }
}

#[test]
fn many_prompts_are_each_as_if_alone() {
    let engine = engine(2);
    let prompts: Vec<(String, u64)> =
        [("a cat", 1), ("two apples", 2), ("a cat", 3)].map(|(p, s)| (p.to_string(), s)).to_vec();
    let made = engine.generate_each(&request(), &prompts, &mut |_| (), &CancelToken::default()).unwrap();
    for (picture, (prompt, seed)) in made.pictures.iter().zip(&prompts) {
        let one = GenerateRequest { prompt: prompt.clone(), seed: Some(*seed), batch: 1, ..request() };
        assert!(make(&engine, &one)[0].rgb == picture.rgb, "{prompt}");
    }
}

#[test]
fn everything_that_should_change_the_picture_does() {
    let engine = engine(2);
    let base = GenerateRequest { batch: 1, ..request() };
    let first = make(&engine, &base);
    let others = [
        GenerateRequest { prompt: "a dog".into(), ..base.clone() },
        GenerateRequest { negative: String::new(), ..base.clone() },
        GenerateRequest { seed: Some(41), ..base.clone() },
        GenerateRequest { steps: Some(4), ..base.clone() },
        GenerateRequest { guidance: Some(1.0), ..base.clone() },
        GenerateRequest { sampler: Some("ddim".into()), schedule: Some("trailing".into()), ..base.clone() },
        GenerateRequest { rng: RngKind::Cuda, ..base.clone() },
    ];
    for other in others {
        assert_ne!(make(&engine, &other)[0].rgb, first[0].rgb, "{other:?}");
    }
    let wide = GenerateRequest { width: Some(72), height: Some(40), ..base };
    let wide = &make(&engine, &wide)[0];
    assert_eq!((wide.width, wide.height, wide.rgb.len()), (72, 40, 72 * 40 * 3));
}

#[test]
fn a_picture_says_how_to_make_it_again() {
    let engine = engine(2);
    let asked = GenerateRequest {
        prompt: "a cat, \"red\": 猫\nsecond line".into(),
        sampler: Some("DPM++ 2M Karras".into()),
        seed: None,
        ..request()
    };
    let made = &make(&engine, &asked)[2];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cat.png");
    made.save(&path).unwrap();
    let info = PictureInfo::open(&path).unwrap();
    assert_eq!((info.width, info.height), (64, 64));
    let read = info.request("cat.png").unwrap();
    assert_eq!(read, made.origin.request);
    assert_eq!(read.sampler.as_deref(), Some("dpmpp_2m"));
    assert_eq!(read.schedule.as_deref(), Some("karras"));
    assert!(make(&engine, &read)[0].rgb == made.rgb);
    // A1111's text alone says enough too.
    let text = info.text("parameters").unwrap();
    assert!(
        text.contains("Negative prompt: white\nSteps: 3, Sampler: DPM++ 2M, Schedule type: Karras"),
        "{text}"
    );
    let parsed = velatura::infotext::parse(text);
    assert!(make(&engine, &parsed)[0].rgb == made.rgb);
    // The pixels in the file are the pixels.
    let decoder = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(&path).unwrap()));
    let mut reader = decoder.read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    assert!(pixels == made.rgb);
}

#[test]
fn a_stop_keeps_what_is_finished() {
    let engine = engine(2);
    // More than are denoised together, so that some are finished when the first step of the rest is seen.
    let request = GenerateRequest { batch: 10, steps: Some(2), ..request() };
    let cancel = CancelToken::default();
    let mut seen = 0;
    let result = engine.generate(
        &request,
        &mut |progress| match progress {
            Progress::Picture(_) => seen += 1,
            Progress::Step { .. } if seen > 0 => cancel.cancel(),
            _ => {}
        },
        &cancel,
    );
    match result {
        Err(Error::Cancelled { finished, asked }) => {
            assert_eq!((finished.len(), asked), (seen, 10));
            assert!(seen > 0 && seen < 10);
        }
        other => panic!("{:?}", other.map(|g| g.pictures.len())),
    }
    let at_once = CancelToken::default();
    at_once.cancel();
    match engine.generate(&request, &mut |_| (), &at_once) {
        Err(Error::Cancelled { finished, .. }) => assert!(finished.is_empty()),
        other => panic!("{:?}", other.map(|g| g.pictures.len())),
    }
}

#[test]
fn steps_are_reported_and_add_up() {
    let engine = engine(1);
    let request = GenerateRequest { batch: 9, steps: Some(2), ..request() };
    let (mut total, mut last, mut pictures) = (0, 0, Vec::new());
    let mut observe = |progress: Progress<'_>| match progress {
        Progress::Started { steps, .. } => total = steps,
        Progress::Step { done, .. } => {
            assert!(done > last);
            last = done;
        }
        Progress::Picture(picture) => pictures.push(picture.index),
        Progress::Warning(warning) => panic!("{warning}"),
    };
    engine.generate(&request, &mut observe, &CancelToken::default()).unwrap();
    assert_eq!((total, last), (18, 18));
    assert_eq!(pictures, (0..9).collect::<Vec<_>>());
}

#[test]
fn a_linear_preview_is_what_the_picture_becomes() {
    let options = EngineOptions { threads: Some(2), ..EngineOptions::default() };
    let engine = Engine::shipped(options).unwrap();
    let previewer = Previewer::linear(&engine).unwrap();
    // None of the prompts that the projection was fitted on.
    let request = GenerateRequest {
        seed: Some(3),
        steps: Some(12),
        batch: 2,
        ..GenerateRequest::new("a green apple left of a cow on a yellow background")
    };
    let mut previews = vec![None, None];
    let mut observe = |progress: Progress<'_>| {
        if let Progress::Step { clean, .. } = progress {
            assert_eq!((clean.images, clean.first, clean.size), (2, 0, [16, 16]));
            for (image, preview) in previews.iter_mut().enumerate() {
                *preview = previewer.picture(&clean, image).unwrap();
            }
        }
    };
    let made = engine.generate(&request, &mut observe, &CancelToken::default()).unwrap();
    for (picture, preview) in made.pictures.iter().zip(previews) {
        let preview = preview.unwrap();
        assert_eq!((preview.width, preview.height), (16, 16));
        // Against the mean colours of eight by eight pixels.
        let mean = |x: usize, y: usize, c: usize| {
            let block = (0..64).map(|i| ((y * 8 + i / 8) * 128 + x * 8 + i % 8) * 3 + c);
            block.map(|at| f64::from(picture.rgb[at])).sum::<f64>() / 64.0
        };
        let squares = preview.rgb.iter().enumerate().map(|(i, &value)| {
            let (pixel, c) = (i / 3, i % 3);
            (f64::from(value) - mean(pixel % 16, pixel / 16, c)).powi(2)
        });
        let deviation = (squares.sum::<f64>() / preview.rgb.len() as f64).sqrt();
        assert!(deviation < 25.0, "{deviation} of 255");
    }
}

#[test]
fn bad_requests_are_refused_with_a_remedy() {
    let engine = engine(1);
    let base = GenerateRequest::new("a cat");
    let name = |n: &str| Some(n.to_string());
    let cases = [
        (GenerateRequest { steps: Some(0), ..base.clone() }, "steps is 0"),
        (GenerateRequest { steps: Some(1001), ..base.clone() }, "from 1 to 1000"),
        (GenerateRequest { guidance: Some(f32::NAN), ..base.clone() }, "guidance is NaN"),
        (GenerateRequest { guidance: Some(0.0), ..base.clone() }, "guidance is 0"),
        (GenerateRequest { guidance: Some(-3.0), ..base.clone() }, "guidance is -3"),
        (GenerateRequest { guidance: Some(f32::INFINITY), ..base.clone() }, "guidance is inf"),
        (GenerateRequest { width: Some(0), ..base.clone() }, "width is 0"),
        (GenerateRequest { width: Some(4), ..base.clone() }, "width is 4"),
        (GenerateRequest { height: Some(100), ..base.clone() }, "the nearest are 96 and 104"),
        (GenerateRequest { width: Some(1 << 20), ..base.clone() }, "width is 1048576"),
        (GenerateRequest { batch: 0, ..base.clone() }, "batch is 0"),
        (GenerateRequest { batch: MOST_PICTURES + 1, ..base.clone() }, "batch is 1025"),
        (GenerateRequest { clip_skip: Some(2), ..base.clone() }, "clip skip is 2, but must be 1"),
        (GenerateRequest { sampler: name("eulr"), ..base.clone() }, "did you mean euler"),
        (GenerateRequest { schedule: name("karas"), ..base.clone() }, "did you mean karras"),
        (GenerateRequest { prompt: "a ".repeat(1 << 20), ..base.clone() }, "prompt is"),
    ];
    for (request, says) in cases {
        let error = match engine.generate(&request, &mut |_| (), &CancelToken::default()) {
            Err(Error::Request(error)) => error.to_string(),
            other => panic!("{says}: {:?}", other.map(|g| g.pictures.len())),
        };
        assert!(error.contains(says) && !error.contains('\n'), "{error}");
    }
    for json in [
        r#"{"stepz": 3}"#,
        r#"{"steps": -3}"#,
        r#"{"steps": 1e99}"#,
        r#"{"guidance": NaN}"#,
        r#"{"batch": "many"}"#,
        // Half of a pair of UTF-16.
        r#"{"prompt": "\ud800"}"#,
        &format!(r#"{{"freeu": {}"#, "[".repeat(100_000)),
    ] {
        let error = GenerateRequest::from_json(json).unwrap_err();
        assert!(matches!(&error, RequestError::Json(_)) && !error.to_string().contains('\n'), "{error}");
    }
    assert_eq!(GenerateRequest::from_json("{\"prompt\": \"a cat\"}").unwrap(), base);
}

#[test]
fn odd_words_are_warned_about() {
    let engine = engine(1);
    let warnings = engine.warnings("two appels on a zzyzx");
    let texts: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert!(texts[0].contains("\"appels\"") && texts[0].contains("\"apple"), "{texts:?}");
    assert!(texts[1].contains("\"zzyzx\""), "{texts:?}");
    let long = engine.warnings(&"cat ".repeat(40));
    assert!(matches!(long[..], [Warning::Dropped { context: 16, .. }]), "{long:?}");
}

#[test]
fn models_are_written_and_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.safetensors");
    let manifest = velatura::tiny::manifest().unwrap();
    let weights = manifest.random_weights(7).unwrap();
    write_model(&path, &manifest, &weights, Storage::F32, &Default::default()).unwrap();
    let opened = Engine::open(&path, EngineOptions::default()).unwrap();
    assert_eq!(*opened.manifest(), manifest);
    assert_eq!(opened.model_ref().hash.len(), 10);
    let request = GenerateRequest { batch: 1, ..request() };
    assert!(make(&opened, &request)[0].rgb == make(&engine(1), &request)[0].rgb);
}

#[test]
fn weights_that_are_no_numbers_end_in_a_sentence() {
    let manifest = velatura::tiny::manifest().unwrap();
    for (name, says) in [("unet.conv_out.weight", "step 1 of 3"), ("vae.decoder.conv_out.weight", "VAE")] {
        let mut weights = manifest.random_weights(7).unwrap();
        weights.get_mut(name).unwrap().1.fill(f32::NAN);
        let engine =
            Engine::from_weights(manifest.clone(), Arc::new(weights), EngineOptions::default()).unwrap();
        let error =
            engine.generate(&request(), &mut |_| (), &CancelToken::default()).unwrap_err().to_string();
        assert!(error.contains(says) && !error.contains('\n'), "{error}");
    }
}

#[test]
fn models_that_do_not_fit_themselves_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.safetensors");
    let manifest = velatura::tiny::manifest().unwrap();
    let mut weights = manifest.random_weights(7).unwrap();
    weights.remove("unet.conv_in.weight");
    let error = write_model(&path, &manifest, &weights, Storage::F16, &Default::default()).unwrap_err();
    assert!(error.to_string().contains("unet.conv_in.weight"), "{error}");
    assert!(!path.exists());
    let engine = Engine::from_weights(manifest.clone(), Arc::new(weights), EngineOptions::default()).unwrap();
    let error = engine.generate(&request(), &mut |_| (), &CancelToken::default()).unwrap_err();
    assert!(error.to_string().contains("unet.conv_in.weight"), "{error}");

    let open = |metadata: &str| {
        let metadata = [("velatura".to_string(), metadata.to_string())].into();
        velatura_weights::write_safetensors(&path, &[], &metadata).unwrap();
        Engine::open(&path, EngineOptions::default()).err().unwrap().to_string()
    };
    let json = serde_json::to_string(&manifest).unwrap();
    assert!(open("{").contains("cannot be read"));
    let (now, newer) = [FORMAT, FORMAT + 1].map(|format| format!("\"format\":{format}")).into();
    assert!(open(&json.replace(&now, &newer)).contains("update Velatura"));
    assert!(open(&json.replace("\"euler\"", "\"eulr\"")).contains("did you mean euler"));
    assert!(open(&json.replace("\"width\":64", "\"width\":65")).contains("no multiple of 8"));
    let foreign = [1.0f32];
    let tensor =
        velatura_weights::TensorToWrite::new("model.diffusion_model.x", &[1], Storage::F32, &foreign);
    velatura_weights::write_safetensors(&path, &[tensor], &Default::default()).unwrap();
    let error = Engine::open(&path, EngineOptions::default()).err().unwrap().to_string();
    assert!(error.contains("bad.safetensors holds no part of a known model"), "{error}");
}

#[test]
fn the_shipped_model_runs_and_fits_its_description() {
    let file = velatura::shipped_file().unwrap();
    let manifest = ModelManifest::of(&file).unwrap();
    assert!(file.file_bytes() <= 20_000_000);
    for weight in manifest.weights().unwrap() {
        assert_eq!(file.info(&weight.name).unwrap().shape, weight.shape, "{}", weight.name);
    }
    let engine = Engine::shipped(EngineOptions::default()).unwrap();
    let request = GenerateRequest { steps: Some(1), ..GenerateRequest::new("a cat") };
    assert_eq!(make(&engine, &request).len(), 1);
}

/// Its convolutions are large enough for Winograd's algorithm, which the tiny model's are not.
#[test]
fn the_shipped_models_bits_do_not_depend_on_batch_or_threads_and_its_precisions_agree() {
    let open = |threads| {
        let options = EngineOptions { threads: Some(threads), ..EngineOptions::default() };
        Engine::shipped(options).unwrap()
    };
    let (one, two) = (open(1), open(2));
    let request = |precision, seed, batch| GenerateRequest {
        seed: Some(seed),
        steps: Some(4),
        batch,
        precision: Some(precision),
        ..GenerateRequest::new("a cat")
    };
    let exact = make(&two, &request(Precision::F32, 1, 1));
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let together = make(&two, &request(precision, 1, 2));
        assert!(together == make(&one, &request(precision, 1, 2)), "threads, {precision:?}");
        assert!(make(&one, &request(precision, 2, 1))[0].rgb == together[1].rgb, "batch, {precision:?}");
        let difference: f64 =
            exact[0].rgb.iter().zip(&together[0].rgb).map(|(&a, &b)| f64::from(a.abs_diff(b))).sum();
        let mean = difference / exact[0].rgb.len() as f64;
        assert!(mean < 4.0, "{precision:?} is {mean} of 255 away from single precision");
    }
}

#[test]
fn foreign_and_damaged_pictures_are_refused() {
    let read = |bytes: &[u8]| PictureInfo::from_bytes("x.png", bytes);
    for bytes in [&b""[..], b"GIF89a", b"<svg></svg>", b"\x89PNG\r\n\x1a\n"] {
        let error = read(bytes).unwrap_err().to_string();
        assert!(error.contains("x.png"), "{error}");
    }
    let plain = velatura::picture::encode(1, 1, &[1, 2, 3], &[]).unwrap();
    assert!(matches!(read(&plain).unwrap().request("x.png"), Err(Error::NoMetadata { .. })));
    let newer = velatura::picture::encode(1, 1, &[1, 2, 3], &[("velatura", "{\"version\":\"9\"}")]).unwrap();
    let error = read(&newer).unwrap().request("x.png").unwrap_err().to_string();
    assert!(error.contains("newer"), "{error}");
    let _: SafetensorsFile = velatura::shipped_file().unwrap();
}

#[test]
fn sheets_hold_every_picture() {
    let pictures = make(&engine(1), &request());
    let (width, height, rgb) = tile(&pictures, 0);
    assert_eq!((width, height), (2 * 64 + 2, 2 * 64 + 2));
    assert_eq!(&rgb[..64 * 3], &pictures[0].rgb[..64 * 3]);
    assert_eq!(&rgb[66 * 3..(66 + 64) * 3], &pictures[1].rgb[..64 * 3]);
    assert_eq!(&rgb[66 * width * 3..(66 * width + 64) * 3], &pictures[2].rgb[..64 * 3]);
    assert!(rgb[64 * 3..66 * 3].iter().all(|&v| v == 255));
}
