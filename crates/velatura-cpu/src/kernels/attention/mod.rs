//! Attention that never stores the scores: `softmax(scale Q K^T + mask) V` for each head, and its gradients.
//!
//! | function | meaning |
//! |---|---|
//! | [`forward`] | the output, and where wanted the logarithm of each row's sum of exponentials |
//! | [`backward`] | gradients of Q, K and V from the output and those logarithms |
//!
//! Both work tile by tile with a running maximum and sum (Milakov and Gimelshein 2018; Dao, FlashAttention-2,
//! 2023). Lanes run along the *queries* (the transposed scores), so that maximum and sum are vertical
//! operations and a head of any width wastes nothing. Tensors are `[batch, tokens, heads * head_dim]`. Where
//! all inputs are `Bf16` and the processor multiplies pairs of them, products are bf16 with single-precision
//! sums; otherwise everything is single precision. There the forward pass can have its scores from products of bytes (see
//! `bytes`).

mod backward;
mod block;
mod bytes;
#[cfg(target_arch = "x86_64")]
mod dot;
mod finish;
mod forward;
mod pack;
mod product;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod tiles;
mod vector;

pub use backward::{Gradients, backward};
pub use forward::forward;

use crate::kernels::{Order, order};
use crate::{Data, Isa};
use velatura_graph::DType;

/// Sizes of an attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Independent sequences.
    pub batch: usize,
    /// Heads.
    pub heads: usize,
    /// Tokens of Q and of the output.
    pub q_tokens: usize,
    /// Tokens of K and V.
    pub k_tokens: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Whether query `i` sees only the keys up to `i`.
    pub causal: bool,
    /// Factor of the scores before the mask and the softmax; usually `1 / sqrt(head_dim)`.
    pub scale: f32,
}

/// Rows of Q, K or V: row `b * tokens + t` starts at element `stride * (b * tokens + t)`, and head `h` at
/// `h * head_dim` in it. A stride above `heads * head_dim` reads one part of a joint product of all three in
/// place: pass the slice from the part's first column on.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// Elements, from the first one used.
    pub data: Data<'a>,
    /// Elements from one row to the next.
    pub stride: usize,
    /// How the rows lie in memory: in tiles only where [`reads_tiles`] says so, and without anything between them.
    pub order: Order,
}

impl<'a> Rows<'a> {
    /// Rows without anything between them.
    pub fn packed(data: Data<'a>, shape: &AttentionShape) -> Self {
        Rows { data, stride: shape.heads * shape.head_dim, order: Order::Rows }
    }
}

/// Added to the scaled scores; negative infinity hides a key. A query that sees no key gives zeros.
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a> {
    /// The elements, contiguous.
    pub data: &'a [f32],
    /// `[batch or 1, heads or 1, q_tokens or 1, k_tokens]`; ones repeat.
    pub shape: [usize; 4],
}

impl Mask<'_> {
    fn strides(&self) -> [usize; 4] {
        let [b, h, q, k] = self.shape;
        [if b == 1 { 0 } else { h * q * k }, if h == 1 { 0 } else { q * k }, if q == 1 { 0 } else { k }, 1]
    }
}

impl AttentionShape {
    /// Elements of Q, the output and their gradients.
    pub fn q_len(&self) -> usize {
        self.batch * self.q_tokens * self.heads * self.head_dim
    }

    /// Elements of K, V and their gradients.
    pub fn k_len(&self) -> usize {
        self.batch * self.k_tokens * self.heads * self.head_dim
    }

    /// Floating-point operations of the two products of the forward pass, masked or not.
    pub fn forward_operations(&self) -> f64 {
        4.0 * (self.batch * self.heads * self.q_tokens) as f64 * (self.k_tokens * self.head_dim) as f64
    }

    fn check_rows(&self, name: &str, rows: &Rows<'_>, tokens: usize) {
        assert!(rows.data.dtype().is_float(), "attention: {name} is not floating point");
        let width = self.heads * self.head_dim;
        let count = self.batch * tokens;
        assert!(rows.order.takes([count, rows.stride]), "attention: {name} does not fill tiles");
        assert!(rows.stride >= width, "attention: stride of {name} below heads * head_dim");
        assert!(
            count == 0 || rows.data.len() >= (count - 1) * rows.stride + width,
            "attention: {name} is too short"
        );
    }

    fn check_mask(&self, mask: &Option<Mask<'_>>) {
        let Some(mask) = mask else { return };
        let [b, h, q, k] = mask.shape;
        assert!(
            (b == 1 || b == self.batch)
                && (h == 1 || h == self.heads)
                && (q == 1 || q == self.q_tokens)
                && k == self.k_tokens
                && mask.data.len() == b * h * q * k,
            "attention: a mask of {:?} does not fit {self:?}",
            mask.shape
        );
    }
}

