//! What the measuring commands print and draw.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn run(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_velatura"));
    command.args(args).current_dir(folder).env_remove("VELATURA_LOG").env_remove("VELATURA_THREADS");
    command.stdin(Stdio::null()).output().unwrap()
}

fn said(folder: &Path, args: &[&str]) -> String {
    let output = run(folder, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn refused(folder: &Path, args: &[&str], code: i32) -> String {
    let output = run(folder, args);
    assert_eq!(output.status.code(), Some(code), "{args:?}");
    String::from_utf8(output.stderr).unwrap()
}

const SHIPPED: [&str; 7] = ["bench", "unet", "--arch", "shipped", "--runs", "1", "--by-layer"];

fn layers(found: &Value) -> &Vec<Value> {
    found["layers"].as_array().unwrap()
}

fn sum(found: &Value, of: &str) -> f64 {
    layers(found).iter().map(|layer| layer[of].as_f64().unwrap()).sum()
}

/// The layers of an operation.
fn of<'a>(found: &'a Value, operation: &str) -> Vec<&'a Value> {
    layers(found).iter().filter(|layer| layer["operation"] == operation).collect()
}

#[test]
fn layers_add_up_and_say_what_they_are_computed_by() {
    let folder = tempfile::tempdir().unwrap();
    let args = [&SHIPPED[..], &["--json", "--precision", "f32"]].concat();
    let found: Value = serde_json::from_str(&said(folder.path(), &args)).unwrap();
    let flops = found["flops"].as_f64().unwrap();
    assert!((sum(&found, "flops") / flops - 1.0).abs() < 1e-9);
    let seconds = found["seconds"][0].as_f64().unwrap();
    assert!(sum(&found, "seconds") <= seconds && sum(&found, "seconds") > 0.5 * seconds);
    for layer in layers(&found) {
        let number = |key: &str| layer[key].as_f64();
        assert!(number("bytes").unwrap() > 0.0 && layer["error"].is_null(), "{layer}");
        // What has products, and nothing else, has an algorithm and a place under the roof.
        let products = number("flops").unwrap() > 0.0;
        let given = ["algorithm", "intensity", "share_of_peak"].map(|key| !layer[key].is_null());
        assert_eq!(given, [products; 3], "{layer}");
        if products {
            let intensity = number("flops").unwrap() / number("bytes").unwrap();
            assert!((number("intensity").unwrap() / intensity - 1.0).abs() < 1e-9, "{layer}");
        }
    }
    let algorithms: Vec<&str> =
        of(&found, "conv2d").iter().map(|l| l["algorithm"].as_str().unwrap()).collect();
    // On AMX tiles single precision is multiplied in thirds.
    let thirds = !found["peak_flops"]["f32 in thirds"].is_null();
    let [direct, product] =
        if thirds { ["direct, f32 in thirds", "f32 in thirds"] } else { ["direct, f32", "f32"] };
    assert!(algorithms.contains(&direct) && algorithms.iter().any(|name| name.starts_with("Winograd F(")));
    assert!(of(&found, "linear").iter().all(|layer| layer["algorithm"] == product));
    assert!(found["bandwidth"].as_f64().unwrap() > 1e8 && found["peak_flops"]["f32"].as_f64().unwrap() > 1e8);
    assert!(found["peak_flops"]["int8"].is_null());
}

#[test]
fn errors_follow_from_the_algorithm() {
    let folder = tempfile::tempdir().unwrap();
    let errors = |precision: &str, operation: &str| -> Vec<f64> {
        let args = [&SHIPPED[..], &["--json", "--error", "--precision", precision]].concat();
        let found: Value = serde_json::from_str(&said(folder.path(), &args)).unwrap();
        assert!(found["error"].as_f64().unwrap() < 0.1);
        of(&found, operation).iter().filter_map(|layer| layer["error"].as_f64()).collect()
    };
    // Rounding results to bf16 is 1.7e-3; 8-bit numbers have about a hundredth of the largest of a row.
    let within = |errors: &[f64], least: f64, most: f64| {
        assert!(!errors.is_empty() && errors.iter().all(|e| (least..most).contains(e)), "{errors:?}");
    };
    within(&errors("bf16", "attention"), 1e-3, 1e-2);
    within(&errors("bf16", "conv2d"), 1e-3, 1e-2);
    within(&errors("f32", "conv2d"), 1e-9, 1e-5);
    assert_eq!(errors("f32", "linear"), [0.0; 0]);
    let int8 = errors("int8", "linear");
    assert!(int8.iter().any(|e| (5e-3..5e-2).contains(e)), "{int8:?}");
}

#[test]
fn the_roofline_is_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let args = [&SHIPPED[..6], &["--precision", "int8", "--roofline", "roof.png"]].concat();
    let text = said(folder.path(), &args);
    for word in ["GFLOP/s in f32", "in int8", "GB/s from memory", "FLOP/B", "algorithm", "online softmax"] {
        assert!(text.contains(word), "{word} lacks: {text}");
    }
    let image = image::open(folder.path().join("roof.png")).unwrap().to_rgb8();
    assert!(image.width() > 1000 && image.height() > 600);
    // Roofs and letters are dark; convolutions, linear layers and attention have their colours, on white.
    let pixels = |near: [u8; 3]| {
        let like = |p: &&image::Rgb<u8>| p.0.iter().zip(near).all(|(a, b)| a.abs_diff(b) < 12);
        image.pixels().filter(like).count()
    };
    for colour in [[40, 40, 40], [232, 166, 115], [115, 177, 213], [115, 202, 178]] {
        assert!(pixels(colour) > 20, "{colour:?}: {}", pixels(colour));
    }
    let files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(files.len(), 1);
}

#[test]
fn a_picture_that_cannot_be_written_is_refused_before_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |more: &[&str], code| refused(folder.path(), &[&SHIPPED[..6], more].concat(), code);
    assert!(refused(&["--roofline", "roof.jpg"], 2).contains("PNG"));
    assert!(refused(&["--roofline", "absent/roof.png"], 1).contains("absent"));
    let train = ["bench", "train", "--arch", "sd15", "--error"];
    assert!(self::refused(folder.path(), &train, 2).contains("--by-layer"));
}
