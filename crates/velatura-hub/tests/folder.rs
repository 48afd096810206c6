//! Short names in a models folder.

use velatura_hub::{HubError, ModelsFolder};

fn folder(files: &[&str]) -> (tempfile::TempDir, ModelsFolder) {
    let temporary = tempfile::tempdir().unwrap();
    for file in files {
        let path = temporary.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, file).unwrap();
    }
    let models = ModelsFolder::new(temporary.path());
    (temporary, models)
}

#[test]
fn models_go_by_short_names() {
    let (temporary, models) = folder(&[
        "DreamShaper_8.safetensors",
        "DreamShaper_8.ckpt",
        "anime/counterfeit-v3.0.safetensors",
        "sd15/model_index.json",
        "sd15/unet/diffusion_pytorch_model.safetensors",
        "notes.txt",
        "q.gguf",
    ]);
    let names: Vec<String> = models.list().into_iter().map(|f| f.name).collect();
    assert_eq!(names, ["DreamShaper_8", "DreamShaper_8", "anime/counterfeit-v3.0", "q", "sd15"]);
    for (name, file) in [
        ("dreamshaper_8", "DreamShaper_8.safetensors"),
        ("DreamShaper_8.ckpt", "DreamShaper_8.ckpt"),
        ("counterfeit-v3.0", "anime/counterfeit-v3.0.safetensors"),
        ("anime/Counterfeit-v3.0", "anime/counterfeit-v3.0.safetensors"),
        ("sd15", "sd15"),
        ("q", "q.gguf"),
    ] {
        assert_eq!(models.find(name).unwrap(), temporary.path().join(file), "{name}");
    }
    assert_eq!(
        models.list()[4].bytes,
        ("sd15/model_index.json".len() + "sd15/unet/diffusion_pytorch_model.safetensors".len()) as u64
    );
}

#[test]
fn what_is_not_there_is_told_with_what_is_near() {
    let (_temporary, models) =
        folder(&["dreamshaper.safetensors", "dreamlike.safetensors", "x/a.ckpt", "y/a.ckpt"]);
    let says = models.find("dreamshapr").unwrap_err().to_string();
    assert!(says.contains("near it are dreamshaper)"), "{says}");
    assert!(models.find("shaper").unwrap_err().to_string().contains("near it are dreamshaper"));
    let says = models.find("zzz").unwrap_err().to_string();
    assert!(says.contains("no model of that name") && !says.contains("near"), "{says}");
    let error = models.find("a").unwrap_err();
    assert!(
        matches!(error, HubError::Ambiguous { .. }) && error.to_string().contains("x/a or y/a"),
        "{error}"
    );
    let none = ModelsFolder::new("/no/such/folder");
    assert!(none.list().is_empty() && none.find("a").is_err());
}
