//! Which files of a repository a model needs: one of each, never the same weights twice.

use crate::HubError;
use crate::name::is_plain;

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoFile {
    /// Its path in the repository.
    pub path: String,
    /// Bytes, where the hub says it.
    pub size: Option<u64>,
    /// SHA-256 in hexadecimal digits, of files that the hub stores as large ones.
    pub sha256: Option<String>,
}

/// Folders of the parts that are read.
const PARTS: [&str; 4] = ["unet", "vae", "text_encoder", "text_encoder_2"];
/// Names of a part's weights without their endings.
const STEMS: [&str; 3] = ["diffusion_pytorch_model", "model", "pytorch_model"];
/// The files of a tokenizer.
const TOKENIZER: [&str; 5] =
    ["vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"];
/// Endings of whole models in one file, the best first.
const WHOLE: [&str; 3] = ["safetensors", "gguf", "ckpt"];

/// The files to fetch: those of a diffusers folder, of a part's folder, or the only model file that there is. For each
/// part there is one set of weights, fp16 before full precision and safetensors before pickles; tokenizers and
/// configurations come with them, and nothing else.
///
/// # Errors
/// [`HubError::Choice`] when there is no model, or several files that could be meant.
pub fn choose<'a>(name: &str, files: &'a [RepoFile]) -> Result<Vec<&'a RepoFile>, HubError> {
    let all = Files(files);
    if all.find("model_index.json").is_some() {
        return all.diffusers(name);
    }
    if let (Some(config), Some(weights)) = (all.find("config.json"), all.weights("")) {
        return Ok(std::iter::once(config).chain(weights).collect());
    }
    let choice = |reason: String| HubError::Choice { name: name.into(), reason };
    for ending in WHOLE {
        let found: Vec<&RepoFile> = files.iter().filter(|f| is_whole(&f.path, ending)).collect();
        match found.as_slice() {
            [] => {}
            [one] => return Ok(vec![one]),
            several => {
                let some: Vec<String> =
                    several.iter().take(8).map(|f| format!("{name}/{}", f.path)).collect();
                return Err(choice(format!(
                    "holds {} model files and no diffusers folder; name one, for example {}",
                    several.len(),
                    some.join(" or ")
                )));
            }
        }
    }
    Err(choice(
        "holds no model that is read: neither a diffusers folder nor a safetensors, GGUF or ckpt file".into(),
    ))
}

/// A file at the top of a repository that may be a whole model.
fn is_whole(path: &str, ending: &str) -> bool {
    !path.contains('/') && path.rsplit_once('.').is_some_and(|(_, e)| e == ending)
}

/// Whether a path stays in its folder and is safe in a URL.
pub(crate) fn is_safe(path: &str) -> bool {
    path.split('/').all(is_plain)
}

struct Files<'a>(&'a [RepoFile]);

