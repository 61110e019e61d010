//! zgan: a training engine for GANs whose every device kernel is written by hand, with its own backward pass.
//!
//! The map, from the metal up:
//!
//! - `kernels/*.cu`: one file per operation; the formulas are in its header;
//! - [`device`]: where kernels run (GPU, CPU cores, or thread blocks as coroutines), buffers and launches;
//! - [`ops`]: one typed wrapper per kernel file, of the same name;
//! - [`nn`]: layers, forward and backward side by side, on buffers that are placed once;
//! - [`gan`]: the networks, and the training step;
//! - [`random`]: the generator of the kernels, on the CPU;
//! - [`data`]: readers, the embedded digits, the loader;
//! - [`eval`]: how good generated images are;
//! - [`exchange`]: weights and latents for other programs, and from them;
//! - [`instruments`]: what times, checks, counts and explains the kernels; no training needs it;
//! - [`settings`], [`checkpoint`], [`run`], [`picture`]: settings, saved states, run folders, grids of images;
//! - [`cores`]: work on all cores, where no kernel does it;
//! - [`sizes`], [`text`]: products of sizes, and memory whose size follows from a file or a setting; text from files.

pub mod checkpoint;
pub mod cores;
pub mod data;
pub mod device;
mod error;
pub mod eval;
pub mod exchange;
pub mod files;
pub mod gan;
pub mod instruments;
pub mod nn;
pub mod ops;
pub mod picture;
pub mod random;
pub mod run;
pub mod settings;
pub mod sizes;
pub mod tensorboard;
pub mod text;

pub use error::{Error, Result};
