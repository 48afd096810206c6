use std::path::PathBuf;

/// What can go wrong when the drawings are loaded or a data set is set up.
#[derive(Debug, thiserror::Error)]
pub enum SceneError {
    /// There is no font file at the path.
    #[error(
        "the emoji font {} does not exist; install the Debian package fonts-noto-color-emoji, or name the path \
         of NotoColorEmoji.ttf",
        path.display()
    )]
    FontMissing {
        /// The path that was tried.
        path: PathBuf,
    },
    /// The font file exists but cannot be read or is not a font with colour bitmaps.
    #[error("cannot read the emoji font {}: {reason}", path.display())]
    FontUnreadable {
        /// The font file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The font lacks drawings that the vocabulary names.
    #[error(
        "the emoji font {} has no colour bitmap for: {}; use NotoColorEmoji.ttf of the Debian package \
         fonts-noto-color-emoji, or ask for a subset",
        path.display(),
        names.join(", ")
    )]
    GlyphsMissing {
        /// The font file.
        path: PathBuf,
        /// English names of the missing glyphs.
        names: Vec<String>,
    },
    /// A name that is not in the vocabulary.
    #[error("there is no glyph called \"{name}\"; the nearest names are: {}", nearest.join(", "))]
    UnknownGlyph {
        /// The name that was asked for.
        name: String,
        /// Known names that look most like it.
        nearest: Vec<String>,
    },
    /// The loaded glyphs leave a split without a single scene.
    #[error("with {glyphs} glyphs the {split} split has no scene; load more glyphs")]
    EmptySplit {
        /// Name of the split.
        split: &'static str,
        /// Number of glyphs that are loaded.
        glyphs: usize,
    },
    /// A picture size out of range.
    #[error("scenes can be rendered at 16 to 2048 pixels a side, not {size}")]
    BadSize {
        /// The size that was asked for.
        size: u32,
    },
    /// A mixture of scene kinds with negative, infinite or all-zero weights.
    #[error("the weights of the scene kinds must be finite, not negative, and not all zero")]
    BadMix,
}
