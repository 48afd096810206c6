use std::fmt;

/// Something in a prompt that was read otherwise than it may have been meant.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum PromptWarning {
    /// `[a:b:0.5]` and `[a|b]` are read as written, for a reason that concerns the whole prompt.
    LiteralSchedules {
        /// The reason.
        reason: &'static str,
    },
    /// The prompt ends in a colon and a number, which A1111 takes for a weight of the whole prompt.
    WholePromptWeight {
        /// The weight.
        weight: f64,
    },
    /// Brackets deeper than this do not weigh.
    DeepBrackets {
        /// The depth.
        depth: usize,
    },
    /// A tag like `<lora:name:1>` that cannot be used. It is left out.
    Tag {
        /// The tag as it is written.
        tag: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A tag in a negative prompt, where it is text.
    TagInNegative {
        /// The tag as it is written.
        tag: String,
    },
    /// An embedding that is not there.
    NoEmbedding {
        /// Its name.
        name: String,
    },
    /// An embedding with more vectors than a chunk holds; the rest are left out.
    LongEmbedding {
        /// Its name.
        name: String,
        /// How many vectors it has.
        vectors: usize,
        /// How many are used.
        used: usize,
    },
}

impl fmt::Display for PromptWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LiteralSchedules { reason } => {
                write!(f, "brackets with \":\" or \"|\" are read as written: {reason}")
            }
            Self::WholePromptWeight { weight } => {
                write!(f, "the number at the end is read as the weight of the whole prompt: {weight}")
            }
            Self::DeepBrackets { depth } => write!(f, "brackets nested deeper than {depth} do not weigh"),
            Self::Tag { tag, reason } => write!(f, "{tag} is left out: {reason}"),
            Self::TagInNegative { tag } => {
                write!(f, "{tag} is read as text: a negative prompt cannot name networks")
            }
            Self::NoEmbedding { name } => write!(f, "there is no embedding \"{name}\"; it is left out"),
            Self::LongEmbedding { name, vectors, used } => {
                write!(f, "embedding \"{name}\" has {vectors} vectors; the first {used} are used")
            }
        }
    }
}
