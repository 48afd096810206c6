//! The embedding that steers every residual block: the timestep, and what is embedded beside it.

use velatura_graph::{Activation, Params, Var};

use super::UNetInputs;
use super::config::{AdditionEmbedding, ClassEmbedding, UNetConfig};
use super::pictures::alike;
use crate::layers::Layers;

/// Sinusoids of numbers `[N]`: `[N, width]` (Vaswani et al. 2017; Ho et al. 2020), sines before cosines unless `flip`.
/// An odd width ends in a zero.
pub fn sinusoid<'g>(numbers: Var<'g>, width: usize, flip: bool, freq_shift: f32) -> Var<'g> {
    let builder = numbers.builder();
    let [n] = numbers.dims();
    let half = width / 2;
    // Single precision in PyTorch's order of operations: at timestep 999 the last bit of a frequency shows.
    let log_period = -(10_000f64.ln()) as f32;
    let frequencies = (0..half).map(|i| (log_period * i as f32 / (half as f32 - freq_shift)).exp());
    if half == 0 {
        return builder.fill(&[n, width], 0.0);
    }
    let angles = numbers.reshape(&[n, 1]) * builder.constant(&[1, half], frequencies.collect());
    let (sines, cosines) = (angles.sin(), angles.cos());
    let both = if flip { cosines.concat(&[sines], 1) } else { sines.concat(&[cosines], 1) };
    if width % 2 == 1 { both.pad(1, 0, 1) } else { both }
}

/// Two linear layers with an activation between, both to `width` features.
fn two_layers<'g>(p: &Params<'g>, x: Var<'g>, width: usize, activation: Activation) -> Var<'g> {
    p.at("linear_2").linear(p.at("linear_1").linear(x, width).activation(activation), width)
}

fn sum<'g>(a: Var<'g>, b: Var<'g>) -> Var<'g> {
    let (a, b) = alike(a, b);
    a + b
}

/// The sum (or concatenation) of all that is embedded, `[N, D]`. The inputs have been held against the configuration.
pub(super) fn embed<'g>(config: &UNetConfig, p: &Params<'g>, inputs: &UNetInputs<'g>) -> Var<'g> {
    let width = config.time_embed_dim();
    let activation = Activation::from(config.act_fn);
    let base = config.block_out_channels[0];
    let wave = |numbers, width| sinusoid(numbers, width, config.flip_sin_to_cos, config.freq_shift);

    let time = p.at("time_embedding");
    let mut waves = wave(inputs.timestep, base);
    if let (Some(_), Some(condition)) = (config.time_cond_proj_dim, inputs.timestep_condition) {
        waves = sum(waves, time.at("cond_proj").linear_no_bias(condition, base));
    }
    let mut embedding = two_layers(&time, waves, width, activation);

    if let (Some(kind), Some(labels)) = (config.class_embedding(), inputs.class_labels) {
        let place = p.at("class_embedding");
        let class = match kind {
            ClassEmbedding::Embedding => {
                place.embedding(labels, config.num_class_embeds.unwrap_or(1), width, 1.0)
            }
            ClassEmbedding::Timestep => two_layers(&place, wave(labels, base), width, activation),
            ClassEmbedding::Projection => two_layers(&place, labels, width, Activation::Silu),
            ClassEmbedding::SimpleProjection => place.linear(labels, width),
            ClassEmbedding::Identity => labels,
        };
        let (time, class) = alike(embedding, class);
        embedding = match config.class_embeddings_concat {
            true => time.concat(&[class], 1),
            false => time + class,
        };
    }
    if let (Some(AdditionEmbedding::TextTime), Some(pooled), Some(ids)) =
        (config.addition_embed_type, inputs.pooled, inputs.time_ids)
    {
        let [n, count] = ids.dims();
        let each = config.addition_time_embed_dim.unwrap_or(1);
        let sizes = wave(ids.reshape(&[n * count]), each).reshape(&[n, count * each]);
        let both = pooled.concat(&[sizes], 1);
        embedding = sum(embedding, two_layers(&p.at("add_embedding"), both, width, Activation::Silu));
    }
    if let (Some(_), Some(pooled)) = (config.pooled_projection_dim, inputs.pooled) {
        embedding = sum(embedding, two_layers(&p.at("pooled_embedding"), pooled, width, Activation::Silu));
    }
    embedding
}
