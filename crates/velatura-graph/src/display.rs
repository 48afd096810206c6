//! The listing of a graph, for people.

use std::fmt;

use crate::graph::{Graph, ValueId};
use crate::op::{Constant, Epilogue, Gated, GatedGradient, Op, UnaryFunction, Window};

/// One line for each node: `%12 = conv2d(%3, unet.conv_in.weight; pad 1) : bf16[2, 64, 64, 320]`. Inputs and
/// parameters stand by their names; `!3` marks a node of the checkpointed segment 3, `again` a recomputed one.
impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for node in self.nodes() {
            let outputs: Vec<String> = node.outputs.iter().map(|&v| self.label(v)).collect();
            let types: Vec<String> = node.outputs.iter().map(|&v| self.ty(v).to_string()).collect();
            let types = types.join(", ");
            match &node.op {
                Op::Input(_) | Op::Parameter(_) => {
                    writeln!(f, "{} {} : {types}", node.op.name(), outputs.join(", "))?;
                    continue;
                }
                op => write!(f, "{} = {}(", outputs.join(", "), op.name().replace([' ', '-'], "_"))?,
            }
            let inputs: Vec<String> = node.inputs.iter().map(|&v| self.label(v)).collect();
            write!(f, "{}", inputs.join(", "))?;
            let details = details(&node.op);
            if !details.is_empty() {
                let sign = if inputs.is_empty() { "" } else { "; " };
                write!(f, "{sign}{details}")?;
            }
            write!(f, ") : {types}")?;
            if let Some(segment) = node.segment {
                write!(f, " !{segment}")?;
            }
            writeln!(f, "{}", if node.recomputed { " again" } else { "" })?;
        }
        self.outputs().iter().try_for_each(|(name, v)| writeln!(f, "output {name} = {}", self.label(*v)))
    }
}

impl Graph {
    fn label(&self, value: ValueId) -> String {
        match &self.nodes()[self.values()[value.index()].producer].op {
            Op::Input(op) => op.name.clone(),
            Op::Parameter(op) => op.name.clone(),
            _ => format!("%{}", value.index()),
        }
    }
}

/// What an operation does beyond what the types around it tell.
fn details(op: &Op) -> String {
    let parts = match op {
        Op::Constant(Constant { values, .. }) if values.len() == 1 => vec![values[0].to_string()],
        Op::Unary(op) => function(op.function),
        Op::UnaryGradient(op) => match op.function {
            UnaryFunction::Activation(activation) => vec![activation.name().into()],
            other => function(other),
        },
        Op::Gated(Gated { activation }) | Op::GatedGradient(GatedGradient { activation }) => {
            vec![activation.name().into()]
        }
        Op::Permute(op) => vec![format!("axes {:?}", op.axes)],
        Op::Slice(op) => vec![format!("axis {}", op.axis), format!("from {}", op.start)],
        Op::Pad(op) => vec![format!("axis {}", op.axis), format!("before {}", op.before)],
        Op::Concat(op) => vec![format!("axis {}", op.axis)],
        Op::Reduce(op) => vec![format!("axes {:?}", op.axes)],
        Op::MatMul(op) => named(&[("transpose a", op.transpose_a), ("transpose b", op.transpose_b)]),
        Op::Linear(op) => {
            let gate = op.gate.map(|gate| format!("gate {}", gate.name()));
            [epilogue(&op.epilogue), gate.into_iter().collect(), named(&[("int8", op.int8)])].concat()
        }
        Op::Conv2d(op) => [window(&op.window), epilogue(&op.epilogue)].concat(),
        Op::Conv2dInputGradient(op) => window(&op.window),
        Op::Conv2dWeightGradient(op) => window(&op.window),
        Op::Attention(op) => {
            let named = named(&[("causal", op.causal), ("mask", op.mask), ("int8", op.int8)]);
            [vec![format!("heads {}", op.heads)], named].concat()
        }
        Op::AttentionGradient(op) => vec![format!("heads {}", op.forward.heads)],
        Op::GroupNorm(op) => {
            let activation = op.activation.map(|a| a.name().to_string());
            std::iter::once(format!("groups {}", op.groups)).chain(activation).collect()
        }
        Op::GroupNormGradient(op) => vec![format!("groups {}", op.forward.groups)],
        Op::Resize(op) => vec![format!("{:?}", op.mode).to_lowercase()],
        Op::AvgPool2d(op) => vec![format!("kernel {}", op.kernel), format!("stride {}", op.stride)],
        _ => Vec::new(),
    };
    parts.join(", ")
}

fn named(flags: &[(&str, bool)]) -> Vec<String> {
    flags.iter().filter(|(_, on)| *on).map(|(name, _)| name.to_string()).collect()
}

fn function(function: UnaryFunction) -> Vec<String> {
    match function {
        UnaryFunction::Affine { scale, shift } => vec![format!("x * {scale} + {shift}")],
        UnaryFunction::Clamp { min, max } => vec![format!("{min} to {max}")],
        UnaryFunction::Pow { exponent } => vec![format!("exponent {exponent}")],
        _ => Vec::new(),
    }
}

fn epilogue(epilogue: &Epilogue) -> Vec<String> {
    let mut parts = named(&[("bias", epilogue.bias), ("per image", epilogue.per_image)]);
    parts.extend(epilogue.activation.map(|a| a.name().to_string()));
    parts.extend(named(&[("residual", epilogue.residual)]));
    parts
}

fn window(window: &Window) -> Vec<String> {
    let mut parts = Vec::new();
    let both = |[a, b]: [usize; 2]| if a == b { a.to_string() } else { format!("{a}x{b}") };
    if window.stride != [1, 1] {
        parts.push(format!("stride {}", both(window.stride)));
    }
    match window.padding {
        [0, 0, 0, 0] => {}
        [a, b, c, d] if a == b && b == c && c == d => parts.push(format!("pad {a}")),
        sides => parts.push(format!("pad {sides:?}")),
    }
    if window.groups != 1 {
        parts.push(format!("groups {}", window.groups));
    }
    parts
}

#[cfg(test)]
mod tests {
    use crate::op::Window;
    use crate::passes::{Precision, for_inference};
    use crate::{Builder, DType, Init};

    #[test]
    fn one_line_for_each_node() {
        let builder = Builder::new();
        let params = builder.params().at("unet").at("conv_in");
        let x = builder.input("sample", &[2, 8, 8, 4], DType::F32);
        let weight = params.get("weight", &[16, 4, 3, 3], Init::Zeros);
        let bias = params.get("bias", &[16], Init::Zeros);
        let conv = x.conv2d(weight, Some(bias), Window { stride: [2, 2], ..Window::new(1, 1) });
        builder.output("result", conv.silu() * 2.0);
        let graph = for_inference(builder.finish().unwrap(), Precision::Bf16);
        let expected = "\
input sample : f32[2, 8, 8, 4]
parameter unet.conv_in.weight : f32[16, 4, 3, 3]
parameter unet.conv_in.bias : f32[16]
%3 = cast(sample) : bf16[2, 8, 8, 4]
%4 = conv2d(%3, unet.conv_in.weight, unet.conv_in.bias; stride 2, pad 1, bias, silu) : bf16[2, 4, 4, 16]
%5 = affine(%4; x * 2 + 0) : bf16[2, 4, 4, 16]
%6 = cast(%5) : f32[2, 4, 4, 16]
output result = %6
";
        assert_eq!(graph.to_string(), expected);
    }
}
