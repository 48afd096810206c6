//! A run that was stopped and resumed, whenever and on however many threads, is the run that never stopped.

mod common;

use common::{Kind, Place, Watch, checkpoint, options, tensors, train};
use velatura_train::{TrainError, TrainOptions, export_checkpoint};

const STEPS: u64 = 7;
const AUTOENCODER: &str = "steps = 7\nbatch = 3\naccumulation = 2\nlr = 2e-3";
const DIFFUSION: &str =
    "steps = 7\nbatch = 3\nlr = 2e-3\noptimizer = \"muon\"\nprecision = \"bf16\"\n[layout]\nweight = 0.5";

/// Runs straight through on one thread; stopped after steps 1, 3 and 4 on changing numbers of threads. Everything that
/// is kept must have the same bits.
fn stops_change_nothing(kind: Kind, place: &Place, recipe: &std::path::Path, model: &str) {
    let (straight, stopped) = (place.path("straight"), place.path("stopped"));
    let mut watch = Watch::default();
    train(kind, recipe, &options(&straight, false, 1), &mut watch).unwrap();
    let losses: Vec<f64> = watch.reports.iter().map(|r| r.loss).collect();
    assert_eq!(losses.len() as u64, STEPS);

    let mut resumed_losses = Vec::new();
    for (stop, threads) in [(1, 2), (3, 1), (4, 3), (99, 2)] {
        let (resume, from) = (!resumed_losses.is_empty(), resumed_losses.len() as u64);
        let mut watch = Watch::stopping_after(stop);
        let finished = train(kind, recipe, &options(&stopped, resume, threads), &mut watch).unwrap();
        assert_eq!((watch.from, finished.step), (from, stop.min(STEPS)));
        assert_eq!(finished.stopped, stop < STEPS);
        assert!(finished.file.is_file());
        resumed_losses.extend(watch.reports.iter().map(|r| r.loss));
    }
    assert_eq!(losses, resumed_losses);
    let (a, b) = (checkpoint(&straight, STEPS), checkpoint(&stopped, STEPS));
    assert_eq!(tensors(&a), tensors(&b));
    assert_eq!(tensors(&straight.join(model)), tensors(&stopped.join(model)));

    let lines = |folder: &std::path::Path| {
        let names = ["loss", "gradient_norm", "learning_rate"];
        velatura_train::logs::read_columns(&folder.join("log.csv"), &names).unwrap()
    };
    assert_eq!(lines(&straight), lines(&stopped));
    assert_eq!(lines(&straight).0, (1..=STEPS).collect::<Vec<_>>());
}

#[test]
fn an_autoencoder_and_a_denoiser_resume_exactly() {
    let place = Place::new();
    let recipe = place.autoencoder("autoencoder.toml", AUTOENCODER);
    stops_change_nothing(Kind::Autoencoder, &place, &recipe, "autoencoder.safetensors");

    std::fs::rename(place.path("straight"), place.path("autoencoder")).unwrap();
    std::fs::remove_dir_all(place.path("stopped")).unwrap();
    let recipe = place.diffusion("diffusion.toml", DIFFUSION);
    stops_change_nothing(Kind::Diffusion, &place, &recipe, "model.safetensors");

    // The newest checkpoint, written as a model, is the finished model.
    let run = TrainOptions { output: Some(place.path("stopped")), ..TrainOptions::default() };
    let exported = export_checkpoint(&recipe, &run, None, &place.path("exported.safetensors")).unwrap();
    assert_eq!(tensors(&exported), tensors(&place.path("straight/model.safetensors")));

    // What has no effect on the weights may be decided later.
    let text = std::fs::read_to_string(&recipe).unwrap().replace("[samples]", "[samples]\nguidance = 1.5");
    let decided = place.path("decided.toml");
    std::fs::write(&decided, text).unwrap();
    let exported = export_checkpoint(&decided, &run, None, &place.path("decided.safetensors")).unwrap();
    let file = velatura_weights::SafetensorsFile::open(&exported).unwrap();
    assert!(file.metadata()["velatura"].contains("\"guidance\":1.5"));

    // Another autoencoder is another run.
    let other = place.autoencoder("other.toml", &AUTOENCODER.replace("steps = 7", "steps = 1"));
    std::fs::remove_dir_all(place.path("autoencoder")).unwrap();
    train(Kind::Autoencoder, &other, &options(&place.path("autoencoder"), false, 1), &mut Watch::default())
        .unwrap();
    let resumed = options(&place.path("stopped"), true, 1);
    let error = train(Kind::Diffusion, &recipe, &resumed, &mut Watch::default()).unwrap_err();
    assert!(matches!(&error, TrainError::RecipeChanged { key, .. } if key == "autoencoder"), "{error}");
}

#[test]
fn damaged_checkpoints_are_passed_over() {
    let place = Place::new();
    let recipe = place.autoencoder("autoencoder.toml", AUTOENCODER);
    let (straight, damaged) = (place.path("straight"), place.path("damaged"));
    train(Kind::Autoencoder, &recipe, &options(&straight, false, 2), &mut Watch::default()).unwrap();
    train(Kind::Autoencoder, &recipe, &options(&damaged, false, 2), &mut Watch::stopping_after(5)).unwrap();
    let cut = |step: u64| {
        let file = checkpoint(&damaged, step);
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(&file, &bytes[..bytes.len() - 9]).unwrap();
        file
    };
    let newest = cut(5);
    let mut watch = Watch::default();
    train(Kind::Autoencoder, &recipe, &options(&damaged, true, 2), &mut watch).unwrap();
    assert_eq!(watch.from, 4);
    let name = newest.file_name().unwrap().to_str().unwrap();
    assert!(watch.notes.iter().any(|n| n.contains(name) && n.contains("step 4")), "{:?}", watch.notes);
    assert_eq!(tensors(&checkpoint(&straight, STEPS)), tensors(&checkpoint(&damaged, STEPS)));

    // With none left the newest is named, and nothing is written over.
    for step in velatura_train::checkpoint::steps(&damaged) {
        cut(step);
    }
    let error = train(Kind::Autoencoder, &recipe, &options(&damaged, true, 2), &mut Watch::default());
    let error = error.unwrap_err().to_string();
    assert!(error.contains("checkpoint-00000007.safetensors"), "{error}");
}
