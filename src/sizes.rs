//! Products and sums of sizes, and memory whose size follows from a file or a setting.
//!
//! Sizes come from callers, files and settings, and memory is reached by them, so none may wrap around: `usize::MAX` stands
//! for whatever is more than a `usize` can hold. No buffer has as many elements, so a comparison with the length of one
//! fails, and an allocation of as many is refused.

use crate::device::size;
use crate::{Error, Result};

/// The product of `factors`.
pub const fn product<const N: usize>(factors: [usize; N]) -> usize {
    let (mut product, mut i) = (1usize, 0);
    while i < N {
        // A factor of 0 makes the whole product 0, also behind factors that are too large together.
        if factors[i] == 0 {
            return 0;
        }
        product = product.saturating_mul(factors[i]);
        i += 1;
    }
    product
}

/// The sum of `terms`.
pub const fn sum<const N: usize>(terms: [usize; N]) -> usize {
    let (mut sum, mut i) = (0usize, 0);
    while i < N {
        sum = sum.saturating_add(terms[i]);
        i += 1;
    }
    sum
}

/// Memory for `len` elements, of which there are none yet. The error names `what` they are, and how much memory they need.
pub fn reserved<T>(what: &str, len: usize) -> Result<Vec<T>> {
    let mut values = Vec::new();
    match values.try_reserve_exact(len) {
        Ok(()) => Ok(values),
        Err(_) => Err(Error::Memory { what: what.into(), asked: size(product([len, size_of::<T>()])) }),
    }
}

/// `len` elements of this value.
pub fn filled<T: Clone>(what: &str, len: usize, value: T) -> Result<Vec<T>> {
    let mut values = reserved(what, len)?;
    values.resize(len, value);
    Ok(values)
}

/// A copy of `values`.
pub fn copied<T: Copy>(what: &str, values: &[T]) -> Result<Vec<T>> {
    let mut copy = reserved(what, values.len())?;
    copy.extend_from_slice(values);
    Ok(copy)
}
