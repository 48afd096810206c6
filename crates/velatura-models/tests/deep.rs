//! A network divided at each of its skip connections: what the deep part gave, handed to the shallow one, makes the whole.

mod small;

use small::{flops, given};
use velatura_graph::reference::evaluate;
use velatura_graph::{Builder, DType, Graph};
use velatura_models::unet::UNetChanges;
use velatura_models::{UNetConfig, UNetInputs};

const SIZE: [usize; 2] = [5, 6];

/// A small U-Net for `latents` latents and six texts, divided or not, whole or the shallow part alone.
fn graph(config: &UNetConfig, latents: usize, branch: Option<usize>, given: bool) -> Graph {
    let b = Builder::new();
    let float = |name: &str, shape: &[usize]| b.input(name, shape, DType::F32);
    let [height, width] = SIZE;
    let deep = branch.filter(|_| given).and_then(|branch| config.deep_shape(branch, [6, height, width]));
    let inputs = UNetInputs {
        context: Some(float("context", &[6, 3, 16])),
        pooled: config.reads_pooled().then(|| float("pooled", &[6, 8])),
        time_ids: config.reads_pooled().then(|| float("time_ids", &[6, 2])),
        deep: deep.map(|shape| float("deep", &shape)),
        ..UNetInputs::new(float("sample", &[latents, height, width, 4]), float("timestep", &[latents]))
    };
    let output = config.build_changed(&b.params(), inputs, &UNetChanges { branch, ..UNetChanges::default() });
    b.output("prediction", output.prediction);
    assert_eq!(output.deep.is_some(), branch.is_some() && !given);
    if let Some(deep) = output.deep {
        b.output("deep", deep);
    }
    b.finish().unwrap()
}

#[test]
fn both_parts_make_the_whole_at_every_skip_connection() {
    for (config, latents) in [(small::plain(2), 6), (small::plain(2), 2), (small::xl(), 3)] {
        let whole = graph(&config, latents, None, false);
        let wanted = evaluate(&whole, &given(&whole)).remove("prediction").unwrap();
        let mut least = 0.0;
        for branch in 0..config.branches() {
            let full = graph(&config, latents, Some(branch), false);
            let mut found = evaluate(&full, &given(&full));
            assert_eq!(found["prediction"].data, wanted.data, "{branch}");
            let shallow = graph(&config, latents, Some(branch), true);
            let mut inputs = given(&shallow);
            inputs.insert("deep".into(), found.remove("deep").unwrap());
            let answer = evaluate(&shallow, &inputs).remove("prediction").unwrap();
            assert_eq!(answer.data, wanted.data, "{branch}");
            // Each further skip connection leaves more to be computed.
            assert!(flops(&shallow) > least && flops(&shallow) < flops(&whole), "{branch}");
            least = flops(&shallow);
        }
    }
}

#[test]
fn a_branch_that_is_none_and_a_deep_part_that_does_not_fit_are_refused() {
    let config = small::plain(2);
    let message = |branch: Option<usize>, deep: Option<&[usize]>| {
        let b = Builder::new();
        let float = |name: &str, shape: &[usize]| b.input(name, shape, DType::F32);
        let inputs = UNetInputs {
            context: Some(float("context", &[2, 3, 16])),
            deep: deep.map(|shape| float("deep", shape)),
            ..UNetInputs::new(float("sample", &[2, 4, 6, 4]), float("timestep", &[2]))
        };
        config.build_changed(&b.params(), inputs, &UNetChanges { branch, ..UNetChanges::default() });
        b.finish().unwrap_err().to_string()
    };
    assert!(message(Some(6), None).contains("6 skip connections"));
    assert!(message(None, Some(&[2, 4, 6, 8])).contains("no branch"));
    assert!(message(Some(0), Some(&[2, 4, 6, 16])).contains("[2, 4, 6, 8]"));
    assert!(message(Some(0), Some(&[3, 4, 6, 8])).contains("2 latents"));
}
