//! The layout that is read off the caption beside the denoising, and training that goes on from a finished model.

mod common;

use std::path::{Path, PathBuf};

use common::{Kind, Place, Watch, options, tensors, train};
use velatura_train::{StepReport, TrainError};
use velatura_weights::SafetensorsFile;

fn with_autoencoder() -> Place {
    let place = Place::new();
    let recipe = place.autoencoder("autoencoder.toml", "steps = 1\nbatch = 2");
    train(Kind::Autoencoder, &recipe, &options(&place.path("autoencoder"), false, 1), &mut Watch::default())
        .unwrap();
    place
}

fn run(recipe: &Path, output: &Path) -> Result<(PathBuf, Vec<StepReport>), TrainError> {
    let mut watch = Watch::default();
    let finished = train(Kind::Diffusion, recipe, &options(output, false, 2), &mut watch)?;
    Ok((finished.file, watch.reports))
}

#[test]
fn the_text_transformer_learns_where_things_stand() {
    let place = with_autoencoder();
    let training = "steps = 120\nbatch = 16\nlr = 1e-2\noptimizer = \"muon\"\nprecision = \"f32\"";
    let recipe = place.diffusion("with.toml", &format!("{training}\n[layout]\nweight = 1.0"));
    let (model, reports) = run(&recipe, &place.path("with")).unwrap();
    let layout: Vec<f64> = reports.iter().map(|r| r.metrics[0].1).collect();
    assert!(reports.iter().all(|r| r.metrics[0].0 == "layout" && r.loss > r.metrics[0].1));
    // What chance would give: most places are empty, and that is learned first.
    let chance = (velatura_scenes::GlyphId::all().count() as f64 + 1.0).ln();
    assert!((layout[0] - chance).abs() < 0.7, "{} of {chance}", layout[0]);
    let last = layout[110..].iter().sum::<f64>() / 10.0;
    assert!(last < 0.2 * chance, "{last} of {chance}");
    let names: Vec<String> = tensors(&model).into_iter().map(|(name, _)| name).collect();
    assert!(names.iter().all(|name| !name.contains("layout")), "{names:?}");

    // Without it the model has the same tensors, and the log one column less.
    let recipe = place.diffusion("without.toml", "steps = 1\nbatch = 2");
    let (model, reports) = run(&recipe, &place.path("without")).unwrap();
    assert_eq!(names, tensors(&model).into_iter().map(|(name, _)| name).collect::<Vec<_>>());
    assert!(reports[0].metrics.is_empty());
}

#[test]
fn training_goes_on_from_a_finished_model() {
    let place = with_autoencoder();
    let recipe =
        place.diffusion("first.toml", "steps = 3\nbatch = 2\nlr = 1e-2\n[export]\nstorage = \"f32\"");
    let (first, _) = run(&recipe, &place.path("first")).unwrap();
    // A step too small to change a weight.
    let training = "steps = 1\nbatch = 2\nlr = 1e-30\nweight_decay = 0.0\n[export]\nstorage = \"f32\"";
    let start = format!("{training}\n[layout]\nweight = 0.5\n[start]\nmodel = {first:?}");
    let recipe = place.diffusion("on.toml", &start);
    let (second, _) = run(&recipe, &place.path("on")).unwrap();
    assert_eq!(tensors(&first), tensors(&second));
    let metadata = SafetensorsFile::open(&second).unwrap().metadata()["velatura"].clone();
    assert!(metadata.contains("\"start_steps\":\"3\""), "{metadata}");

    // A run that began with another file is another run.
    let recipe = place.diffusion("longer.toml", &start.replace("steps = 1", "steps = 2"));
    let bytes = std::fs::read(&first).unwrap();
    let other = place.diffusion("other.toml", "steps = 1\nbatch = 2");
    std::fs::copy(run(&other, &place.path("other")).unwrap().0, &first).unwrap();
    let again = options(&place.path("on"), true, 1);
    let error = train(Kind::Diffusion, &recipe, &again, &mut Watch::default()).unwrap_err();
    assert!(matches!(&error, TrainError::RecipeChanged { key, .. } if key == "start.model"), "{error}");
    // The same file in another place is not.
    let moved = place.path("moved.safetensors");
    std::fs::write(&moved, bytes).unwrap();
    let text = std::fs::read_to_string(&recipe).unwrap();
    std::fs::write(&recipe, text.replace(first.to_str().unwrap(), moved.to_str().unwrap())).unwrap();
    train(Kind::Diffusion, &recipe, &again, &mut Watch::default()).unwrap();

    // A model of other networks is refused with the weight that differs.
    let text =
        std::fs::read_to_string(&recipe).unwrap().replace("intermediate_size = 32", "intermediate_size = 24");
    std::fs::write(place.path("narrow.toml"), text).unwrap();
    let error = run(&place.path("narrow.toml"), &place.path("narrow")).unwrap_err().to_string();
    assert!(error.contains("moved.safetensors") && error.contains("mlp.fc1"), "{error}");
}
