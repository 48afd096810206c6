//! velatura-weights (being written).
