//! The command as people use it: what it prints, what it writes, how it ends.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn velatura(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_velatura"));
    command
        .args(args)
        .current_dir(folder)
        .env_remove("VELATURA_LOG")
        .env_remove("VELATURA_THREADS")
        .env_remove("VELATURA_MEMORY");
    command
        .env("VELATURA_MODELS", folder.join("no-models"))
        .env("HF_HUB_OFFLINE", "1")
        .env("HF_HOME", folder.join("no-hub"));
    command
}

fn run(folder: &Path, args: &[&str]) -> Output {
    velatura(folder, args).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn listing(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn tiny(folder: &Path) -> PathBuf {
    let path = folder.join("tiny.safetensors");
    let manifest = velatura::tiny::manifest().unwrap();
    let weights = manifest.random_weights(3).unwrap();
    velatura::write_model(&path, &manifest, &weights, velatura_weights::Storage::F16, &Default::default())
        .unwrap();
    path
}

/// Arguments that make one small picture quickly.
const QUICK: [&str; 6] = ["--model", "../tiny.safetensors", "--steps", "2", "--seed", "5"];

/// A folder with a model in it, and an empty one inside to work in.
fn workplace() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    tiny(folder.path());
    let inner = folder.path().join("work");
    std::fs::create_dir(&inner).unwrap();
    (folder, inner)
}

fn generate<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["generate", "a cat"], &QUICK[..], more].concat()
}

