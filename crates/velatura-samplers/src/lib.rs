//! velatura-samplers (being written).
