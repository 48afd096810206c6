//! The conditional U-Net: diffusers' `UNet2DConditionModel` and LDM's `UNetModel`.

use super::probe::{Probe, dim};
use super::{Naming, Table};

/// What gives the timestep embedding something more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClassEmbedding {
    /// A table with a row for each class, or noise level.
    Table(usize),
    /// Two layers over a vector of this length.
    Projection(usize),
}

/// The middle of the U.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Middle {
    None,
    /// One residual block.
    Plain,
    /// A transformer of this depth between two residual blocks.
    Attention(usize),
}

/// The dimensions of a U-Net.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unet {
    pub in_channels: usize,
    pub out_channels: usize,
    /// Channels of each level.
    pub channels: Vec<usize>,
    /// For each level, the depth of the transformer behind each residual block on the way down; 0 is none.
    pub down: Vec<Vec<usize>>,
    /// The same on the way up, from the innermost level.
    pub up: Vec<Vec<usize>>,
    pub middle: Middle,
    /// Features of the text.
    pub cross: usize,
    /// Levels whose first attention looks at the text too.
    pub only_cross: Vec<bool>,
    /// Whether the transformers' projections are linear layers rather than 1x1 convolutions.
    pub linear: bool,
    pub class: Option<ClassEmbedding>,
    /// Length of the vector of pooled text, sizes and crops.
    pub addition: Option<usize>,
    /// Length of the embedding of the guidance scale.
    pub guidance: Option<usize>,
}

impl Unet {
    /// From the tensors; nothing when they are not those of a U-Net.
    pub(crate) fn infer(p: Probe<'_>) -> Option<Self> {
        let conv_in = p.either("conv_in.weight", "input_blocks.0.0.weight");
        let mut channels = Vec::new();
        let mut down = Vec::new();
        let mut only_cross = Vec::new();
        let mut firsts = Vec::new();
        let mut index = 1;
        loop {
            let level = channels.len();
            let mut depths = Vec::new();
            let (mut width, mut cross) = (None, false);
            loop {
                let (block, attention) = match p.naming {
                    Naming::Diffusers => {
                        let (l, j) = (level, depths.len());
                        (format!("down_blocks.{l}.resnets.{j}."), format!("down_blocks.{l}.attentions.{j}."))
                    }
                    Naming::Original => {
                        (format!("input_blocks.{index}.0."), format!("input_blocks.{index}.1."))
                    }
                };
                let conv = p.either(&format!("{block}conv1.weight"), &format!("{block}in_layers.2.weight"));
                let Some(conv) = conv else { break };
                width = width.or(dim(Some(conv), 0));
                let depth = p.count(|k| format!("{attention}transformer_blocks.{k}.norm1.weight"));
                if depth > 0 {
                    let key = dim(p.shape(&format!("{attention}transformer_blocks.0.attn1.to_k.weight")), 1);
                    cross |= key.is_some_and(|k| Some(k) != width);
                    firsts.push(attention);
                }
                depths.push(depth);
                index += 1;
            }
            let Some(width) = width else { break };
            channels.push(width);
            down.push(depths);
            only_cross.push(cross);
            let last = match p.naming {
                Naming::Diffusers => false,
                Naming::Original => !p.has(&format!("input_blocks.{index}.0.op.weight")),
            };
            if last {
                break;
            }
            index += 1;
        }
        if channels.is_empty() {
            return None;
        }
        let mut up = Vec::new();
        let mut index = 0;
        for level in 0..channels.len() {
            let blocks = down[channels.len() - 1 - level].len() + 1;
            let depth = |j: usize| {
                let attention = match p.naming {
                    Naming::Diffusers => format!("up_blocks.{level}.attentions.{j}."),
                    Naming::Original => format!("output_blocks.{}.1.", index + j),
                };
                p.count(|k| format!("{attention}transformer_blocks.{k}.norm1.weight"))
            };
            up.push((0..blocks).map(depth).collect());
            index += blocks;
        }
        let (middle, transformer) = match p.naming {
            Naming::Diffusers => ("mid_block.resnets.0.conv1.weight", "mid_block.attentions.0."),
            Naming::Original => ("middle_block.0.in_layers.2.weight", "middle_block.1."),
        };
        let depth = p.count(|k| format!("{transformer}transformer_blocks.{k}.norm1.weight"));
        let middle = match (p.has(middle), depth) {
            (false, _) => Middle::None,
            (true, 0) => Middle::Plain,
            (true, depth) => Middle::Attention(depth),
        };
        let first = firsts.first().map_or(transformer, String::as_str);
        let label = p.shape("label_emb.0.0.weight");
        let (class, addition) = match p.naming {
            Naming::Diffusers => {
                (p.shape("class_embedding.linear_1.weight"), p.shape("add_embedding.linear_1.weight"))
            }
            // The original has one name for both. XL, whose vector holds sizes too, has no attention at its outermost
            // level; the picture variations of 2.x do.
            Naming::Original if down[0].iter().any(|&d| d > 0) => (label, None),
            Naming::Original => (None, label),
        };
        let table = p.either("class_embedding.weight", "label_emb.weight");
        Some(Unet {
            in_channels: dim(conv_in, 1)?,
            out_channels: dim(p.either("conv_out.weight", "out.2.weight"), 0).unwrap_or(4),
            channels,
            down,
            up,
            middle,
            cross: dim(p.shape(&format!("{first}transformer_blocks.0.attn2.to_k.weight")), 1)?,
            only_cross,
            linear: p.shape(&format!("{first}proj_in.weight")).is_some_and(|s| s.len() == 2),
            class: dim(table, 0).map(ClassEmbedding::Table).or(dim(class, 1).map(ClassEmbedding::Projection)),
            addition: dim(addition, 1),
            guidance: dim(p.either("time_embedding.cond_proj.weight", "time_embed.cond_proj.weight"), 1),
        })
    }

