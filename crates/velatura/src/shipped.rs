//! The model that ships with the program, inside the program.

use velatura_weights::{AlignedBytes, SafetensorsFile};

use crate::Error;

/// The name by which the shipped model is asked for.
pub const SHIPPED_NAME: &str = "shipped";

static SHIPPED: &AlignedBytes<[u8]> = &AlignedBytes(*include_bytes!("../assets/shipped.safetensors"));

/// The shipped model's file, in place.
pub fn file() -> Result<SafetensorsFile, Error> {
    Ok(SafetensorsFile::from_static("the model that ships with velatura", &SHIPPED.0)?)
}
