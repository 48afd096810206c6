//! Whether the autoencoder works in tiles.

use serde::{Deserialize, Serialize};

/// Whether the autoencoder treats pictures larger than 512 pixels in tiles: overlapping squares of that side that are
/// blended smoothly. That takes less memory, and changes the picture a little.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tiling {
    /// Where whole pictures do not fit into the memory that may be used.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

impl Tiling {
    pub(super) fn is_auto(&self) -> bool {
        *self == Tiling::Auto
    }
}

impl std::str::FromStr for Tiling {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "auto" => Ok(Tiling::Auto),
            "on" => Ok(Tiling::On),
            "off" => Ok(Tiling::Off),
            _ => Err("must be auto, on or off".to_string()),
        }
    }
}
