//! velatura-text (being written).
