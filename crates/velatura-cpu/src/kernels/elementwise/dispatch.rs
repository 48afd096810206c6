//! One source, three instantiations: the macro that compiles a loop once for each instruction set, and the
//! views that let tasks of a [`ThreadPool`](crate::ThreadPool) write disjoint parts of one output.

use std::cell::RefCell;
use std::marker::PhantomData;

use half::bf16;

use crate::kernels::LINE;
use crate::{AlignedBytes, Data, DataMut, Isa};

/// Defines a function over plain slices three times: as written, with AVX2 and FMA, and with AVX-512, and a
/// dispatcher of the same name that takes the [`Isa`] first.
///
/// In the body `FMA` is a constant that says whether fused multiply-add is one instruction; see
/// [`madd`](super::math::madd). The loops are written so that LLVM vectorises them.
macro_rules! simd {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $(<$($g:ident : $bound:path),+>)? ($($arg:ident : $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name $(<$($g: $bound),+>)? (isa: $crate::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body<const FMA: bool $(, $($g: $bound),+)?>($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            #[allow(clippy::too_many_arguments)]
            fn avx2 $(<$($g: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? { body::<true $(, $($g),+)?>($($arg),*) }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
            #[allow(clippy::too_many_arguments)]
            fn avx512 $(<$($g: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? { body::<true $(, $($g),+)?>($($arg),*) }
            match isa {
                // SAFETY: kernels are called with an instruction set that the processor supports.
                #[cfg(target_arch = "x86_64")]
                $crate::Isa::Avx512 | $crate::Isa::Amx => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::Isa::Avx2 => unsafe { avx2($($arg),*) },
                _ => body::<false $(, $($g),+)?>($($arg),*),
            }
        }
    };
}
pub(crate) use simd;

/// Elements that a kernel handles at once between reading and writing: three buffers of it fit the
/// first-level cache.
pub(crate) const BLOCK: usize = 1024;

/// Elements of one task of an elementwise kernel. Fixed, so that nothing depends on the thread count.
pub(crate) const CHUNK: usize = 16 * BLOCK;

/// A mutable slice that several tasks write disjoint parts of.
pub(crate) struct Shared<'a, T> {
    pointer: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: access goes through `slice`, whose caller promises disjoint parts.
unsafe impl<T: Send> Sync for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Shared { pointer: slice.as_mut_ptr(), len: slice.len(), life: PhantomData }
    }

    /// The part of `len` elements from `start`.
    ///
    /// # Safety
    /// No two parts that are alive at the same time overlap.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start);
        // SAFETY: inside the slice it was made from; disjointness is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(start), len) }
    }

    /// The part of `len` elements from `start`, to read.
    ///
    /// # Safety
    /// Nothing writes to it meanwhile.
    pub(crate) unsafe fn read(&self, start: usize, len: usize) -> &[T] {
        assert!(start <= self.len && len <= self.len - start);
        // SAFETY: inside the slice it was made from; that nobody writes is the caller's promise.
        unsafe { std::slice::from_raw_parts(self.pointer.add(start), len) }
    }
}

/// A floating-point output that several tasks write disjoint parts of.
pub(crate) enum Out<'a> {
    F32(Shared<'a, f32>),
    Bf16(Shared<'a, bf16>),
}

impl<'a> Out<'a> {
    pub(crate) fn new(data: DataMut<'a>) -> Self {
        match data {
            DataMut::F32(x) => Out::F32(Shared::new(x)),
            DataMut::Bf16(x) => Out::Bf16(Shared::new(x)),
            DataMut::I32(_) => panic!("this kernel writes floating-point elements"),
        }
    }

    /// Elements of a line of the caches.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn of_line(&self) -> usize {
        match self {
            Out::F32(_) => LINE / size_of::<f32>(),
            Out::Bf16(_) => LINE / size_of::<bf16>(),
        }
    }

    /// Where an element is, to be fetched.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn at(&self, place: usize) -> *const u8 {
        match self {
            Out::F32(shared) => shared.pointer.wrapping_add(place).cast(),
            Out::Bf16(shared) => shared.pointer.wrapping_add(place).cast(),
        }
    }

    /// Stores `values` from `start` on.
    ///
    /// # Safety
    /// As for [`Out::write`].
    #[inline]
    pub(crate) unsafe fn store(&self, isa: Isa, start: usize, values: &[f32]) {
        match self {
            // SAFETY: the caller's promise.
            Out::F32(shared) => unsafe { shared.slice(start, values.len()) }.copy_from_slice(values),
            // SAFETY: the caller's promise.
            Out::Bf16(shared) => narrow(isa, values, unsafe { shared.slice(start, values.len()) }),
        }
    }

    /// Lets `f` write (not read) `len` elements from `start` in single precision, then stores them.
    ///
    /// # Safety
    /// No two calls that run at the same time write overlapping parts.
    #[inline]
    pub(crate) unsafe fn write(&self, isa: Isa, start: usize, len: usize, f: impl FnOnce(&mut [f32])) {
        match self {
            // SAFETY: the caller's promise.
            Out::F32(shared) => f(unsafe { shared.slice(start, len) }),
            Out::Bf16(shared) => {
                // SAFETY: the caller's promise.
                let out = unsafe { shared.slice(start, len) };
                // A buffer on the stack would be cleared each time, which costs as much as a short `f`.
                with_scratch(len, |buffer: &mut [f32]| {
                    f(buffer);
                    narrow(isa, buffer, out);
                });
            }
        }
    }
}

/// How a result is stored.
pub(crate) trait Stored {
    fn of(x: f32) -> Self;
}

impl Stored for f32 {
    #[inline(always)]
    fn of(x: f32) -> f32 {
        x
    }
}

impl Stored for bf16 {
    #[inline(always)]
    fn of(x: f32) -> bf16 {
        round_bf16(x)
    }
}

/// `len` elements from `start` in single precision: the slice itself, or a conversion into `buffer`.
#[inline]
pub(crate) fn read<'b>(
    isa: Isa,
    data: Data<'b>,
    start: usize,
    len: usize,
    buffer: &'b mut [f32],
) -> &'b [f32] {
    match data {
        Data::F32(x) => &x[start..start + len],
        Data::Bf16(x) => {
            widen(isa, &x[start..start + len], &mut buffer[..len]);
            &buffer[..len]
        }
        Data::I32(_) => panic!("this kernel reads floating-point elements"),
    }
}

