//! What a node is computed by, and what it moves: the executor's own choices, told.

use std::collections::HashSet;
use std::fmt;

use velatura_graph::{DType, Graph, Op};

use super::{parameter, products};
use crate::Isa;
use crate::kernels::attention;
use crate::kernels::gemm::{self, ConvAlgorithm, Levels, LinearAlgorithm, Tiling};
use crate::weights::{Form, bytes_of};

/// In which numbers products are computed; sums are f32, or i32 of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arithmetic {
    /// Single precision.
    F32,
    /// The same as products of thirds in brain floating point, six for one.
    F32InThirds,
    /// Brain floating point.
    Bf16,
    /// Whole numbers of 8 bits.
    Int8,
}

/// How products are arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// A product of matrices, as it is written.
    Product,
    /// The same by Strassen's algorithm.
    Strassen(Levels),
    /// A convolution as it is written.
    Direct,
    /// A convolution, or the gradient of its input, by Winograd's algorithm.
    Winograd(Tiling),
    /// The gradient of a convolution's weight by Winograd's algorithm.
    WinogradWeightGradient(Tiling),
    /// Attention block by block of keys, without storing the scores.
    OnlineSoftmax,
    /// The same, its scores being products of bytes, and what weighs the values of the arithmetic.
    OnlineSoftmaxOfBytes,
}

impl Method {
    /// Whether it multiplies less than is written.
    pub fn multiplies_less(self) -> bool {
        matches!(self, Method::Strassen(_) | Method::Winograd(_) | Method::WinogradWeightGradient(_))
    }
}

/// What a node with products is computed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Algorithm {
    /// How.
    pub method: Method,
    /// In which numbers.
    pub arithmetic: Arithmetic,
}

impl Arithmetic {
    fn of(dtype: DType) -> Self {
        if dtype == DType::Bf16 { Arithmetic::Bf16 } else { Arithmetic::F32 }
    }

    /// Of linear layers and convolutions as they are written.
    fn of_products(isa: Isa, dtype: DType) -> Self {
        if gemm::in_thirds(isa, dtype) { Arithmetic::F32InThirds } else { Arithmetic::of(dtype) }
    }
}

impl fmt::Display for Arithmetic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Arithmetic::F32 => "f32",
            Arithmetic::F32InThirds => "f32 in thirds",
            Arithmetic::Bf16 => "bf16",
            Arithmetic::Int8 => "int8",
        })
    }
}

/// Pixels of a tile of the convolution's result.
fn pixels(tiling: Tiling) -> &'static str {
    match tiling {
        Tiling::Small => "2x2",
        Tiling::Wide => "2x4",
        Tiling::Large => "4x4",
    }
}

impl fmt::Display for Algorithm {
    /// `Winograd F(2x4), bf16`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = match self.method {
            Method::Product => return self.arithmetic.fmt(f),
            Method::Strassen(Levels::One) => "Strassen",
            Method::Strassen(Levels::Two) => "Strassen twice",
            Method::Direct => "direct",
            Method::Winograd(tiling) => &format!("Winograd F({})", pixels(tiling)),
            Method::WinogradWeightGradient(tiling) => &format!("Winograd F(3x3, {})", pixels(tiling)),
            Method::OnlineSoftmax => "online softmax",
            Method::OnlineSoftmaxOfBytes => "online softmax, scores int8",
        };
        write!(f, "{method}, {}", self.arithmetic)
    }
}

/// What an executor for this graph on this instruction set computes a node by; `None` where there are no products, or where
/// they have no kernel.
///
/// # Panics
/// Where there is no such node.
pub fn algorithm(graph: &Graph, node: usize, isa: Isa) -> Option<Algorithm> {
    let at = &graph.nodes()[node];
    let dtype = |place: usize| at.inputs.get(place).map(|&value| graph.ty(value).dtype);
    let computed = || dtype(0).map(|dtype| Arithmetic::of(gemm::compute_dtype(isa, dtype)));
    let as_written = || dtype(0).map(|dtype| Arithmetic::of_products(isa, gemm::compute_dtype(isa, dtype)));
    let (method, arithmetic) = match products::packed_weight(graph, node, isa) {
        Some((place, form)) => {
            let stored = parameter(graph, at.inputs[place]).is_some();
            match form {
                // A weight that is computed in the graph is packed on the spot, and not in 8 bits.
                Form::LinearInt8 | Form::LinearInt8Gated if stored => (Method::Product, Arithmetic::Int8),
                Form::Linear(_)
                | Form::LinearGated(_)
                | Form::LinearInt8
                | Form::LinearInt8Gated
                | Form::LinearGradient(_) => match products::linear_algorithm(graph, at, isa) {
                    LinearAlgorithm::Direct(_) => (Method::Product, as_written()?),
                    LinearAlgorithm::Strassen(levels) => (Method::Strassen(levels), computed()?),
                },
                Form::Conv(..) | Form::ConvGradient(..) if stored => (Method::Direct, as_written()?),
                Form::Winograd(_, tiling) | Form::WinogradGradient(_, tiling) if stored => {
                    (Method::Winograd(tiling), computed()?)
                }
                // A convolution by a weight that is computed has no kernel.
                Form::Conv(..)
                | Form::ConvGradient(..)
                | Form::Winograd(..)
                | Form::WinogradGradient(..)
                | Form::Raw => return None,
            }
        }
        None => match &at.op {
            Op::MatMul(_) | Op::LinearWeightGradient(_) => (Method::Product, computed()?),
            Op::Conv2dWeightGradient(_) => match products::conv_algorithm(graph, at, isa) {
                ConvAlgorithm::Direct => (Method::Direct, computed()?),
                ConvAlgorithm::Winograd(tiling) => (Method::WinogradWeightGradient(tiling), computed()?),
            },
            Op::Attention(op) => {
                let computed = attention::compute_dtype(isa, (0..3).filter_map(dtype));
                let keys = graph.ty(at.inputs[1]).shape[1];
                let bytes = op.int8 && attention::scores_are_of_bytes(isa, computed, keys);
                let method = if bytes { Method::OnlineSoftmaxOfBytes } else { Method::OnlineSoftmax };
                (method, Arithmetic::of(computed))
            }
            Op::AttentionGradient(op) => {
                // Beside queries, keys and values the gradient of the result, which comes after the optional mask, the result
                // and its normalisers.
                let inputs = [0, 1, 2, 5 + usize::from(op.forward.mask)];
                let computed = attention::compute_dtype(isa, inputs.into_iter().filter_map(dtype));
                (Method::OnlineSoftmax, Arithmetic::of(computed))
            }
            _ => return None,
        },
    };
    Some(Algorithm { method, arithmetic })
}

