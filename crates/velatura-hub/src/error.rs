//! What can go wrong on the way to a model's files.

use std::path::PathBuf;

/// A model that cannot be had. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Not in the cache, and the hub must not be asked.
    #[error("{name} is not in {}, and HF_HUB_OFFLINE forbids asking the hub; unset it, or download the model first", cache.display())]
    Offline {
        /// What was asked for.
        name: String,
        /// The cache.
        cache: PathBuf,
    },
    /// Not in the cache, and the hub does not answer.
    #[error("{name} is not in {}, and the hub at {endpoint} cannot be reached ({reason}); check the connection and HF_ENDPOINT", cache.display())]
    Unreachable {
        /// What was asked for.
        name: String,
        /// The cache.
        cache: PathBuf,
        /// The hub's address.
        endpoint: String,
        /// What went wrong.
        reason: String,
    },
    /// The hub knows no such repository, or does not show it to everybody.
    #[error(
        "the hub at {endpoint} has no {name} that it shows {who}; check the spelling, or set HF_TOKEN to a token that may read it"
    )]
    NotFound {
        /// What was asked for.
        name: String,
        /// The hub's address.
        endpoint: String,
        /// `to everybody`, or `to this HF_TOKEN`.
        who: &'static str,
    },
    /// The repository must be asked for.
    #[error(
        "{name} is shown only to those who accepted its terms; accept them at {endpoint}/{repository}, and set HF_TOKEN"
    )]
    Gated {
        /// What was asked for.
        name: String,
        /// `owner/name`.
        repository: String,
        /// The hub's address.
        endpoint: String,
    },
    /// The hub answered something that it should not.
    #[error("the hub at {endpoint} gave a strange answer for {name}: {reason}")]
    Answer {
        /// What was asked for.
        name: String,
        /// The hub's address.
        endpoint: String,
        /// What is strange.
        reason: String,
    },
    /// A file that did not arrive whole, however often it was tried.
    #[error(
        "{file} of {name} did not arrive: {reason}; run the command again to go on from where it stopped"
    )]
    Download {
        /// What was asked for.
        name: String,
        /// The file.
        file: String,
        /// What went wrong last.
        reason: String,
    },
    /// The repository has no model that is read, or several.
    #[error("{name} {reason}")]
    Choice {
        /// What was asked for.
        name: String,
        /// Why none was chosen, with candidates.
        reason: String,
    },
    /// The cache or the models folder cannot be read or written.
    #[error("cannot use {}: {source}", path.display())]
    Disk {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Several files of the models folder go by this name.
    #[error("{name} may be {}; give one of them in full", candidates.join(" or "))]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// The files.
        candidates: Vec<String>,
    },
    /// There is nothing of this name.
    #[error("there is no file or folder {name}, no model of that name in {}{}", folder.display(), nearest_of(nearest))]
    Unknown {
        /// What was asked for.
        name: String,
        /// The models folder.
        folder: PathBuf,
        /// Names that look like it, or some of those that there are.
        nearest: Vec<String>,
    },
}

fn nearest_of(nearest: &[String]) -> String {
    match nearest {
        [] => ", and it is no owner/name of the hub".into(),
        some => format!(" (near it are {}), and it is no owner/name of the hub", some.join(", ")),
    }
}