impl<'a> Files<'a> {
    fn find(&self, path: &str) -> Option<&'a RepoFile> {
        self.0.iter().find(|f| f.path == path)
    }

    fn diffusers(&self, name: &str) -> Result<Vec<&'a RepoFile>, HubError> {
        let mut chosen: Vec<&RepoFile> = ["model_index.json", "scheduler/scheduler_config.json"]
            .iter()
            .filter_map(|p| self.find(p))
            .collect();
        let mut parts = 0;
        for part in PARTS {
            let config = self.find(&format!("{part}/config.json"));
            match self.weights(&format!("{part}/")) {
                Some(weights) => {
                    chosen.extend(config);
                    chosen.extend(weights);
                    parts += 1;
                }
                None if config.is_some() => {
                    let reason = format!("has no weights of its {part} that are read (safetensors or bin)");
                    return Err(HubError::Choice { name: name.into(), reason });
                }
                None => {}
            }
        }
        for folder in ["tokenizer", "tokenizer_2"] {
            let before = chosen.len();
            chosen.extend(TOKENIZER.iter().filter_map(|file| self.find(&format!("{folder}/{file}"))));
            if !chosen[before..].iter().any(|f| f.path.ends_with("vocab.json")) {
                chosen.extend(self.find(&format!("{folder}/tokenizer.json")));
            }
        }
        match parts {
            0 => Err(HubError::Choice {
                name: name.into(),
                reason: "is a pipeline without a unet, vae or text_encoder; Stable Diffusion 1.x, 2.x and XL are read".into(),
            }),
            _ => Ok(chosen),
        }
    }

    /// One set of a part's weights: a file, or an index and its shards.
    fn weights(&self, folder: &str) -> Option<Vec<&'a RepoFile>> {
        for ending in ["safetensors", "bin"] {
            for variant in [".fp16", ""] {
                for stem in STEMS {
                    if let Some(file) = self.find(&format!("{folder}{stem}{variant}.{ending}")) {
                        return Some(vec![file]);
                    }
                    // Both spellings of a variant's index are about; without a variant they are the same.
                    let indices = [
                        format!("{folder}{stem}.{ending}.index{variant}.json"),
                        format!("{folder}{stem}{variant}.{ending}.index.json"),
                    ];
                    if let Some(index) = indices.iter().find_map(|path| self.find(path)) {
                        let shards: Vec<_> = self.shards(folder, stem, variant, ending);
                        if !shards.is_empty() {
                            return Some(std::iter::once(index).chain(shards).collect());
                        }
                    }
                }
            }
        }
        None
    }

    /// `STEM[.VARIANT]-00001-of-00002.ENDING`, also with the variant behind the numbers.
    fn shards(&self, folder: &str, stem: &str, variant: &str, ending: &str) -> Vec<&'a RepoFile> {
        let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
        let numbered = |inner: &str| {
            inner
                .strip_prefix('-')
                .and_then(|n| n.split_once("-of-"))
                .is_some_and(|(a, b)| digits(a) && digits(b))
        };
        let is_shard = |path: &str| {
            let inner = path.strip_prefix(folder).and_then(|p| p.strip_prefix(stem));
            let inner = inner.and_then(|p| p.strip_suffix(ending)).and_then(|p| p.strip_suffix('.'));
            let Some(inner) = inner else { return false };
            inner.strip_prefix(variant).is_some_and(numbered)
                || inner.strip_suffix(variant).is_some_and(numbered)
        };
        self.0.iter().filter(|f| is_shard(&f.path)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(paths: &[&str]) -> Vec<RepoFile> {
        let file = |p: &&str| RepoFile { path: p.to_string(), size: None, sha256: None };
        paths.iter().map(file).collect()
    }

    fn chosen(paths: &[&str]) -> Vec<String> {
        choose("a/b", &files(paths)).unwrap().iter().map(|f| f.path.clone()).collect()
    }

    #[test]
    fn a_folder_is_taken_once() {
        // The repository of Stable Diffusion 1.5.
        let found = chosen(&[
            ".gitattributes",
            "README.md",
            "feature_extractor/preprocessor_config.json",
            "model_index.json",
            "safety_checker/config.json",
            "safety_checker/model.fp16.safetensors",
            "safety_checker/model.safetensors",
            "safety_checker/pytorch_model.bin",
            "scheduler/scheduler_config.json",
            "text_encoder/config.json",
            "text_encoder/model.fp16.safetensors",
            "text_encoder/model.safetensors",
            "text_encoder/pytorch_model.bin",
            "text_encoder/pytorch_model.fp16.bin",
            "tokenizer/merges.txt",
            "tokenizer/special_tokens_map.json",
            "tokenizer/tokenizer_config.json",
            "tokenizer/vocab.json",
            "unet/config.json",
            "unet/diffusion_pytorch_model.bin",
            "unet/diffusion_pytorch_model.fp16.bin",
            "unet/diffusion_pytorch_model.fp16.safetensors",
            "unet/diffusion_pytorch_model.non_ema.safetensors",
            "unet/diffusion_pytorch_model.safetensors",
            "v1-5-pruned-emaonly.ckpt",
            "v1-5-pruned-emaonly.safetensors",
            "v1-5-pruned.safetensors",
            "vae/config.json",
            "vae/diffusion_pytorch_model.bin",
            "vae/diffusion_pytorch_model.safetensors",
        ]);
        assert_eq!(
            found,
            [
                "model_index.json",
                "scheduler/scheduler_config.json",
                "unet/config.json",
                "unet/diffusion_pytorch_model.fp16.safetensors",
                "vae/config.json",
                "vae/diffusion_pytorch_model.safetensors",
                "text_encoder/config.json",
                "text_encoder/model.fp16.safetensors",
                "tokenizer/vocab.json",
                "tokenizer/merges.txt",
                "tokenizer/tokenizer_config.json",
                "tokenizer/special_tokens_map.json",
            ]
        );
    }

    #[test]
    fn shards_come_with_their_index() {
        let found = chosen(&[
            "model_index.json",
            "unet/config.json",
            "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
            "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
            "unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
            "unet/diffusion_pytorch_model.fp16-00002-of-00002.safetensors",
            "unet/diffusion_pytorch_model.safetensors.index.fp16.json",
            "unet/diffusion_pytorch_model.safetensors.index.json",
        ]);
        assert_eq!(
            found[2..],
            [
                "unet/diffusion_pytorch_model.safetensors.index.fp16.json",
                "unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
                "unet/diffusion_pytorch_model.fp16-00002-of-00002.safetensors",
            ]
        );
        let found =
            chosen(&["config.json", "model-00001-of-00001.safetensors", "model.safetensors.index.json"]);
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn single_files_and_parts() {
        assert_eq!(chosen(&["README.md", "dream.safetensors"]), ["dream.safetensors"]);
        assert_eq!(chosen(&["dream.ckpt", "dream.safetensors", "config.yaml"]), ["dream.safetensors"]);
        let part = [
            "config.json",
            "diffusion_pytorch_model.bin",
            "diffusion_pytorch_model.safetensors",
            "x.safetensors",
        ];
        assert_eq!(chosen(&part), ["config.json", "diffusion_pytorch_model.safetensors"]);
    }

    #[test]
    fn what_is_unclear_is_asked() {
        for (paths, says) in [
            (&["a.safetensors", "b.safetensors"][..], "a/b/a.safetensors or a/b/b.safetensors"),
            (&["README.md", "deep/x.safetensors"], "no model that is read"),
            (&["model_index.json", "transformer/config.json"], "without a unet"),
            (&["model_index.json", "unet/config.json", "unet/flax_model.msgpack"], "no weights of its unet"),
        ] {
            let error = choose("a/b", &files(paths)).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn unsafe_paths_are_seen() {
        assert!(is_safe("unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors"));
        for path in ["../x", "a/../b", "/etc/passwd", "a//b", "a\\b", "a b", "a%2fb", "a?b", ""] {
            assert!(!is_safe(path), "{path}");
        }
    }
}
