//! Changes to the U-Net's way from input to output that need no other weights.

use serde::{Deserialize, Serialize};
use velatura_graph::Var;

use super::config::{DownBlock, MidBlock, UNetConfig, UpBlock};

/// Features of the way up made stronger and skip connections smoother (Si et al. 2023, "FreeU", arXiv 2309.11497), as
/// diffusers' `apply_freeu`: 1 of each changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FreeU {
    /// Factor of the lowest frequencies of the skip connections into the first level on the way up.
    pub s1: f32,
    /// The same for the second level.
    pub s2: f32,
    /// Factor of the first half of the channels that come up in the first level.
    pub b1: f32,
    /// The same for the second level.
    pub b2: f32,
}

/// What is changed. The default is nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UNetChanges {
    /// FreeU.
    pub freeu: Option<FreeU>,
    /// Self-attentions, of those that [`UNetConfig::self_attentions`] names, in which every pixel looks at itself alone
    /// (Ahn et al. 2024, "Self-rectifying diffusion sampling with perturbed-attention guidance", arXiv 2403.17377).
    pub identity: Vec<String>,
    /// Whether the network also says how much each pixel is looked at by the first self-attention of its middle
    /// ([`UNetOutput::received`]).
    pub watched: bool,
    /// A skip connection, counted from the network's beginning, at which the deep part can be told from the shallow one (Ma et
    /// al. 2024, "DeepCache: Accelerating Diffusion Models for Free", arXiv 2312.00858): 0 is that of the first convolution,
    /// and there are [`UNetConfig::branches`]. What comes up to it is then an output ([`UNetOutput::deep`]), or is given
    /// ([`UNetInputs::deep`](super::UNetInputs::deep)).
    pub branch: Option<usize>,
}

/// What a U-Net answers.
#[derive(Clone, Copy, Debug)]
pub struct UNetOutput<'g> {
    /// The prediction, `[N, H, W, out_channels]`.
    pub prediction: Var<'g>,
    /// How much the pixels are looked at, `[N, H, W, 1]`, where [`UNetChanges::watched`] asks for it and the middle has a
    /// self-attention: the attention that a token of the coarsest level receives, summed over all queries and in the mean
    /// of the heads (1 in the mean over the tokens), each token standing for the pixels nearest to it (Hong et al. 2023,
    /// "Improving sample quality of diffusion models using self-attention guidance", arXiv 2210.00939).
    pub received: Option<Var<'g>>,
    /// What comes up to the skip connection that [`UNetChanges::branch`] names, before it is joined with it, where that was
    /// computed.
    pub deep: Option<Var<'g>>,
}

impl UNetConfig {
    /// Whether the middle has the self-attention that [`UNetChanges::watched`] is about.
    pub fn can_be_watched(&self) -> bool {
        self.mid_block_type == Some(MidBlock::UNetMidBlock2DCrossAttn)
    }

    /// Names of the self-attentions in transformers, below the network's own prefix and in its order, such as
    /// `mid_block.attentions.0.transformer_blocks.0.attn1`.
    pub fn self_attentions(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut push = |place: String, blocks: usize| {
            names.extend((0..blocks).map(|block| format!("{place}.transformer_blocks.{block}.attn1")));
        };
        // The first attention of such a level looks at the context.
        let looks_within = |level: usize| !self.only_cross_attention.get(level).copied().unwrap_or(false);
        for (level, kind) in self.down_block_types.iter().enumerate() {
            if *kind == DownBlock::CrossAttnDownBlock2D && looks_within(level) {
                for layer in 0..self.layers(level) {
                    let blocks = self.transformer_layers(level, layer, false);
                    push(format!("down_blocks.{level}.attentions.{layer}"), blocks);
                }
            }
        }
        let last = self.levels().saturating_sub(1);
        if self.mid_block_type == Some(MidBlock::UNetMidBlock2DCrossAttn) {
            push("mid_block.attentions.0".into(), self.transformer_layers(last, 0, false));
        }
        for (i, kind) in self.up_block_types.iter().enumerate() {
            let level = last.saturating_sub(i);
            if *kind == UpBlock::CrossAttnUpBlock2D && looks_within(level) {
                for layer in 0..=self.layers(level) {
                    let blocks = self.transformer_layers(level, layer, true);
                    push(format!("up_blocks.{i}.attentions.{layer}"), blocks);
                }
            }
        }
        names
    }
}

