//! Functions of one and of two numbers, with NumPy's broadcasting; casts.

use super::{Adjoint, Operation, arity, ensure, floats};
use crate::error::GraphError;
use crate::reference::{Array, erf};
use crate::types::{Activation, DType, TensorType};
use crate::var::Var;

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum UnaryFunction {
    Neg,
    Exp,
    Log,
    Sqrt,
    Rsqrt,
    Square,
    Abs,
    Sign,
    Sin,
    Cos,
    Reciprocal,
    /// `x * scale + shift`
    Affine {
        scale: f32,
        shift: f32,
    },
    Clamp {
        min: f32,
        max: f32,
    },
    /// `x^exponent`
    Pow {
        exponent: f32,
    },
    Activation(Activation),
}

/// Applies a function to every element.
#[derive(Clone, Debug, PartialEq)]
pub struct Unary {
    /// The function.
    pub function: UnaryFunction,
}

/// The adjoint of [`Unary`] for functions whose derivative needs their argument: `(x, dy) -> dx`.
#[derive(Clone, Debug, PartialEq)]
pub struct UnaryGradient {
    /// The function that was applied.
    pub function: UnaryFunction,
}

/// A function of two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum BinaryFunction {
    Add,
    Sub,
    Mul,
    Div,
    Max,
    Min,
    /// 1 where the first is greater, else 0.
    Greater,
    /// 1 where they are equal, else 0.
    Equal,
}

/// Combines two tensors elementwise, broadcasting axes of length 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Binary {
    /// The function.
    pub function: BinaryFunction,
}

/// Converts the storage type.
#[derive(Clone, Debug, PartialEq)]
pub struct Cast {
    /// The storage type of the result.
    pub to: DType,
}

/// The identity, through which no gradient flows.
#[derive(Clone, Debug, PartialEq)]
pub struct Detach;

impl Activation {
    /// Name in messages and listings.
    pub fn name(self) -> &'static str {
        match self {
            Activation::Relu => "relu",
            Activation::Silu => "silu",
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu_tanh",
            Activation::QuickGelu => "quick_gelu",
            Activation::Tanh => "tanh",
            Activation::Sigmoid => "sigmoid",
        }
    }

    /// Its value at `x`, in double precision.
    pub fn value(self, x: f64) -> f64 {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        match self {
            Activation::Relu => x.max(0.0),
            Activation::Silu => x * sigmoid(x),
            Activation::Gelu => 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
            Activation::GeluTanh => 0.5 * x * (1.0 + (GELU_A * (x + GELU_B * x * x * x)).tanh()),
            Activation::QuickGelu => x * sigmoid(1.702 * x),
            Activation::Tanh => x.tanh(),
            Activation::Sigmoid => sigmoid(x),
        }
    }

    /// Its derivative at `x`, in double precision; 0 for the corner of [`Activation::Relu`].
    pub fn derivative(self, x: f64) -> f64 {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        match self {
            Activation::Relu => f64::from(u8::from(x > 0.0)),
            Activation::Silu => {
                let s = sigmoid(x);
                s * (1.0 + x * (1.0 - s))
            }
            Activation::Gelu => {
                let cdf = 0.5 * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2));
                cdf + x * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
            }
            Activation::GeluTanh => {
                let t = (GELU_A * (x + GELU_B * x * x * x)).tanh();
                0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * GELU_A * (1.0 + 3.0 * GELU_B * x * x)
            }
            Activation::QuickGelu => {
                let s = sigmoid(1.702 * x);
                s * (1.0 + 1.702 * x * (1.0 - s))
            }
            Activation::Tanh => 1.0 - x.tanh() * x.tanh(),
            Activation::Sigmoid => sigmoid(x) * (1.0 - sigmoid(x)),
        }
    }
}

/// `sqrt(2 / pi)` of the tanh form of GELU (Hendrycks and Gimpel 2016).
const GELU_A: f64 = 0.797_884_560_802_865_4;
const GELU_B: f64 = 0.044_715;

impl UnaryFunction {
    /// Its value at `x`, in double precision.
    pub fn value(self, x: f64) -> f64 {
        match self {
            UnaryFunction::Neg => -x,
            UnaryFunction::Exp => x.exp(),
            UnaryFunction::Log => x.ln(),
            UnaryFunction::Sqrt => x.sqrt(),
            UnaryFunction::Rsqrt => 1.0 / x.sqrt(),
            UnaryFunction::Square => x * x,
            UnaryFunction::Abs => x.abs(),
            UnaryFunction::Sign => sign(x),
            UnaryFunction::Sin => x.sin(),
            UnaryFunction::Cos => x.cos(),
            UnaryFunction::Reciprocal => 1.0 / x,
            UnaryFunction::Affine { scale, shift } => x * f64::from(scale) + f64::from(shift),
            UnaryFunction::Clamp { min, max } => x.max(f64::from(min)).min(f64::from(max)),
            UnaryFunction::Pow { exponent } => x.powf(f64::from(exponent)),
            UnaryFunction::Activation(activation) => activation.value(x),
        }
    }

