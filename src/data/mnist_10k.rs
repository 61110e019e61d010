//! The digits inside the program: the first 10,000 training and 2,000 test images of MNIST (Y. LeCun, C. Cortes,
//! C. Burges), in its own format.

use std::path::Path;

use super::{Dataset, Split, idx};
use crate::Result;

pub fn open(split: Split) -> Result<Dataset> {
    let (name, images, labels): (&str, &[u8], &[u8]) = match split {
        Split::Train => (
            "mnist-10k",
            include_bytes!("mnist/train-images-idx3-ubyte.gz"),
            include_bytes!("mnist/train-labels-idx1-ubyte.gz"),
        ),
        Split::Test => (
            "mnist-10k test",
            include_bytes!("mnist/t10k-images-idx3-ubyte.gz"),
            include_bytes!("mnist/t10k-labels-idx1-ubyte.gz"),
        ),
    };
    let at = Path::new(name);
    idx::dataset(name, 10, (at, idx::images(at, images)?), (at, idx::labels(at, labels, 10)?))
}