impl FreeU {
    /// What comes up and the skip connection that joins it, `[N, H, W, C]` each, in level `block` of the way up.
    pub(super) fn apply<'g>(&self, block: usize, x: Var<'g>, skip: Var<'g>) -> (Var<'g>, Var<'g>) {
        let (s, b) = match block {
            0 => (self.s1, self.b1),
            1 => (self.s2, self.b2),
            _ => return (x, skip),
        };
        let (channels, half) = (x.channels(), x.channels() / 2);
        let stronger = x.slice(3, 0, half).affine(b, 0.0);
        (stronger.concat(&[x.slice(3, half, channels - half)], 3), scale_low_frequencies(skip, s))
    }
}

/// The frequencies 0 and -1 along both axes scaled, as diffusers' `fourier_filter` with a threshold of 1 does. Those four
/// make few waves, so the filter is a product with these instead of a Fourier transform.
fn scale_low_frequencies<'g>(x: Var<'g>, scale: f32) -> Var<'g> {
    let [n, height, width, channels] = x.dims();
    let pixels = height * width;
    let waves = low_waves(height, width);
    let count = waves.len() / pixels.max(1);
    let waves = x.builder().constant(&[pixels, count], waves);
    let shares = x.reshape(&[n, pixels, channels]).matmul_transposed(waves, true, false);
    let low = shares.matmul_transposed(waves, false, true).permute(&[0, 2, 1]);
    x + low.reshape(&[n, height, width, channels]).affine(scale - 1.0, 0.0)
}

/// Cosines and sines of those frequencies, `[pixels, waves]`; the product of the matrix with its transpose is the real part
/// of going to these frequencies and back.
fn low_waves(height: usize, width: usize) -> Vec<f32> {
    let along = |side: usize| if side > 1 { vec![0.0, 1.0] } else { vec![0.0] };
    let mut waves = Vec::new();
    for y in 0..height {
        for x in 0..width {
            for fy in along(height) {
                for fx in along(width) {
                    let turns = fy * y as f64 / height as f64 + fx * x as f64 / width as f64;
                    let (sine, cosine) = (std::f64::consts::TAU * turns).sin_cos();
                    let scale = 1.0 / ((height * width) as f64).sqrt();
                    waves.push((cosine * scale) as f32);
                    if fy + fx > 0.0 {
                        waves.push((sine * scale) as f32);
                    }
                }
            }
        }
    }
    waves
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn self_attentions_are_named_as_in_diffusers() {
        let names = UNetConfig::sd15().self_attentions();
        assert_eq!(names.len(), 16);
        assert_eq!(names[0], "down_blocks.0.attentions.0.transformer_blocks.0.attn1");
        assert_eq!(names[6], "mid_block.attentions.0.transformer_blocks.0.attn1");
        assert_eq!(names[15], "up_blocks.3.attentions.2.transformer_blocks.0.attn1");
    }

    #[test]
    fn the_waves_are_the_four_lowest_corners_of_the_spectrum() {
        // A slow discrete Fourier transform of one point, with only those frequencies kept.
        let (height, width, at) = (4usize, 3usize, 5usize);
        let waves = low_waves(height, width);
        let count = waves.len() / 12;
        for pixel in 0..12 {
            let found: f32 = (0..count).map(|k| waves[pixel * count + k] * waves[at * count + k]).sum();
            let (dy, dx) = ((pixel / 3) as f64 - (at / 3) as f64, (pixel % 3) as f64 - (at % 3) as f64);
            let mut wanted = 0.0;
            for fy in [0.0, -1.0] {
                for fx in [0.0, -1.0] {
                    wanted += (std::f64::consts::TAU * (fy * dy / 4.0 + fx * dx / 3.0)).cos() / 12.0;
                }
            }
            assert!((f64::from(found) - wanted).abs() < 1e-6);
        }
    }
}