#[test]
fn bad_input_gives_one_clear_sentence_and_writes_nothing() {
    let (_folder, work) = workplace();
    let good = std::fs::read(work.join("../tiny.safetensors")).unwrap();
    std::fs::write(work.join("../cut.safetensors"), &good[..good.len() - 100]).unwrap();
    std::fs::write(work.join("../page.safetensors"), "<html>404</html>").unwrap();
    std::fs::write(work.join("../plain.png"), velatura::picture::encode(1, 1, &[0; 3], &[]).unwrap())
        .unwrap();
    let cases: &[(&[&str], i32, &str)] = &[
        (&["--steps", "0"], 2, "whole number from 1 to 1000"),
        (&["--steps", "NaN"], 2, "whole number from 1 to 1000"),
        (&["--steps", "-3"], 2, "whole number from 1 to 1000"),
        (&["--steps", "1e9"], 2, "whole number from 1 to 1000"),
        (&["--guidance", "NaN"], 2, "number above 0"),
        (&["--guidance", "0"], 2, "number above 0"),
        (&["--guidance", "-1"], 2, "number above 0"),
        (&["--guidance", "inf"], 2, "number above 0"),
        (&["--width", "0"], 2, "from 1 to 8192"),
        (&["--width", "NaN"], 2, "from 1 to 8192"),
        (&["--width", "100"], 2, "the nearest are 96 and 104"),
        (&["--height", "4"], 2, "height is 4"),
        (&["--batch", "0"], 2, "from 1 to 1024"),
        (&["--batch", "1000000"], 2, "from 1 to 1024"),
        (&["--seed", "-1"], 2, "whole number from 0"),
        (&["--threads", "0"], 2, "whole number from 1"),
        (&["--sampler", "eulr"], 2, "did you mean euler"),
        (&["--schedule", "karas"], 2, "did you mean karras"),
        (&["--precision", "f17"], 2, "f32, bf16 or int8"),
        (&["--rng", "dice"], 2, "cpu or cuda"),
        (&["--clip-skip", "0"], 2, "whole number from 1"),
        (&["--clip-skip", "2"], 2, "must be 1 for this model"),
        (&["--stepz", "3"], 2, "--steps"),
        (&["--output", "no/such/folder/cat.png"], 1, "create its folder first"),
        (&["--output", "cat.gif"], 2, "PNG, JPEG or WebP only"),
        (&["--format", "gif"], 2, "png, jpeg or webp"),
        (&["--format", "webp", "--output", "cat.jpg"], 2, "end the name in .webp"),
        (&["--quality", "80"], 2, "--quality is for JPEG and WebP"),
        (&["--quality", "0", "--output", "cat.jpg"], 2, "whole number from 1"),
        (&["--sag-scale", "-1"], 2, "from 0 to 100"),
        (&["--sag-blur", "2"], 2, "--sag-scale"),
        (&["--sag-scale", "1", "--sag-blur", "0"], 2, "blur of self-attention guidance"),
        (&["--threshold-percentile", "2"], 2, "threshold percentile"),
        (&["--threshold-max", "2"], 2, "--threshold-percentile"),
        (&["--zero-snr=perhaps"], 2, "true"),
        (&["--preview", "no.safetensors"], 1, "there is no file or folder no.safetensors"),
        (&["--preview", "../plain.png"], 2, "has an autoencoder of its own"),
        (&["--preview-every", "0"], 2, "whole number from 1"),
        (&["--output", "{sed}.png"], 2, "{sed}"),
        (&["--output", ""], 2, "empty"),
        (&["--output", "-", "--batch", "2"], 2, "one picture"),
        (&["--output", "-", "--json"], 2, "both want standard output"),
        (&["--vae", "../plain.png"], 2, "has an autoencoder of its own"),
        (&["--vae", "no.safetensors"], 1, "there is no file or folder no.safetensors"),
        (&["--model", "no.safetensors"], 1, "there is no file or folder no.safetensors"),
        (&["--model", "owner/name"], 1, "HF_HUB_OFFLINE"),
        (&["--vae-tiling", "some"], 2, "auto, on or off"),
        (&["--strength", "0"], 2, "above 0 and at most 1"),
        (&["--strength", "1.5"], 2, "above 0 and at most 1"),
        (&["--strength", "NaN"], 2, "above 0 and at most 1"),
        (&["--strength", "0.5"], 2, "for a picture to begin from"),
        (&["--init", "no.png"], 1, "no.png"),
        (&["--mask", "no.png"], 2, "for a picture to begin from"),
        (&["--image-guidance", "0.5"], 2, "from 1 to 100"),
        (&["--image-guidance", "1.5", "--init", "../plain.png"], 2, "means nothing to this model"),
        (&["--noise-level", "400"], 2, "from 0 to 350"),
        (&["--deepcache", "0"], 2, "from 1 to 1000"),
        (&["--deepcache-branch", "1"], 2, "--deepcache <N>"),
        (&["--deepcache", "2", "--deepcache-branch", "99"], 2, "branch of DeepCache is 99"),
        (&["--deepcache", "2", "--sag-scale", "1"], 2, "leave one of the two out"),
        (&["--init", ".."], 1, "directory"),
        (&["--init", "../page.safetensors"], 1, "cannot be read as a picture"),
        (&["--init", "../plain.png", "--strength", "0.1"], 2, "leaves none"),
        (&["--model", ".."], 1, "tiny.safetensors"),
        (&["--model", "../cut.safetensors"], 1, "is truncated"),
        (&["--model", "../page.safetensors"], 1, "web page"),
        (&["--model", "../plain.png"], 1, "PNG picture"),
        (&["--from", "../plain.png"], 1, "carries no generation parameters"),
        (&["--from", "../tiny.safetensors"], 1, "not a PNG picture"),
        (&["--from", "no.png"], 1, "no.png"),
    ];
    for (args, code, says) in cases {
        // The flag under test replaces the quick one of the same name.
        let mut all: Vec<&str> = vec!["generate", "a cat"];
        for pair in QUICK.chunks(2).filter(|pair| pair[0] != args[0]) {
            all.extend(pair);
        }
        all.extend(*args);
        let output = run(&work, &all);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(*code), "{args:?}: {errors}");
        let first = errors.lines().find(|l| l.starts_with("error: ")).unwrap_or_default();
        assert!(errors.contains(says), "{args:?}: {errors}");
        assert!(
            errors.lines().filter(|l| l.contains("error")).count() == 1 && !first.is_empty(),
            "{args:?}: {errors}"
        );
        assert!(!errors.contains("panicked"), "{errors}");
        assert!(output.stdout.is_empty(), "{args:?}");
        assert_eq!(listing(&work), [""; 0], "{args:?}");
    }
}

#[cfg(unix)]
#[test]
fn an_unwritable_folder_is_found_before_the_work() {
    use std::os::unix::fs::PermissionsExt;
    let (_folder, work) = workplace();
    let sealed = work.join("sealed");
    std::fs::create_dir(&sealed).unwrap();
    std::fs::set_permissions(&sealed, std::fs::Permissions::from_mode(0o555)).unwrap();
    if std::fs::write(sealed.join("probe"), "").is_ok() {
        // The superuser may write anywhere; there is nothing to see then.
        return;
    }
    let output = run(&work, &generate(&["--output", "sealed/cat.png", "--steps", "1000"]));
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("you may write to"), "{}", text(&output.stderr));
}

