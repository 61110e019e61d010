//! The operations at the sizes of the presets.

/// Our forms of a problem, and libtorch's behind them where it is built in: `forms!(ours, ...; function(arguments))`, the
/// function being one of `bench/libtorch`.
macro_rules! forms {
    ($($ours:expr),+ ; $theirs:ident $arguments:tt) => {
        Ok(vec![
            $($ours,)+
            #[cfg(feature = "libtorch")]
            crate::instruments::bench::libtorch::$theirs $arguments?,
        ])
    };
}

pub mod logits;
mod memory;
mod products;

#[cfg(feature = "libtorch")]
pub(super) use products::Pass;

use super::Problem;
use crate::Result;
use crate::device::{Buffer, Device, Precision};

/// All problems, in the order of the table. `tiny` shrinks them to sizes that only try the program.
pub fn problems(tiny: bool) -> Vec<Problem> {
    let mut problems = logits::problems(tiny);
    problems.extend(memory::problems(tiny));
    problems.extend(products::problems(tiny));
    problems
}

/// What runs in another precision than f32: the products of layers, stored and multiplied so. Of f32 all problems.
pub fn problems_in(precision: Precision, tiny: bool) -> Vec<Problem> {
    if precision == Precision::F32 { problems(tiny) } else { products::plain(tiny, precision) }
}

/// Labels 0 .. classes, over and over.
fn labels(device: &Device, n: usize, classes: u32) -> Result<Buffer<u32>> {
    device.upload(&(0..n as u32).map(|i| i % classes).collect::<Vec<u32>>())
}
