//! The progress bar: on a terminal only.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::terminal::remark;

/// A bar that counts sampling steps, or shares of another work.
#[derive(Clone)]
pub struct Bar(ProgressBar);

impl Bar {
    /// A bar that shows once work starts; hidden when standard error is no terminal, or on request.
    pub fn new(quiet: bool) -> Self {
        let hidden = quiet || !std::io::stderr().is_terminal();
        Bar(bar(hidden, "{bar:32} {pos}/{len} steps  {per_sec}  {eta} left"))
    }

    /// The same for work that is told in percent.
    pub fn percent(quiet: bool) -> Self {
        let hidden = quiet || !std::io::stderr().is_terminal();
        Bar(bar(hidden, "{bar:32} {percent}%  {eta} left"))
    }

    /// The same for a download.
    pub fn bytes(quiet: bool) -> Self {
        let hidden = quiet || !std::io::stderr().is_terminal();
        Bar(bar(hidden, "{bar:32} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left"))
    }

    /// So many steps are to be done.
    pub fn start(&self, steps: usize) {
        self.0.set_length(steps as u64);
        self.0.reset_eta();
    }

    /// So many steps are done.
    pub fn set(&self, done: usize) {
        self.0.set_position(done as u64);
    }

    /// Prints a result without tearing the bar.
    pub fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        self.0.suspend(print)
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.0.finish_and_clear();
    }
}

/// The bar of a training run, which is one of steps with a shorter one now and then for what happens between.
pub struct TrainingBar {
    bar: ProgressBar,
    stage: Option<ProgressBar>,
    hidden: bool,
}

impl TrainingBar {
    /// A bar that shows once steps are done; hidden when standard error is no terminal, or on request.
    pub fn new(quiet: bool) -> Self {
        let hidden = quiet || !std::io::stderr().is_terminal();
        TrainingBar { bar: bar(hidden, "{bar:24} {pos}/{len}  {msg}"), stage: None, hidden }
    }

    /// The run goes from one step to another.
    pub fn start(&mut self, from: u64, steps: u64) {
        self.bar.set_length(steps);
        self.bar.set_position(from);
    }

    /// A step is done.
    pub fn set(&mut self, step: u64, message: String) {
        self.end_stage();
        self.bar.set_position(step);
        self.bar.set_message(message);
    }

    /// Something else goes on.
    pub fn stage(&mut self, what: &str, done: u64, total: u64) {
        if done >= total {
            return self.end_stage();
        }
        let hidden = self.hidden;
        let stage = self.stage.get_or_insert_with(|| bar(hidden, "{bar:24} {pos}/{len}  {msg}  {eta} left"));
        stage.set_length(total);
        stage.set_message(what.to_string());
        stage.set_position(done);
    }

    fn end_stage(&mut self) {
        if let Some(stage) = self.stage.take() {
            stage.finish_and_clear();
        }
    }

    /// Says something without tearing the bar.
    pub fn remark(&self, text: &str) {
        self.bar.suspend(|| remark(text));
    }

    /// Takes the bars away.
    pub fn finish(&mut self) {
        self.end_stage();
        self.bar.finish_and_clear();
    }
}

fn bar(hidden: bool, template: &str) -> ProgressBar {
    let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(None, target);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style.progress_chars("━╸─")),
        Err(_) => bar,
    }
}
