//! The fusions that a training step can do without, to show what they buy.

use serde::{Deserialize, Serialize};

/// What is fused and can be left unfused, run as separate kernels: the same numbers but for rounding, with more launches
/// and more bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Fusion {
    /// The softmax loss: every step of its formula a kernel
    LogPartition,
    /// The projection head: ReLU, pooling, both inner products and their sum a kernel each
    Projection,
    /// Batch norm: scale and shift, activation and upsampling a kernel each, not inside the convolution after them
    Norm,
    /// Both of the next two
    Conv,
    /// What a convolution does as it reads: D's ReLU
    ConvReading,
    /// What a convolution does as it writes: bias, pooling, residual, activation, and their gradients
    ConvWriting,
}

impl std::fmt::Display for Fusion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&crate::settings::name_of(self))
    }
}
