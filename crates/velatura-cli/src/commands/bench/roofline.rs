//! Layers under the roofs of memory and arithmetic (Williams, Waterman and Patterson 2009, "Roofline: an insightful visual
//! performance model for multicore architectures").

mod labels;

use std::error::Error;
use std::ops::Range;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use velatura_graph::op::{Attention, AttentionGradient};
use velatura_graph::{Node, Op};
use velatura_train::chart::{self, FONT, Paper};

use super::by_layer::{Layer, Layers};
use super::machine::Machine;
use crate::failure::Failure;
use labels::{Frame, Labels};

/// Width and height.
const SIZE: (u32, u32) = (1240, 800);
/// How much finer it is drawn.
const FINER: u32 = 3;
/// Width of the legend.
const LEGEND: i32 = 330;
/// Pixels of the dot of a layer that takes all the time, across the middle.
const WHOLE: f64 = 120.0;
/// The smallest dot that can be seen.
const SMALLEST: f64 = 5.0;
/// The share of the time of the least layer that is drawn: what takes nothing is not to stretch the axes.
const LEAST: f64 = 2e-4;
/// Layers that are numbered, and named in the legend.
const NAMED: usize = 14;

const DARK: RGBColor = RGBColor(40, 40, 40);
const GREY: RGBColor = RGBColor(110, 110, 110);

/// What a layer is, for its colour.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Linear,
    Convolution,
    Attention,
    Other,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Linear, Kind::Convolution, Kind::Attention, Kind::Other];

    fn name(self) -> &'static str {
        match self {
            Kind::Linear => "linear layers",
            Kind::Convolution => "convolutions",
            Kind::Attention => "attention",
            Kind::Other => "other products",
        }
    }

    /// From the palette of Okabe and Ito, which is told apart without red or green.
    fn colour(self) -> RGBColor {
        match self {
            Kind::Linear => RGBColor(0, 114, 178),
            Kind::Convolution => RGBColor(213, 94, 0),
            Kind::Attention => RGBColor(0, 158, 115),
            Kind::Other => RGBColor(130, 130, 130),
        }
    }
}

/// A layer with products.
struct Dot {
    /// FLOP for each byte.
    intensity: f64,
    /// FLOP a second.
    pace: f64,
    /// Of the time.
    share: f64,
    kind: Kind,
    fewer: bool,
    label: String,
}

impl Dot {
    fn new(layer: &Layer, total: f64) -> Option<Dot> {
        let nodes = layer.example.nodes();
        let node = nodes.iter().find(|node| node.op.name() == layer.operation)?;
        let method = layer.algorithm?.method;
        Some(Dot {
            intensity: layer.intensity()?,
            pace: layer.flops / layer.seconds,
            share: layer.seconds / total,
            kind: kind(&node.op),
            fewer: method.multiplies_less(),
            label: label(layer, node),
        })
        .filter(|dot| dot.share >= LEAST && dot.pace.is_finite())
    }

    /// Pixels of the paper from the middle to the rim: the area says how much of the time it takes.
    fn radius(share: f64) -> i32 {
        ((share.sqrt() * WHOLE).max(SMALLEST) * f64::from(FINER) / 2.0) as i32
    }
}

fn kind(op: &Op) -> Kind {
    match op {
        Op::Linear(_) | Op::LinearInputGradient(_) | Op::LinearWeightGradient(_) => Kind::Linear,
        Op::Conv2d(_) | Op::Conv2dInputGradient(_) | Op::Conv2dWeightGradient(_) => Kind::Convolution,
        Op::Attention(_) | Op::AttentionGradient(_) => Kind::Attention,
        _ => Kind::Other,
    }
}

/// What a layer is called in the legend: `conv 64x64, 320 to 640`.
fn label(layer: &Layer, node: &Node) -> String {
    let graph = &layer.example;
    let shape = |values: &[_], place: usize| values.get(place).map_or(&[][..], |&v| &graph.ty(v).shape);
    let (input, second, output) = (shape(&node.inputs, 0), shape(&node.inputs, 1), shape(&node.outputs, 0));
    let last = |shape: &[usize]| shape.last().copied().unwrap_or(1);
    let rows = |shape: &[usize]| shape.iter().product::<usize>() / last(shape).max(1);
    let image = |shape: &[usize]| match shape {
        [_, height, width, _] => format!("{height}x{width}"),
        _ => String::new(),
    };
    match &node.op {
        Op::Linear(_) => format!("linear {} rows, {} to {}", rows(input), last(input), rows(second)),
        Op::LinearInputGradient(_) => {
            format!("linear, dx, {} rows, {} to {}", rows(input), last(output), last(input))
        }
        Op::LinearWeightGradient(_) => {
            format!("linear, dW, {} rows, {} to {}", rows(input), last(input), last(second))
        }
        Op::Conv2d(_) => format!("conv {}, {} to {}", image(output), last(input), last(output)),
        Op::Conv2dInputGradient(_) => {
            format!("conv, dx, {}, {} to {}", image(input), last(output), last(input))
        }
        Op::Conv2dWeightGradient(_) => {
            format!("conv, dW, {}, {} to {}", image(second), last(input), last(second))
        }
        Op::Attention(Attention { heads, .. })
        | Op::AttentionGradient(AttentionGradient { forward: Attention { heads, .. } }) => {
            match (input, second) {
                ([batch, queries, _], [_, keys, _]) => {
                    format!("{} {queries}x{keys}, {} heads", layer.operation, batch * heads)
                }
                _ => layer.operation.to_string(),
            }
        }
        _ => layer.operation.to_string(),
    }
}

