//! velatura-models (being written).
