//! The Frechet distance between two sets of features, each taken as a Gaussian (Dowson and Landau, 1982; used on
//! network features by Heusel et al., 2017, arXiv 1706.08500).

/// Sweeps after which the rotations of [`eigen`] end at the latest; matrices of a few hundred rows need about ten.
const SWEEPS: usize = 60;

/// Mean and covariance of a set of features.
#[derive(Clone, Debug, PartialEq)]
pub struct Gaussian {
    /// Mean, one number for each feature.
    pub mean: Vec<f64>,
    /// Covariance (divided by n - 1), row by row.
    pub covariance: Vec<f64>,
}

impl Gaussian {
    /// Fits rows of `width` features laid end to end. `None` for fewer than two rows.
    pub fn fit(features: &[f32], width: usize) -> Option<Self> {
        let rows = features.len().checked_div(width)?;
        if rows < 2 {
            return None;
        }
        let mut mean = vec![0.0; width];
        for row in features.chunks_exact(width) {
            mean.iter_mut().zip(row).for_each(|(m, &x)| *m += f64::from(x) / rows as f64);
        }
        let mut covariance = vec![0.0; width * width];
        let mut centred = vec![0.0; width];
        for row in features.chunks_exact(width) {
            for ((c, &x), m) in centred.iter_mut().zip(row).zip(&mean) {
                *c = f64::from(x) - m;
            }
            for (line, a) in covariance.chunks_exact_mut(width).zip(&centred) {
                line.iter_mut().zip(&centred).for_each(|(sum, b)| *sum += a * b / (rows - 1) as f64);
            }
        }
        Some(Gaussian { mean, covariance })
    }

    /// `|m1 - m2|² + tr(C1 + C2 - 2 (C1^½ C2 C1^½)^½)`, at least 0. `None` when the two have different widths.
    pub fn distance(&self, other: &Self) -> Option<f64> {
        let n = self.mean.len();
        if other.mean.len() != n {
            return None;
        }
        let means: f64 = self.mean.iter().zip(&other.mean).map(|(a, b)| (a - b) * (a - b)).sum();
        let root = square_root(&self.covariance, n);
        let mut inner = product(&product(&root, &other.covariance, n), &root, n);
        // Symmetric but for rounding.
        for i in 0..n {
            for j in 0..i {
                let middle = 0.5 * (inner[i * n + j] + inner[j * n + i]);
                (inner[i * n + j], inner[j * n + i]) = (middle, middle);
            }
        }
        let cross: f64 = eigen(inner, n).0.iter().map(|v| v.max(0.0).sqrt()).sum();
        let trace = |m: &[f64]| (0..n).map(|i| m[i * n + i]).sum::<f64>();
        Some((means + trace(&self.covariance) + trace(&other.covariance) - 2.0 * cross).max(0.0))
    }
}

/// The symmetric root of a positive semi-definite matrix.
fn square_root(matrix: &[f64], n: usize) -> Vec<f64> {
    let (values, vectors) = eigen(matrix.to_vec(), n);
    let mut root = vec![0.0; n * n];
    for (k, value) in values.iter().enumerate() {
        let scale = value.max(0.0).sqrt();
        for i in 0..n {
            let left = scale * vectors[i * n + k];
            for j in 0..n {
                root[i * n + j] += left * vectors[j * n + k];
            }
        }
    }
    root
}

fn product(a: &[f64], b: &[f64], n: usize) -> Vec<f64> {
    let mut out = vec![0.0; n * n];
    for (out, a) in out.chunks_exact_mut(n.max(1)).zip(a.chunks_exact(n.max(1))) {
        for (a, b) in a.iter().zip(b.chunks_exact(n)) {
            out.iter_mut().zip(b).for_each(|(sum, b)| *sum += a * b);
        }
    }
    out
}

