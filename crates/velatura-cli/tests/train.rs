//! Training as people run it: killed, interrupted, resumed, exported.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use velatura_weights::SafetensorsFile;

const FONT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../velatura-scenes/tests/fixtures/emoji-subset.ttf");

const RECIPE: &str = r#"
kind = "autoencoder"
output = "run"

[data]
font = "FONT"
size = 16
glyphs = ["cat", "dog", "panda", "owl", "red apple", "green apple", "banana", "car", "star", "skull"]

[model]
latent_channels = 4
patch_size = 2
block_out_channels = [8, 16]
layers_per_block = 1
norm_num_groups = 4
mid_block_add_attention = false
use_quant_conv = false
use_post_quant_conv = false
force_upcast = false

[training]
steps = STEPS
batch = 2
warmup = 5
precision = "f32"

[log]
every = 1
sample_every = 0
checkpoint_every = 3
"#;

fn velatura(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_velatura"));
    command.args(args).current_dir(folder).env_remove("VELATURA_LOG").env_remove("VELATURA_THREADS");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(folder: &Path, args: &[&str]) -> Output {
    velatura(folder, args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn place(steps: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let recipe = RECIPE.replace("FONT", FONT).replace("STEPS", steps);
    std::fs::write(folder.path().join("recipe.toml"), recipe).unwrap();
    folder
}

fn checkpoint(folder: &Path, run: &str, step: u64) -> PathBuf {
    folder.join(format!("{run}/checkpoint-{step:08}.safetensors"))
}

fn wait_for(file: &Path) {
    let start = Instant::now();
    while !file.exists() {
        assert!(start.elapsed() < Duration::from_secs(300), "{} never came", file.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn tensors(file: &Path) -> Vec<(String, Vec<u8>)> {
    let file = SafetensorsFile::open(file).unwrap();
    let mut names = file.names();
    names.sort();
    names.into_iter().map(|name| (name.clone(), file.bytes(&name).unwrap().to_vec())).collect()
}

#[test]
fn a_killed_run_goes_on_as_if_nothing_had_happened() {
    let folder = place("40");
    let at = folder.path();
    let straight =
        run(at, &["train", "autoencoder", "recipe.toml", "--output", "straight", "--threads", "1"]);
    assert!(straight.status.success(), "{}", text(&straight.stderr));
    assert_eq!(text(&straight.stdout), "straight/autoencoder.safetensors\n");
    assert!(text(&straight.stderr).contains("40/40  loss "), "{}", text(&straight.stderr));

    let mut resume = None;
    for (threads, step) in [("2", 3), ("1", 12), ("3", 21)] {
        let args = ["train", "autoencoder", "recipe.toml", "--threads", threads];
        let mut child = velatura(at, &[&args[..], resume.as_slice()].concat()).spawn().unwrap();
        wait_for(&checkpoint(at, "run", step));
        child.kill().unwrap();
        child.wait().unwrap();
        resume = Some("--resume");
    }
    let done = run(at, &["train", "autoencoder", "recipe.toml", "--resume", "--json"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(text(&done.stdout).contains("\"step\": 40"));
    assert_eq!(tensors(&checkpoint(at, "straight", 40)), tensors(&checkpoint(at, "run", 40)));
    let again = run(at, &["train", "autoencoder", "recipe.toml"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("--resume"), "{}", text(&again.stderr));
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_keeps_its_last_step() {
    let folder = place("1000000");
    let at = folder.path();
    let child = velatura(at, &["train", "autoencoder", "recipe.toml"]).spawn().unwrap();
    wait_for(&checkpoint(at, "run", 3));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130), "{}", text(&ended.stderr));
    assert!(text(&ended.stdout).is_empty());
    let said = text(&ended.stderr);
    let last = said.lines().last().unwrap();
    assert!(last.contains("interrupted after step") && last.contains("--resume"), "{said}");
    let kept = last.split("; ").nth(1).unwrap().split(" is kept").next().unwrap();
    assert!(!tensors(&at.join(kept)).is_empty());
}

#[cfg(unix)]
#[test]
fn a_disk_that_fills_up_in_a_checkpoint_loses_nothing() {
    let folder = place("40");
    let at = folder.path();
    let straight = run(at, &["train", "autoencoder", "recipe.toml", "--output", "straight"]);
    assert!(straight.status.success(), "{}", text(&straight.stderr));
    let mut child = velatura(at, &["train", "autoencoder", "recipe.toml"]).spawn().unwrap();
    wait_for(&checkpoint(at, "run", 6));
    child.kill().unwrap();
    child.wait().unwrap();

    let names = || {
        let mut names: Vec<_> = std::fs::read_dir(at.join("run"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("checkpoint-") || name.ends_with(".tmp"))
            .collect();
        names.sort();
        names
    };
    let before = names();
    // A limit on the size of files fails writes as a full disk does.
    let exe = env!("CARGO_BIN_EXE_velatura");
    let script = format!("trap '' XFSZ; ulimit -f 40; exec {exe} train autoencoder recipe.toml --resume");
    let full = Command::new("bash").args(["-c", &script]).current_dir(at).output().unwrap();
    assert_eq!(full.status.code(), Some(1), "{}", text(&full.stderr));
    let said = text(&full.stderr);
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("error: cannot write ") && last.contains("checkpoint-"), "{said}");
    let temporary = |name: &String| name.ends_with(".tmp");
    // What the killed run left half written is not this one's to judge.
    let kept: Vec<_> = before.iter().filter(|name| !temporary(name)).cloned().collect();
    assert_eq!(names().into_iter().filter(|name| !temporary(name)).collect::<Vec<_>>(), kept);

    let done = run(at, &["train", "autoencoder", "recipe.toml", "--resume"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert_eq!(tensors(&checkpoint(at, "straight", 40)), tensors(&checkpoint(at, "run", 40)));
}

#[test]
fn mistakes_are_named() {
    let folder = place("3");
    let at = folder.path();
    let recipe = std::fs::read_to_string(at.join("recipe.toml")).unwrap();
    std::fs::write(at.join("typo.toml"), recipe.replace("warmup", "warm_up")).unwrap();
    for (args, code, said) in [
        (&["train", "autoencoder", "typo.toml"][..], 1, "\"training.warm_up\"; did you mean \"warmup\"?"),
        (&["train", "diffusion", "recipe.toml"], 1, "kind = \"diffusion\""),
        (&["train", "autoencoder", "absent.toml"], 1, "absent.toml"),
        (&["train", "autoencoder", "recipe.toml", "--resume"], 1, "no checkpoint"),
        (&["train", "autoencoder", "recipe.toml", "--steps", "0"], 2, "--steps"),
        (&["bench", "train", "--recipe", "recipe.toml"], 1, "kind = \"diffusion\""),
        (&["bench", "train"], 2, "--arch"),
        (&["bench", "train", "--recipe", "recipe.toml", "--lora", "4"], 2, "--lora"),
    ] {
        let output = run(at, args);
        assert_eq!(output.status.code(), Some(code), "{args:?} {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(said), "{args:?} {}", text(&output.stderr));
        assert!(output.stdout.is_empty());
    }
    assert!(!at.join("run").exists() || std::fs::read_dir(at.join("run")).unwrap().next().is_none());
}