/// Writes the picture.
pub fn draw(layers: &Layers, output: &Path, title: &str) -> Result<(), Failure> {
    let total = layers.total();
    let dots: Vec<Dot> = layers.layers.iter().filter_map(|layer| Dot::new(layer, total)).collect();
    let milliseconds = total * 1e3;
    let threads = layers.machine.threads;
    let title = format!("{title}: {milliseconds:.0} ms, {threads} threads, {}", layers.machine.isa);
    chart::draw(output, SIZE, FINER, |paper| plot(paper, &dots, &layers.machine, &title))
        .map_err(|error| Failure::Failed(error.to_string()))
}

/// Pixels of the paper.
fn px(pixels: i32) -> i32 {
    pixels * FINER as i32
}

fn style(size: i32, colour: RGBColor) -> TextStyle<'static> {
    (FONT, px(size)).into_font().color(&colour)
}

fn text(paper: &Paper<'_>, at: (i32, i32), size: i32, colour: RGBColor, text: &str) -> Drawn {
    paper.draw(&Text::new(text.to_string(), at, style(size, colour)))?;
    Ok(())
}

type Drawn = Result<(), Box<dyn Error>>;

/// From below the least to above the greatest.
fn around(values: impl Iterator<Item = f64> + Clone, below: f64, above: f64) -> Range<f64> {
    let least = values.clone().fold(f64::INFINITY, f64::min);
    let greatest = values.fold(0.0, f64::max);
    if greatest > 0.0 { least * below..greatest * above } else { 1.0..10.0 }
}

fn plot(paper: &Paper<'_>, dots: &[Dot], machine: &Machine, title: &str) -> Drawn {
    text(paper, (px(20), px(14)), 19, DARK, title)?;
    let highest = machine.peaks.iter().map(|(_, peak)| *peak).fold(0.0, f64::max);
    let ridge = highest / machine.bandwidth;
    let xs = around(dots.iter().map(|dot| dot.intensity).chain([ridge]), 0.7, 1.9);
    let ys = around(dots.iter().map(|dot| dot.pace).chain([highest]), 0.7, 1.5);
    let ys = ys.start / 1e9..ys.end / 1e9;

    let (left, right) = paper.split_horizontally(px(SIZE.0 as i32 - LEGEND));
    let mut chart = ChartBuilder::on(&left)
        .margin(px(12))
        .margin_top(px(48))
        .x_label_area_size(px(48))
        .y_label_area_size(px(64))
        .build_cartesian_2d(xs.clone().log_scale(), ys.clone().log_scale())?;
    chart
        .configure_mesh()
        .x_desc("FLOP for each byte moved")
        .y_desc("GFLOP/s")
        .x_label_formatter(&|x| short(*x))
        .y_label_formatter(&|y| short(*y))
        .label_style(style(13, DARK))
        .axis_desc_style(style(15, DARK))
        .light_line_style(RGBColor(243, 243, 243))
        .bold_line_style(RGBColor(228, 228, 228))
        .draw()?;

    let frame = Frame::of(chart.plotting_area().get_pixel_range());
    let place = |x: f64, y: f64| chart.backend_coord(&(x, y));
    let mut labels = Labels::new(frame);
    roofs(paper, machine, &xs, &ys, &place, &mut labels)?;
    let places: Vec<((i32, i32), i32)> =
        dots.iter().map(|dot| (place(dot.intensity, dot.pace / 1e9), Dot::radius(dot.share))).collect();
    // The longest first, so that no dot hides a smaller one.
    for (dot, (centre, radius)) in dots.iter().zip(&places) {
        circle(paper, *centre, *radius, dot.kind, dot.fewer)?;
        labels.keep_clear(*centre, *radius);
    }
    for (number, (centre, radius)) in places.iter().take(NAMED).enumerate() {
        labels.write(paper, *centre, *radius, &(number + 1).to_string())?;
    }
    legend(&right, dots)
}

