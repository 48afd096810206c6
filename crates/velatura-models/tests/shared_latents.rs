//! Latents that are looked at with several texts: what comes before the first text is computed once.

mod small;

use small::given;
use velatura_graph::reference::evaluate;
use velatura_graph::{Builder, DType, Graph};
use velatura_models::{UNetConfig, UNetInputs};

/// A small U-Net of the kind of a published one, for `latents` latents and `texts` texts.
fn graph(config: &UNetConfig, latents: usize, texts: usize) -> Graph {
    let b = Builder::new();
    let float = |name: &str, shape: &[usize]| b.input(name, shape, DType::F32);
    let inputs = UNetInputs {
        context: Some(float("context", &[texts, 3, 16])),
        pooled: config.reads_pooled().then(|| float("pooled", &[texts, 8])),
        time_ids: config.reads_pooled().then(|| float("time_ids", &[texts, 2])),
        ..UNetInputs::new(float("sample", &[latents, 4, 6, 4]), float("timestep", &[latents]))
    };
    b.output("prediction", config.build(&b.params(), inputs));
    b.finish().unwrap()
}

#[test]
fn the_prediction_is_that_of_repeated_latents() {
    for config in [small::plain(1), small::xl()] {
        let answer = |latents| {
            let graph = graph(&config, latents, 6);
            evaluate(&graph, &given(&graph)).remove("prediction").unwrap()
        };
        let (shared, repeated) = (answer(2), answer(6));
        assert_eq!(shared.shape, [6, 4, 6, 4]);
        assert_eq!(shared.data, repeated.data);
        assert!(shared.data[..96] != shared.data[192..288], "texts make no difference");
    }
}

#[test]
fn what_comes_before_the_first_text_is_computed_once() {
    let config = small::plain(1);
    let flops = |latents| small::flops(&graph(&config, latents, 6));
    let saved = flops(6) - flops(2);
    // Two thirds of the first residual block and of the first self-attention.
    assert!(saved > 0.03 * flops(6), "{saved}");
}

#[test]
fn conditions_that_are_no_multiple_of_the_latents_are_refused() {
    let b = Builder::new();
    let float = |name: &str, shape: &[usize]| b.input(name, shape, DType::F32);
    let inputs = UNetInputs {
        context: Some(float("context", &[3, 3, 16])),
        ..UNetInputs::new(float("sample", &[2, 4, 6, 4]), float("timestep", &[2]))
    };
    small::plain(1).build(&b.params(), inputs);
    let message = b.finish().unwrap_err().to_string();
    assert!(message.contains("context") && message.contains("2 latents"), "{message}");
}