#[cfg(unix)]
#[test]
fn a_disk_that_fills_up_leaves_the_old_picture() {
    let (_folder, work) = workplace();
    std::fs::write(work.join("cat.png"), "the old one").unwrap();
    let exe = env!("CARGO_BIN_EXE_velatura");
    // A limit on the size of files fails writes as a full disk does.
    let script = format!("trap '' XFSZ; ulimit -f 1; exec {exe} {}", {
        let args = generate(&["--output", "cat.png"]);
        args.iter().map(|a| format!("'{a}'")).collect::<Vec<_>>().join(" ")
    });
    let output = Command::new("bash").args(["-c", &script]).current_dir(&work).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stderr).starts_with("error: cannot write cat.png"), "{}", text(&output.stderr));
    assert_eq!(std::fs::read(work.join("cat.png")).unwrap(), b"the old one");
    assert_eq!(listing(&work), ["cat.png"]);
}

#[test]
fn names_are_printed_and_pictures_are_numbered() {
    let (_folder, work) = workplace();
    let output = run(&work, &generate(&["--batch", "2"]));
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "velatura-0001.png\nvelatura-0002.png\n");
    assert_eq!(text(&output.stderr), "");
    run(&work, &generate(&[]));
    assert_eq!(listing(&work), ["velatura-0001.png", "velatura-0002.png", "velatura-0003.png"]);
    // Picture 1 of the batch and picture 3 have the same seed.
    let read = |n| std::fs::read(work.join(format!("velatura-000{n}.png"))).unwrap();
    assert_eq!(read(1), read(3));
    assert_ne!(read(1), read(2));

    let output = run(&work, &generate(&["--output", "velatura-0001.png", "--steps", "3"]));
    assert!(text(&output.stderr).contains("replaced"), "{}", text(&output.stderr));
}