    /// Its derivative at `x`, in double precision.
    pub fn derivative(self, x: f64) -> f64 {
        match self {
            UnaryFunction::Neg => -1.0,
            UnaryFunction::Exp => x.exp(),
            UnaryFunction::Log | UnaryFunction::Sqrt if x == 0.0 => f64::INFINITY,
            UnaryFunction::Log => 1.0 / x,
            UnaryFunction::Sqrt => 0.5 / x.sqrt(),
            UnaryFunction::Rsqrt => -0.5 / (x * x.sqrt()),
            UnaryFunction::Square => 2.0 * x,
            UnaryFunction::Abs => sign(x),
            UnaryFunction::Sign => 0.0,
            UnaryFunction::Sin => x.cos(),
            UnaryFunction::Cos => -x.sin(),
            UnaryFunction::Reciprocal => -1.0 / (x * x),
            UnaryFunction::Affine { scale, .. } => f64::from(scale),
            UnaryFunction::Clamp { min, max } => {
                f64::from(u8::from(x >= f64::from(min) && x <= f64::from(max)))
            }
            UnaryFunction::Pow { exponent } => f64::from(exponent) * x.powf(f64::from(exponent) - 1.0),
            UnaryFunction::Activation(activation) => activation.derivative(x),
        }
    }
}

fn sign(x: f64) -> f64 {
    if x == 0.0 { 0.0 } else { x.signum() }
}

impl Operation for Unary {
    fn name(&self) -> &'static str {
        match self.function {
            UnaryFunction::Neg => "negate",
            UnaryFunction::Exp => "exp",
            UnaryFunction::Log => "log",
            UnaryFunction::Sqrt => "sqrt",
            UnaryFunction::Rsqrt => "rsqrt",
            UnaryFunction::Square => "square",
            UnaryFunction::Abs => "abs",
            UnaryFunction::Sign => "sign",
            UnaryFunction::Sin => "sin",
            UnaryFunction::Cos => "cos",
            UnaryFunction::Reciprocal => "reciprocal",
            UnaryFunction::Affine { .. } => "affine",
            UnaryFunction::Clamp { .. } => "clamp",
            UnaryFunction::Pow { .. } => "power",
            UnaryFunction::Activation(activation) => activation.name(),
        }
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        arity(inputs, 1)?;
        floats(inputs)?;
        Ok(vec![inputs[0].clone()])
    }
    fn gradient<'g>(&self, at: &Adjoint<'_, 'g>) -> Result<Vec<Option<Var<'g>>>, GraphError> {
        let (x, y, dy) = (at.inputs[0], at.outputs[0], at.grad());
        let dx = match self.function {
            UnaryFunction::Neg => -dy,
            UnaryFunction::Exp => dy * y,
            UnaryFunction::Log => dy / x,
            UnaryFunction::Sqrt => dy * y.reciprocal() * 0.5,
            UnaryFunction::Rsqrt => dy * (y * y * y) * -0.5,
            UnaryFunction::Square => dy * x * 2.0,
            UnaryFunction::Abs => dy * x.sign(),
            UnaryFunction::Sign => return Ok(vec![None]),
            UnaryFunction::Sin => dy * x.cos(),
            UnaryFunction::Cos => -(dy * x.sin()),
            UnaryFunction::Reciprocal => -(dy * y * y),
            UnaryFunction::Affine { scale, .. } => dy * scale,
            UnaryFunction::Pow { exponent } => dy * x.powf(exponent - 1.0) * exponent,
            function @ (UnaryFunction::Clamp { .. } | UnaryFunction::Activation(_)) => {
                x.builder().push(UnaryGradient { function }.into(), &[x, dy])[0]
            }
        };
        Ok(vec![Some(dx)])
    }
    fn evaluate(&self, inputs: &[&Array], _: &[TensorType]) -> Vec<Array> {
        vec![inputs[0].map(|x| self.function.value(x))]
    }
}

impl Operation for UnaryGradient {
    fn name(&self) -> &'static str {
        "unary gradient"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        arity(inputs, 2)?;
        floats(inputs)?;
        ensure!(inputs[0].shape == inputs[1].shape, "the gradient has another shape than the argument");
        Ok(vec![inputs[0].clone()])
    }
    fn evaluate(&self, inputs: &[&Array], _: &[TensorType]) -> Vec<Array> {
        let (x, dy) = (inputs[0], inputs[1]);
        vec![Array::from_fn(&x.shape, |i| self.function.derivative(x.data[i]) * dy.data[i])]
    }
}

