//! Textual inversion (Gal et al. 2022): vectors that stand in a prompt in place of words, from files of A1111's and of
//! diffusers' form.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use velatura_text::prompt::{self, Dialect};
use velatura_weights::open_tensors;

use crate::plans::lock;
use crate::{Error, TextEncoder};

/// Endings of embedding files.
const ENDINGS: [&str; 3] = ["safetensors", "pt", "bin"];
/// Folders in folders that are looked into.
const DEEPEST: usize = 3;
/// Files beyond these are not found.
const MOST_FILES: usize = 10_000;
/// Most vectors of an embedding; nobody's has as many.
const MOST_VECTORS: usize = 1024;

/// An embedding that a prompt named, as metadata names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmbeddingRef {
    /// Its name: that of its file without the ending.
    pub name: String,
    /// The first twelve hexadecimal digits of the SHA-256 of its file, as A1111 writes it.
    pub hash: String,
}

/// A folder of embeddings. Files are opened when a prompt names them.
#[derive(Debug, Default)]
pub struct EmbeddingsFolder {
    /// Files by name; where two have one name, the first by path.
    files: BTreeMap<String, PathBuf>,
    /// Names within the folder, folders included, as ComfyUI takes them; with and without ending.
    paths: HashMap<String, String>,
    opened: Mutex<HashMap<String, Arc<Embedding>>>,
}

/// The vectors of one file, by the tensors' names.
#[derive(Debug)]
struct Embedding {
    file: PathBuf,
    /// Width and values, row by row.
    tensors: BTreeMap<String, (usize, Vec<f32>)>,
    hash: String,
}

impl EmbeddingsFolder {
    /// Lists a folder, and the folders in it.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let root = path.as_ref();
        let failed = |file: &Path| {
            let file = file.to_path_buf();
            move |source| velatura_weights::WeightsError::Read { file, source }
        };
        let mut files = Vec::new();
        let mut waiting = vec![(root.to_path_buf(), 0)];
        while let Some((folder, depth)) = waiting.pop() {
            for entry in std::fs::read_dir(&folder).map_err(failed(&folder))? {
                let path = entry.map_err(failed(&folder))?.path();
                if path.is_dir() && depth < DEEPEST {
                    waiting.push((path, depth + 1));
                } else if files.len() < MOST_FILES
                    && let Some(ending) = path.extension().and_then(|e| e.to_str())
                    && ENDINGS.contains(&ending.to_lowercase().as_str())
                    && path.is_file()
                {
                    files.push(path);
                }
            }
        }
        files.sort();
        let mut found = EmbeddingsFolder::default();
        for path in files {
            let Some(name) = path.file_stem().and_then(|stem| stem.to_str()).map(String::from) else {
                continue;
            };
            let inner = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().replace('\\', "/");
            let stem = inner.rsplit_once('.').map_or(inner.clone(), |(stem, _)| stem.to_string());
            if !found.files.contains_key(&name) {
                for key in [name.clone(), inner, stem] {
                    found.paths.entry(key).or_insert_with(|| name.clone());
                }
                found.files.insert(name, path);
            }
        }
        Ok(found)
    }

    /// What metadata says of an embedding.
    pub(crate) fn reference(&self, name: &str) -> Result<EmbeddingRef, Error> {
        let name = self.paths.get(name).map_or(name, String::as_str).to_string();
        let hash = self.load(&name)?.hash.clone();
        Ok(EmbeddingRef { name, hash })
    }

    fn load(&self, name: &str) -> Result<Arc<Embedding>, Error> {
        if let Some(known) = lock(&self.opened).get(name) {
            return Ok(Arc::clone(known));
        }
        let file = self.files.get(name).ok_or_else(|| Error::Internal(format!("no embedding {name}")))?;
        let embedding = Arc::new(Embedding::open(file)?);
        lock(&self.opened).insert(name.to_string(), Arc::clone(&embedding));
        Ok(embedding)
    }

    /// The embeddings as a model's text encoder with this index has them. What one encoder of several cannot use is in
    /// A1111's dialect used by none; in ComfyUI's each is for itself.
    pub(crate) fn of<'a>(
        &'a self,
        encoders: &'a [TextEncoder],
        index: usize,
        dialect: Dialect,
    ) -> OfEncoder<'a> {
        let fitting = match dialect {
            Dialect::A1111 => encoders,
            Dialect::ComfyUi => &encoders[index..=index],
        };
        let (failure, unfit) = (RefCell::default(), RefCell::default());
        OfEncoder { folder: self, encoder: &encoders[index], fitting, failure, unfit }
    }
}

