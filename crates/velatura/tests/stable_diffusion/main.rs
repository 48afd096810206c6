//! Stable Diffusion's files and folders, tiny and of the true layout.

mod deepcache;
mod guidance;
mod opening;
mod parity;
mod pictures;
mod pipelines;
mod prompts;
mod runs;
mod sampling;
mod xl;
