//! Pictures that describe themselves: scenes of colour emoji on plain backgrounds, their captions,
//! and a judge that reads such pictures back.
//!
//! The model that ships with Velatura is trained on, and measured with, what this crate makes:
//!
//! - [`vocabulary`]: which objects and background colours exist, and every word for them;
//! - [`glyphs`]: the drawings, decoded from the Noto Color Emoji font (SIL Open Font Licence);
//! - [`scene`]: what is in a picture ([`Scene`]), what a caption asks for ([`Intent`]), and where things stand
//!   ([`Layout`]);
//! - [`caption`]: a scene in words, and words back into an intent;
//! - [`dataset`]: an endless, random-access, deterministic set of examples with a held-out part;
//! - [`judge`]: template matching, to measure whether a picture shows what its caption says.
//!
//! The crate knows nothing of tensors, networks or training: it deals in 8-bit RGB pictures and strings.

pub mod caption;
pub mod dataset;
mod error;
pub mod glyphs;
pub mod judge;
mod render;
mod resample;
mod rng;
pub mod scene;
pub mod split;
pub mod vocabulary;

pub use dataset::{Example, Mix, Scenes};
pub use error::SceneError;
pub use glyphs::{DEFAULT_FONT, Glyphs};
pub use image::RgbImage;
pub use judge::{Judge, Reading, Scores, Tally, Verdict};
pub use rng::Rng;
pub use scene::{Cell, Group, Intent, Layout, Placed, Relation, Scene};
pub use split::Split;
pub use vocabulary::{ColorId, GlyphId};
