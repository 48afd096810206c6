//! velatura-train (being written).
