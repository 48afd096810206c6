//! The two judges side by side, and their verdicts over sets of pictures.

use std::sync::Arc;

use velatura_cpu::{CancelToken, Runtime};
use velatura_scenes::{Glyphs, Intent, Judge, Reading, RgbImage, Scores};

use crate::TrainError;
use crate::classifier::{Classifier, Reader};

/// Judge A, by templates, and judge B, by a classifier.
pub(super) struct Judges {
    a: Judge,
    b: Reader,
    threads: usize,
}

/// What the judges saw in a set of pictures, in order.
#[derive(Default)]
pub(super) struct Seen {
    pub a: Vec<Reading>,
    pub b: Vec<Reading>,
    /// Features of the whole pictures end to end.
    pub features: Vec<f32>,
}

impl Judges {
    pub fn new(
        glyphs: &Glyphs,
        classifier: &Classifier,
        runtime: &Arc<Runtime>,
        threads: usize,
    ) -> Result<Self, TrainError> {
        let b = Reader::new(classifier, runtime)?;
        Ok(Judges { a: Judge::new(glyphs), b, threads: threads.max(1) })
    }

    /// Width of the features.
    pub fn feature_width(&self) -> usize {
        self.b.feature_width()
    }

    /// Adds what the judges see in further pictures.
    pub fn look(
        &mut self,
        pictures: &[RgbImage],
        seen: &mut Seen,
        cancel: &CancelToken,
    ) -> Result<(), TrainError> {
        if cancel.is_cancelled() {
            return Err(TrainError::Cancelled);
        }
        let readings = self.read(pictures)?;
        seen.b.extend(self.b.read(pictures, &readings, cancel)?);
        seen.features.extend(self.b.features(pictures, cancel)?);
        seen.a.extend(readings);
        Ok(())
    }

    fn read(&self, pictures: &[RgbImage]) -> Result<Vec<Reading>, TrainError> {
        let each = pictures.len().div_ceil(self.threads).max(1);
        std::thread::scope(|scope| {
            let read = |part: &[RgbImage]| part.iter().map(|p| self.a.read(p)).collect::<Vec<_>>();
            let parts: Vec<_> = pictures.chunks(each).map(|part| scope.spawn(move || read(part))).collect();
            let mut readings = Vec::with_capacity(pictures.len());
            for part in parts {
                let ended = |_| TrainError::Internal("the judge has ended".into());
                readings.extend(part.join().map_err(ended)?);
            }
            Ok(readings)
        })
    }
}

/// Verdicts on readings, each against the intent `shift` places on. Shifted, one reading alone has no other intent.
pub(super) fn score(readings: &[Reading], intents: &[Intent], shift: usize) -> Scores {
    let mut scores = Scores::default();
    if shift > 0 && intents.len() <= shift {
        return scores;
    }
    for (i, reading) in readings.iter().enumerate() {
        if let Some(intent) = intents.get((i + shift) % intents.len().max(1)) {
            scores.add(&reading.verdict(intent));
        }
    }
    scores
}