/// Bytes that a node reads and writes, as if each were moved once: what it reads as it is stored, weights as they are packed,
/// and all that it makes.
///
/// # Panics
/// Where there is no such node.
pub fn traffic(graph: &Graph, node: usize, isa: Isa) -> f64 {
    let at = &graph.nodes()[node];
    let stored = |value| graph.ty(value).bytes() as f64;
    let written: f64 = at.outputs.iter().map(|&value| stored(value)).sum();
    match &at.op {
        // These read as many elements of their first input as they make.
        Op::Slice(_) => return 2.0 * written,
        Op::Embedding(_) => return 2.0 * written + stored(at.inputs[1]),
        _ => {}
    }
    let packed = products::packed_weight(graph, node, isa);
    let mut seen = HashSet::new();
    let read =
        at.inputs.iter().enumerate().filter(|(_, value)| seen.insert(**value)).map(|(place, &value)| {
            match (&packed, parameter(graph, value)) {
                // Of a shape that cannot be packed an executor has been refused.
                (Some((weight, form)), Some((_, shape))) if *weight == place => {
                    bytes_of(isa, shape, form).map_or(0.0, |bytes| bytes as f64)
                }
                _ => stored(value),
            }
        });
    read.sum::<f64>() + written
}

#[cfg(test)]
mod tests {
    use velatura_graph::op::Window;
    use velatura_graph::passes::{Precision, for_inference, for_training};
    use velatura_graph::{Builder, Init, Shortcuts, gradients};

    use super::*;

    /// A wide convolution on an image of this side, a linear layer, an attention.
    fn network(side: usize, precision: Precision) -> Graph {
        let b = Builder::new();
        let x = b.input("x", &[1, side, side, 64], DType::F32);
        let weight = |name: &str, shape: &[usize]| b.params().get(name, shape, Init::Normal(0.1));
        let x = x.conv2d(weight("conv", &[64, 64, 3, 3]), None, Window::new(1, 1));
        let tokens = x.reshape(&[1, side * side, 64]).linear(weight("linear", &[32, 64]), None);
        b.output("y", tokens.attention(tokens, tokens, None, 2, None, false).sum_all());
        for_inference(b.finish().unwrap(), precision)
    }

    /// Algorithms and bytes by operation.
    fn told(graph: &Graph, isa: Isa) -> Vec<(&'static str, String, f64)> {
        let nodes = graph.nodes().iter().enumerate();
        let told = nodes.filter_map(|(i, node)| {
            let algorithm = algorithm(graph, i, isa)?;
            Some((node.op.name(), algorithm.to_string(), traffic(graph, i, isa)))
        });
        told.collect()
    }

    fn names(graph: &Graph, isa: Isa) -> Vec<String> {
        told(graph, isa).into_iter().map(|(_, name, _)| name).collect()
    }

