//! velatura (being written).