/// `0.5`, `20`, `1000`
fn short(x: f64) -> String {
    if x < 1.0 { format!("{x:.1}") } else { format!("{x:.0}") }
}

/// A dot; where less is multiplied than is written it has a dark rim.
fn circle(paper: &Paper<'_>, at: (i32, i32), radius: i32, kind: Kind, fewer: bool) -> Drawn {
    let colour = kind.colour();
    paper.draw(&Circle::new(at, radius, colour.mix(0.55).filled()))?;
    let rim = if fewer { DARK } else { colour };
    paper.draw(&Circle::new(at, radius, ShapeStyle::from(rim).stroke_width(px(1) as u32)))?;
    Ok(())
}

/// The slope of memory and the peaks, each with its number.
fn roofs(
    paper: &Paper<'_>,
    machine: &Machine,
    xs: &Range<f64>,
    ys: &Range<f64>,
    place: &dyn Fn(f64, f64) -> (i32, i32),
    labels: &mut Labels,
) -> Drawn {
    let bandwidth = machine.bandwidth / 1e9;
    let line = ShapeStyle::from(DARK).stroke_width(px(2) as u32);
    let highest = machine.peaks.iter().map(|(_, peak)| peak / 1e9).fold(0.0, f64::max);
    let foot = xs.start.max(ys.start / bandwidth);
    let ends = [place(foot, foot * bandwidth), place(highest / bandwidth, highest)];
    paper.draw(&PathElement::new(ends, line))?;
    labels.keep_line_clear(ends);
    let slope = format!("{bandwidth:.1} GB/s from memory");
    labels.write_along(paper, ends, &slope)?;
    for (arithmetic, peak) in &machine.peaks {
        let peak = peak / 1e9;
        let ends = [place(peak / bandwidth, peak), place(xs.end, peak)];
        paper.draw(&PathElement::new(ends, line))?;
        labels.keep_line_clear(ends);
        labels.write_below(paper, ends[0], &format!("{arithmetic}: {peak:.0} GFLOP/s"))?;
    }
    Ok(())
}

/// What colours, sizes and rims mean.
fn legend(paper: &DrawingArea<BitMapBackend<'_>, Shift>, dots: &[Dot]) -> Drawn {
    let (left, mut top) = (px(20), px(64));
    for kind in Kind::ALL {
        let share: f64 = dots.iter().filter(|dot| dot.kind == kind).map(|dot| dot.share).sum();
        if share > 0.0 {
            circle(paper, (left, top), px(7), kind, false)?;
            let line = format!("{}: {:.1}% of the time", kind.name(), share * 100.0);
            text(paper, (left + px(18), top - px(4)), 14, DARK, &line)?;
            top += px(24);
        }
    }
    top += px(8);
    for (number, dot) in dots.iter().take(NAMED).enumerate() {
        let number = (number + 1).to_string();
        let line = format!("{}, {:.1}%", dot.label, dot.share * 100.0);
        text(paper, (left - px(8), top), 13, DARK, &number)?;
        text(paper, (left + px(14), top), 13, DARK, &line)?;
        top += px(19);
    }
    top += px(16);
    text(paper, (left - px(8), top), 13, GREY, "The area of a dot is its share of the time:")?;
    top += px(44);
    let mut across = left;
    for share in [0.01, 0.05, 0.1] {
        let radius = Dot::radius(share);
        circle(paper, (across + radius, top), radius, Kind::Other, false)?;
        let percent = format!("{:.0}%", share * 100.0);
        text(paper, (across + 2 * radius + px(5), top - px(4)), 13, DARK, &percent)?;
        across += 2 * radius + px(48);
    }
    top += px(40);
    if dots.iter().any(|dot| dot.fewer) {
        circle(paper, (left, top), px(7), Kind::Convolution, true)?;
        text(paper, (left + px(18), top - px(4)), 14, DARK, "by Winograd's or Strassen's algorithm")?;
        top += px(16);
        let why = ["Counted as the layer is written, of which it", "does a part: it may lie above the roof."];
        for line in why {
            text(paper, (left - px(8), top), 13, GREY, line)?;
            top += px(18);
        }
        top += px(12);
    }
    let rest = 1.0 - dots.iter().map(|dot| dot.share).sum::<f64>();
    let notes = [
        "Bytes are what is read and written, each once;".to_string(),
        "what stays in caches may lie above the slope.".to_string(),
        "Not drawn: what has no products, as norms and".to_string(),
        format!("copies, or takes below 0.02%: {:.1}% of all.", rest.max(0.0) * 100.0),
    ];
    for line in notes {
        text(paper, (left - px(8), top), 13, GREY, &line)?;
        top += px(18);
    }
    Ok(())
}
