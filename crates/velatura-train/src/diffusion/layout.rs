//! Reading the layout off the caption: what the text transformer learns beside the denoiser.

use velatura::conditioning;
use velatura_graph::{Init, Params, Var};
use velatura_models::layers::Layers;
use velatura_scenes::{Cell, GlyphId, Layout};

/// Name of its loss, in graph and log, and in front of the names of its weights.
pub(super) const LAYOUT: &str = "layout";

/// Places where an object can stand.
pub(super) const PLACES: usize = Cell::ALL.len();

/// Whether a weight belongs to it, and so to no finished model.
pub(super) fn is_part(name: &str) -> bool {
    name.strip_prefix(LAYOUT).is_some_and(|rest| rest.starts_with('.'))
}

/// For each of the nine places, the object that stands there counted from 1, or 0. Nothing is known without a caption.
pub(super) fn classes(layout: Option<&Layout>) -> [i32; PLACES] {
    let mut classes = [0; PLACES];
    for object in layout.iter().flat_map(|layout| &layout.objects) {
        classes[object.cell as usize] = object.glyph.index() as i32 + 1;
    }
    classes
}

/// Cross-entropy of what the tokens `[N, T, C]` say of each place. A learned query for each place looks at the tokens as a
/// pixel of the denoiser does, so what answers it is of use there. `mask` `[N, T]` is 0 for padding, which is
/// hidden; `classes` is i32 `[N * places]`; `heads` must divide `C`.
pub(super) fn loss<'g>(
    p: &Params<'g>,
    tokens: Var<'g>,
    mask: Var<'g>,
    classes: Var<'g>,
    heads: usize,
) -> Var<'g> {
    let [n, length, width] = tokens.dims();
    let objects = GlyphId::all().count() + 1;
    let query = p.get("places", &[PLACES, width], Init::Normal((width as f32).powf(-0.5)));
    let query = query.reshape(&[1, PLACES, width]).broadcast_to(&[n, PLACES, width]);
    let [k, v] = ["to_k", "to_v"].map(|name| p.at(name).linear_no_bias(tokens, width));
    let hidden = conditioning::scores(mask).reshape(&[n, 1, 1, length]);
    let read = query.attention(k, v, Some(hidden), heads, None, false);
    p.at("objects").linear(read, objects).reshape(&[n * PLACES, objects]).cross_entropy(classes).mean_all()
}
