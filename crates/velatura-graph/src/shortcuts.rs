//! How much an executor may save at the price of rounding.

use crate::graph::Graph;

/// Which algorithms an executor may take that multiply less than is written and round more for it, as Winograd's does for
/// convolutions and Strassen's for linear layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shortcuts {
    /// None: what is written is multiplied, and nothing else.
    None,
    /// Those whose rounding any network bears.
    #[default]
    Usual,
    /// Rougher ones, too, for a network that is known to bear them.
    Rough,
}

impl Graph {
    /// Which algorithms an executor may take; passes keep it.
    pub fn shortcuts(&self) -> Shortcuts {
        self.shortcuts
    }

    /// Says so.
    pub fn set_shortcuts(&mut self, shortcuts: Shortcuts) {
        self.shortcuts = shortcuts;
    }
}
