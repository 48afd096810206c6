//! Weights in the form that the tile kernel reads.

use velatura_graph::DType;

use super::error::{GemmError, check_len};
use super::int8;
use super::pack::{Layout, Number, Source, pack};
use super::thirds;
use super::tile::{Kernels, Steps};
use super::winograd::{self, Tiling};
use crate::{AlignedBytes, Isa, ThreadPool, Values};

/// The type in which products of operands stored as `storage` are computed: brain floating point only where
/// the instruction set multiplies it, single precision elsewhere.
pub fn compute_dtype(isa: Isa, storage: DType) -> DType {
    if isa.multiplies_bf16() && storage == DType::Bf16 { DType::Bf16 } else { DType::F32 }
}

/// Whether products as they are written run on AMX tiles, in brain floating point. Those of Strassen's algorithm, and of weight gradients by Winograd's, do
/// not, and take several times as long. `computed` is the type of the products ([`compute_dtype`]).
pub fn on_tiles(isa: Isa, computed: DType) -> bool {
    (isa, computed) == (Isa::Amx, DType::Bf16)
}

/// Whether linear layers and convolutions as they are written are products of thirds in brain floating point on AMX tiles
/// (`thirds`): faster than those of single precision, and no less exact. `computed` is as for [`on_tiles`].
pub fn in_thirds(isa: Isa, computed: DType) -> bool {
    (isa, computed) == (Isa::Amx, DType::F32)
}

/// What a packed weight is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Linear,
    /// A linear layer whose second half gates the first: see [`Epilogue::gate`](super::Epilogue::gate).
    LinearGated,
    /// A linear layer in 8 bits.
    LinearInt8,
    /// The same, gated.
    LinearInt8Gated,
    LinearInputGradient,
    Conv,
    /// A convolution by Winograd's algorithm.
    ConvWinograd(Tiling),
    ConvInputGradient,
    /// The same by Winograd's algorithm.
    ConvInputGradientWinograd(Tiling),
}

impl Purpose {
    pub(super) fn is_int8(self) -> bool {
        matches!(self, Purpose::LinearInt8 | Purpose::LinearInt8Gated)
    }

    pub(super) fn is_gated(self) -> bool {
        matches!(self, Purpose::LinearGated | Purpose::LinearInt8Gated)
    }

    /// Whether [`linear`](super::linear) takes it.
    pub(super) fn is_linear(self) -> bool {
        matches!(self, Purpose::Linear | Purpose::LinearInputGradient) || self.is_int8() || self.is_gated()
    }
}

/// Some taps of a weight, as panels: all of them, or those that meet one phase of a strided gradient.
#[derive(Debug)]
pub(super) struct Part {
    /// Cells before it.
    pub start: usize,
    /// Offsets of the taps in the canonical weight.
    pub taps: Vec<usize>,
}

/// A parameter packed into panels for one use, instruction set and storage type of the activations.
///
/// Made from the canonical layouts: linear `[out, in]`, convolution `[out, in / groups, kh, kw]`.
pub struct PackedMatrix {
    pub(super) kernels: &'static Kernels,
    pub(super) purpose: Purpose,
    /// Shape of the canonical weight; a linear layer's is `[out, in, 1, 1]`.
    pub(super) shape: [usize; 4],
    pub(super) groups: usize,
    /// Of the convolution, where it matters to the packing (its input gradient); else 1.
    pub(super) stride: [usize; 2],
    /// Depth of one tap.
    pub(super) depth: usize,
    depth_stride: usize,
    /// Columns of one group.
    pub(super) columns: usize,
    column_stride: usize,
    /// One, or one for each phase, row of phases by row.
    pub(super) parts: Vec<Part>,
    /// Bytes of all panels.
    bytes: usize,
    /// The panels; empty until memory is given.
    cells: AlignedBytes,
    /// Of a layer in 8 bits.
    pub(super) quantized: int8::Columns,
}

/// The taps that meet each phase of a stride, row of phases by row.
fn taps_by_phase([kh, kw]: [usize; 2], stride: [usize; 2]) -> Vec<Vec<usize>> {
    let taps = |y: usize, x: usize| {
        let rows = (y..kh).step_by(stride[0]);
        rows.flat_map(|y| (x..kw).step_by(stride[1]).map(move |x| y * kw + x)).collect()
    };
    (0..stride[0]).flat_map(|y| (0..stride[1]).map(move |x| (y, x))).map(|(y, x)| taps(y, x)).collect()
}

