//! Graphs to try passes and the planner on: random valid ones, and a denoiser of the usual form.

use velatura_graph::op::{ResizeMode, Window};
use velatura_graph::{Activation, Builder, DType, Init, Params, Var};

use super::Random;

/// Decides at each place of a random graph; from proptest, so that failures shrink.
pub struct Choices<'a> {
    choices: std::slice::Iter<'a, u32>,
}

impl<'a> Choices<'a> {
    pub fn new(choices: &'a [u32]) -> Self {
        Choices { choices: choices.iter() }
    }

    fn next(&mut self) -> Option<Random> {
        self.choices.next().map(|&c| Random(u64::from(c)))
    }
}

/// Records a valid graph: `sample [2, 4, 4, 4]`, `tokens [2, 3, 4]`, `row [2, 4]`, parameters, one scalar output `loss`
/// and a few of other shapes. With `checkpoint`, runs of choices become checkpointed segments.
pub fn random_graph<'g>(builder: &'g Builder, choices: &[u32], checkpoint: bool) -> Var<'g> {
    let mut pool = vec![
        builder.input("sample", &[2, 4, 4, 4], DType::F32),
        builder.input("tokens", &[2, 3, 4], DType::F32),
        builder.input("row", &[2, 4], DType::F32),
    ];
    let mut choices = Choices::new(choices);
    while let Some(mut random) = choices.next() {
        if random.below(6) > 0 {
            let made = step(builder, &pool, &mut random);
            pool.push(made);
            continue;
        }
        let mut segment = || {
            for _ in 0..random.below(5) + 1 {
                let Some(mut random) = choices.next() else { return };
                let made = step(builder, &pool, &mut random);
                pool.push(made);
            }
        };
        if checkpoint {
            builder.checkpoint(segment);
        } else {
            segment();
        }
    }
    // Some values stay dead; the last ones and every third are read.
    let mut loss = builder.fill(&[], 0.0);
    let count = pool.len();
    for (i, v) in pool.into_iter().enumerate().filter(|(i, _)| i % 3 == 0 || i + 3 > count) {
        loss = loss + (v * (0.5 + i as f32)).sin().mean_all();
        if i + 2 > count {
            builder.output(&format!("value{i}"), v);
        }
    }
    builder.output("loss", loss);
    loss
}

fn weight<'g>(builder: &'g Builder, random: &mut Random, kind: &str, shape: &[usize]) -> Var<'g> {
    // Few names, so that weights are shared.
    let name = format!("{kind}{}.{shape:?}", random.below(3));
    builder.parameter(&name, shape, Init::Zeros)
}

fn step<'g>(builder: &'g Builder, pool: &[Var<'g>], random: &mut Random) -> Var<'g> {
    let x = pool[random.below(pool.len())];
    let shape = x.shape();
    let (rank, c) = (shape.len(), x.channels());
    let same: Vec<Var<'g>> = pool.iter().copied().filter(|v| v.shape() == shape).collect();
    let y = same[random.below(same.len())];
    let window = |r: &mut Random| Window::new(1 + r.below(2), 1);
    match random.below(22) {
        0 => x.activation([Activation::Silu, Activation::Gelu, Activation::Tanh][random.below(3)]),
        1 | 2 => x + y,
        3 => x.tanh() * y,
        4 => x.linear(weight(builder, random, "w", &[4, c]), Some(weight(builder, random, "b", &[4]))),
        5 if rank == 4 => {
            let w = weight(builder, random, "conv", &[4, c, 3, 3]);
            x.conv2d(w, Some(weight(builder, random, "b", &[4])), window(random))
        }
        6 if rank == 4 => {
            let h = x.conv2d(weight(builder, random, "conv", &[4, c, 3, 3]), None, window(random));
            let row = pool[2].linear(weight(builder, random, "w", &[4, 4]), None).reshape(&[2, 1, 1, 4]);
            if shape[0] == 2 { h + row } else { h }
        }
        7 if rank >= 2 => {
            let (gamma, beta) = (weight(builder, random, "gamma", &[c]), weight(builder, random, "b", &[c]));
            let groups = if c % 2 == 0 { 2 } else { 1 };
            x.group_norm(gamma, beta, groups, 0.1).silu()
        }
        8 if rank > 0 => x.layer_norm(Some(weight(builder, random, "gamma", &[c])), None, 0.1),
        9 if rank == 4 => x.reshape(&[shape[0], shape[1] * shape[2], c]),
        10 if rank >= 2 => {
            let mut axes: Vec<usize> = (0..rank).collect();
            axes.swap(rank - 1, rank - 2);
            x.permute(&axes)
        }
        11 if rank > 0 && shape[rank - 1] > 1 => x.slice(rank - 1, 1, shape[rank - 1] - 1),
        12 if rank > 0 && c < 12 => x.concat(&[y], rank - 1),
        13 if rank > 0 => x.softmax(),
        14 if rank > 0 => x.mean(&[rank - 1], true) + x,
        15 if rank == 3 => {
            let tokens = pool[1];
            let q = if c == 4 && shape[0] == 2 { x } else { tokens };
            q.attention(tokens, tokens, None, 2, None, false)
        }
        16 if rank == 4 && shape[1] < 9 && shape[2] < 9 => {
            x.resize(ResizeMode::Nearest, shape[1] + 1, shape[2] + 1)
        }
        17 if rank == 4 && shape[1] > 1 && shape[2] > 1 => x.avg_pool2d(2, 1),
        18 => x.detach(),
        19 if rank > 0 && c % 2 == 0 => x.gated(Activation::Gelu),
        20 if rank >= 2 && shape[0] == 2 => {
            let (gamma, beta) = (weight(builder, random, "gamma", &[c]), weight(builder, random, "b", &[c]));
            let modulation = pool[2].linear(weight(builder, random, "w", &[2 * c, 4]), None);
            x.group_norm_modulated(gamma, beta, modulation, 1, 0.1).silu()
        }
        // The same computation twice.
        _ => x.silu() + x.silu(),
    }
}

/// What a denoiser is made of.
pub struct UNet {
    pub batch: usize,
    pub size: usize,
    /// Channels of each level; the image halves between them.
    pub channels: Vec<usize>,
    /// Residual blocks of each level.
    pub blocks: usize,
    /// Whether each block is a checkpointed segment.
    pub checkpoint: bool,
}

/// A denoiser in the form of Stable Diffusion's: down, middle, up with skips, attention at all but the first level.
pub fn unet<'g>(builder: &'g Builder, config: &UNet) -> Var<'g> {
    let p = builder.params();
    let x = builder.input("sample", &[config.batch, config.size, config.size, 4], DType::F32);
    let temb = builder.input("temb", &[config.batch, 64], DType::F32);
    let text = builder.input("text", &[config.batch, 16, 64], DType::F32);
    let block = |p: Params<'g>, x: Var<'g>, channels: usize, attends: bool| {
        let build = || {
            let h = res_block(&p, x, temb, channels);
            if attends { attend(&p.at("attention"), h, text) } else { h }
        };
        if config.checkpoint { builder.checkpoint(build) } else { build() }
    };
    let mut h = conv(&p.at("conv_in"), x, config.channels[0], 3, 1);
    let mut skips = vec![h];
    for (level, &c) in config.channels.iter().enumerate() {
        for i in 0..config.blocks {
            h = block(p.at("down").at(level).at(i), h, c, level > 0);
            skips.push(h);
        }
        if level + 1 < config.channels.len() {
            h = conv(&p.at("down").at(level).at("sample"), h, c, 3, 2);
            skips.push(h);
        }
    }
    h = block(p.at("middle"), h, *config.channels.last().unwrap(), true);
    for (level, &c) in config.channels.iter().enumerate().rev() {
        for i in 0..config.blocks + 1 {
            let joined = h.concat(&[skips.pop().unwrap()], 3);
            h = block(p.at("up").at(level).at(i), joined, c, level > 0);
        }
        if level > 0 {
            let [_, height, width, _] = h.dims();
            let larger = h.resize(ResizeMode::Nearest, height * 2, width * 2);
            h = conv(&p.at("up").at(level).at("sample"), larger, c, 3, 1);
        }
    }
    conv(&p.at("conv_out"), norm(&p.at("norm_out"), h).silu(), 4, 3, 1)
}

