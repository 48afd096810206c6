//! What an evaluation came to: a table for people, JSON for programs.

use std::fmt::Write;

use serde_json::{Map, Value, json};
use velatura_scenes::{Scores, Tally};

/// What one judge saw in each set of pictures. A set that was not made has empty tallies.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sets {
    /// Generated pictures of combinations that training saw.
    pub seen: Scores,
    /// Generated pictures of combinations that training never saw.
    pub held_out: Scores,
    /// The pictures of `seen`, each held against another's prompt: what chance gives.
    pub shuffled: Scores,
    /// True renders of the prompts of `seen`: what the judge itself gets wrong.
    pub renders: Scores,
    /// The true renders after the autoencoder: the best that the denoiser can reach.
    pub reconstructions: Scores,
}

impl Sets {
    fn named(&self) -> [(&'static str, &'static str, &Scores); 5] {
        [
            ("seen", "prompts of seen pairs", &self.seen),
            ("held_out", "prompts of held-out pairs", &self.held_out),
            ("shuffled", "shuffled prompts", &self.shuffled),
            ("reconstructions", "autoencoder's pictures", &self.reconstructions),
            ("renders", "true renders", &self.renders),
        ]
    }
}

/// What an evaluation came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Name of the model.
    pub model: String,
    /// Prompts of seen pairs.
    pub prompts: usize,
    /// Prompts of held-out pairs.
    pub held_out_prompts: usize,
    /// Judge A, by templates.
    pub judge_a: Sets,
    /// Judge B, by the classifier.
    pub judge_b: Sets,
    /// Frechet distance between generated pictures and true renders, on the classifier's features.
    pub frechet: Option<f64>,
    /// The same between two sets of true renders of the same number: what chance gives.
    pub frechet_floor: Option<f64>,
    /// Seconds that the evaluation took.
    pub seconds: f64,
    /// What could not be measured, and why.
    pub notes: Vec<String>,
}

impl Report {
    /// As JSON: `seen`, `held_out`, `shuffled`, `renders` and `reconstructions`, each with the fractions `glyph`,
    /// `color`, `position`, `count` and `all` by judge A (null where nothing was asked for); `intervals` with their
    /// 95% intervals; `judge_b` with the same by the classifier; `frechet` and `frechet_floor`, null for too few pictures.
    pub fn to_json(&self) -> Value {
        let mut out = judged(&self.judge_a);
        out.insert("frechet".into(), json!(self.frechet));
        out.insert("frechet_floor".into(), json!(self.frechet_floor));
        out.insert("intervals".into(), intervals(&self.judge_a));
        let mut judge_b = judged(&self.judge_b);
        judge_b.insert("intervals".into(), intervals(&self.judge_b));
        out.insert("judge_b".into(), Value::Object(judge_b));
        out.insert("model".into(), json!(self.model));
        out.insert("prompts".into(), json!(self.prompts));
        out.insert("held_out_prompts".into(), json!(self.held_out_prompts));
        out.insert("seconds".into(), json!(self.seconds));
        out.insert("notes".into(), json!(self.notes));
        Value::Object(out)
    }

    /// As a table: percentages, each with half its 95% interval.
    pub fn to_table(&self) -> String {
        let mut text = format!(
            "{}: {} prompts of seen pairs, {} of held-out pairs, {:.0} s\n",
            self.model, self.prompts, self.held_out_prompts, self.seconds
        );
        section(&mut text, "judge A, templates", &self.judge_a);
        section(&mut text, "judge B, classifier", &self.judge_b);
        if let (Some(distance), Some(floor)) = (self.frechet, self.frechet_floor) {
            let _ = writeln!(text, "\nFrechet distance {distance:.3}; two sets of true renders {floor:.3}");
        }
        for (i, note) in self.notes.iter().enumerate() {
            let _ = writeln!(text, "{}{note}", if i == 0 { "\n" } else { "" });
        }
        text
    }
}

fn judged(sets: &Sets) -> Map<String, Value> {
    let of = |scores: &Scores| fields(scores, |tally| json!(tally.fraction()));
    sets.named().iter().map(|(key, _, scores)| (key.to_string(), of(scores))).collect()
}

fn intervals(sets: &Sets) -> Value {
    let of = |scores: &Scores| fields(scores, |tally| json!(tally.interval()));
    sets.named().iter().map(|(key, _, scores)| (key.to_string(), of(scores))).collect::<Map<_, _>>().into()
}

fn fields(scores: &Scores, value: impl Fn(Tally) -> Value) -> Value {
    let fields = scores.named().map(|(name, tally)| (name.to_string(), value(tally)));
    Value::Object(fields.into_iter().collect())
}

fn section(text: &mut String, title: &str, sets: &Sets) {
    let _ = write!(text, "\n{title:<26}");
    for (name, _) in Scores::default().named() {
        let _ = write!(text, "{name:>15}");
    }
    text.push('\n');
    for (_, label, scores) in sets.named() {
        if scores.all.total == 0 {
            continue;
        }
        let _ = write!(text, "{label:<26}");
        for (_, tally) in scores.named() {
            let _ = write!(text, "{:>15}", cell(tally));
        }
        text.push('\n');
    }
}

/// `93.4% ± 1.2`, or a dash where nothing was asked for.
fn cell(tally: Tally) -> String {
    match (tally.fraction(), tally.interval()) {
        (Some(fraction), Some((low, high))) => {
            format!("{:.1}% ±{:.1}", fraction * 100.0, (high - low) * 50.0)
        }
        _ => "-".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let hits = |hits| Tally { hits, total: 10 };
        let seen =
            Scores { glyph: hits(9), color: hits(10), count: hits(8), all: hits(7), ..Scores::default() };
        Report { judge_a: Sets { seen, ..Sets::default() }, frechet: Some(1.5), ..Report::default() }
    }

    #[test]
    fn json_has_the_agreed_keys() {
        let json = report().to_json();
        for set in ["seen", "held_out", "shuffled"] {
            let set = json[set].as_object().unwrap();
            for key in ["glyph", "color", "position", "count", "all"] {
                assert!(set.contains_key(key), "{key}");
            }
            assert_eq!(set.len(), 5);
        }
        assert_eq!(json["seen"]["glyph"], 0.9);
        assert_eq!(json["seen"]["position"], Value::Null);
        assert_eq!(json["frechet"], 1.5);
        assert!(json.as_object().unwrap().contains_key("frechet_floor"));
        assert_eq!(json["intervals"]["seen"]["glyph"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn the_table_leaves_out_what_was_not_measured() {
        let table = report().to_table();
        assert!(table.contains("90.0%") && table.contains("judge A"), "{table}");
        assert!(!table.contains("shuffled") && !table.contains("held-out pairs  "), "{table}");
    }
}