#[test]
fn a_picture_makes_itself_again() {
    let (_folder, work) = workplace();
    let args = [
        "--output",
        "{seed}.png",
        "--negative",
        "blue",
        "--guidance",
        "2.5",
        "--deepcache",
        "2",
        "--batch",
        "2",
        "--threads",
        "1",
    ];
    assert!(run(&work, &generate(&args)).status.success());
    let output = run(&work, &["generate", "--from", "6.png", "--output", "again.png"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let read = |name: &str| std::fs::read(work.join(name)).unwrap();
    assert!(read("6.png") == read("again.png"));
    // Flags change it; standard input serves too.
    let mut child = velatura(&work, &["generate", "--from", "-", "--seed", "5", "--output", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&read("6.png")).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.stdout == read("5.png"));
}

#[test]
fn prompts_come_from_standard_input() {
    let (_folder, work) = workplace();
    let mut args = generate(&["--json"]);
    args[1] = "-";
    let mut child = velatura(&work, &args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"two apples\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["request"]["prompt"], "two apples");
    assert_eq!(json["pictures"][0]["file"], "velatura-0001.png");
    assert_eq!(json["pictures"][0]["seed"], 5);
    assert_eq!(json["model"]["name"], "tiny-untrained");
}

#[test]
fn each_line_of_a_file_is_a_prompt_of_its_own() {
    let (_folder, work) = workplace();
    std::fs::write(work.join("prompts.txt"), "a dog\n\n  two apples  \n").unwrap();
    let more = [
        "--prompts-from",
        "prompts.txt",
        "--prompt",
        "a hat",
        "--batch",
        "2",
        "--output",
        "{seed}",
        "--json",
    ];
    let output = run(&work, &generate(&more));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let prompts = ["a cat", "a hat", "a dog", "two apples"];
    assert_eq!(json.as_array().unwrap().len(), prompts.len());
    for (i, (report, prompt)) in json.as_array().unwrap().iter().zip(prompts).enumerate() {
        assert_eq!(report["request"]["prompt"], prompt);
        // Seeds alone do not tell the pictures of several prompts apart.
        assert_eq!(report["pictures"][1]["file"], format!("6-{}.png", 2 * i + 2));
    }
    // A picture of the last prompt makes itself again, whatever was made before it.
    run(&work, &["generate", "--from", "6-8.png", "--output", "again.png"]);
    assert!(std::fs::read(work.join("6-8.png")).unwrap() == std::fs::read(work.join("again.png")).unwrap());
}

#[test]
fn a_list_of_seeds_and_a_variation_make_themselves_again() {
    let (_folder, work) = workplace();
    let mut args = generate(&["--variation-strength", "0.3", "--batch", "2", "--output", "v.png"]);
    run(&work, &args);
    run(&work, &["generate", "--from", "v-2.png", "--output", "again.png"]);
    assert!(std::fs::read(work.join("v-2.png")).unwrap() == std::fs::read(work.join("again.png")).unwrap());
    args = vec!["generate", "a cat", "--steps", "2", "--seed", "9,5,7", "--output", "{seed}.png"];
    args.extend(&QUICK[..2]);
    run(&work, &args);
    for seed in ["5", "7", "9"] {
        assert!(work.join(format!("{seed}.png")).is_file(), "{seed}");
    }
}

#[test]
fn unknown_words_are_named_with_the_nearest() {
    let (_folder, work) = workplace();
    let mut args = generate(&[]);
    args[1] = "two appels";
    let output = run(&work, &args);
    assert!(output.status.success());
    let errors = text(&output.stderr);
    assert!(
        errors.starts_with("warning: ") && errors.contains("\"appels\"") && errors.contains("\"apple"),
        "{errors}"
    );
}

#[test]
fn a_sheet_holds_the_batch() {
    let (_folder, work) = workplace();
    let output = run(&work, &generate(&["--batch", "3", "--grid", "--output", "sheet.png"]));
    assert_eq!(text(&output.stdout), "sheet.png\n", "{}", text(&output.stderr));
    let info = velatura::PictureInfo::open(work.join("sheet.png")).unwrap();
    assert_eq!((info.width, info.height), (130, 130));
    assert_eq!(info.request("").unwrap().batch, 3);
}

#[test]
fn every_format_carries_the_request() {
    let (_folder, work) = workplace();
    let made = |flags: &[&str]| {
        let output = run(&work, &generate(flags));
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).trim().to_string()
    };
    let png = made(&["--output", "cat.png"]);
    let wanted = velatura::PictureInfo::open(work.join(&png)).unwrap();
    for flags in [
        &["--output", "cat.jpg"][..],
        &["--output", "good.jpeg", "--quality", "100"],
        &["--output", "cat.webp"],
        &["--output", "lossy.webp", "--quality", "50"],
        &["--output", "sheet.webp", "--grid"],
        &["--format", "webp"],
    ] {
        let name = made(flags);
        let info = velatura::PictureInfo::open(work.join(&name)).unwrap();
        assert_eq!(info.request(&name).unwrap(), wanted.request("").unwrap(), "{name}");
        assert_eq!(info.text("parameters"), wanted.text("parameters"), "{name}");
        let inspected = run(&work, &["inspect", &name]);
        assert!(text(&inspected.stdout).contains("make it again"), "{name}");
    }
    let size = |name: &str| std::fs::metadata(work.join(name)).unwrap().len();
    assert!(size("lossy.webp") < size("cat.webp"));
    assert!(work.join("velatura-0001.webp").is_file());
    // What a lossless WebP is made from is made again to the bit.
    let again = made(&["--from", "cat.webp", "--output", "again.png"]);
    assert_eq!(std::fs::read(work.join(again)).unwrap(), std::fs::read(work.join(png)).unwrap());
}

#[test]
fn nothing_is_shown_where_there_is_no_terminal() {
    let (_folder, work) = workplace();
    let mut command = velatura(&work, &generate(&["--output", "cat.png", "--preview", "linear", "--show"]));
    let output = command.env("VELATURA_GRAPHICS", "kitty").stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success());
    assert_eq!(text(&output.stdout), "cat.png\n");
    let errors = text(&output.stderr);
    assert!(!errors.contains('\x1b'), "{errors}");
    // These latents are nobody's.
    assert!(errors.contains("no linear preview is known"), "{errors}");
}

#[cfg(unix)]
#[test]
fn an_interrupt_keeps_finished_pictures() {
    let (_folder, work) = workplace();
    // Eight are denoised together; the second eight are under way when the first names appear.
    let mut args = generate(&["--batch", "1000"]);
    args[5] = "30";
    let mut child = velatura(&work, &args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 1];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().unwrap();
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{errors}");
    assert!(errors.contains("of 1000 pictures were finished and are kept"), "{errors}");
    let names: Vec<String> = listing(&work);
    assert_eq!(names.len(), text(&output.stdout).lines().count(), "{names:?}");
    assert!(!names.is_empty() && names.len() < 1000);
    for name in names {
        velatura::PictureInfo::open(work.join(name)).unwrap();
    }
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let (_folder, work) = workplace();
    for args in [
        vec!["samplers"],
        vec!["man"],
        vec!["inspect", "../tiny.safetensors", "--tensors"],
        generate(&["--output", "-"]),
    ] {
        let mut child = velatura(&work, &args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let mut errors = String::new();
        child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{args:?}");
        assert_eq!(errors, "", "{args:?}");
    }
}

#[test]
fn files_are_inspected() {
    let (_folder, work) = workplace();
    run(&work, &generate(&["--output", "cat.png"]));
    let shown = text(&run(&work, &["inspect", "cat.png"]).stdout);
    assert!(
        shown.contains("PNG picture, 64x64") && shown.contains("a cat\nSteps: 2, Sampler: Euler"),
        "{shown}"
    );
    let json = run(&work, &["inspect", "--json", "cat.png"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["request"]["seed"], 5);

    let shown = text(&run(&work, &["inspect", "../tiny.safetensors"]).stdout);
    for part in ["tiny-untrained", "text_encoder", "unet", "vae", "multiples of 8", "rectified_flow", "F16"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let json = run(&work, &["inspect", "--json", "../tiny.safetensors"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["manifest"]["defaults"]["steps"], 8);
    assert!(run(&work, &["inspect", "shipped"]).status.success());
    let output = run(&work, &["inspect", "no-such-file"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no file or folder no-such-file"));
}

#[test]
fn bad_recipes_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = folder.path().join("recipe.toml");
    for (content, says) in [("stepz = 3\n", "stepz"), ("a = = b\n", "line 1"), ("", "recipe.toml")] {
        for kind in ["autoencoder", "diffusion"] {
            let whole =
                concat!(env!("CARGO_MANIFEST_DIR"), "/../../recipes/test-").to_string() + kind + ".toml";
            let whole = std::fs::read_to_string(whole).unwrap();
            let written = if content.is_empty() { String::new() } else { content.to_string() + &whole };
            std::fs::write(&recipe, written).unwrap();
            let output = run(folder.path(), &["train", kind, "recipe.toml"]);
            let errors = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{kind}: {errors}");
            assert!(errors.starts_with("error: ") && errors.contains(says), "{kind}: {errors}");
            assert_eq!(listing(folder.path()), ["recipe.toml"], "{kind}: {errors}");
        }
    }
    let output = run(folder.path(), &["train", "diffusion", "no.toml"]);
    assert!(text(&output.stderr).contains("no.toml"), "{}", text(&output.stderr));
}

#[test]
fn the_command_explains_itself() {
    let folder = tempfile::tempdir().unwrap();
    let says = |args: &[&str], code: i32, words: &[&str]| {
        let output = run(folder.path(), args);
        let all = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {all}");
        words.iter().for_each(|w| assert!(all.contains(w), "{args:?} lacks {w}: {all}"));
    };
    says(&["--version"], 0, &["velatura 0."]);
    says(&["--help"], 0, &["generate", "inspect", "Examples"]);
    says(&["generate", "--help"], 0, &["--negative", "--from", "{index:03}"]);
    says(&["genrate", "a cat"], 2, &["did you mean \"velatura generate\"?"]);
    says(&["two red apples"], 2, &["velatura generate \"two red apples\""]);
    says(&["generate"], 2, &["PROMPT"]);
    says(&["samplers"], 0, &["dpmpp_2m", "karras  |  Karras  |  use_karras_sigmas", "euler"]);
    says(&["samplers", "--json"], 0, &["\"samplers\"", "\"schedules\"", "\"a1111\": \"SGM Uniform\""]);
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        says(&["completions", shell], 0, &["generate"]);
    }
    says(&["man"], 0, &[".TH velatura 1"]);
    says(&["man", "generate"], 0, &["negative"]);
    says(&["man", "genrate"], 2, &["no command"]);
    let manual = folder.path().to_str().unwrap();
    says(&["man", "--dir", manual], 0, &[]);
    assert!(folder.path().join("velatura.1").exists() && folder.path().join("velatura-generate.1").exists());
}

#[test]
fn a_picture_of_comfyui_is_made_again() {
    let (_folder, work) = workplace();
    let graph = r#"{"3": {"class_type": "KSampler", "inputs": {"seed": 11, "steps": 2, "cfg": 2.0, "sampler_name": "euler",
        "scheduler": "normal", "denoise": 1.0, "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0],
        "latent_image": ["5", 0]}, "is_changed": [NaN]},
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "dream.safetensors"}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 72, "height": 64, "batch_size": 2}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "rain", "clip": ["4", 1]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}}}"#;
    let png = velatura::picture::encode(1, 1, &[0; 3], &[("prompt", graph), ("workflow", "{}")]).unwrap();
    std::fs::write(work.join("comfy.png"), png).unwrap();
    let output = run(
        &work,
        &[
            "generate",
            "--from",
            "comfy.png",
            "--model",
            "../tiny.safetensors",
            "--output",
            "again.png",
            "--json",
        ],
    );
    let errors = text(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(
        errors.contains("the other pictures of its batch") && errors.contains("dream.safetensors"),
        "{errors}"
    );
    let made: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let request = &made["request"];
    assert_eq!((&request["seed"], &request["steps"], &request["width"]), (&11.into(), &2.into(), &72.into()));
    assert_eq!((&request["prompt"], &request["negative"]), (&"a cat".into(), &"rain".into()));
}

