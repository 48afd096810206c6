//! Table lookup and its gradient.

use super::dispatch::{Shared, buffer_len, for_chunks, read, with_scratch};
use super::reduce::add_into;
use crate::{Data, DataMut, Isa, ThreadPool};

/// Table rows whose gradient one task owns.
const OWNED_ROWS: usize = 256;

/// `out[i] = table[ids[i]]`, rows of `width`; the table and the output may differ in element type.
/// Every id is in `0..table.len() / width`.
pub fn embedding(pool: &ThreadPool, isa: Isa, table: Data<'_>, width: usize, ids: &[i32], out: DataMut<'_>) {
    assert_eq!(out.len(), ids.len() * width, "embedding: output size");
    let rows = table.len() / width.max(1);
    assert!(ids.iter().all(|&id| id >= 0 && (id as usize) < rows), "embedding: an id outside of the table");
    let out = super::dispatch::Out::new(out);
    for_chunks(pool, ids.len(), (16_384 / width.max(1)).max(1), |start, count| {
        with_scratch(buffer_len(table, width), |buffer: &mut [f32]| {
            for (position, &id) in (start..).zip(&ids[start..start + count]) {
                let x = read(isa, table, id as usize * width, width, buffer);
                // SAFETY: positions are disjoint.
                unsafe { out.write(isa, position * width, width, |out| out.copy_from_slice(x)) };
            }
        });
    });
}

/// `dtable[id] = sum of dy[i] over ids[i] == id`, in the order of `i`; rows without an id become zero.
pub fn embedding_backward(
    pool: &ThreadPool,
    isa: Isa,
    ids: &[i32],
    dy: Data<'_>,
    width: usize,
    dtable: &mut [f32],
) {
    assert_eq!(dy.len(), ids.len() * width, "embedding_backward: gradient size");
    let rows = dtable.len() / width.max(1);
    assert!(
        ids.iter().all(|&id| id >= 0 && (id as usize) < rows),
        "embedding_backward: an id outside of the table"
    );
    let shared = Shared::new(dtable);
    for_chunks(pool, rows, OWNED_ROWS, |start, count| {
        // SAFETY: each task owns its rows.
        let own = unsafe { shared.slice(start * width, count * width) };
        own.fill(0.0);
        with_scratch(buffer_len(dy, width), |buffer: &mut [f32]| {
            for (position, &id) in ids.iter().enumerate() {
                let id = id as usize;
                if id >= start && id < start + count {
                    let dy = read(isa, dy, position * width, width, buffer);
                    let at = (id - start) * width;
                    add_into(isa, dy, &mut own[at..at + width]);
                }
            }
        });
    });
}
