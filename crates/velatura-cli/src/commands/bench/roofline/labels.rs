//! Labels that keep clear of each other, of dots and of lines.

use std::ops::Range;

use plotters::prelude::*;
use velatura_train::chart::Paper;

use super::{DARK, Drawn, GREY, px, style};

/// Height of the letters of a label.
const LETTERS: i32 = 13;
/// Pixels between a dot and its label, nearest first.
const DISTANCES: [i32; 7] = [1, 10, 20, 34, 50, 70, 94];
/// Directions that a label may lie in.
const DIRECTIONS: u32 = 24;

/// Tenths of a dot's radius that the sides of a square in it are away from its middle. Its corners are outside, by little.
const INSIDE: i32 = 9;

/// A rectangle of the paper: the least and the greatest of x and y.
#[derive(Clone, Copy, PartialEq)]
pub struct Frame {
    x: [i32; 2],
    y: [i32; 2],
}

impl Frame {
    pub fn of((x, y): (Range<i32>, Range<i32>)) -> Self {
        Frame { x: [x.start, x.end], y: [y.start, y.end] }
    }

    fn around((x, y): (i32, i32), radius: i32) -> Self {
        Frame { x: [x - radius, x + radius], y: [y - radius, y + radius] }
    }

    fn meets(&self, other: &Frame) -> bool {
        let apart = |a: [i32; 2], b: [i32; 2]| a[1] < b[0] || b[1] < a[0];
        !apart(self.x, other.x) && !apart(self.y, other.y)
    }

    fn holds(&self, other: &Frame) -> bool {
        let within = |a: [i32; 2], b: [i32; 2]| a[0] <= b[0] && b[1] <= a[1];
        within(self.x, other.x) && within(self.y, other.y)
    }
}

/// What is taken of the chart.
pub struct Labels {
    chart: Frame,
    taken: Vec<Frame>,
}

impl Labels {
    pub fn new(chart: Frame) -> Self {
        Labels { chart, taken: Vec::new() }
    }

    /// No label on this circle.
    pub fn keep_clear(&mut self, centre: (i32, i32), radius: i32) {
        self.taken.push(Frame::around(centre, radius * INSIDE / 10));
    }

    /// No label on this line.
    pub fn keep_line_clear(&mut self, [from, to]: [(i32, i32); 2]) {
        let steps = ((to.0 - from.0).abs().max((to.1 - from.1).abs()) / px(4)).max(1);
        let along =
            |a: i32, b: i32, step: i32| a + ((b - a) as f64 * f64::from(step) / f64::from(steps)) as i32;
        let points = (0..=steps).map(|step| (along(from.0, to.0, step), along(from.1, to.1, step)));
        self.taken.extend(points.map(|point| Frame::around(point, px(3))));
    }

    /// Writes a label on a dot, or where it does not fit or another dot is there beside it, with a line to it where that is
    /// away; where no room is left there is no label.
    pub fn write(&mut self, paper: &Paper<'_>, centre: (i32, i32), radius: i32, label: &str) -> Drawn {
        let (width, height) = size(paper, label)?;
        let own = Frame::around(centre, radius * INSIDE / 10);
        let on = (centre.0 - width / 2, centre.1 - height * 2 / 5);
        let frame = Frame { x: [on.0, on.0 + width], y: [on.1, on.1 + height] };
        if own.holds(&frame) && self.is_free(&frame, Some(&own)) {
            return self.put(paper, on, frame, label);
        }
        let turn = |i: u32| f64::from(i) / f64::from(DIRECTIONS) * std::f64::consts::TAU;
        let places = DISTANCES.iter().flat_map(|&distance| (0..DIRECTIONS).map(move |i| (distance, turn(i))));
        for (distance, turn) in places {
            let (cos, sin) = (turn.cos(), turn.sin());
            let reach = f64::from(radius + px(distance));
            let near = (centre.0 + (cos * reach) as i32, centre.1 + (sin * reach) as i32);
            // The side of the label that looks at the dot is at that point.
            let x = near.0 + ((cos - 1.0) / 2.0 * f64::from(width)) as i32;
            let y = near.1 + ((sin - 1.0) / 2.0 * f64::from(height)) as i32;
            let frame = Frame { x: [x - px(2), x + width + px(2)], y: [y - px(1), y + height + px(1)] };
            if !self.is_free(&frame, None) {
                continue;
            }
            if distance > DISTANCES[0] {
                let rim = f64::from(radius);
                let rim = (centre.0 + (cos * rim) as i32, centre.1 + (sin * rim) as i32);
                paper.draw(&PathElement::new(
                    [rim, near],
                    ShapeStyle::from(GREY).stroke_width(px(1) as u32),
                ))?;
                self.keep_line_clear([rim, near]);
            }
            return self.put(paper, (x, y), frame, label);
        }
        Ok(())
    }

    /// Whether nothing is there, but perhaps one thing.
    fn is_free(&self, frame: &Frame, but: Option<&Frame>) -> bool {
        let taken = |other: &Frame| but != Some(other) && other.meets(frame);
        self.chart.holds(frame) && !self.taken.iter().any(taken)
    }

    /// Writes below the left end of a level line.
    pub fn write_below(&mut self, paper: &Paper<'_>, from: (i32, i32), label: &str) -> Drawn {
        self.put_right_of(paper, (from.0 + px(8), from.1 + px(7)), label)
    }

    /// Writes right of the lower part of a rising line.
    pub fn write_along(&mut self, paper: &Paper<'_>, [from, to]: [(i32, i32); 2], label: &str) -> Drawn {
        let at = (from.0 + (to.0 - from.0) / 4, from.1 + (to.1 - from.1) / 4);
        self.put_right_of(paper, (at.0 + px(10), at.1), label)
    }

    fn put_right_of(&mut self, paper: &Paper<'_>, (x, y): (i32, i32), label: &str) -> Drawn {
        let (width, height) = size(paper, label)?;
        self.put(paper, (x, y), Frame { x: [x, x + width], y: [y, y + height] }, label)
    }

    fn put(&mut self, paper: &Paper<'_>, at: (i32, i32), frame: Frame, label: &str) -> Drawn {
        paper.draw(&Text::new(label.to_string(), at, style(LETTERS, DARK)))?;
        self.taken.push(frame);
        Ok(())
    }
}

fn size(paper: &Paper<'_>, label: &str) -> Result<(i32, i32), Box<dyn std::error::Error>> {
    let (width, height) = paper.estimate_text_size(label, &style(LETTERS, DARK))?;
    Ok((width as i32, height as i32))
}
