//! Where a run's time went, layer by layer.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use velatura::CancelToken;
use velatura::bench::layer_error;
use velatura_cpu::{Algorithm, Arithmetic, Line, Profile, Runtime};
use velatura_graph::Graph;

use super::machine::Machine;
use super::roofline;
use crate::failure::Failure;
use crate::naming;

/// Lines printed; the rest is one more.
const SHOWN: usize = 25;

/// What is wanted of the layers.
#[derive(clap::Args)]
pub struct LayerArgs {
    /// Also say what the time went to: for each layer its share of the multiply-add peak, arithmetic for each byte, bytes a
    /// second, and the algorithm that was chosen for it
    #[arg(long)]
    by_layer: bool,
    /// Draw the layers under the measured limits of memory and arithmetic, a PNG file; with --by-layer, which it implies
    #[arg(long, value_name = "FILE.png", value_parser = png)]
    roofline: Option<PathBuf>,
}

/// A file name that ends in `.png`.
fn png(name: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(name);
    let ending = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("png"));
    ending.then_some(path).ok_or_else(|| "must be the name of a PNG file, such as roofline.png".to_string())
}

impl LayerArgs {
    /// Whether layers are to be told apart.
    pub fn wanted(&self) -> bool {
        self.by_layer || self.roofline.is_some()
    }

    /// Fails where the picture could not be written, before anything is measured.
    pub fn check(&self) -> Result<(), Failure> {
        naming::check_all_writable(self.roofline.as_slice())
    }

    /// The picture that was asked for.
    pub fn picture(&self) -> Option<&Path> {
        self.roofline.as_deref()
    }
}

/// A line of one run.
pub struct Layer {
    pub operation: &'static str,
    pub types: String,
    pub algorithm: Option<Algorithm>,
    pub times: f64,
    pub seconds: f64,
    pub flops: f64,
    pub bytes: f64,
    pub error: Option<f64>,
    /// One of its nodes.
    pub example: Arc<Graph>,
}

impl Layer {
    fn new(line: Line, runs: f64, error: Option<f64>) -> Self {
        Layer {
            operation: line.operation,
            types: line.types,
            algorithm: line.algorithm,
            times: (line.count as f64 / runs).round(),
            seconds: line.seconds / runs,
            flops: line.flops / runs,
            bytes: line.bytes / runs,
            error,
            example: line.example,
        }
    }

    /// Arithmetic for each byte; nothing where there are no products.
    pub fn intensity(&self) -> Option<f64> {
        (self.flops > 0.0 && self.bytes > 0.0).then(|| self.flops / self.bytes)
    }

    /// Seconds that its arithmetic takes at the peak.
    fn at_peak(&self, machine: &Machine) -> Option<f64> {
        let peak = machine.peak(self.algorithm?.arithmetic)?;
        (self.flops > 0.0 && self.seconds > 0.0).then(|| self.flops / peak)
    }
}

/// The layers of a run, the longest first, and what the machine can do.
pub struct Layers {
    pub machine: Machine,
    pub layers: Vec<Layer>,
    errors: bool,
}

impl Layers {
    /// Of one of `runs` runs; measures the machine, and with `errors` what each layer rounds.
    pub fn measure(profile: &Profile, runs: usize, threads: usize, errors: bool) -> Result<Self, Failure> {
        let (runtime, runs) = (Runtime::new(Some(threads)), runs.max(1) as f64);
        let int8 = |line: &Line| line.algorithm.is_some_and(|a| a.arithmetic == Arithmetic::Int8);
        let lines = profile.lines();
        let machine = Machine::measure(&runtime, lines.iter().any(int8));
        let mut layers = Vec::new();
        for line in lines {
            let error = match errors {
                true => layer_error(&runtime, &line, &CancelToken::default())?,
                false => None,
            };
            layers.push(Layer::new(line, runs, error));
        }
        Ok(Layers { machine, layers, errors })
    }

    /// Seconds of all layers.
    pub fn total(&self) -> f64 {
        self.layers.iter().map(|layer| layer.seconds).sum()
    }

