//! Schedules and alternatives: `[a:b:0.5]`, `[a:0.5]`, `[a::0.5]`, `[a|b]`.
//!
//! A1111 states the grammar in a form that many readings fit and lets a general parser choose. This is the grammar
//! said once: brackets of both kinds pair up as in any bracket language, a pair counts when everything within it
//! counts, and what does not count is text. One pass with a stack finds the pairs, and a text for a step is written
//! out of the spans between them.
//!
//! The two agree except where unpaired brackets follow a schedule without a space between, `[a:b:3]]]`: there
//! A1111's choice depends on the version of its parser, and here the schedule is always read.

use std::collections::BTreeSet;

use crate::prompt::{PromptWarning, StepNumbers, Steps, finite, is_space};

/// A text and the last step, counted from 1, at which it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduledText {
    /// The last step.
    pub last_step: usize,
    /// The text, with the brackets that weigh and the escapes still in it.
    pub text: String,
}

/// Schedules are not written out beyond as many bytes, and steps.
const MOST_BYTES: usize = 1 << 24;
const MOST_STEPS: usize = 10_000;

/// The texts of a prompt by steps, as A1111's `get_learned_conditioning_prompt_schedules` lists them: one more for
/// each step at which something changes, and every step where something alternates.
///
/// A prompt that the grammar does not fit as a whole is read as it is written: with a `|` outside of brackets, a
/// backslash at the end or before a line end; and also where writing out its schedule would take more than 16 MiB.
pub fn prompt_schedule(prompt: &str, steps: &Steps) -> Vec<ScheduledText> {
    read(prompt, steps).0
}

pub(super) fn read(prompt: &str, steps: &Steps) -> (Vec<ScheduledText>, Option<PromptWarning>) {
    let literal = || vec![ScheduledText { last_step: steps.count, text: prompt.to_owned() }];
    let tree = Tree::read(prompt, steps);
    if tree.constructs.is_empty() {
        return (literal(), None);
    }
    let schedule = match tree.obstacle {
        Some(reason) => Err(reason),
        None => tree.schedule(prompt, steps),
    };
    match schedule {
        Ok(schedule) => (schedule, None),
        Err(reason) => (literal(), Some(PromptWarning::LiteralSchedules { reason })),
    }
}

impl Steps {
    /// The last step before a change at `number`; below 1 where the change is there from the start.
    fn last_before(&self, number: &str) -> Option<i64> {
        let value = finite(number)?;
        let steps = self.count as f64;
        let (whole_offset, fraction_offset) = self.first_pass.map_or((0.0, 0.0), |first| (first as f64, 1.0));
        let step = match self.numbers {
            StepNumbers::BelowOneIsFraction if value < 1.0 => value * steps,
            StepNumbers::BelowOneIsFraction => value,
            StepNumbers::PointIsFraction if number.contains('.') => (value - fraction_offset) * steps,
            StepNumbers::PointIsFraction => value - whole_offset,
        };
        Some((step as i64).min(self.count as i64))
    }
}

/// A pair of brackets that changes with the steps.
struct Construct {
    /// Places of the opening bracket, the separators and the closing bracket.
    marks: Vec<usize>,
    kind: Kind,
}

enum Kind {
    /// The last span but one holds after this step, the one before it, if any, until then.
    Scheduled(i64),
    /// One span after the other, step by step.
    Alternating,
}

/// Where a prompt changes.
struct Tree {
    /// In the order of their opening brackets.
    constructs: Vec<Construct>,
    /// Why none of it counts.
    obstacle: Option<&'static str>,
}

/// A bracket that waits for its partner.
struct Open {
    round: bool,
    /// Places of the bracket and, behind it, of the separators directly within.
    marks: Vec<usize>,
    bars: usize,
    /// Whether everything within counts so far.
    sound: bool,
}

impl Tree {
    fn read(prompt: &str, steps: &Steps) -> Self {
        let mut constructs: Vec<Construct> = Vec::new();
        let mut open: Vec<Open> = Vec::new();
        let mut bars = Vec::new();
        let mut obstacle = None;
        let mut marks = prompt.bytes().enumerate();
        while let Some((at, byte)) = marks.next() {
            match byte {
                b'\\' => match marks.next() {
                    None | Some((_, b'\n')) => obstacle = Some("a backslash escapes nothing"),
                    Some(_) => (),
                },
                b'(' | b'[' => {
                    open.push(Open { round: byte == b'(', marks: vec![at], bars: 0, sound: true });
                }
                b':' | b'|' => {
                    if byte == b'|' {
                        bars.push(at);
                    }
                    if let Some(bracket) = open.last_mut() {
                        bracket.marks.push(at);
                        bracket.bars += usize::from(byte == b'|');
                    }
                }
                b')' | b']' => {
                    let Some(mut bracket) = open.pop() else { continue };
                    if bracket.round != (byte == b')') {
                        // Nothing that is still open can be closed around this any more.
                        open.clear();
                        continue;
                    }
                    bracket.marks.push(at);
                    match bracket.close(prompt, steps) {
                        Closed::Plain => (),
                        Closed::Construct(construct) => constructs.push(construct),
                        Closed::Unsound => {
                            if let Some(around) = open.last_mut() {
                                around.sound = false;
                            }
                        }
                    }
                }
                _ => (),
            }
        }
        constructs.sort_unstable_by_key(|construct| construct.marks[0]);
        if !bars.is_empty() && obstacle.is_none() && has_stray(&bars, &constructs) {
            obstacle = Some("a | stands outside of brackets that alternate");
        }
        Self { constructs, obstacle }
    }

