//! The operations at the sizes of the presets.

mod logits;
mod memory;
mod products;

use super::Problem;
use crate::Result;
use crate::device::{Buffer, Device};

/// Makes one problem, with its buffers; called only where the filter wants it, so that memory holds one at a time.
pub type Maker = Box<dyn Fn(&Device) -> Result<Problem>>;

/// All problems, in the order of the table. `tiny` shrinks them to sizes that only try the program.
pub fn problems(tiny: bool) -> Vec<Maker> {
    let mut makers = logits::problems(tiny);
    makers.extend(memory::problems(tiny));
    makers.extend(products::problems(tiny));
    makers
}

/// Labels 0 .. classes, over and over.
fn labels(device: &Device, n: usize, classes: u32) -> Result<Buffer<u32>> {
    device.upload(&(0..n as u32).map(|i| i % classes).collect::<Vec<u32>>())
}
