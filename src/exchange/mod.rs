//! Weights and latents for other programs, and from them.

mod classes;
mod export;
mod facts;
mod families;
pub mod file;
mod import;
pub mod latents;
mod names;
pub(crate) mod npy;
pub mod npz;
mod onnx;
mod spectral;

pub use classes::{ClassMap, Newcomers};
pub use export::Source;
pub use facts::Facts;
pub use import::{Incoming, Taken, placed};
pub use names::{Kind, Row, Side, table};
