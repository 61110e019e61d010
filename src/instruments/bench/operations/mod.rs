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
pub(in crate::instruments) mod memory;
pub(in crate::instruments) mod products;

use super::{Form, Problem};
use crate::Result;
use crate::data::ImageShape;
use crate::device::{Buffer, Device, Precision};
use crate::eval::inception::Inception;
use crate::eval::judge::BATCH;

/// All problems, in the order of the table. `tiny` makes sizes that only try the program.
pub fn problems(tiny: bool) -> Vec<Problem> {
    let mut problems = logits::problems(tiny);
    problems.extend(memory::problems(tiny));
    problems.extend(products::problems(tiny));
    problems.extend((!tiny).then(inception));
    problems
}

/// The problems in this precision. All of them exist in f32; in the others only the products of layers do.
pub fn problems_in(precision: Precision, tiny: bool) -> Vec<Problem> {
    if precision == Precision::F32 { problems(tiny) } else { products::plain(tiny, precision) }
}

/// Inception at the batch of the evaluations, from bytes to features. There is no small one.
fn inception() -> Problem {
    Problem::new("features", format!("Inception, {BATCH} of 32x32"), 1e-4, |device| {
        let inception = Inception::untrained(device, BATCH)?;
        let shape = ImageShape { height: 32, width: 32, channels: 3 };
        let bytes: Vec<u8> = (0..BATCH * shape.len()).map(|i| (i * i % 251) as u8).collect();
        let (features, images) = (inception.features_on_device(BATCH), device.upload(&bytes)?);
        Ok(vec![Form::new("fused", [features], move || inception.network().run(&images, shape))])
    })
}

/// The labels 0, 1 and so on of all classes, over and over.
fn labels(device: &Device, n: usize, classes: u32) -> Result<Buffer<u32>> {
    device.upload(&(0..n as u32).map(|i| i % classes).collect::<Vec<u32>>())
}
