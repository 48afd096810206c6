//! Vectors of single-precision lanes for the tile kernel: one type for each instruction set.
//!
//! Every function is `#[inline(always)]` and must end up in a function compiled for the instruction set of
//! its type; that is the safety contract of all of them, next to valid pointers for loads and stores.
//! Pointers need no alignment.

/// A vector register and what the tile kernel does with it.
pub(super) trait Lanes: Copy {
    /// Lanes of a register.
    const WIDTH: usize;
    unsafe fn zero() -> Self;
    /// The same 32 bits in every lane.
    unsafe fn splat_bits(from: *const u8) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// Loads brain floating-point numbers.
    unsafe fn load_bf16(from: *const u16) -> Self;
    /// Stores brain floating-point numbers, rounded to nearest even.
    unsafe fn store_bf16(self, to: *mut u16);
    /// [`Lanes::store_bf16`] of two vectors side by side.
    #[inline(always)]
    unsafe fn store_both_bf16(both: [Self; 2], to: *mut u16) {
        // SAFETY: the caller's promise.
        unsafe {
            both[0].store_bf16(to);
            both[1].store_bf16(to.wrapping_add(Self::WIDTH));
        }
    }
    /// The lanes of `self` and `high` as pairs of brain floating-point numbers, rounded to nearest even. Only where the
    /// instruction set multiplies them: AVX-512.
    unsafe fn pairs(self, high: Self) -> Self;
    /// The first numbers of pairs, and the second ones. Only where [`Lanes::pairs`] is.
    unsafe fn numbers(self) -> [Self; 2];
    unsafe fn add(self, b: Self) -> Self;
    unsafe fn sub(self, b: Self) -> Self;
    /// `self + a * b`
    unsafe fn multiply_add(self, a: Self, b: Self) -> Self;
    /// `self + a0 * b0 + a1 * b1` where the lanes of `a` and `b` hold pairs of brain floating-point numbers.
    /// Only where the instruction set has it: AVX-512.
    unsafe fn multiply_add_pairs(self, a: Self, b: Self) -> Self;

    /// `self + a0 * b0 + .. + a3 * b3` of whole numbers: the lanes of `self` are i32, those of `a` four bytes without sign,
    /// those of `b` four bytes with one.
    unsafe fn multiply_add_bytes(self, a: Self, b: Self) -> Self;

    /// The first `n` lanes from memory, the others zero.
    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> Self {
        let mut buffer = [0.0f32; 16];
        // SAFETY: `n` elements are readable and `n` is at most WIDTH, at most 16.
        unsafe {
            std::ptr::copy_nonoverlapping(from, buffer.as_mut_ptr(), n);
            Self::load(buffer.as_ptr())
        }
    }
    /// Stores the first `n` lanes.
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, n: usize) {
        let mut buffer = [0.0f32; 16];
        // SAFETY: as in `load_first`.
        unsafe {
            self.store(buffer.as_mut_ptr());
            std::ptr::copy_nonoverlapping(buffer.as_ptr(), to, n);
        }
    }
    #[inline(always)]
    unsafe fn load_bf16_first(from: *const u16, n: usize) -> Self {
        let mut buffer = [0u16; 16];
        // SAFETY: as in `load_first`.
        unsafe {
            std::ptr::copy_nonoverlapping(from, buffer.as_mut_ptr(), n);
            Self::load_bf16(buffer.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store_bf16_first(self, to: *mut u16, n: usize) {
        let mut buffer = [0u16; 16];
        // SAFETY: as in `load_first`.
        unsafe {
            self.store_bf16(buffer.as_mut_ptr());
            std::ptr::copy_nonoverlapping(buffer.as_ptr(), to, n);
        }
    }
}

/// Eight lanes of plain Rust: two registers of the oldest 64-bit processors, and of ARM.
#[derive(Clone, Copy)]
pub(super) struct Plain([f32; 8]);

impl Lanes for Plain {
    const WIDTH: usize = 8;
    #[inline(always)]
    unsafe fn zero() -> Self {
        Plain([0.0; 8])
    }
    #[inline(always)]
    unsafe fn splat_bits(from: *const u8) -> Self {
        // SAFETY: four bytes, by contract.
        Plain([unsafe { from.cast::<f32>().read_unaligned() }; 8])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: eight elements, by contract.
        Plain(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: eight elements, by contract.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        // SAFETY: eight elements, by contract.
        let bits = unsafe { from.cast::<[u16; 8]>().read_unaligned() };
        Plain(bits.map(|b| f32::from_bits(u32::from(b) << 16)))
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16) {
        let bits = self.0.map(super::pack::bf16_bits);
        // SAFETY: eight elements, by contract.
        unsafe { to.cast::<[u16; 8]>().write_unaligned(bits) }
    }
    #[inline(always)]
    unsafe fn pairs(self, _: Self) -> Self {
        unreachable!("the portable kernels compute in single precision")
    }
    #[inline(always)]
    unsafe fn numbers(self) -> [Self; 2] {
        unreachable!("the portable kernels compute in single precision")
    }
    #[inline(always)]
    unsafe fn add(mut self, b: Self) -> Self {
        for i in 0..8 {
            self.0[i] += b.0[i];
        }
        self
    }
    #[inline(always)]
    unsafe fn sub(mut self, b: Self) -> Self {
        for i in 0..8 {
            self.0[i] -= b.0[i];
        }
        self
    }
    #[inline(always)]
    unsafe fn multiply_add(mut self, a: Self, b: Self) -> Self {
        for i in 0..8 {
            self.0[i] += a.0[i] * b.0[i];
        }
        self
    }
    #[inline(always)]
    unsafe fn multiply_add_pairs(self, _: Self, _: Self) -> Self {
        unreachable!("the portable kernels compute in single precision")
    }
    #[inline(always)]
    unsafe fn multiply_add_bytes(mut self, a: Self, b: Self) -> Self {
        for i in 0..8 {
            let (a, b) = (a.0[i].to_bits().to_le_bytes(), b.0[i].to_bits().to_le_bytes());
            let mut sum = self.0[i].to_bits() as i32;
            for (a, b) in a.into_iter().zip(b) {
                sum += i32::from(a) * i32::from(b as i8);
            }
            self.0[i] = f32::from_bits(sum as u32);
        }
        self
    }
}
