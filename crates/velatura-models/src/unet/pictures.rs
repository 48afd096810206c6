//! Latents that are fewer than the conditions that they are looked at with.

use velatura_graph::Var;

use super::UNetInputs;

/// Two values of as many pictures as the greater number of theirs, `[N, ..]` each: the other is repeated.
pub(super) fn alike<'g>(a: Var<'g>, b: Var<'g>) -> (Var<'g>, Var<'g>) {
    let (most_a, most_b) = (pictures(a), pictures(b));
    (repeated(a, most_b), repeated(b, most_a))
}

fn pictures(x: Var<'_>) -> usize {
    x.shape().first().copied().unwrap_or(1)
}

/// All pictures again and again until they are `count`; as they are where they do not divide it.
fn repeated(x: Var<'_>, count: usize) -> Var<'_> {
    let own = pictures(x);
    if own == 0 || own >= count || !count.is_multiple_of(own) {
        return x;
    }
    x.concat(&vec![x; count / own - 1], 0)
}

/// That there are as many conditions of each kind as latents, or a multiple that all kinds have in common.
pub(super) fn check(inputs: &UNetInputs<'_>) -> Result<(), String> {
    let latents = pictures(inputs.sample);
    let conditions = [
        ("timestep", Some(inputs.timestep)),
        ("context", inputs.context),
        ("class_labels", inputs.class_labels),
        ("pooled", inputs.pooled),
        ("time_ids", inputs.time_ids),
        ("timestep_condition", inputs.timestep_condition),
        ("deep", inputs.deep),
    ];
    let counts: Vec<(&str, usize)> =
        conditions.into_iter().filter_map(|(name, x)| Some((name, pictures(x?)))).collect();
    let most = counts.iter().map(|(_, count)| *count).max().unwrap_or(latents);
    for (name, count) in counts {
        if count != latents && (count != most || !count.is_multiple_of(latents.max(1))) {
            return Err(format!(
                "the input {name} is for {count} pictures, where there are {latents} latents"
            ));
        }
    }
    Ok(())
}