impl std::fmt::Debug for PackedMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.description())
    }
}

impl PackedMatrix {
    /// The weight `[out, in]` of a linear layer, for [`linear`](super::linear) on activations stored as
    /// `storage`.
    pub fn linear(
        pool: &ThreadPool,
        isa: Isa,
        storage: DType,
        weight: &[f32],
        shape: [usize; 2],
    ) -> Result<Self, GemmError> {
        Self::matrix(pool, isa, storage, weight, shape, Purpose::Linear)
    }

    /// The weight `[2 * out, in]` of a gated linear layer, for [`linear`](super::linear) with a
    /// [gate](super::Epilogue::gate).
    pub fn linear_gated(
        pool: &ThreadPool,
        isa: Isa,
        storage: DType,
        weight: &[f32],
        shape: [usize; 2],
    ) -> Result<Self, GemmError> {
        Self::matrix(pool, isa, storage, weight, shape, Purpose::LinearGated)
    }

    /// The weight `[out, in]` of a linear layer, for the gradient of its input: [`linear`](super::linear)
    /// then takes `[M, out]` to `[M, in]`.
    pub fn linear_input_gradient(
        pool: &ThreadPool,
        isa: Isa,
        storage: DType,
        weight: &[f32],
        shape: [usize; 2],
    ) -> Result<Self, GemmError> {
        Self::matrix(pool, isa, storage, weight, shape, Purpose::LinearInputGradient)
    }

    /// The weight `[out, in]` of a linear layer, for [`linear`](super::linear) in 8 bits: each output has a scale of its own.
    pub fn linear_int8(
        pool: &ThreadPool,
        isa: Isa,
        weight: &[f32],
        shape: [usize; 2],
    ) -> Result<Self, GemmError> {
        Self::matrix(pool, isa, DType::F32, weight, shape, Purpose::LinearInt8)
    }

    fn matrix(
        pool: &ThreadPool,
        isa: Isa,
        storage: DType,
        weight: &[f32],
        [out, inputs]: [usize; 2],
        purpose: Purpose,
    ) -> Result<Self, GemmError> {
        Self::new(pool, isa, storage, &Values::of(weight), [out, inputs, 1, 1], 1, [1, 1], purpose)
    }

    /// The weight `[out, in / groups, kh, kw]` of a convolution, for [`conv2d`](super::conv2d).
    pub fn conv2d(
        pool: &ThreadPool,
        isa: Isa,
        storage: DType,
        weight: &[f32],
        shape: [usize; 4],
        groups: usize,
    ) -> Result<Self, GemmError> {
        Self::new(pool, isa, storage, &Values::of(weight), shape, groups, [1, 1], Purpose::Conv)
    }

    /// The weight `[out, in, 3, 3]` of a convolution, for [`conv2d`](super::conv2d) by Winograd's algorithm.
    pub fn conv2d_winograd(
        pool: &ThreadPool,
        isa: Isa,
        storage: DType,
        weight: &[f32],
        shape: [usize; 4],
        tiling: Tiling,
    ) -> Result<Self, GemmError> {
        let purpose = Purpose::ConvWinograd(tiling);
        Self::new(pool, isa, storage, &Values::of(weight), shape, 1, [1, 1], purpose)
    }

    /// The weight `[out, in / groups, kh, kw]` of a convolution with this stride (down, right), for
    /// [`conv2d_input_gradient`](super::conv2d_input_gradient).
    pub fn conv2d_input_gradient(
        pool: &ThreadPool,
        isa: Isa,
        storage: DType,
        weight: &[f32],
        shape: [usize; 4],
        groups: usize,
        stride: [usize; 2],
    ) -> Result<Self, GemmError> {
        Self::new(pool, isa, storage, &Values::of(weight), shape, groups, stride, Purpose::ConvInputGradient)
    }

    /// The weight `[out, in, 3, 3]` of a convolution of stride 1, for
    /// [`conv2d_input_gradient`](super::conv2d_input_gradient) by Winograd's algorithm.
    pub fn conv2d_input_gradient_winograd(
        pool: &ThreadPool,
        isa: Isa,
        storage: DType,
        weight: &[f32],
        shape: [usize; 4],
        tiling: Tiling,
    ) -> Result<Self, GemmError> {
        let purpose = Purpose::ConvInputGradientWinograd(tiling);
        Self::new(pool, isa, storage, &Values::of(weight), shape, 1, [1, 1], purpose)
    }

