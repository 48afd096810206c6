//! The weights that are trained: flat f32 buffers for weights, moments, running average and gradients, and one table
//! that says where each named weight lies in all of them.

use std::borrow::Cow;
use std::collections::HashMap;

use velatura_cpu::kernels::optimizer::{Matrix, Segment};
use velatura_graph::{Graph, Init};
use velatura_samplers::noise::CounterRng;

/// The stream of random numbers for initial weights.
const INIT_STREAM: u32 = 0x1417;

/// A named weight and its place in the flat buffers.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Full dotted name.
    pub name: String,
    /// Its shape, PyTorch's.
    pub shape: Vec<usize>,
    /// First element.
    pub offset: usize,
    /// Number of elements.
    pub len: usize,
    /// How it begins.
    pub init: Init,
}

impl Entry {
    /// Whether weight decay applies: to matrices and convolutions, not to biases, norms and embedding tables.
    pub fn decays(&self) -> bool {
        let table = ["token_embedding.weight", "position_embedding.weight"];
        self.shape.len() >= 2 && !table.iter().any(|end| self.name.ends_with(end))
    }

    /// Whether Muon makes its steps: matrices inside the network, not where it meets data.
    pub fn is_hidden_matrix(&self) -> bool {
        let outer = ["conv_in.weight", "conv_out.weight"];
        self.decays() && !outer.iter().any(|end| self.name.ends_with(end))
    }

    /// Writes how it begins over zeros.
    fn begin(&self, seed: u64, weights: &mut [f32]) {
        let mut draws = CounterRng::new(seed, INIT_STREAM).at(hash(&self.name));
        match self.init {
            Init::Zeros => {}
            Init::Ones => weights.fill(1.0),
            Init::Normal(deviation) => {
                draws.fill_normal(weights);
                weights.iter_mut().for_each(|w| *w *= deviation);
            }
            Init::Uniform(bound) => {
                weights.iter_mut().for_each(|w| *w = (2.0 * draws.uniform_f32() - 1.0) * bound);
            }
        }
    }

    /// How it begins, by itself; the same numbers as in [`Table::initial`].
    pub fn initial(&self, seed: u64) -> Vec<f32> {
        let mut weights = vec![0.0; self.len];
        self.begin(seed, &mut weights);
        weights
    }

    /// Its part of a flat buffer.
    pub fn of<'a>(&self, buffer: &'a [f32]) -> &'a [f32] {
        &buffer[self.offset..self.offset + self.len]
    }
}

/// Where each weight lies.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    entries: Vec<Entry>,
    index: HashMap<String, usize>,
    len: usize,
}

impl Table {
    /// The parameters of a graph that are trained, in order of first use.
    pub fn of_graph(graph: &Graph, trained: impl Fn(&str) -> bool) -> Self {
        let mut table = Table::default();
        for parameter in graph.parameters().iter().filter(|p| trained(&p.name)) {
            let shape = graph.ty(parameter.value).shape.clone();
            let len = shape.iter().product();
            let (name, offset, init) = (parameter.name.clone(), table.len, parameter.init);
            table.index.insert(name.clone(), table.entries.len());
            table.entries.push(Entry { name, shape, offset, len, init });
            table.len += len;
        }
        table
    }

    /// All weights, in the order of the flat buffers.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The weight of this name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.index.get(name).map(|&i| &self.entries[i])
    }

    /// Length of the flat buffers.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no weights.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The parts that AdamW updates, with and without weight decay: all that `chosen` holds of.
    pub fn segments(&self, weight_decay: f32, chosen: impl Fn(&Entry) -> bool) -> Vec<Segment> {
        let segment = |e: &Entry| Segment {
            offset: e.offset,
            len: e.len,
            weight_decay: if e.decays() { weight_decay } else { 0.0 },
        };
        self.entries.iter().filter(|&e| chosen(e)).map(segment).collect()
    }

    /// The matrices that Muon updates.
    pub fn matrices(&self, weight_decay: f32) -> Vec<Matrix> {
        let matrix = |e: &Entry| {
            let rows = e.shape.first().copied().unwrap_or(1).max(1);
            Matrix { offset: e.offset, rows, columns: e.len / rows, weight_decay }
        };
        self.entries.iter().filter(|e| e.is_hidden_matrix()).map(matrix).collect()
    }

    /// Initial weights. Each weight's numbers depend on the seed and its own name only, so that a network that grows
    /// keeps the beginnings of its other parts.
    pub fn initial(&self, seed: u64) -> Vec<f32> {
        let mut weights = vec![0.0; self.len];
        for entry in &self.entries {
            entry.begin(seed, &mut weights[entry.offset..entry.offset + entry.len]);
        }
        weights
    }
}

