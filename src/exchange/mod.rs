//! Weights and latents for other programs, and from them.

mod export;
pub mod file;
mod import;
pub mod latents;
mod names;
pub(crate) mod npy;
pub mod npz;
mod onnx;

pub use export::Source;
pub use import::{ClassMap, Facts, Incoming, Newcomers, Taken, placed};
pub use names::{Kind, Row, Side, table};
