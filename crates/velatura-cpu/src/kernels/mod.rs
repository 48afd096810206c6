//! The kernels: each folder holds one family, with a portable, an AVX2 and an AVX-512 form chosen by
//! [`Isa`](crate::Isa), held by the same tests.

pub mod attention;
pub mod elementwise;
pub mod gemm;
pub mod norm;
pub mod optimizer;
