//! Which instruction set the kernels use: detected once, or forced for testing.

use std::sync::OnceLock;

/// Environment variable that forces an instruction set: `amx`, `avx512`, `avx2` or `portable`.
pub const ISA_VARIABLE: &str = "VELATURA_ISA";

/// An instruction set that kernels are written for, from the most widely available to the fastest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust; runs everywhere.
    Portable,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX-512 (F, BW, VL, DQ) with dot products of BF16 and of bytes (VNNI), and permutations of bytes (VBMI): AMD from Zen 4 on,
    /// Intel from Sapphire Rapids on.
    Avx512,
    /// The same, with products of tiles of BF16 and of bytes (AMX).
    Amx,
}

impl Isa {
    /// Every instruction set, slowest first.
    pub const ALL: [Isa; 4] = [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Amx];

    /// The name used on the command line and in [`ISA_VARIABLE`].
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Amx => "amx",
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
                    && is_x86_feature_detected!("avx512vbmi")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => Isa::Avx512.is_supported() && amx::is_supported(),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// Whether products of pairs of brain floating-point numbers are instructions of it.
    pub fn multiplies_bf16(self) -> bool {
        self >= Isa::Avx512
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
                        "{ISA_VARIABLE}={wanted} is not available here; using {} (known: portable, avx2, avx512, amx)",
                        best.name()
                    );
                    best
                }
            }
        })
    }
}

#[cfg(target_arch = "x86_64")]
mod amx {
    //! Tiles are a state of several kilobytes, which Linux gives to a process that asks for it.

    /// Whether the processor has tiles of BF16 and of bytes, and the system lets this process use them.
    pub(super) fn is_supported() -> bool {
        use std::arch::x86_64::__cpuid_count;
        use std::sync::OnceLock;
        const WANTED: u32 = 1 << 22 | 1 << 24 | 1 << 25;
        static SUPPORTED: OnceLock<bool> = OnceLock::new();
        // AVX-512 was found, which is far behind the leaf that is asked for.
        *SUPPORTED.get_or_init(|| __cpuid_count(7, 0).edx & WANTED == WANTED && is_permitted())
    }

    #[cfg(target_os = "linux")]
    fn is_permitted() -> bool {
        /// `ARCH_REQ_XCOMP_PERM` and the number of the tiles' state: Linux, `Documentation/arch/x86/xstate.rst`.
        const REQUEST_STATE: libc::c_long = 0x1023;
        const TILE_DATA: libc::c_long = 18;
        // SAFETY: changes what the process may use, and nothing that it has.
        unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST_STATE, TILE_DATA) == 0 }
    }

    #[cfg(not(target_os = "linux"))]
    fn is_permitted() -> bool {
        false
    }
}
