use std::collections::{BTreeMap, HashMap};

use crate::Tokenizer;

/// The textual inversion embeddings that are at hand. Counting vectors may mean opening a file, so it is asked only
/// for those that a prompt names.
pub trait Embeddings {
    /// Their names.
    fn names(&self) -> Vec<String>;
    /// How many vectors the embedding of this name has; `None` where there is none.
    fn vectors(&self, name: &str) -> Option<usize>;
}

/// Vectors by name. An empty map is no embeddings at all.
impl Embeddings for BTreeMap<String, usize> {
    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }

    fn vectors(&self, name: &str) -> Option<usize> {
        self.get(name).copied()
    }
}

/// Where vectors of an embedding take the place of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddingUse {
    /// The first place in [`super::Chunk::ids`].
    pub at: usize,
    /// The embedding.
    pub name: String,
    /// The first of its vectors that goes there.
    pub first: usize,
    /// How many of its vectors.
    pub count: usize,
}

/// Embeddings by the tokens of their names, as A1111 looks for them.
pub(super) struct ByTokens {
    /// By the first token; longer names first.
    names: HashMap<i32, Vec<(Vec<i32>, String)>>,
}

impl ByTokens {
    pub fn new(embeddings: &dyn Embeddings, tokenizer: &Tokenizer) -> Self {
        let mut names: HashMap<i32, Vec<(Vec<i32>, String)>> = HashMap::new();
        for name in embeddings.names() {
            let ids = tokenizer.prompt_ids(&name);
            if let Some(&first) = ids.first() {
                names.entry(first).or_default().push((ids, name));
            }
        }
        for alike in names.values_mut() {
            alike.sort_by_key(|(ids, _)| std::cmp::Reverse(ids.len()));
        }
        Self { names }
    }

    /// The embedding whose name these tokens begin with, and how many tokens the name has.
    pub fn find(&self, tokens: &[i32]) -> Option<(&str, usize)> {
        let alike = self.names.get(tokens.first()?)?;
        let (ids, name) = alike.iter().find(|(ids, _)| tokens.starts_with(ids))?;
        Some((name, ids.len()))
    }
}
