//! Which instruction set the kernels use: detected once, or forced for testing.

use std::sync::OnceLock;

/// Environment variable that forces an instruction set: `avx512`, `avx2` or `portable`.
pub const ISA_VARIABLE: &str = "VELATURA_ISA";

/// An instruction set that kernels are written for, from the most widely available to the fastest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust; runs everywhere.
    Portable,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX-512 (F, BW, VL, DQ) with dot products of BF16 and of bytes (VNNI).
    Avx512,
}

impl Isa {
    /// Every instruction set, slowest first.
    pub const ALL: [Isa; 3] = [Isa::Portable, Isa::Avx2, Isa::Avx512];

    /// The name used on the command line and in [`ISA_VARIABLE`].
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }

    /// Whether this processor can run it.
    pub fn is_supported(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512bf16")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// The instruction sets that this processor can run, slowest first: what a test iterates over.
    pub fn supported() -> impl Iterator<Item = Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_supported())
    }

    /// The instruction set in use: [`ISA_VARIABLE`] where it names a supported one, else the best.
    ///
    /// Read once; an unknown or unsupported name is reported on the log and ignored.
    pub fn active() -> Isa {
        static ACTIVE: OnceLock<Isa> = OnceLock::new();
        *ACTIVE.get_or_init(|| {
            let best = Isa::supported().last().unwrap_or(Isa::Portable);
            let Ok(wanted) = std::env::var(ISA_VARIABLE) else { return best };
            match Isa::ALL.into_iter().find(|isa| isa.name() == wanted) {
                Some(isa) if isa.is_supported() => isa,
                _ => {
                    tracing::warn!(
                        "{ISA_VARIABLE}={wanted} is not available here; using {} (known: portable, avx2, avx512)",
                        best.name()
                    );
                    best
                }
            }
        })
    }
}
