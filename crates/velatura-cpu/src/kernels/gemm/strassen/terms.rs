//! The seven products of Strassen's algorithm, as what they are made of and where they belong.

/// Quadrants of a matrix, counted 11, 12, 21, 22.
pub(super) const QUADRANTS: usize = 4;

/// A product of two sums of quadrants, and the quadrants of the result that it is added to or taken from: coefficients of -1, 0
/// and 1.
#[derive(Clone, Copy)]
struct Term {
    left: [i8; QUADRANTS],
    right: [i8; QUADRANTS],
    out: [i8; QUADRANTS],
}

const fn term(left: [i8; QUADRANTS], right: [i8; QUADRANTS], out: [i8; QUADRANTS]) -> Term {
    Term { left, right, out }
}

/// In an order in which the first product of each quadrant is added: its sums are then begun, not read.
const TERMS: [Term; 7] = [
    term([0, 1, 0, -1], [0, 0, 1, 1], [1, 0, 0, 0]),
    term([-1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1]),
    term([1, 0, 0, 1], [1, 0, 0, 1], [1, 0, 0, 1]),
    term([0, 0, 1, 1], [1, 0, 0, 0], [0, 0, 1, -1]),
    term([1, 0, 0, 0], [0, 1, 0, -1], [0, 1, 0, 1]),
    term([0, 0, 0, 1], [-1, 0, 1, 0], [1, 0, 1, 0]),
    term([1, 1, 0, 0], [0, 0, 0, 1], [-1, 1, 0, 0]),
];

/// A quadrant, plus or minus another one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Operand {
    pub first: usize,
    pub second: Option<(usize, f32)>,
}

/// A term, read.
#[derive(Clone, Copy)]
pub(super) struct Step {
    pub left: Operand,
    pub right: Operand,
    /// Which of the right operands that are sums it takes.
    pub right_sum: Option<usize>,
    /// The quadrant whose sums begin with the product, if there is one.
    pub begins: Option<usize>,
    /// The quadrants that the product is added to, with its sign.
    pub adds: [Option<(usize, f32)>; 2],
}

/// The matrices themselves as the only product: of two levels the first, where there is none.
pub(super) const WHOLE: [Step; 1] = {
    let whole = Operand { first: 0, second: None };
    [Step { left: whole, right: whole, right_sum: None, begins: Some(0), adds: [None; 2] }]
};

/// Right operands that are sums.
pub(super) const RIGHT_SUMS: usize = 5;

/// All terms, read.
pub(super) const STEPS: [Step; TERMS.len()] = {
    let left = operand(TERMS[0].left);
    let mut steps = [Step { left, right: left, right_sum: None, begins: None, adds: [None; 2] }; TERMS.len()];
    let (mut begun, mut sums, mut i) = ([false; QUADRANTS], 0, 0);
    while i < TERMS.len() {
        let Term { left, right, out } = TERMS[i];
        let (mut begins, mut adds, mut added, mut q) = (None, [None; 2], 0, 0);
        while q < QUADRANTS {
            if out[q] == 1 && !begun[q] && begins.is_none() {
                begins = Some(q);
                begun[q] = true;
            } else if out[q] != 0 {
                adds[added] = Some((q, out[q] as f32));
                added += 1;
            }
            q += 1;
        }
        let right = operand(right);
        let right_sum = if right.second.is_some() { Some(sums) } else { None };
        sums += right.second.is_some() as usize;
        steps[i] = Step { left: operand(left), right, right_sum, begins, adds };
        i += 1;
    }
    assert!(sums == RIGHT_SUMS);
    steps
};

/// The left operands of all products.
pub(super) const LEFT_OPERANDS: [Operand; TERMS.len()] = {
    let mut operands = [STEPS[0].left; TERMS.len()];
    let mut i = 0;
    while i < TERMS.len() {
        operands[i] = STEPS[i].left;
        i += 1;
    }
    operands
};

/// The right operands that are sums; a quadrant of the weight is used where it is.
pub(super) const RIGHT_OPERANDS: [Operand; RIGHT_SUMS] = {
    let mut operands = [STEPS[0].right; RIGHT_SUMS];
    let mut i = 0;
    while i < TERMS.len() {
        if let Some(sum) = STEPS[i].right_sum {
            operands[sum] = STEPS[i].right;
        }
        i += 1;
    }
    operands
};

const fn operand(coefficients: [i8; QUADRANTS]) -> Operand {
    let (mut first, mut second) = (QUADRANTS, None);
    let mut q = 0;
    while q < QUADRANTS {
        if coefficients[q] > 0 && first == QUADRANTS {
            first = q;
        } else if coefficients[q] != 0 {
            second = Some((q, coefficients[q] as f32));
        }
        q += 1;
    }
    Operand { first, second }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Brent's equations: every product of elements is counted as often as in the product of the matrices.
    #[test]
    fn the_terms_make_the_product() {
        for a in 0..QUADRANTS {
            for b in 0..QUADRANTS {
                for c in 0..QUADRANTS {
                    let [[i, k], [l, j], [m, n]] = [a, b, c].map(|q| [q / 2, q % 2]);
                    let wanted = i32::from(k == l && i == m && j == n);
                    let of = |t: &Term| i32::from(t.left[a]) * i32::from(t.right[b]) * i32::from(t.out[c]);
                    assert_eq!(TERMS.iter().map(of).sum::<i32>(), wanted, "{a} {b} {c}");
                }
            }
        }
    }

    #[test]
    fn steps_are_the_terms() {
        let coefficients = |operand: Operand| {
            let mut coefficients = [0; QUADRANTS];
            coefficients[operand.first] = 1;
            operand.second.into_iter().for_each(|(q, sign)| coefficients[q] = sign as i8);
            coefficients
        };
        let mut begun = [false; QUADRANTS];
        for (term, step) in TERMS.iter().zip(&STEPS) {
            assert_eq!([coefficients(step.left), coefficients(step.right)], [term.left, term.right]);
            assert_eq!(step.right_sum.is_some(), step.right.second.is_some());
            let mut out = [0; QUADRANTS];
            step.begins.into_iter().for_each(|q| (out[q], begun[q]) = (1, true));
            for (q, sign) in step.adds.into_iter().flatten() {
                assert!(begun[q], "is added to before it begins");
                out[q] = sign as i8;
            }
            assert_eq!(out, term.out);
        }
        assert_eq!(begun, [true; QUADRANTS]);
    }
}
