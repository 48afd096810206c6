//! Being written.
use std::path::Path;
use velatura_cpu::CancelToken;
use crate::{Finished, Observer, TrainError, TrainOptions};
/// Trains.
pub fn train_diffusion(_r: &Path, _o: &TrainOptions, _ob: &mut dyn Observer, _c: &CancelToken) -> Result<Finished, TrainError> { Err(TrainError::Cancelled) }
