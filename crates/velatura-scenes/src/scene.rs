//! What is in a picture, what a caption asks for, and where things stand.

use serde::{Deserialize, Serialize};

use crate::rng::Rng;
use crate::vocabulary::{ColorId, GlyphId};

/// Some copies of one object that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Group {
    /// Which object.
    pub glyph: GlyphId,
    /// How many: 1 to [`Scene::MAX_ALONE`], in a relation 1 to [`Scene::MAX_RELATED`].
    pub count: u8,
}

/// Where the first group stands, seen from the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// To the left of it.
    LeftOf,
    /// To the right of it.
    RightOf,
    /// Above it.
    Above,
    /// Below it.
    Below,
    /// Next to it. Rendered with the first group on the left; judged right in either order.
    Beside,
}

impl Relation {
    /// The relation seen from the other group.
    pub fn inverse(self) -> Self {
        match self {
            Self::LeftOf => Self::RightOf,
            Self::RightOf => Self::LeftOf,
            Self::Above => Self::Below,
            Self::Below => Self::Above,
            Self::Beside => Self::Beside,
        }
    }

    /// True when the point `a` is on this side of `b`, however little.
    pub(crate) fn is_beyond(self, a: (f32, f32), b: (f32, f32)) -> bool {
        match self {
            Self::LeftOf => a.0 < b.0,
            Self::RightOf => a.0 > b.0,
            Self::Above => a.1 < b.1,
            Self::Below => a.1 > b.1,
            Self::Beside => true,
        }
    }

    /// True when the point `a` is in this relation to `b` (x to the right, y down, fractions of the side).
    ///
    /// The offset along the relation's axis must be clear (at least a tenth of the picture) and larger than
    /// the one across it.
    pub fn holds(self, a: (f32, f32), b: (f32, f32)) -> bool {
        let (dx, dy) = (a.0 - b.0, a.1 - b.1);
        match self {
            Self::LeftOf => dx < -0.1 && dx.abs() > dy.abs(),
            Self::RightOf => dx > 0.1 && dx.abs() > dy.abs(),
            Self::Above => dy < -0.1 && dy.abs() > dx.abs(),
            Self::Below => dy > 0.1 && dy.abs() > dx.abs(),
            Self::Beside => dx.abs() > 0.1 && dx.abs() > dy.abs(),
        }
    }
}

/// Everything that is in a picture: one group, or two groups in a relation, on a plain background.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scene {
    /// Colour of the background.
    pub background: ColorId,
    /// One or two groups.
    pub groups: Vec<Group>,
    /// Present exactly when there are two groups.
    pub relation: Option<Relation>,
}

/// What a caption asks for. Like a [`Scene`], but the background may be left open.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Intent {
    /// Colour of the background, when the caption names one.
    pub background: Option<ColorId>,
    /// One or two groups.
    pub groups: Vec<Group>,
    /// Present exactly when there are two groups.
    pub relation: Option<Relation>,
}

/// One of the nine places where an object can stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Cell {
    Whole,
    Left,
    Right,
    Top,
    Bottom,
    TopLeft,
    TopRight,
    BottomLeft,
    BottomRight,
}

impl Cell {
    /// All places.
    pub const ALL: [Self; 9] = [
        Self::Whole,
        Self::Left,
        Self::Right,
        Self::Top,
        Self::Bottom,
        Self::TopLeft,
        Self::TopRight,
        Self::BottomLeft,
        Self::BottomRight,
    ];

    /// Centre of the place as fractions of the picture's side, (x, y).
    pub fn center(self) -> (f32, f32) {
        const LOW: f32 = 0.262;
        const HIGH: f32 = 1.0 - LOW;
        match self {
            Self::Whole => (0.5, 0.5),
            Self::Left => (LOW, 0.5),
            Self::Right => (HIGH, 0.5),
            Self::Top => (0.5, LOW),
            Self::Bottom => (0.5, HIGH),
            Self::TopLeft => (LOW, LOW),
            Self::TopRight => (HIGH, LOW),
            Self::BottomLeft => (LOW, HIGH),
            Self::BottomRight => (HIGH, HIGH),
        }
    }

    /// Usual side of an object here, as a fraction of the picture's side.
    pub fn side(self) -> f32 {
        if self == Self::Whole { 0.67 } else { 0.45 }
    }
}

/// A square, in fractions of the picture's side, x to the right and y down.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Square {
    /// Left edge.
    pub x: f32,
    /// Top edge.
    pub y: f32,
    /// Length of a side.
    pub side: f32,
}