impl Embedding {
    fn open(file: &Path) -> Result<Self, Error> {
        let refuse = |reason: String| Error::Embedding { file: file.to_path_buf(), reason };
        let source = open_tensors(file)?;
        let mut tensors = BTreeMap::new();
        for (name, entry) in source.tensors() {
            let (rows, width) = match entry.shape[..] {
                [width] => (1, width),
                [rows, width] => (rows, width),
                _ => continue,
            };
            if rows == 0 || width == 0 || rows > MOST_VECTORS || width > 1 << 14 {
                return Err(refuse(format!("{name} holds {rows} vectors of {width} values")));
            }
            let values = source.tensor_f32(name)?.into_owned();
            if values.iter().any(|v| !v.is_finite()) {
                return Err(refuse(format!("{name} holds values that are not finite")));
            }
            tensors.insert(name.clone(), (width, values));
        }
        let bytes = std::fs::read(file)
            .map_err(|source| velatura_weights::WeightsError::Read { file: file.to_path_buf(), source })?;
        let hash = Sha256::digest(&bytes).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        Ok(Embedding { file: file.to_path_buf(), tensors, hash })
    }

    /// The values of what it holds for a text encoder: of SDXL's two each has its own, the others' is all that is there.
    /// Where it was made for another family of models, what says so.
    fn of(&self, encoder: &TextEncoder) -> Result<Result<&[f32], String>, Error> {
        let refuse = |reason: &str| Error::Embedding { file: self.file.clone(), reason: reason.to_string() };
        let own = if encoder.prefix.ends_with("_2") { "clip_g" } else { "clip_l" };
        let by_encoder = self.tensors.contains_key("clip_l") || self.tensors.contains_key("clip_g");
        let a1111 = self.tensors.iter().find(|(name, _)| name.starts_with("string_to_param"));
        let (width, values) = match self.tensors.get(own) {
            Some(found) => found,
            None if by_encoder => return Ok(Err(format!("holds nothing for the text encoder {own}"))),
            None => match (a1111, self.tensors.len()) {
                (Some((_, found)), _) => found,
                (None, 1) => self.tensors.values().next().ok_or_else(|| refuse("it is empty"))?,
                _ => return Err(refuse("it holds not one tensor of vectors but none or several")),
            },
        };
        let wanted = encoder.config.hidden_size;
        Ok(match *width == wanted {
            true => Ok(values),
            false => Err(format!("has vectors of {width} values where the text encoder reads {wanted}")),
        })
    }
}

/// A folder's embeddings for a text encoder. What keeps one from being used is kept for the caller.
pub(crate) struct OfEncoder<'a> {
    folder: &'a EmbeddingsFolder,
    encoder: &'a TextEncoder,
    /// The encoders that an embedding must fit to be used.
    fitting: &'a [TextEncoder],
    failure: RefCell<Option<Error>>,
    /// By name what was made for other models, with what says so.
    unfit: RefCell<BTreeMap<String, String>>,
}

impl OfEncoder<'_> {
    /// The embeddings that were asked for and that other models have, by name, each with what says so.
    ///
    /// # Errors
    /// An embedding that was asked for and is none.
    pub fn check(self) -> Result<BTreeMap<String, String>, Error> {
        match self.failure.into_inner() {
            Some(error) => Err(error),
            None => Ok(self.unfit.into_inner()),
        }
    }

    /// The values of some vectors of an embedding that fits.
    pub fn values(&self, name: &str, first: usize, count: usize) -> Result<Vec<f32>, Error> {
        let name = self.folder.paths.get(name).map_or(name, String::as_str);
        let embedding = self.folder.load(name)?;
        let values = embedding.of(self.encoder)?.map_err(Error::Internal)?;
        let width = self.encoder.config.hidden_size;
        let part = values.get(first * width..(first + count) * width);
        part.map(<[f32]>::to_vec).ok_or_else(|| Error::Internal(format!("{name} is too short")))
    }

    /// Vectors of the embedding that a prompt calls `name` and that is listed as `listed`; nothing where it does not fit.
    fn count(&self, name: &str, listed: &str) -> Result<Option<usize>, Error> {
        let embedding = self.folder.load(listed)?;
        for encoder in self.fitting {
            if let Err(reason) = embedding.of(encoder)? {
                let said = format!("{} {reason}", embedding.file.display());
                self.unfit.borrow_mut().insert(name.to_string(), said);
                return Ok(None);
            }
        }
        let values = embedding.of(self.encoder)?.map_err(Error::Internal)?;
        Ok(Some(values.len() / self.encoder.config.hidden_size))
    }
}

impl prompt::Embeddings for OfEncoder<'_> {
    fn names(&self) -> Vec<String> {
        self.folder.files.keys().cloned().collect()
    }

    fn vectors(&self, name: &str) -> Option<usize> {
        let file = self.folder.paths.get(name)?;
        self.count(name, file).unwrap_or_else(|error| {
            self.failure.borrow_mut().get_or_insert(error);
            None
        })
    }
}