    fn schedule(&self, prompt: &str, steps: &Steps) -> Result<Vec<ScheduledText>, &'static str> {
        let mut lasts = BTreeSet::from([steps.count]);
        for construct in &self.constructs {
            match construct.kind {
                Kind::Scheduled(last) => lasts.extend(usize::try_from(last).ok().filter(|&last| last > 0)),
                Kind::Alternating if steps.count > MOST_STEPS => {
                    return Err("alternatives are limited to 10000 steps");
                }
                Kind::Alternating if lasts.len() < steps.count => lasts.extend(1..=steps.count),
                Kind::Alternating => (),
            }
        }
        let mut schedule = Vec::new();
        let mut bytes = 0;
        for last_step in lasts {
            let text = self.text(prompt, last_step);
            bytes += text.len() + self.constructs.len() + size_of::<ScheduledText>();
            if bytes > MOST_BYTES {
                return Err("written out, they would take more than 16 MiB");
            }
            schedule.push(ScheduledText { last_step, text });
        }
        Ok(schedule)
    }

    /// The text at a step, counted from 1.
    fn text(&self, prompt: &str, step: usize) -> String {
        let mut text = String::new();
        // Spans still to write, the next one last; each with the first construct that may lie in it.
        let mut spans = vec![(0, prompt.len(), 0)];
        while let Some((from, to, first)) = spans.pop() {
            let Some(construct) = self.constructs.get(first).filter(|construct| construct.marks[0] < to)
            else {
                text.push_str(&prompt[from..to]);
                continue;
            };
            let (open, close) = (construct.marks[0], construct.marks[construct.marks.len() - 1]);
            text.push_str(&prompt[from..open]);
            let after = first + self.constructs[first..].partition_point(|c| c.marks[0] < close);
            spans.push((close + 1, to, after));
            if let Some((from, to)) = construct.span(step) {
                let inner = first + self.constructs[first..after].partition_point(|c| c.marks[0] < from);
                spans.push((from, to, inner));
            }
        }
        text
    }
}

/// Whether a bar is not directly or deeper within a construct.
fn has_stray(bars: &[usize], constructs: &[Construct]) -> bool {
    let mut covered = 0;
    let mut constructs = constructs.iter().peekable();
    bars.iter().any(|&bar| {
        while let Some(construct) = constructs.next_if(|construct| construct.marks[0] < bar) {
            covered = covered.max(construct.marks[construct.marks.len() - 1] + 1);
        }
        bar >= covered
    })
}

impl Construct {
    /// The span that holds at a step.
    fn span(&self, step: usize) -> Option<(usize, usize)> {
        let spans = self.marks.len() - 1;
        let index = match self.kind {
            Kind::Alternating => step.saturating_sub(1) % spans,
            Kind::Scheduled(last) if step as i64 > last => spans - 2,
            Kind::Scheduled(_) => spans.checked_sub(3)?,
        };
        Some((self.marks[index] + 1, self.marks[index + 1]))
    }
}

enum Closed {
    /// Brackets that weigh at most: text here.
    Plain,
    Construct(Construct),
    /// Fits nothing, nor does what is around it.
    Unsound,
}

impl Open {
    fn close(self, prompt: &str, steps: &Steps) -> Closed {
        let separators = self.marks.len() - 2;
        if !self.sound {
            return Closed::Unsound;
        }
        match (self.round, self.bars) {
            (_, 0) if separators == 0 => Closed::Plain,
            (true, 0) if separators == 1 => Closed::Plain,
            (false, 0) if separators <= 2 => {
                let number = &prompt[self.marks[separators] + 1..self.marks[separators + 1]];
                let number = number.trim_matches(is_space);
                match is_number(number).then(|| steps.last_before(number)).flatten() {
                    Some(last) => {
                        Closed::Construct(Construct { marks: self.marks, kind: Kind::Scheduled(last) })
                    }
                    None => Closed::Unsound,
                }
            }
            (false, bars) if bars == separators => {
                Closed::Construct(Construct { marks: self.marks, kind: Kind::Alternating })
            }
            _ => Closed::Unsound,
        }
    }
}

/// A sign, digits with a point among, before or behind them, an exponent.
fn is_number(text: &str) -> bool {
    let signless = |text: &str| text.strip_prefix(['+', '-']).unwrap_or(text).len();
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let text = &text[text.len() - signless(text)..];
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let exponent = &exponent[exponent.len() - signless(exponent)..];
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    digits(whole)
        && digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && digits(exponent)
        && !exponent.is_empty()
}