#[test]
fn a_plan_tells_what_a_run_would_need_and_the_run_keeps_to_it() {
    let (_folder, work) = workplace();
    let plan =
        |more: &[&str]| run(&work, &[&["plan", "a cat"], &QUICK[..], &["--batch", "3"], more].concat());
    let json = |output: &Output| -> serde_json::Value {
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    // What several prompts share is kept from one to the next; one alone gives each network back after use.
    let once = json(&plan(&["--json"]));
    let several = |more: &[&str]| plan(&[&["--prompt", "a dog"], more].concat());
    let free = json(&several(&["--json"]));
    let peak = free["peak"].as_u64().unwrap();
    assert!(once["peak"].as_u64().unwrap() < peak && once["decisions"] == serde_json::json!([]));
    let of =
        |part: &serde_json::Value| part["weights"].as_u64().unwrap() + part["activations"].as_u64().unwrap();
    let parts: u64 = free["parts"].as_array().unwrap().iter().map(of).sum();
    assert_eq!(peak, parts + free["pictures"].as_u64().unwrap());
    assert!(free["expected_seconds"].as_f64().unwrap() > 0.0 && free["decisions"] == serde_json::json!([]));
    let less = (peak - 1).to_string();
    let tight = json(&several(&["--json", "--memory", &less]));
    assert_eq!(tight["decisions"][0], "released");
    let table = text(&several(&["--memory", &less]).stdout);
    assert!(table.contains("denoiser") && table.contains("released after use"), "{table}");
    assert!(listing(&work).is_empty(), "a plan writes nothing");

    for command in ["plan", "generate"] {
        let refused = run(&work, &[&[command, "a cat"], &QUICK[..], &["--memory", "1K"]].concat());
        let said = text(&refused.stderr);
        assert!(
            !refused.status.success() && said.contains("needs at least") && said.contains("--memory"),
            "{said}"
        );
        assert!(listing(&work).is_empty());
    }
    assert!(run(&work, &generate(&["--memory", &less, "--batch", "3"])).status.success());
    assert_eq!(listing(&work).len(), 3);
}

#[test]
fn prompts_are_put_into_styles() {
    let (_folder, work) = workplace();
    let styles =
        "name,prompt,negative_prompt\nSnow,\"{prompt}, on a white background\",rain\nRed,two red apples,\n";
    std::fs::create_dir(work.join("no-models")).unwrap();
    std::fs::write(work.join("no-models/styles.csv"), styles).unwrap();
    std::fs::write(work.join("other.csv"), "name,prompt\nSnow,blue").unwrap();
    let prompts = |more: &[&str]| {
        let made = run(&work, &generate(&[more, &["--json", "-o", "a.png"]].concat()));
        assert!(made.status.success(), "{}", text(&made.stderr));
        let report: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
        let of = |key: &str| report["request"][key].as_str().unwrap().to_string();
        (of("prompt"), of("negative"))
    };
    let (prompt, negative) = prompts(&["--style", "snow", "--style", "Red", "--negative", "dog"]);
    assert_eq!(prompt, "a cat, on a white background, two red apples");
    assert_eq!(negative, "dog, rain");
    assert_eq!(prompts(&["--style", "Snow", "--styles-file", "other.csv"]).0, "a cat, blue");
    let refused = run(&work, &generate(&["--style", "Sepia"]));
    let says = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2));
    assert!(says.contains("\"Sepia\"") && says.contains("Snow, Red"), "{says}");
    let refused = run(&work, &generate(&["--style", "Snow", "--styles-file", "none.csv"]));
    assert!(text(&refused.stderr).contains("none.csv"), "{}", text(&refused.stderr));
}
