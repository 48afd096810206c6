//! Strides, broadcasting, and the walk over a tensor in runs along its last merged axis.

/// The most axes that a tensor may have.
pub const MAX_DIMS: usize = 6;

/// Strides in elements; entries past the number of axes are zero.
pub(crate) type Strides = [usize; MAX_DIMS];

/// Strides of a contiguous tensor.
pub(crate) fn contiguous_strides(shape: &[usize]) -> Strides {
    assert!(shape.len() <= MAX_DIMS, "at most {MAX_DIMS} axes");
    let mut strides = [0; MAX_DIMS];
    let mut step = 1;
    for axis in (0..shape.len()).rev() {
        strides[axis] = step;
        step *= shape[axis];
    }
    strides
}

/// Strides that read a contiguous tensor of `shape` as if it had `out` (NumPy's rule).
pub(crate) fn broadcast_strides(shape: &[usize], out: &[usize]) -> Strides {
    assert!(shape.len() <= out.len(), "broadcast: {shape:?} has more axes than {out:?}");
    let own = contiguous_strides(shape);
    let mut strides = [0; MAX_DIMS];
    let lead = out.len() - shape.len();
    for (axis, &n) in shape.iter().enumerate() {
        assert!(n == out[lead + axis] || n == 1, "broadcast: {shape:?} does not fit {out:?}");
        strides[lead + axis] = if n == 1 { 0 } else { own[axis] };
    }
    strides
}

/// Walks a contiguous output in order, with the offsets of `K` strided operands. Axes that all operands
/// step through alike are merged first, so that the runs are as long as they can be.
pub(crate) struct Walk<const K: usize> {
    dims: [usize; MAX_DIMS],
    strides: [Strides; K],
    count: usize,
}

impl<const K: usize> Walk<K> {
    pub(crate) fn new(shape: &[usize], strides: [Strides; K]) -> Self {
        let mut walk = Walk { dims: [1; MAX_DIMS], strides: [[0; MAX_DIMS]; K], count: 0 };
        for (axis, &n) in shape.iter().enumerate() {
            if n == 1 {
                continue;
            }
            let last = walk.count.wrapping_sub(1);
            let merge = walk.count > 0 && (0..K).all(|k| walk.strides[k][last] == strides[k][axis] * n);
            let at = if merge { last } else { walk.count };
            walk.dims[at] *= n;
            for (own, given) in walk.strides.iter_mut().zip(&strides) {
                own[at] = given[axis];
            }
            walk.count = at + 1;
        }
        if walk.count == 0 {
            walk.count = 1;
        }
        walk
    }

    /// Steps along the innermost merged axis.
    pub(crate) fn inner_strides(&self) -> [usize; K] {
        std::array::from_fn(|k| self.strides[k][self.count - 1])
    }

    /// Calls `f(position, offsets, run)` for each run of at most `longest` elements in
    /// `[start, start + len)`.
    pub(crate) fn segments(
        &self,
        start: usize,
        len: usize,
        longest: usize,
        mut f: impl FnMut(usize, [usize; K], usize),
    ) {
        let inner = self.dims[self.count - 1];
        let (mut position, end) = (start, start + len);
        while position < end {
            let (mut row, within) = (position / inner, position % inner);
            let mut offsets: [usize; K] = std::array::from_fn(|k| within * self.strides[k][self.count - 1]);
            for axis in (0..self.count - 1).rev() {
                let index = row % self.dims[axis];
                row /= self.dims[axis];
                for (offset, strides) in offsets.iter_mut().zip(&self.strides) {
                    *offset += index * strides[axis];
                }
            }
            let run = (inner - within).min(end - position).min(longest);
            f(position, offsets, run);
            position += run;
        }
    }
}
