//! Models by name: a path, the short name of a model in the models folder, or a name of the hub.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use velatura::{GenerateRequest, SHIPPED_NAME};
use velatura_hub::{Event, Hub, HubError, HubName, HubSettings, ModelsFolder};

use crate::failure::Failure;
use crate::progress::Bar;
use crate::terminal;

/// The request with paths in place of names, for the engine to open.
pub fn located(request: &GenerateRequest, quiet: bool) -> Result<GenerateRequest, Failure> {
    let path = |name: &Option<String>| match name.as_deref() {
        None | Some(SHIPPED_NAME) => Ok(name.clone()),
        Some(text) => match locate(text, quiet)?.into_os_string().into_string() {
            Ok(path) => Ok(Some(path)),
            Err(path) => Err(Failure::Failed(format!("the path {} is no text", path.display()))),
        },
    };
    Ok(GenerateRequest {
        model: path(&request.model)?,
        vae: path(&request.vae)?,
        refiner: path(&request.refiner)?,
        ..request.clone()
    })
}

/// Whether a name is that of a file, a folder, or a model of the models folder.
pub fn is_here(name: &str) -> bool {
    Path::new(name).exists() || ModelsFolder::from_env().find(name).is_ok()
}

/// A model of the models folder by the name that a picture of A1111 or ComfyUI gives: a file name, perhaps with folders
/// before it or without its ending. Nothing else is looked for, since anybody may have written the picture.
pub fn of_another_tool(name: &str) -> Option<PathBuf> {
    let name = name.rsplit(['/', '\\']).next()?;
    let stem = name.rsplit_once('.').filter(|(_, end)| ["safetensors", "ckpt", "pt", "gguf"].contains(end));
    let folder = ModelsFolder::from_env();
    folder.find(name).or_else(|_| folder.find(stem.map_or(name, |(stem, _)| stem))).ok()
}

/// The file or folder of a name, downloaded where it is one of the hub's.
pub fn locate(name: &str, quiet: bool) -> Result<PathBuf, Failure> {
    let path = Path::new(name);
    if path.exists() {
        return Ok(path.to_path_buf());
    }
    let unknown = match ModelsFolder::from_env().find(name) {
        Ok(path) => return Ok(path),
        Err(error @ HubError::Unknown { .. }) => error,
        Err(error) => return Err(error.into()),
    };
    match HubName::parse(name) {
        Some(name) => fetch(&name, quiet),
        None => Err(unknown.into()),
    }
}

fn fetch(name: &HubName, quiet: bool) -> Result<PathBuf, Failure> {
    let bar = Bar::bytes(quiet);
    let began = Cell::new(false);
    let say = |text: String| {
        bar.suspend(|| {
            if !quiet {
                terminal::remark(&text)
            }
        })
    };
    let result = Hub::new(HubSettings::from_env()).fetch(name, &mut |event| match event {
        Event::Started { files, bytes } => {
            say(format!("note: downloading {name}: {files} files, {:.1} MB", bytes as f64 / 1e6));
            bar.start(bytes as usize);
            began.set(true);
        }
        Event::Bytes(bytes) if began.get() => bar.set(bytes as usize),
        Event::Bytes(_) => {}
        Event::Checking(file) => tracing::info!("comparing {file} with its checksum"),
        Event::Remark(text) => say(format!("note: {text}")),
    });
    bar.finish();
    Ok(result?)
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Failure::Failed(error.to_string())
    }
}
