//! What the deep part of a denoiser answered, kept from one step for the next ones (Ma et al. 2024, "DeepCache: Accelerating
//! Diffusion Models for Free", arXiv 2312.00858).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use velatura_models::UNetConfig;

use crate::networks::Deep;
use crate::request::DeepCache;

/// The features of a group of pictures while it is denoised.
pub(crate) struct Kept {
    branch: usize,
    /// Steps from one at which the deep part is computed to the next.
    interval: usize,
    /// The first step that this denoiser was asked at; a refiner's is not the run's.
    first: Cell<Option<usize>>,
    /// By picture, those of its questions in their order.
    features: RefCell<HashMap<usize, Features>>,
}

/// By place among the questions about a picture; the places of what is not asked are empty.
type Features = Vec<Vec<f32>>;

impl Kept {
    /// Nothing where there is no such skip connection: a refiner may have fewer than the model that the request is for.
    pub fn new(asked: Option<DeepCache>, unet: &UNetConfig) -> Option<Self> {
        let DeepCache { interval, branch } = asked?;
        let (interval, branch) = (interval as usize, branch as usize);
        let divides = interval > 1 && branch < unet.branches();
        divides.then(|| Kept { branch, interval, first: Cell::default(), features: RefCell::default() })
    }

    /// How the questions at these places about a picture are asked at a step: with the deep part where it is its turn, and
    /// where something was not asked then. That is decided for each picture by itself, so that its bits do not depend on the
    /// others. Steps are counted, not calls: a sampler that asks twice in a step has both computed or neither.
    pub fn way(&self, step: usize, picture: usize, places: &[usize]) -> Deep {
        let first = self.first.get().unwrap_or(step);
        self.first.set(Some(first));
        let mut features = self.features.borrow_mut();
        let known = |place: &usize| {
            let kept = features.get(&picture).and_then(|kept| kept.get(*place));
            kept.is_some_and(|feature| !feature.is_empty())
        };
        let given = !step.abs_diff(first).is_multiple_of(self.interval) && places.iter().all(known);
        if !given {
            // All that is kept of a picture is of one step.
            features.remove(&picture);
        }
        Deep { branch: self.branch, given }
    }

    pub fn keep(&self, picture: usize, place: usize, feature: &[f32]) {
        let mut features = self.features.borrow_mut();
        let kept = features.entry(picture).or_default();
        if kept.len() <= place {
            kept.resize(place + 1, Vec::new());
        }
        kept[place] = feature.to_vec();
    }

    /// Appends a feature that [`Kept::way`] said is given.
    pub fn append(&self, picture: usize, place: usize, to: &mut Vec<f32>) {
        let features = self.features.borrow();
        to.extend(features.get(&picture).and_then(|kept| kept.get(place)).into_iter().flatten());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(interval: u32) -> Kept {
        Kept::new(Some(DeepCache { interval, branch: 0 }), &UNetConfig::sd15()).unwrap()
    }

    #[test]
    fn the_deep_part_is_computed_at_every_nth_step_counted_from_the_first() {
        let kept = kept(3);
        let given: Vec<bool> = (5..12)
            .map(|step| {
                let deep = kept.way(step, 0, &[0]);
                if !deep.given {
                    kept.keep(0, 0, &[step as f32]);
                }
                deep.given
            })
            .collect();
        assert_eq!(given, [false, true, true, false, true, true, false]);
        let mut feature = Vec::new();
        kept.append(0, 0, &mut feature);
        assert_eq!(feature, [11.0]);
    }

    #[test]
    fn a_picture_of_which_something_was_not_asked_is_computed_and_others_are_not() {
        let kept = kept(4);
        for picture in [0, 1] {
            assert!(!kept.way(0, picture, &[1, 2]).given);
            kept.keep(picture, 1, &[1.0]);
            kept.keep(picture, 2, &[1.0]);
        }
        assert!(!kept.way(1, 0, &[0, 1, 2]).given);
        assert!(kept.way(1, 1, &[1, 2]).given);
        // Nothing of picture 0 is left from the step before.
        assert!(!kept.way(2, 0, &[1, 2]).given);
    }

    #[test]
    fn whole_networks_keep_nothing() {
        let unet = UNetConfig::sd15();
        for (interval, branch) in [(1, 0), (2, 12)] {
            assert!(Kept::new(Some(DeepCache { interval, branch }), &unet).is_none());
        }
        assert!(Kept::new(None, &unet).is_none());
    }
}