impl Square {
    /// Centre, (x, y).
    pub fn center(self) -> (f32, f32) {
        (self.x + self.side / 2.0, self.y + self.side / 2.0)
    }
}

/// One object in its place.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Placed {
    /// Index into the scene's groups.
    pub group: usize,
    /// Which object.
    pub glyph: GlyphId,
    /// The place that it belongs to.
    pub cell: Cell,
    /// The square that holds it: its longer side fills the square, its shorter one is centred.
    pub square: Square,
}

/// Where each object of a scene stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Layout {
    /// The objects, group by group.
    pub objects: Vec<Placed>,
}

impl Scene {
    /// Most copies of one object when it is alone.
    pub const MAX_ALONE: u8 = 4;
    /// Most copies of an object in a relation.
    pub const MAX_RELATED: u8 = 2;

    /// The intent that a caption with every detail of this scene has.
    pub fn intent(&self) -> Intent {
        Intent { background: Some(self.background), groups: self.groups.clone(), relation: self.relation }
    }

    /// Number of objects.
    pub fn objects(&self) -> usize {
        self.groups.iter().map(|group| usize::from(group.count)).sum()
    }

    /// Places the objects, with a little jitter in position and size from `rng`.
    ///
    /// Counts beyond the limits of [`Scene`] are cut to them.
    pub fn layout(&self, rng: &mut Rng) -> Layout {
        let upright = rng.chance(0.5);
        let mut objects = Vec::with_capacity(self.objects());
        for (group, cells) in self.cells(upright).into_iter().enumerate() {
            for cell in cells {
                objects.push(Placed {
                    group,
                    glyph: self.groups[group].glyph,
                    cell,
                    square: jittered(cell, rng),
                });
            }
        }
        Layout { objects }
    }

    /// The places of each group; three objects make a triangle, with one on top when `upright`.
    fn cells(&self, upright: bool) -> Vec<Vec<Cell>> {
        use Cell::{Bottom, BottomLeft, BottomRight, Left, Right, Top, TopLeft, TopRight, Whole};
        let (left, right, top, bottom) = (
            [vec![Left], vec![TopLeft, BottomLeft]],
            [vec![Right], vec![TopRight, BottomRight]],
            [vec![Top], vec![TopLeft, TopRight]],
            [vec![Bottom], vec![BottomLeft, BottomRight]],
        );
        let pick =
            |half: &[Vec<Cell>; 2], group: &Group| half[usize::from(group.count.clamp(1, 2) - 1)].clone();
        match (self.groups.as_slice(), self.relation) {
            ([a, b, ..], Some(Relation::LeftOf | Relation::Beside) | None) => {
                vec![pick(&left, a), pick(&right, b)]
            }
            ([a, b, ..], Some(Relation::RightOf)) => vec![pick(&right, a), pick(&left, b)],
            ([a, b, ..], Some(Relation::Above)) => vec![pick(&top, a), pick(&bottom, b)],
            ([a, b, ..], Some(Relation::Below)) => vec![pick(&bottom, a), pick(&top, b)],
            ([a], _) => vec![match a.count {
                0 | 1 => vec![Whole],
                2 => vec![Left, Right],
                3 if upright => vec![Top, BottomLeft, BottomRight],
                3 => vec![TopLeft, TopRight, Bottom],
                _ => vec![TopLeft, TopRight, BottomLeft, BottomRight],
            }],
            ([], _) => Vec::new(),
        }
    }
}

/// The square of an object in a place, moved and scaled a little but kept within the picture.
fn jittered(cell: Cell, rng: &mut Rng) -> Square {
    let (low, high, shift) = if cell == Cell::Whole { (0.61, 0.73, 0.045) } else { (0.42, 0.47, 0.016) };
    let side = rng.range(low, high);
    let (x, y) = cell.center();
    Square {
        x: x + rng.range(-shift, shift) - side / 2.0,
        y: y + rng.range(-shift, shift) - side / 2.0,
        side,
    }
}

impl Intent {
    /// The same request in one fixed wording: "b below a" becomes "a above b", "b right of a" becomes "a left of
    /// b", so that two intents are equal exactly when they ask for the same thing.
    #[must_use]
    pub fn canonical(mut self) -> Self {
        if let Some(relation @ (Relation::RightOf | Relation::Below)) = self.relation {
            self.groups.reverse();
            self.relation = Some(relation.inverse());
        }
        self
    }

    /// Number of objects.
    pub fn objects(&self) -> usize {
        self.groups.iter().map(|group| usize::from(group.count)).sum()
    }
}