    #[test]
    fn the_executors_choice_is_told() {
        use Precision::{Bf16, F32, Int8};
        let attention = |arithmetic: &str| format!("online softmax, {arithmetic}");
        let expected = |isa, side, precision, conv: &str, linear: &str, bf16: &str| {
            assert_eq!(names(&network(side, precision), isa), [conv, linear, &attention(bf16)], "{isa:?}");
        };
        expected(Isa::Avx512, 32, Bf16, "Winograd F(2x4), bf16", "bf16", "bf16");
        expected(Isa::Avx512, 8, Bf16, "Winograd F(2x2), bf16", "bf16", "bf16");
        expected(Isa::Amx, 32, Bf16, "Winograd F(2x4), bf16", "bf16", "bf16");
        expected(Isa::Amx, 8, Bf16, "direct, bf16", "bf16", "bf16");
        expected(Isa::Avx512, 4, Int8, "direct, bf16", "int8", "scores int8, bf16");
        expected(Isa::Avx2, 4, Int8, "direct, f32", "int8", "f32");
        expected(Isa::Avx512, 32, F32, "Winograd F(4x4), f32", "f32", "f32");
        expected(Isa::Amx, 32, F32, "Winograd F(4x4), f32", "f32 in thirds", "f32");
        expected(Isa::Amx, 8, F32, "direct, f32 in thirds", "f32 in thirds", "f32");
        // Stored as bf16, and multiplied in single precision.
        expected(Isa::Avx2, 32, Bf16, "Winograd F(4x4), f32", "f32", "f32");
        let rough = |side| {
            let mut graph = network(side, Bf16);
            graph.set_shortcuts(Shortcuts::Rough);
            names(&graph, Isa::Avx512).swap_remove(0)
        };
        assert_eq!([32, 16].map(rough), ["Winograd F(4x4), bf16", "Winograd F(2x2), bf16"]);
        let direct = network(32, F32).in_single_precision();
        assert_eq!(names(&direct, Isa::Avx512)[0], "direct, f32");
    }

    /// A linear layer on images of `tokens` rows.
    fn layer(batch: usize, tokens: usize, precision: Precision) -> Graph {
        let b = Builder::new();
        let x = b.input("x", &[batch, tokens, 1280], DType::F32);
        let weight = b.params().get("linear", &[640, 1280], Init::Normal(0.1));
        b.output("y", x.linear(weight, None).sum_all());
        for_inference(b.finish().unwrap(), precision)
    }

    #[test]
    fn strassens_algorithm_depends_on_one_image() {
        use Precision::{Bf16, F32, Int8};
        let expected = |batch, tokens, precision, name: &str| {
            assert_eq!(names(&layer(batch, tokens, precision), Isa::Avx512), [name], "{batch} {tokens}");
        };
        expected(1, 1024, Bf16, "Strassen, bf16");
        expected(1, 256, F32, "Strassen, f32");
        expected(1, 1024, Int8, "int8");
        // Pairs of rows would reach from one image into the next.
        expected(2, 1025, Bf16, "bf16");
        // Many small images are not a large one.
        expected(8, 256, Bf16, "bf16");
        expected(8, 32, F32, "f32");
        assert_eq!(names(&layer(1, 1024, F32).in_single_precision(), Isa::Avx512), ["f32"]);
        // Few rows repay the sums of a weight of 26 MB, and not those of one of 52.
        let pays = |tokens, outputs| gemm::strassen_pays(tokens, 1280, outputs, DType::F32, false).is_some();
        assert_eq!([(256, 5120), (256, 10240), (1024, 10240)].map(|(m, n)| pays(m, n)), [true, false, true]);
    }

    #[test]
    fn gradients_are_told_apart() {
        let b = Builder::new();
        let x = b.input("x", &[1, 32, 32, 64], DType::F32);
        let weight = b.params().get("conv", &[64, 64, 3, 3], Init::Normal(0.1));
        let loss = x.conv2d(weight, None, Window::new(1, 1)).square().mean_all();
        let found = gradients(&b, loss, &[x, weight]).unwrap();
        found.into_iter().enumerate().for_each(|(i, gradient)| b.output(&i.to_string(), gradient));
        let graph = for_training(b.finish().unwrap(), Precision::Bf16);
        let of = |graph: &Graph, operation: &str| {
            let told = told(graph, Isa::Avx512);
            told.into_iter().find(|(name, ..)| *name == operation).map(|(_, algorithm, _)| algorithm).unwrap()
        };
        assert_eq!(of(&graph, "conv2d weight gradient"), "Winograd F(3x3, 2x2), bf16");
        let at = graph.nodes().iter().position(|node| node.op.name() == "conv2d weight gradient").unwrap();
        let alone = graph.alone(at).in_single_precision();
        assert_eq!(of(&alone, "conv2d weight gradient"), "direct, f32");
        // As its weight is packed.
        let at = graph.nodes().iter().position(|node| node.op.name() == "conv2d input gradient").unwrap();
        let (_, form) = products::packed_weight(&graph, at, Isa::Avx512).unwrap();
        let winograd = matches!(form, Form::WinogradGradient(..));
        assert_eq!(of(&graph, "conv2d input gradient").starts_with("Winograd F("), winograd);
    }

    #[test]
    fn bytes_are_of_what_is_stored() {
        let graph = network(32, Precision::Bf16);
        let [conv, linear, attention] = told(&graph, Isa::Avx512).try_into().unwrap();
        let image = (32 * 32 * 64 * 2) as f64;
        // Weights for tiles of 4x6 points; queries, keys and values are one tensor.
        assert_eq!(conv.2, 2.0 * image + (64 * 64 * 24 * 2) as f64);
        assert_eq!(linear.2, 1.5 * image + (64 * 32 * 2) as f64);
        assert_eq!(attention.2, 2.0 * 0.5 * image + (2 * 32 * 32 * 4) as f64);
    }
}