    /// Time for each operation, then for each operation on tensors of the same types by the same algorithm.
    pub fn table(&self) -> String {
        let mut text = format!("\npeaks: {}\n", self.machine.describe());
        self.write_operations(&mut text);
        self.write_layers(&mut text);
        text
    }

    fn write_operations(&self, text: &mut String) {
        let mut sums: Vec<(&'static str, Vec<&Layer>)> = Vec::new();
        for layer in &self.layers {
            match sums.iter_mut().find(|(operation, _)| *operation == layer.operation) {
                Some((_, layers)) => layers.push(layer),
                None => sums.push((layer.operation, vec![layer])),
            }
        }
        let seconds = |layers: &[&Layer]| layers.iter().map(|layer| layer.seconds).sum::<f64>();
        sums.sort_by(|a, b| seconds(&b.1).total_cmp(&seconds(&a.1)));
        let _ = writeln!(text, "\n{:>10} {:>6} {:>6} {:>8}  operation", "ms", "share", "times", "of peak");
        for (operation, layers) in &sums {
            let _ = writeln!(text, "{}  {operation}", self.columns(layers));
        }
    }

    /// Milliseconds, share of the time, times, share of the peak.
    fn columns(&self, layers: &[&Layer]) -> String {
        let sum = |of: &dyn Fn(&Layer) -> f64| layers.iter().map(|layer| of(layer)).sum::<f64>();
        let seconds = sum(&|layer| layer.seconds);
        let at_peak = sum(&|layer| layer.at_peak(&self.machine).unwrap_or(0.0));
        let peak = if at_peak > 0.0 { format!("{:.0}%", at_peak / seconds * 100.0) } else { String::new() };
        format!(
            "{:>10.2} {:>5.1}% {:>6} {peak:>8}",
            seconds * 1e3,
            seconds / self.total() * 100.0,
            sum(&|layer| layer.times)
        )
    }

    fn write_layers(&self, text: &mut String) {
        let error = |of: &str| if self.errors { format!(" {of:>8}") } else { String::new() };
        let _ = writeln!(
            text,
            "\n{:>10} {:>6} {:>6} {:>8} {:>7} {:>6}{}  {:<26} operation on",
            "ms",
            "share",
            "times",
            "of peak",
            "FLOP/B",
            "GB/s",
            error("error"),
            "algorithm"
        );
        for layer in self.layers.iter().take(SHOWN) {
            let _ = writeln!(
                text,
                "{} {:>7} {:>6.1}{}  {:<26} {} {}",
                self.columns(&[layer]),
                layer.intensity().map_or(String::new(), |x| format!("{x:.1}")),
                layer.bytes / layer.seconds / 1e9,
                error(&layer.error.map_or(String::new(), |error| format!("{error:.1e}"))),
                layer.algorithm.map_or(String::new(), |algorithm| algorithm.to_string()),
                layer.operation,
                layer.types
            );
        }
        if let Some(rest) = self.layers.get(SHOWN..).filter(|rest| !rest.is_empty()) {
            let _ = writeln!(
                text,
                "{} {:>7} {:>6}{}  {:<26} others",
                self.columns(&rest.iter().collect::<Vec<_>>()),
                "",
                "",
                error(""),
                ""
            );
        }
    }

    /// Every layer.
    pub fn to_json(&self) -> Value {
        let layer = |layer: &Layer| {
            json!({
                "operation": layer.operation, "types": layer.types, "seconds": layer.seconds,
                "times": layer.times, "flops": layer.flops,
                "share_of_peak": layer.at_peak(&self.machine).map(|at_peak| at_peak / layer.seconds),
                "algorithm": layer.algorithm.map(|algorithm| algorithm.to_string()),
                "bytes": layer.bytes, "intensity": layer.intensity(), "error": layer.error,
            })
        };
        self.layers.iter().map(layer).collect()
    }

    /// Writes the picture.
    pub fn draw(&self, output: &Path, title: &str) -> Result<(), Failure> {
        roofline::draw(self, output, title)
    }
}