    /// All tensors.
    pub(crate) fn table(&self) -> Table {
        let mut t = Table::default();
        let first = self.channels[0];
        let time = first * 4;
        t.layer("time_embedding.linear_1", "time_embed.0", &[time, first]);
        t.layer("time_embedding.linear_2", "time_embed.2", &[time, time]);
        if let Some(length) = self.guidance {
            t.weight("time_embedding.cond_proj", "time_embed.cond_proj", &[first, length]);
        }
        match self.class {
            Some(ClassEmbedding::Table(n)) => t.weight("class_embedding", "label_emb", &[n, time]),
            Some(ClassEmbedding::Projection(length)) => two_layers(&mut t, "class_embedding", length, time),
            None => {}
        }
        if let Some(length) = self.addition {
            two_layers(&mut t, "add_embedding", length, time);
        }
        t.layer("conv_in", "input_blocks.0.0", &[first, self.in_channels, 3, 3]);
        let mut skips = vec![first];
        let mut width = first;
        let mut index = 1;
        for (level, depths) in self.down.iter().enumerate() {
            let out = self.channels[level];
            for (j, &depth) in depths.iter().enumerate() {
                let original = format!("input_blocks.{index}");
                residual(
                    &mut t,
                    &format!("down_blocks.{level}.resnets.{j}"),
                    &format!("{original}.0"),
                    [width, out, time],
                );
                let name = format!("down_blocks.{level}.attentions.{j}");
                self.transformer(&mut t, &name, &format!("{original}.1"), out, depth, self.only_cross[level]);
                width = out;
                skips.push(width);
                index += 1;
            }
            if level + 1 < self.down.len() {
                let name = format!("down_blocks.{level}.downsamplers.0.conv");
                t.layer(&name, &format!("input_blocks.{index}.0.op"), &[width, width, 3, 3]);
                skips.push(width);
                index += 1;
            }
        }
        if self.middle != Middle::None {
            residual(&mut t, "mid_block.resnets.0", "middle_block.0", [width, width, time]);
        }
        if let Middle::Attention(depth) = self.middle {
            self.transformer(&mut t, "mid_block.attentions.0", "middle_block.1", width, depth, false);
            residual(&mut t, "mid_block.resnets.1", "middle_block.2", [width, width, time]);
        }
        let mut index = 0;
        for (level, depths) in self.up.iter().enumerate() {
            let inner = self.channels.len() - 1 - level;
            let out = self.channels[inner];
            for (j, &depth) in depths.iter().enumerate() {
                let original = format!("output_blocks.{index}");
                let wide = width + skips.pop().unwrap_or(0);
                residual(
                    &mut t,
                    &format!("up_blocks.{level}.resnets.{j}"),
                    &format!("{original}.0"),
                    [wide, out, time],
                );
                let name = format!("up_blocks.{level}.attentions.{j}");
                self.transformer(&mut t, &name, &format!("{original}.1"), out, depth, self.only_cross[inner]);
                width = out;
                if j + 1 == depths.len() && level + 1 < self.up.len() {
                    let place = if depth > 0 { 2 } else { 1 };
                    let name = format!("up_blocks.{level}.upsamplers.0.conv");
                    t.layer(&name, &format!("{original}.{place}.conv"), &[out, out, 3, 3]);
                }
                index += 1;
            }
        }
        t.layer("conv_norm_out", "out.0", &[first]);
        t.layer("conv_out", "out.2", &[self.out_channels, first, 3, 3]);
        t
    }