/// How many elements of conversion buffer [`read`] needs for `len` elements of `data`.
pub(crate) fn buffer_len(data: Data<'_>, len: usize) -> usize {
    if matches!(data, Data::Bf16(_)) { len } else { 0 }
}

simd! {
    /// Converts to single precision; both slices have the same length.
    pub(crate) fn widen(x: &[bf16], out: &mut [f32]) {
        for (o, x) in out.iter_mut().zip(x) {
            *o = f32::from_bits(u32::from(x.to_bits()) << 16);
        }
    }
}

simd! {
    /// Converts to brain floating point, rounding to nearest even; both slices have the same length.
    pub(crate) fn narrow(x: &[f32], out: &mut [bf16]) {
        for (o, x) in out.iter_mut().zip(x) {
            *o = round_bf16(*x);
        }
    }
}

/// The nearest brain floating-point number, ties to even, without a branch.
#[inline(always)]
pub(crate) fn round_bf16(x: f32) -> bf16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let nan = (bits >> 16) | 0x40;
    // Chosen before it is narrowed, so that one number is and not both.
    let chosen = if bits & 0x7fff_ffff > 0x7f80_0000 { nan } else { rounded };
    bf16::from_bits(chosen as u16)
}

/// Calls `f` with `len` elements of unspecified content that this thread keeps for the next call.
pub(crate) fn with_scratch<T: bytemuck::Pod, R>(len: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
    thread_local! {
        static BUFFERS: RefCell<Vec<AlignedBytes>> = const { RefCell::new(Vec::new()) };
    }
    let mut bytes = BUFFERS.with(|b| b.borrow_mut().pop()).unwrap_or_default();
    bytes.reserve(len * size_of::<T>());
    let result = f(&mut bytes.typed_mut::<T>()[..len]);
    BUFFERS.with(|b| b.borrow_mut().push(bytes));
    result
}

/// Splits `count` elements into fixed chunks and calls `f(start, len)` for each on the pool.
pub(crate) fn for_chunks(
    pool: &crate::ThreadPool,
    count: usize,
    chunk: usize,
    f: impl Fn(usize, usize) + Sync,
) {
    pool.run(count.div_ceil(chunk), |index, _| {
        let start = index * chunk;
        f(start, chunk.min(count - start));
    });
}

/// Splits `[start, start + len)` into blocks of at most [`BLOCK`].
pub(crate) fn blocks(start: usize, len: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..len).step_by(BLOCK).map(move |offset| (start + offset, BLOCK.min(len - offset)))
}
