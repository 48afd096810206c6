//! The deep part of the network and the shallow one around it, which a skip connection divides (Ma et al. 2024, "DeepCache:
//! Accelerating Diffusion Models for Free", arXiv 2312.00858).

use std::cell::Cell;

use velatura_graph::Var;

use super::{UNetChanges, UNetConfig, UNetInputs};

/// Where the network is divided, if it is.
pub(super) struct Deep<'a, 'g> {
    /// The skip connection, counted from the network's beginning.
    pub branch: Option<usize>,
    /// What came up to it at another timestep.
    pub given: Option<Var<'g>>,
    /// Where what comes up to it now is left.
    pub kept: &'a Cell<Option<Var<'g>>>,
}

impl<'g> Deep<'_, 'g> {
    /// Whether a skip connection lies in the part that is left out.
    pub fn leaves_out(&self, skip: usize) -> bool {
        self.given.is_some() && self.branch.is_some_and(|branch| skip > branch)
    }

    /// What is joined with a skip connection where `x` comes up.
    pub fn reaches(&self, skip: usize, x: Var<'g>) -> Var<'g> {
        if self.branch != Some(skip) {
            return x;
        }
        self.given.unwrap_or_else(|| {
            self.kept.set(Some(x));
            x
        })
    }
}

impl UNetConfig {
    /// How many skip connections there are, and so how many places for [`UNetChanges::branch`].
    pub fn branches(&self) -> usize {
        // Each level leaves its layers and its downsampling, and the last level the first convolution in place of that.
        (0..self.levels()).map(|level| self.layers(level).saturating_add(1)).fold(0, usize::saturating_add)
    }

    /// Shape of what comes up to a skip connection for `batch` images of `height` and `width`: `[batch, h, w, channels]`.
    /// Nothing where there is no such skip connection.
    pub fn deep_shape(&self, branch: usize, [batch, height, width]: [usize; 3]) -> Option<[usize; 4]> {
        let mut left = self.branches();
        let mut channels = *self.block_out_channels.last()?;
        for level in (0..self.levels()).rev() {
            for _ in 0..=self.layers(level) {
                left = left.checked_sub(1)?;
                if left == branch {
                    let halved = |side: usize| (0..level).fold(side, |side, _| side.div_ceil(2));
                    return Some([batch, halved(height), halved(width), channels]);
                }
                channels = *self.block_out_channels.get(level)?;
            }
        }
        None
    }
}

/// That the network can be divided where it is to be, and that what is given fits there.
pub(super) fn check(
    config: &UNetConfig,
    inputs: &UNetInputs<'_>,
    changes: &UNetChanges,
) -> Result<(), String> {
    let Some(branch) = changes.branch else {
        return match inputs.deep {
            Some(_) => Err("the input deep is given, but no branch that it comes up to".into()),
            None => Ok(()),
        };
    };
    let [_, height, width, _] = inputs.sample.dims();
    let images = inputs.deep.and_then(|deep| deep.shape().first().copied()).unwrap_or(1);
    let Some(wanted) = config.deep_shape(branch, [images, height, width]) else {
        return Err(format!(
            "branch {branch} is asked for, but there are {} skip connections",
            config.branches()
        ));
    };
    match inputs.deep {
        Some(deep) if deep.shape() != wanted => {
            Err(format!("the input deep should have the shape {wanted:?}, but is {}", deep.ty()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_up_to_each_skip_connection_has_its_shape() {
        // Stable Diffusion 1.5, whose skip connections and what is joined with them diffusers counts as (320 x 4, 640 x 3, ..).
        let config = UNetConfig::sd15();
        assert_eq!(config.branches(), 12);
        let shape = |branch| config.deep_shape(branch, [2, 65, 48]);
        assert_eq!(shape(0), Some([2, 65, 48, 320]));
        assert_eq!(shape(1), Some([2, 65, 48, 320]));
        assert_eq!(shape(2), Some([2, 65, 48, 640]));
        assert_eq!(shape(3), Some([2, 33, 24, 640]));
        assert_eq!(shape(11), Some([2, 9, 6, 1280]));
        assert_eq!(shape(12), None);
    }
}
