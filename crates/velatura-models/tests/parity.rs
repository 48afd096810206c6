//! Every network against diffusers and transformers: outputs, and gradients of a denoising loss towards all weights.

mod common;

use std::borrow::Cow;
use std::collections::HashMap;

use common::{Runner, case};
use velatura_cpu::{CancelToken, Data, Executor, Runtime, WeightStore};
use velatura_graph::DType;
use velatura_graph::passes::{Precision, for_training};
use velatura_graph::reference::{Array, evaluate};

/// The reference interpreter, in double precision.
const REFERENCE: Runner = Runner {
    run: |graph, given| {
        let array = |t: &common::Tensor| Array {
            shape: t.shape.clone(),
            data: t.data.iter().map(|&x| f64::from(x)).collect(),
        };
        let given = given.iter().map(|(name, tensor)| (name.clone(), array(tensor))).collect();
        evaluate(&graph, &given).into_iter().map(|(name, array)| (name, array.data)).collect()
    },
    smallest: 1e-6,
};

/// The executor with its fastest instruction set, in single precision, on two threads.
const EXECUTOR: Runner = Runner {
    run: |graph, given| {
        let runtime = Runtime::new(Some(2));
        let store = WeightStore::new(&runtime);
        let graph = for_training(graph, Precision::F32);
        let mut executor = Executor::new(&runtime, graph, &store).unwrap();
        store.load(&|name| given.get(name).map(|t| Cow::Borrowed(t.data.as_slice()))).unwrap();
        let whole: HashMap<&str, Vec<i32>> = given
            .iter()
            .filter(|(_, t)| t.dtype == DType::I32)
            .map(|(name, t)| (name.as_str(), t.data.iter().map(|&x| x as i32).collect()))
            .collect();
        let inputs: Vec<(&str, Data<'_>)> = given
            .iter()
            .map(|(name, t)| {
                (name.as_str(), whole.get(name.as_str()).map_or(Data::F32(&t.data), |x| Data::I32(x)))
            })
            .collect();
        executor.run(&inputs, &CancelToken::default()).unwrap();
        let output = |(name, _): &(String, _)| {
            (name.clone(), executor.output(name).unwrap().iter().map(|&x| f64::from(x)).collect())
        };
        executor.graph().outputs().iter().map(output).collect()
    },
    smallest: 1e-3,
};

fn check(name: &str) {
    let case = case(name);
    let given = case.given();
    for (runner, what) in [(REFERENCE, "reference"), (EXECUTOR, "executor")] {
        for checkpointing in [false, true] {
            let graph = case.graph(checkpointing, true);
            case.check_parameters(&graph);
            let (forward, backward) = case.check(&(runner.run)(graph, &given), runner.smallest);
            println!(
                "{name}, {what}, checkpointing {checkpointing}: forward {forward:.1e}, gradients {backward:.1e}"
            );
        }
    }
}

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            check(stringify!($name));
        })*
    };
}

cases!(
    unet_sd15,
    unet_sd2,
    unet_sdxl,
    unet_class_table,
    unet_adaptive_norm,
    unet_concatenation,
    unet_class_beside_time,
    unet_uneven_transformers,
    unet_pooled_text,
    vae_f4,
    vae_f8,
    vae_f16,
    vae_patch,
    text_clip,
    text_openclip,
    text_early_clip,
    text_both_ways,
);
