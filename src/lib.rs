//! zgan: a training engine for GANs whose every device kernel is written by hand, with its own backward pass.
//!
//! The map, from the metal up:
//!
//! - `kernels/*.cu`: one file per operation; the formulas are in its header;
//! - [`device`]: where kernels run (GPU, CPU cores, or thread blocks as coroutines), buffers and launches;
//! - [`ops`]: one typed wrapper per kernel file, of the same name;
//! - [`nn`]: layers, forward and backward side by side, on buffers that are placed once;
//! - [`gan`]: the networks of the presets, and the training step;
//! - [`random`]: the generator of the kernels, on the CPU;
//! - [`data`]: readers, the embedded digits, the loader;
//! - [`eval`]: how good generated images are;
//! - [`bench`]: operations and steps timed beside what the machine can do;
//! - [`study`]: what fusion buys, rung by rung, and the page that shows it; [`plot`] draws;
//! - [`tune`]: block sizes and tiles measured for a device, and the file they are kept in;
//! - [`gate`]: what the compiler made of the kernels for GPUs, and the most they may take;
//! - [`check`]: every kernel as thread blocks, under checkers that see each access to memory;
//! - [`config`], [`checkpoint`], [`run`], [`picture`]: settings, saved states, run folders, grids of images.

pub mod bench;
pub mod check;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod device;
mod error;
pub mod eval;
mod files;
pub mod gan;
pub mod gate;
pub mod nn;
pub mod ops;
pub mod picture;
pub mod plot;
pub mod random;
pub mod run;
pub mod study;
pub mod tune;

pub use error::{Error, Result};