/// Eigenvalues of a symmetric matrix, and eigenvectors as columns, by cyclic Jacobi rotations (Golub and Van Loan,
/// *Matrix Computations*, section 8.5).
fn eigen(mut a: Vec<f64>, n: usize) -> (Vec<f64>, Vec<f64>) {
    let mut vectors = vec![0.0; n * n];
    (0..n).for_each(|i| vectors[i * n + i] = 1.0);
    let total: f64 = a.iter().map(|x| x * x).sum();
    for _ in 0..SWEEPS {
        let off: f64 =
            (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| a[i * n + j].powi(2)).sum();
        if off <= total * 1e-28 {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                let apq = a[p * n + q];
                if apq == 0.0 {
                    continue;
                }
                let tau = (a[q * n + q] - a[p * n + p]) / (2.0 * apq);
                let t = tau.signum() / (tau.abs() + (1.0 + tau * tau).sqrt());
                let c = 1.0 / (1.0 + t * t).sqrt();
                let s = t * c;
                for k in 0..n {
                    let (x, y) = (a[k * n + p], a[k * n + q]);
                    (a[k * n + p], a[k * n + q]) = (c * x - s * y, s * x + c * y);
                }
                for k in 0..n {
                    let (x, y) = (a[p * n + k], a[q * n + k]);
                    (a[p * n + k], a[q * n + k]) = (c * x - s * y, s * x + c * y);
                    let (x, y) = (vectors[k * n + p], vectors[k * n + q]);
                    (vectors[k * n + p], vectors[k * n + q]) = (c * x - s * y, s * x + c * y);
                }
            }
        }
    }
    ((0..n).map(|i| a[i * n + i]).collect(), vectors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use velatura_scenes::Rng;

    fn diagonal(mean: &[f64], variance: &[f64]) -> Gaussian {
        let n = mean.len();
        let mut covariance = vec![0.0; n * n];
        variance.iter().enumerate().for_each(|(i, v)| covariance[i * n + i] = *v);
        Gaussian { mean: mean.to_vec(), covariance }
    }

    /// A rotation matrix as the product of plane rotations.
    fn rotation(n: usize) -> Vec<f64> {
        let mut r = vec![0.0; n * n];
        (0..n).for_each(|i| r[i * n + i] = 1.0);
        for p in 0..n {
            for q in p + 1..n {
                let (s, c) = (0.3 + p as f64 * 0.7 + q as f64 * 0.2).sin_cos();
                for k in 0..n {
                    let (x, y) = (r[k * n + p], r[k * n + q]);
                    (r[k * n + p], r[k * n + q]) = (c * x - s * y, s * x + c * y);
                }
            }
        }
        r
    }

    fn rotated(g: &Gaussian) -> Gaussian {
        let n = g.mean.len();
        let r = rotation(n);
        let transposed: Vec<f64> = (0..n * n).map(|i| r[i % n * n + i / n]).collect();
        let mean = (0..n).map(|i| (0..n).map(|k| r[i * n + k] * g.mean[k]).sum()).collect();
        Gaussian { mean, covariance: product(&product(&r, &g.covariance, n), &transposed, n) }
    }

    #[test]
    fn gaussians_without_correlation_have_a_closed_form() {
        // |m1 - m2|² + sum (s1 - s2)², in any frame of reference.
        let a = diagonal(&[0.0, 1.0, -2.0, 0.5, 3.0], &[1.0, 4.0, 0.25, 0.0, 9.0]);
        let b = diagonal(&[1.0, 1.0, -2.5, 0.0, 1.0], &[4.0, 1.0, 0.25, 1.0, 0.01]);
        let expected = 1.0 + 0.25 + 0.25 + 4.0 + 1.0 + 1.0 + 0.0 + 1.0 + 2.9 * 2.9;
        for (a, b) in [(a.clone(), b.clone()), (b.clone(), a.clone()), (rotated(&a), rotated(&b))] {
            let d = a.distance(&b).unwrap();
            assert!((d - expected).abs() < 1e-6, "{d} {expected}");
        }
        assert!(rotated(&a).distance(&rotated(&a)).unwrap() < 1e-6);
        assert_eq!(a.distance(&diagonal(&[0.0], &[1.0])), None);
    }

    #[test]
    fn a_fit_finds_mean_and_covariance() {
        let g = Gaussian::fit(&[1.0, 2.0, 3.0, 6.0, 5.0, 1.0], 2).unwrap();
        assert_eq!(g.mean, [3.0, 3.0]);
        let close = g.covariance.iter().zip([4.0, -1.0, -1.0, 7.0]).all(|(a, b)| (a - b).abs() < 1e-12);
        assert!(close, "{:?}", g.covariance);
        assert_eq!(Gaussian::fit(&[1.0, 2.0], 2), None);
    }

    #[test]
    fn more_features_than_rows_is_no_trouble() {
        let mut rng = Rng::new(&[5]);
        let (width, rows) = (24, 10);
        let features: Vec<f32> = (0..width * rows).map(|_| rng.range(-1.0, 1.0)).collect();
        let moved: Vec<f32> = features.iter().map(|x| x + 0.5).collect();
        let (a, b) = (Gaussian::fit(&features, width).unwrap(), Gaussian::fit(&moved, width).unwrap());
        // The covariances are the same, so the means alone count.
        let d = a.distance(&b).unwrap();
        assert!((d - 0.25 * width as f64).abs() < 1e-4, "{d}");
    }
}