    /// A spatial transformer; its names are the same in both layouts.
    fn transformer(
        &self,
        t: &mut Table,
        name: &str,
        original: &str,
        c: usize,
        depth: usize,
        only_cross: bool,
    ) {
        if depth == 0 {
            return;
        }
        let mut layer = |rest: String, shape: &[usize]| {
            t.layer(&format!("{name}.{rest}"), &format!("{original}.{rest}"), shape);
        };
        let projection: &[usize] = if self.linear { &[c, c] } else { &[c, c, 1, 1] };
        layer("norm".into(), &[c]);
        layer("proj_in".into(), projection);
        layer("proj_out".into(), projection);
        for k in 0..depth {
            let block = format!("transformer_blocks.{k}");
            for norm in ["norm1", "norm2", "norm3"] {
                layer(format!("{block}.{norm}"), &[c]);
            }
            layer(format!("{block}.attn1.to_out.0"), &[c, c]);
            layer(format!("{block}.attn2.to_out.0"), &[c, c]);
            layer(format!("{block}.ff.net.0.proj"), &[c * 8, c]);
            layer(format!("{block}.ff.net.2"), &[c, c * 4]);
        }
        for k in 0..depth {
            for (attention, source) in
                [("attn1", if only_cross { self.cross } else { c }), ("attn2", self.cross)]
            {
                for (to, from) in [("to_q", c), ("to_k", source), ("to_v", source)] {
                    let rest = format!("transformer_blocks.{k}.{attention}.{to}");
                    t.weight(&format!("{name}.{rest}"), &format!("{original}.{rest}"), &[c, from]);
                }
            }
        }
    }
}

fn two_layers(t: &mut Table, name: &str, length: usize, time: usize) {
    t.layer(&format!("{name}.linear_1"), "label_emb.0.0", &[time, length]);
    t.layer(&format!("{name}.linear_2"), "label_emb.0.2", &[time, time]);
}

fn residual(t: &mut Table, name: &str, original: &str, [from, to, time]: [usize; 3]) {
    let mut layer = |n: &str, o: &str, shape: &[usize]| {
        t.layer(&format!("{name}.{n}"), &format!("{original}.{o}"), shape);
    };
    layer("norm1", "in_layers.0", &[from]);
    layer("conv1", "in_layers.2", &[to, from, 3, 3]);
    layer("time_emb_proj", "emb_layers.1", &[to, time]);
    layer("norm2", "out_layers.0", &[to]);
    layer("conv2", "out_layers.3", &[to, to, 3, 3]);
    if from != to {
        layer("conv_shortcut", "skip_connection", &[to, from, 1, 1]);
    }
}
