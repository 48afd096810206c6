//! The loss over steps, as a picture.

use std::path::Path;

use plotters::prelude::*;

use super::table::read_columns;
use crate::TrainError;
use crate::chart::{self, FONT, Paper};

const SIZE: (u32, u32) = (960, 540);
/// How much of the curve before a point its smoothed form remembers.
const MEMORY: f64 = 0.95;

/// Draws the column `loss` of a log as a PNG file: as it is, and smoothed. Fewer than two lines draw nothing.
pub fn draw_curve(log: &Path, output: &Path) -> Result<(), TrainError> {
    let (steps, columns) = read_columns(log, &["loss"])?;
    let points: Vec<(f64, f64)> = steps
        .iter()
        .map(|&s| s as f64)
        .zip(columns[0].iter().copied())
        .filter(|(_, y)| y.is_finite())
        .collect();
    if points.len() < 2 {
        return Ok(());
    }
    chart::draw(output, SIZE, 1, |paper| plot(&points, paper))
}

fn plot(points: &[(f64, f64)], paper: &Paper<'_>) -> Result<(), Box<dyn std::error::Error>> {
    let mut smooth: Vec<(f64, f64)> = Vec::with_capacity(points.len());
    let (mut sum, mut weight) = (0.0, 0.0);
    for &(x, y) in points {
        (sum, weight) = (sum * MEMORY + y, weight * MEMORY + 1.0);
        smooth.push((x, sum / weight));
    }
    let mut sorted: Vec<f64> = points.iter().map(|p| p.1).collect();
    sorted.sort_by(f64::total_cmp);
    let quantile = |q: f64| sorted[((sorted.len() - 1) as f64 * q) as usize];
    // The first steps are far above all others, and say the least.
    let (low, high) = (quantile(0.0), quantile(0.97));
    let margin = ((high - low) * 0.05).max(high.abs() * 1e-3).max(1e-9);
    let (left, right) = (points[0].0, points[points.len() - 1].0.max(points[0].0 + 1.0));

    let mut chart = ChartBuilder::on(paper)
        .margin(16)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(left..right, low - margin..high + margin)?;
    chart
        .configure_mesh()
        .x_desc("step")
        .y_desc("loss")
        .label_style((FONT, 14))
        .axis_desc_style((FONT, 16))
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(225, 225, 225))
        .draw()?;
    chart.draw_series(LineSeries::new(points.iter().copied(), RGBColor(170, 195, 225)))?;
    chart.draw_series(LineSeries::new(smooth, ShapeStyle::from(RGBColor(20, 70, 150)).stroke_width(2)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_drawn() {
        let folder = tempfile::tempdir().unwrap();
        let (log, output) = (folder.path().join("log.csv"), folder.path().join("loss.png"));
        std::fs::write(&log, "step,loss\n").unwrap();
        draw_curve(&log, &output).unwrap();
        assert!(!output.exists());
        let rows: String = (1..200).map(|i| format!("{i},{}\n", 1.0 / f64::from(i))).collect();
        std::fs::write(&log, format!("step,loss\n{rows}")).unwrap();
        draw_curve(&log, &output).unwrap();
        let image = image::open(&output).unwrap().to_rgb8();
        assert_eq!(image.dimensions(), SIZE);
        let dark = image.pixels().filter(|p| p.0 == [20, 70, 150]).count();
        assert!(dark > 500, "{dark}");
    }
}