/// The shape that two shapes broadcast to, aligned at the last axis.
pub(crate) fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let at = |s: &[usize], i: usize| if i + s.len() < rank { 1 } else { s[i + s.len() - rank] };
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y => Some(x),
            (1, y) => Some(y),
            (x, 1) => Some(x),
            _ => None,
        })
        .collect()
}

impl Operation for Binary {
    fn name(&self) -> &'static str {
        match self.function {
            BinaryFunction::Add => "add",
            BinaryFunction::Sub => "subtract",
            BinaryFunction::Mul => "multiply",
            BinaryFunction::Div => "divide",
            BinaryFunction::Max => "maximum",
            BinaryFunction::Min => "minimum",
            BinaryFunction::Greater => "greater",
            BinaryFunction::Equal => "equal",
        }
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        arity(inputs, 2)?;
        floats(inputs)?;
        let shape = broadcast(&inputs[0].shape, &inputs[1].shape)
            .ok_or("the shapes differ in an axis where neither is 1")?;
        let both_bf16 = inputs.iter().all(|t| t.dtype == DType::Bf16);
        Ok(vec![TensorType::new(shape, if both_bf16 { DType::Bf16 } else { DType::F32 })])
    }
    fn gradient<'g>(&self, at: &Adjoint<'_, 'g>) -> Result<Vec<Option<Var<'g>>>, GraphError> {
        let (a, b, y, dy) = (at.inputs[0], at.inputs[1], at.outputs[0], at.grad());
        // Half of the gradient to each where a maximum or minimum is a tie, as in PyTorch.
        let share = |winner: Var<'g>| dy * (winner + a.equal(b) * 0.5);
        let sides: [&dyn Fn() -> Var<'g>; 2] = match self.function {
            BinaryFunction::Add => [&|| dy, &|| dy],
            BinaryFunction::Sub => [&|| dy, &|| -dy],
            BinaryFunction::Mul => [&|| dy * b, &|| dy * a],
            BinaryFunction::Div => [&|| dy / b, &|| -(dy * y / b)],
            BinaryFunction::Max => [&|| share(a.greater(b)), &|| share(b.greater(a))],
            BinaryFunction::Min => [&|| share(b.greater(a)), &|| share(a.greater(b))],
            BinaryFunction::Greater | BinaryFunction::Equal => return Ok(vec![None, None]),
        };
        Ok((0..2).map(|i| at.wanted[i].then(|| sides[i]().sum_to(&at.inputs[i].shape()))).collect())
    }
    fn evaluate(&self, inputs: &[&Array], types: &[TensorType]) -> Vec<Array> {
        let shape = &types[0].shape;
        let (a, b) = (inputs[0].broadcast_to(shape), inputs[1].broadcast_to(shape));
        let truth = |t: bool| f64::from(u8::from(t));
        vec![Array::from_fn(shape, |i| {
            let (x, y) = (a.data[i], b.data[i]);
            match self.function {
                BinaryFunction::Add => x + y,
                BinaryFunction::Sub => x - y,
                BinaryFunction::Mul => x * y,
                BinaryFunction::Div => x / y,
                BinaryFunction::Max => x.max(y),
                BinaryFunction::Min => x.min(y),
                BinaryFunction::Greater => truth(x > y),
                BinaryFunction::Equal => truth(x == y),
            }
        })]
    }
}

impl Operation for Cast {
    fn name(&self) -> &'static str {
        "cast"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        arity(inputs, 1)?;
        ensure!(
            inputs[0].dtype.is_float() && self.to.is_float(),
            "only floating-point types are cast to each other"
        );
        Ok(vec![TensorType::new(inputs[0].shape.clone(), self.to)])
    }
    fn gradient<'g>(&self, at: &Adjoint<'_, 'g>) -> Result<Vec<Option<Var<'g>>>, GraphError> {
        Ok(vec![Some(at.grad().cast(at.inputs[0].ty().dtype))])
    }
    fn evaluate(&self, inputs: &[&Array], _: &[TensorType]) -> Vec<Array> {
        vec![inputs[0].clone()]
    }
}

impl Operation for Detach {
    fn name(&self) -> &'static str {
        "detach"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        arity(inputs, 1)?;
        Ok(vec![inputs[0].clone()])
    }
    fn gradient<'g>(&self, _: &Adjoint<'_, 'g>) -> Result<Vec<Option<Var<'g>>>, GraphError> {
        Ok(vec![None])
    }
    fn evaluate(&self, inputs: &[&Array], _: &[TensorType]) -> Vec<Array> {
        vec![inputs[0].clone()]
    }
}