/// Keys from which on bytes are worth their rounding: fewer, those of a prompt, take no time.
const FEWEST_KEYS: usize = if cfg!(test) { 1 } else { 256 };

/// Which kernel an attention runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kernel {
    Plain,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Dot,
    #[cfg(target_arch = "x86_64")]
    DotOfBytes,
    /// See `tiles`, which has tasks of its own.
    #[cfg(target_arch = "x86_64")]
    Tiles,
}

/// The type in which products of inputs that are stored so are computed: brain floating point only where the instruction
/// set multiplies it and all inputs are stored in it.
pub fn compute_dtype(isa: Isa, inputs: impl IntoIterator<Item = DType>) -> DType {
    let pairs = isa.multiplies_bf16() && inputs.into_iter().all(|dtype| dtype == DType::Bf16);
    if pairs { DType::Bf16 } else { DType::F32 }
}

/// Whether the forward pass reads queries, keys and values in [`Order::Tiles`], where products are computed so: on AMX tiles, if
/// heads are whole blocks.
pub fn reads_tiles(isa: Isa, computed: DType, head_dim: usize) -> bool {
    isa == Isa::Amx && computed == DType::Bf16 && head_dim.is_multiple_of(order::SIDE)
}

/// Whether scores that may be products of bytes are: where products are of brain floating point, and there are many keys. On AMX
/// tiles there is no such kernel.
pub fn scores_are_of_bytes(isa: Isa, computed: DType, k_tokens: usize) -> bool {
    isa != Isa::Amx && computed == DType::Bf16 && k_tokens >= FEWEST_KEYS
}

impl Kernel {
    /// The kernel whose scores are products of bytes, where there is one.
    fn with_bytes(self) -> Self {
        #[cfg(target_arch = "x86_64")]
        if self == Kernel::Dot {
            return Kernel::DotOfBytes;
        }
        self
    }

    fn choose(isa: Isa, inputs: &[Data<'_>]) -> Self {
        #[cfg(target_arch = "x86_64")]
        match isa {
            Isa::Avx512 | Isa::Amx if compute_dtype(isa, inputs.iter().map(Data::dtype)) == DType::Bf16 => {
                return if isa == Isa::Amx { Kernel::Tiles } else { Kernel::Dot };
            }
            Isa::Avx512 | Isa::Amx => return Kernel::Avx512,
            Isa::Avx2 => return Kernel::Avx2,
            Isa::Portable => {}
        }
        let _ = (isa, inputs);
        Kernel::Plain
    }
}

/// Calls `$function::<P>($arguments)` for the product of a kernel, compiled for its instruction set.
macro_rules! dispatch {
    ($kernel:expr, $function:ident($($argument:ident: $type:ty),*)) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn avx2($($argument: $type),*) {
            // SAFETY: compiled for the instruction set.
            unsafe { $function::<Single<std::arch::x86_64::__m256, false>>($($argument),*) }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
        unsafe fn avx512($($argument: $type),*) {
            // SAFETY: compiled for the instruction set.
            unsafe { $function::<Single<std::arch::x86_64::__m512, true>>($($argument),*) }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512vbmi,avx512bf16,avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
        unsafe fn dot($($argument: $type),*) {
            // SAFETY: compiled for the instruction set.
            unsafe { $function::<Dot<false>>($($argument),*) }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512vnni,avx512vbmi,avx512bf16,avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
        unsafe fn dot_of_bytes($($argument: $type),*) {
            // SAFETY: compiled for the instruction set.
            unsafe { $function::<Dot<true>>($($argument),*) }
        }
        // SAFETY: kernels are called with an instruction set that the processor supports.
        unsafe {
            match $kernel {
                Kernel::Plain => $function::<Single<Plain, false>>($($argument),*),
                #[cfg(target_arch = "x86_64")]
                Kernel::Avx2 => avx2($($argument),*),
                #[cfg(target_arch = "x86_64")]
                Kernel::Avx512 => avx512($($argument),*),
                #[cfg(target_arch = "x86_64")]
                Kernel::Dot => dot($($argument),*),
                #[cfg(target_arch = "x86_64")]
                Kernel::DotOfBytes => dot_of_bytes($($argument),*),
                #[cfg(target_arch = "x86_64")]
                Kernel::Tiles => unreachable!("tiles have tasks of their own"),
            }
        }
    }};
}
use dispatch;