    /// The weight packed for a purpose: shape `[out, in / groups, kh, kw]`; the stride matters to a convolution's input
    /// gradient only.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn new(
        pool: &ThreadPool,
        isa: Isa,
        storage: DType,
        weight: &Values<'_>,
        shape: [usize; 4],
        groups: usize,
        stride: [usize; 2],
        purpose: Purpose,
    ) -> Result<Self, GemmError> {
        let mut packed = Self::empty(isa, storage, shape, groups, stride, purpose)?;
        packed.cells = AlignedBytes::zeroed(packed.bytes);
        packed.fill(pool, weight)?;
        Ok(packed)
    }

    /// What [`PackedMatrix::new`] makes, without memory yet: to know its size, and to give it memory that is there.
    pub(crate) fn empty(
        isa: Isa,
        storage: DType,
        shape: [usize; 4],
        groups: usize,
        stride: [usize; 2],
        purpose: Purpose,
    ) -> Result<Self, GemmError> {
        let [out, inputs, kh, kw] = shape;
        if groups == 0 || out % groups != 0 || shape.contains(&0) || stride.contains(&0) {
            return Err(GemmError::Geometry(format!(
                "a weight {shape:?} in {groups} groups with stride {stride:?}"
            )));
        }
        let kernels = match purpose {
            purpose if purpose.is_int8() => Kernels::of_bytes(isa),
            Purpose::ConvWinograd(_) | Purpose::ConvInputGradientWinograd(_) => {
                Kernels::of(isa, compute_dtype(isa, storage) == DType::Bf16)
            }
            _ => Kernels::of_products(isa, compute_dtype(isa, storage) == DType::Bf16),
        };
        let (area, out_per_group) = (kh * kw, out / groups);
        let (depth, depth_stride, columns, column_stride) = match purpose {
            Purpose::LinearInputGradient
            | Purpose::ConvInputGradient
            | Purpose::ConvInputGradientWinograd(_) => (out_per_group, inputs * area, inputs, area),
            _ => (inputs, area, out_per_group, inputs * area),
        };
        let refused =
            |why: &str| Err(GemmError::Geometry(format!("a weight {shape:?} in {groups} groups{why}")));
        let taps_of_parts = match purpose {
            Purpose::ConvWinograd(tiling) | Purpose::ConvInputGradientWinograd(tiling) => {
                if [kh, kw, groups] != [3, 3, 1] || stride != [1, 1] {
                    return refused(", for Winograd");
                }
                vec![(0..tiling.points()).collect()]
            }
            purpose if purpose.is_int8() && depth > int8::DEEPEST => {
                return refused(", too deep for sums in 8 bits");
            }
            purpose if purpose.is_gated() && !out.is_multiple_of(2) => return refused(", of two halves"),
            _ => taps_by_phase([kh, kw], stride),
        };
        let mut parts = Vec::new();
        let mut start = 0;
        for taps in taps_of_parts {
            let steps = taps.len() * kernels.panel_steps(depth.div_ceil(kernels.depth()));
            parts.push(Part { start, taps });
            start += groups * Layout::right(kernels, columns, steps).cells();
        }
        Ok(PackedMatrix {
            kernels,
            purpose,
            shape,
            groups,
            stride,
            depth,
            depth_stride,
            columns,
            column_stride,
            parts,
            bytes: start * size_of::<u32>(),
            cells: AlignedBytes::default(),
            quantized: int8::Columns::default(),
        })
    }

    /// Gives memory of at least [`PackedMatrix::bytes`]; what was there stays behind until the next filling.
    pub(crate) fn set_memory(&mut self, cells: AlignedBytes) {
        self.cells = cells;
    }

    /// The memory, for another matrix.
    pub(crate) fn into_memory(self) -> AlignedBytes {
        self.cells
    }

    /// Packs new values of the same weight in place: after an optimizer step.
    pub fn repack(&mut self, pool: &ThreadPool, weight: &[f32]) -> Result<(), GemmError> {
        self.fill(pool, &Values::of(weight))
    }

    /// Packs values of any storage in place, without another copy of them on the way.
    pub(crate) fn fill(&mut self, pool: &ThreadPool, weight: &Values<'_>) -> Result<(), GemmError> {
        check_len("packing", "the weight", self.shape.iter().product(), weight.len())?;
        if self.cells.len() < self.bytes {
            return Err(GemmError::Geometry(format!("{} has no memory", self.description())));
        }
        match weight {
            Values::F32(values) => self.fill_from(pool, values),
            Values::F16(values) => self.fill_from(pool, values),
            Values::Bf16(values) => self.fill_from(pool, values),
        }
        Ok(())
    }

    fn fill_from<T: Number>(&mut self, pool: &ThreadPool, weight: &[T]) {
        let paired;
        let weight = match self.purpose.is_gated() {
            true => {
                paired = self.halves_by_panel(weight);
                paired.as_slice()
            }
            false => weight,
        };
        if self.purpose.is_int8() {
            let cells = self.bytes / size_of::<u32>();
            let (layout, cells) = (self.layout(0), &mut self.cells.typed_mut::<u32>()[..cells]);
            self.quantized = int8::pack(pool, self.kernels.isa, weight, self.depth, &layout, cells);
            return;
        }
        if let Purpose::ConvWinograd(tiling) | Purpose::ConvInputGradientWinograd(tiling) = self.purpose {
            let (layout, to) = (self.layout(0), self.cells.as_mut_ptr().cast::<u32>());
            let windows = winograd::Windows {
                data: weight,
                depth: self.depth,
                depth_stride: self.depth_stride,
                column_stride: self.column_stride,
                turned: self.purpose != Purpose::ConvWinograd(tiling),
            };
            // SAFETY: `new` reserved the layout's cells, of a segment for each point.
            unsafe { winograd::pack(tiling, pool, self.kernels, &windows, &layout, to) };
            return;
        }
        for part in 0..self.parts.len() {
            let layout = self.layout(part);
            let Part { start, taps } = &self.parts[part];
            if taps.is_empty() {
                continue;
            }
            let source = Source {
                data: weight,
                items: self.groups,
                item_stride: weight.len() / self.groups,
                taps,
                depth: self.depth,
                depth_stride: self.depth_stride,
                column_stride: self.column_stride,
            };
            let to = self.cells.as_mut_ptr().cast::<u32>().wrapping_add(*start);
            // SAFETY: there are `bytes` of memory, which hold `groups * layout.cells()` cells from `start` on for this part.
            unsafe {
                match self.kernels.steps {
                    Steps::Thirds => thirds::pack(pool, self.kernels.isa, &source, &layout, to),
                    _ => pack(pool, self.kernels.isa, self.kernels.pairs(), &source, &layout, to),
                }
            }
        }
    }

    /// The rows of a gated layer in another order: for all that are finished together some of the first half, then those of the
    /// second half that gate them.
    fn halves_by_panel<T: Number>(&self, weight: &[T]) -> Vec<T> {
        let (values, gates) = weight.split_at(weight.len() / 2);
        let some = self.kernels.together() / 2 * self.depth;
        let rows = values.chunks(some).zip(gates.chunks(some)).flat_map(|(values, gates)| [values, gates]);
        rows.collect::<Vec<_>>().concat()
    }

    /// The instruction set that it was packed for.
    pub fn isa(&self) -> Isa {
        self.kernels.isa
    }

    /// The type in which products with it are computed.
    pub fn compute_dtype(&self) -> DType {
        if self.kernels.pairs() { DType::Bf16 } else { DType::F32 }
    }

    /// Features that it takes: the last axis of the input of [`linear`](super::linear), or channels.
    pub fn inputs(&self) -> usize {
        self.depth * self.groups
    }

    /// Features that it makes.
    pub fn outputs(&self) -> usize {
        self.columns * self.groups
    }

    /// Bytes of memory that it takes.
    pub fn bytes(&self) -> usize {
        // A layer in 8 bits has a scale and a sum for each output beside the panels.
        let columns = if self.purpose.is_int8() { self.columns } else { 0 };
        self.bytes + self.quantized.scales.len().max(columns) * 8
    }

    /// The panels of one group of a part.
    pub(super) fn layout(&self, part: usize) -> Layout {
        let steps = self.parts[part].taps.len() * self.kernels.panel_steps(self.steps());
        Layout::right(self.kernels, self.columns, steps)
    }

    /// Steps of a row for one tap.
    pub(super) fn steps(&self) -> usize {
        self.depth.div_ceil(self.kernels.depth())
    }

    pub(super) fn panels(&self, part: usize) -> *const u8 {
        self.cells.as_ptr().wrapping_add(self.parts[part].start * size_of::<u32>())
    }

    pub(super) fn description(&self) -> String {
        format!(
            "{:?} {:?}, {} groups, stride {:?}, on {}",
            self.purpose,
            self.shape,
            self.groups,
            self.stride,
            self.kernels.isa.name()
        )
    }
}
