//! The operations at the sizes of the presets.

/// `forms!(ours, ...; function(arguments))`: our forms of a problem, and behind them, where libtorch is built in, the form
/// that this function of `bench/libtorch` makes.
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
pub(in crate::instruments) mod products;

use super::Problem;
use crate::Result;
use crate::device::{Buffer, Device, Precision};

/// All problems, in the order of the table. `tiny` makes sizes that only try the program.
pub fn problems(tiny: bool) -> Vec<Problem> {
    let mut problems = logits::problems(tiny);
    problems.extend(memory::problems(tiny));
    problems.extend(products::problems(tiny));
    problems
}

/// The problems in this precision. All of them exist in f32; in the others only the products of layers do.
pub fn problems_in(precision: Precision, tiny: bool) -> Vec<Problem> {
    if precision == Precision::F32 { problems(tiny) } else { products::plain(tiny, precision) }
}

/// The labels 0, 1 and so on of all classes, over and over.
fn labels(device: &Device, n: usize, classes: u32) -> Result<Buffer<u32>> {
    device.upload(&(0..n as u32).map(|i| i % classes).collect::<Vec<u32>>())
}