/// FNV-1a of a name.
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

/// Everything that the optimizer keeps, each buffer as long as the table.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Steps that were taken.
    pub step: u64,
    /// The weights.
    pub weights: Vec<f32>,
    /// First moments.
    pub m: Vec<f32>,
    /// Second moments.
    pub v: Vec<f32>,
    /// Running average of the weights.
    pub ema: Vec<f32>,
}

impl State {
    /// The beginning of a run.
    pub fn initial(table: &Table, seed: u64) -> Self {
        let weights = table.initial(seed);
        let zeros = vec![0.0; weights.len()];
        State { step: 0, ema: weights.clone(), weights, m: zeros.clone(), v: zeros }
    }

    /// Puts known values in the place of drawn weights, for those entries that are `wanted`.
    ///
    /// # Errors
    /// The first of them that `find` does not know.
    pub fn fill<'t, 'v>(
        &mut self,
        table: &'t Table,
        wanted: impl Fn(&Entry) -> bool,
        find: impl Fn(&Entry) -> Option<Cow<'v, [f32]>>,
    ) -> Result<(), &'t Entry> {
        for entry in table.entries().iter().filter(|&entry| wanted(entry)) {
            let values = find(entry).ok_or(entry)?;
            for buffer in [&mut self.weights, &mut self.ema] {
                buffer[entry.offset..entry.offset + entry.len].copy_from_slice(&values);
            }
        }
        Ok(())
    }

    /// Whether every number of it is one.
    pub fn is_finite(&self) -> bool {
        self.buffers().iter().all(|(_, values)| values.iter().all(|v| v.is_finite()))
    }

    /// The four buffers with their names in checkpoints.
    pub fn buffers(&self) -> [(&'static str, &[f32]); 4] {
        [("weights", &self.weights), ("m", &self.m), ("v", &self.v), ("ema", &self.ema)]
    }

    /// The same, to write.
    pub fn buffers_mut(&mut self) -> [(&'static str, &mut [f32]); 4] {
        [("weights", &mut self.weights), ("m", &mut self.m), ("v", &mut self.v), ("ema", &mut self.ema)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use velatura_graph::{Builder, DType};
    use velatura_models::layers::Layers;

    fn table(wide: bool) -> Table {
        let b = Builder::new();
        let x = b.input("x", &[2, 3], DType::F32);
        let p = b.params();
        let mut h = p.at("first").linear(x, 5);
        if wide {
            h = p.at("between").linear(h, 5);
        }
        b.output("y", p.at("second").linear(h, 4));
        Table::of_graph(&b.finish().unwrap(), |_| true)
    }

    #[test]
    fn initial_weights_depend_on_seed_and_name_alone() {
        let (small, wide) = (table(false), table(true));
        let (a, b) = (small.initial(7), wide.initial(7));
        for entry in small.entries() {
            let other = wide.entry(&entry.name).unwrap();
            assert_eq!(entry.of(&a), other.of(&b), "{}", entry.name);
            let bound = 1.0 / 3f32.sqrt();
            assert!(entry.of(&a).iter().all(|w| w.abs() <= bound));
        }
        assert_ne!(a, small.initial(8));
        assert_ne!(
            small.entry("first.weight").unwrap().of(&a)[..5],
            small.entry("second.weight").unwrap().of(&a)[..5]
        );
    }

    #[test]
    fn only_matrices_decay() {
        let segments = table(false).segments(0.1, |_| true);
        let decay: Vec<f32> = segments.iter().map(|s| s.weight_decay).collect();
        assert_eq!(decay, [0.1, 0.0, 0.1, 0.0]);
        assert_eq!(segments.iter().map(|s| s.len).sum::<usize>(), table(false).len());
    }
}
