//! The linear preview of the model that ships. Made by `examples/fit_preview.rs`.

pub(super) const SHIPPED_FACTORS: [[f32; 3]; 8] = [
    [-0.2363, -0.1407, 0.0332],
    [0.1267, 0.1591, -0.1294],
    [0.0059, -0.1396, -0.3503],
    [0.0901, -0.1108, -0.1092],
    [0.2931, 0.0033, 0.0890],
    [-0.1454, -0.0157, -0.0230],
    [-0.0127, -0.0669, -0.0202],
    [-0.0113, 0.1728, -0.0658],
];
pub(super) const SHIPPED_BIAS: [f32; 3] = [0.0660, -0.0370, -0.0145];
