//! The velatura command.
fn main() {}