fn norm<'g>(p: &Params<'g>, x: Var<'g>) -> Var<'g> {
    let c = [x.channels()];
    x.group_norm(p.get("weight", &c, Init::Ones), p.get("bias", &c, Init::Zeros), 4, 1e-5)
}

fn conv<'g>(p: &Params<'g>, x: Var<'g>, out: usize, kernel: usize, stride: usize) -> Var<'g> {
    let weight = p.get("weight", &[out, x.channels(), kernel, kernel], Init::Zeros);
    x.conv2d(weight, Some(p.get("bias", &[out], Init::Zeros)), Window::new(stride, kernel / 2))
}

fn linear<'g>(p: &Params<'g>, x: Var<'g>, out: usize) -> Var<'g> {
    x.linear(p.get("weight", &[out, x.channels()], Init::Zeros), Some(p.get("bias", &[out], Init::Zeros)))
}

fn res_block<'g>(p: &Params<'g>, x: Var<'g>, temb: Var<'g>, channels: usize) -> Var<'g> {
    let h = conv(&p.at("conv1"), norm(&p.at("norm1"), x).silu(), channels, 3, 1);
    let row = linear(&p.at("time_emb_proj"), temb.silu(), channels);
    let h = h + row.reshape(&[row.shape()[0], 1, 1, channels]);
    let h = conv(&p.at("conv2"), norm(&p.at("norm2"), h).silu(), channels, 3, 1);
    let shortcut = if x.channels() == channels { x } else { conv(&p.at("shortcut"), x, channels, 1, 1) };
    shortcut + h
}

fn attend<'g>(p: &Params<'g>, x: Var<'g>, text: Var<'g>) -> Var<'g> {
    let [n, height, width, c] = x.dims();
    let ones = |p: &Params<'g>| p.get("weight", &[c], Init::Ones);
    let mut h = norm(&p.at("norm"), x).reshape(&[n, height * width, c]);
    for (name, context) in [("attn1", None), ("attn2", Some(text))] {
        let p = p.at(name);
        let own = h.layer_norm(Some(ones(&p.at("norm"))), None, 1e-5);
        let context = context.unwrap_or(own);
        let [q, k, v] = [("q", own), ("k", context), ("v", context)].map(|(n, x)| linear(&p.at(n), x, c));
        h = linear(&p.at("out"), q.attention(k, v, None, 4, None, false), c) + h;
    }
    let inner = linear(&p.at("up"), h.layer_norm(Some(ones(&p.at("norm3"))), None, 1e-5), 8 * c);
    let gated = inner.chunks(2, 2);
    let h = linear(&p.at("ff"), gated[0] * gated[1].gelu(), c) + h;
    h.reshape(&[n, height, width, c]) + x
}
