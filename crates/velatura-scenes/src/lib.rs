//! velatura-scenes (being written).
