//! Names of the hub: `owner/name`, a file in it, a revision.

/// What is asked of the hub: `owner/name[/file][@revision]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubName {
    /// `owner/name`.
    pub repository: String,
    /// One file of the repository; `None` chooses by what is there.
    pub file: Option<String>,
    /// A branch, a tag or a commit.
    pub revision: String,
}

/// Endings of model files: a path of two components that has one is a file that is not there, no name of the hub.
const FILES: [&str; 7] = [".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".json"];

impl HubName {
    /// Reads a name; nothing where the text is none. Whether there is such a repository only the hub knows.
    pub fn parse(text: &str) -> Option<Self> {
        let (path, revision) = match text.split_once('@') {
            Some((path, revision)) => (path, revision),
            None => (text, "main"),
        };
        let mut components = path.split('/');
        let (owner, name) = (components.next()?, components.next()?);
        let file: Vec<&str> = components.collect();
        let parts = [owner, name].into_iter().chain(file.iter().copied()).chain(revision.split('/'));
        if !parts.into_iter().all(is_plain) || owner.len() > 96 || name.len() > 96 {
            return None;
        }
        if file.is_empty() && FILES.iter().any(|ending| name.ends_with(ending)) {
            return None;
        }
        let file = (!file.is_empty()).then(|| file.join("/"));
        Some(HubName { repository: format!("{owner}/{name}"), file, revision: revision.to_string() })
    }
}

impl std::fmt::Display for HubName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.repository)?;
        if let Some(file) = &self.file {
            write!(f, "/{file}")?;
        }
        if self.revision != "main" {
            write!(f, "@{}", self.revision)?;
        }
        Ok(())
    }
}

/// Whether a component is made of the characters that the hub allows, and so is safe in a path and in a URL.
pub(crate) fn is_plain(component: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let first = component.chars().next().is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    first && component.len() <= 255 && component.chars().all(known) && !component.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        let name = HubName::parse("stable-diffusion-v1-5/stable-diffusion-v1-5").unwrap();
        assert_eq!(
            (name.repository.as_str(), name.file.as_deref()),
            ("stable-diffusion-v1-5/stable-diffusion-v1-5", None)
        );
        assert_eq!(name.revision, "main");
        let name = HubName::parse("a/b.c/unet/x.safetensors@refs/pr/3").unwrap();
        assert_eq!(name.file.as_deref(), Some("unet/x.safetensors"));
        assert_eq!(
            (name.revision.as_str(), name.to_string().as_str()),
            ("refs/pr/3", "a/b.c/unet/x.safetensors@refs/pr/3")
        );
    }

    #[test]
    fn paths_are_no_names() {
        for text in [
            "",
            "a",
            "/a/b",
            "./a/b",
            "../a/b",
            "a//b",
            "a/b/",
            "a/../b",
            "a/b..c",
            "C:\\a\\b",
            "a b/c",
            "~/a",
            "a/b@",
            "a/b@x y",
            "a/b@../c",
            "models/x.safetensors",
            "a/b.ckpt",
            "\u{e9}/b",
            "a/-b",
            "a/.b",
            "http://a/b",
        ] {
            assert_eq!(HubName::parse(text), None, "{text}");
        }
    }
}
