//! What a run writes while it goes: a CSV file, a TensorBoard event file, and a picture of the loss.

mod curve;
mod event;
mod table;

use std::path::{Path, PathBuf};

pub use curve::draw_curve;
pub use event::EventWriter;
pub use table::{Table, read_columns};

use crate::TrainError;
use crate::observer::StepReport;

/// Name of the table of losses in an output folder.
pub const LOG_FILE: &str = "log.csv";
/// Name of the table of measurements in an output folder.
pub const MEASURED_FILE: &str = "measured.csv";
/// Name of the loss curve in an output folder.
pub const CURVE_FILE: &str = "loss.png";

/// The numbers of one step, as they are logged.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    step: u64,
    values: Vec<f64>,
}

impl Row {
    pub fn of(report: &StepReport) -> Self {
        let mut values = vec![report.loss];
        values.extend(report.metrics.iter().map(|(_, v)| v));
        values.extend([report.gradient_norm, report.learning_rate, report.samples_per_second]);
        Row { step: report.step, values }
    }
}

/// The logs of one run.
pub(crate) struct Logs {
    folder: PathBuf,
    columns: Vec<String>,
    table: Table,
    measured: Option<Table>,
    events: EventWriter,
    /// Sums of the values since the last line.
    sums: Vec<f64>,
    count: u64,
    step: u64,
}

impl Logs {
    /// Opens the logs of a folder; lines of steps after `step`, which are going to be done again, are removed.
    pub fn open(folder: &Path, metrics: &[&str], step: u64) -> Result<Self, TrainError> {
        let mut columns = vec!["loss".to_string()];
        columns.extend(metrics.iter().map(|m| m.to_string()));
        columns.extend(["gradient_norm", "learning_rate", "samples_per_second"].map(String::from));
        let table = Table::open(&folder.join(LOG_FILE), &columns, step)?;
        let events = EventWriter::create(&folder.join("tensorboard"))?;
        let sums = vec![0.0; columns.len()];
        Ok(Logs {
            folder: folder.to_path_buf(),
            columns,
            table,
            measured: None,
            events,
            sums,
            count: 0,
            step,
        })
    }

    /// Adds a step to the next line.
    pub fn add(&mut self, row: &Row) {
        self.sums.iter_mut().zip(&row.values).for_each(|(sum, v)| *sum += v);
        self.count += 1;
        self.step = row.step;
    }

    /// Writes a line: means over the steps since the last one.
    pub fn write(&mut self) -> Result<(), TrainError> {
        if self.count == 0 {
            return Ok(());
        }
        let means: Vec<f64> = self.sums.iter().map(|s| s / self.count as f64).collect();
        self.table.push(self.step, &means)?;
        for (name, value) in self.columns.iter().zip(&means) {
            self.events.scalar(name, self.step, *value as f32)?;
        }
        self.events.flush()?;
        self.sums.fill(0.0);
        self.count = 0;
        Ok(())
    }

    /// Writes what was measured at a step.
    pub fn measured(&mut self, step: u64, values: &[(&'static str, f64)]) -> Result<(), TrainError> {
        if values.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = values.iter().map(|(name, _)| name.to_string()).collect();
        let table = match &mut self.measured {
            Some(table) => table,
            none => {
                none.insert(Table::open(&self.folder.join(MEASURED_FILE), &names, step.saturating_sub(1))?)
            }
        };
        table.push(step, &values.iter().map(|(_, v)| *v).collect::<Vec<_>>())?;
        for (name, value) in values {
            self.events.scalar(&format!("measured/{name}"), step, *value as f32)?;
        }
        self.events.flush()
    }

    /// Draws the loss curve anew.
    pub fn draw(&mut self) -> Result<(), TrainError> {
        draw_curve(&self.folder.join(LOG_FILE), &self.folder.join(CURVE_FILE))
    }

    /// Writes what is left, and the curve.
    pub fn finish(&mut self) -> Result<(), TrainError> {
        self.write()?;
        self.draw()
    }
}
