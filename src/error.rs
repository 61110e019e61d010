//! What can go wrong. The errors have the numbers in them that explain them.

use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An operation got tensors that do not fit: `linear forward: weight expects C=64, input has 32`.
    #[error("{0}")]
    Shape(String),
    /// A device could not be opened, or refused to do something.
    #[error("{0}")]
    Device(String),
    /// This machine has no GPU that can be used, whatever is installed on it.
    #[error("{0}")]
    NoGpu(String),
    /// A device has too little memory.
    #[error("{device}: {asked} asked for, {free} free; a smaller --batch needs less")]
    OutOfMemory { device: String, asked: String, free: String },
    /// This machine has too little memory for something that is not on a device.
    #[error("{what}: {asked} of memory asked for, more than there is")]
    Memory { what: String, asked: String },
    /// A setting that cannot work, or two that cannot work together.
    #[error("{0}")]
    Config(String),
    /// A data file that is not what it should be.
    #[error("{}: {what}", path.display())]
    Data { path: PathBuf, what: String },
    /// A checkpoint that is damaged, truncated or of another network.
    #[error("{}: {what}", path.display())]
    Checkpoint { path: PathBuf, what: String },
    /// The training diverged.
    #[error("step {step}: {what}")]
    NotFinite { step: u64, what: String },
    /// Ranks that train together did not find each other, or do not agree, or one of them does not answer.
    #[error("{0}")]
    Ranks(String),
    /// Two computations that must agree do not.
    #[error("{0}")]
    Check(String),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Adds to an I/O error the path at which it happened: `map_err(Error::io(path))`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { path, source }
    }
}
