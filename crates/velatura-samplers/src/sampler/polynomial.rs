//! Interpolating polynomials and small linear systems, for the coefficients of multistep samplers.

/// Coefficients, from the constant on, of the polynomial that is 1 at `nodes[j]` and 0 at the other nodes.
pub(super) fn lagrange(nodes: &[f64], j: usize) -> Vec<f64> {
    let mut polynomial = vec![1.0];
    for (k, &node) in nodes.iter().enumerate() {
        if k == j {
            continue;
        }
        // Times (x - node) / (nodes[j] - node).
        let divisor = nodes[j] - node;
        let mut product = vec![0.0; polynomial.len() + 1];
        for (power, &c) in polynomial.iter().enumerate() {
            product[power] -= c * node / divisor;
            product[power + 1] += c / divisor;
        }
        polynomial = product;
    }
    polynomial
}

/// Integral from `start` to `end` of each polynomial of [`lagrange`]: the weights of an Adams method.
pub(super) fn adams_weights(nodes: &[f64], start: f64, end: f64) -> Vec<f64> {
    // Counted from `start`, so that differences of large powers do not cancel.
    let shifted: Vec<f64> = nodes.iter().map(|node| node - start).collect();
    let width = end - start;
    (0..nodes.len())
        .map(|j| {
            let powers = lagrange(&shifted, j).into_iter().enumerate();
            powers.map(|(p, c)| c * width.powi(p as i32 + 1) / (p + 1) as f64).sum()
        })
        .collect()
}

/// Solves a square system by elimination with pivots. A singular one gives values that are not finite.
pub(super) fn solve(mut matrix: Vec<Vec<f64>>, mut right: Vec<f64>) -> Vec<f64> {
    let n = right.len();
    for column in 0..n {
        let pivot = (column..n).max_by(|&a, &b| matrix[a][column].abs().total_cmp(&matrix[b][column].abs()));
        let pivot = pivot.unwrap_or(column);
        matrix.swap(column, pivot);
        right.swap(column, pivot);
        let (above, below) = matrix.split_at_mut(column + 1);
        let chosen = &above[column];
        for (row, line) in (column + 1..).zip(below) {
            let factor = line[column] / chosen[column];
            for (value, &above) in line.iter_mut().zip(chosen).skip(column) {
                *value -= factor * above;
            }
            right[row] -= factor * right[column];
        }
    }
    for row in (0..n).rev() {
        let known: f64 = (row + 1..n).map(|k| matrix[row][k] * right[k]).sum();
        right[row] = (right[row] - known) / matrix[row][row];
    }
    right
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_steps_give_the_weights_of_adams_and_bashforth() {
        let weights = adams_weights(&[0.0, -1.0, -2.0, -3.0], 0.0, 1.0);
        for (got, want) in weights.iter().zip([55.0, -59.0, 37.0, -9.0]) {
            assert!((got - want / 24.0).abs() < 1e-14);
        }
    }

    #[test]
    fn elimination_undoes_the_product() {
        let matrix = vec![vec![0.0, 2.0, 1.0], vec![1.0, -1.0, 0.5], vec![3.0, 0.25, -2.0]];
        let x = [1.5, -2.0, 0.75];
        let right = matrix.iter().map(|row| row.iter().zip(x).map(|(m, x)| m * x).sum()).collect();
        for (got, want) in solve(matrix, right).iter().zip(x) {
            assert!((got - want).abs() < 1e-14);
        }
    }
}
