//! Everything that is tested on each device: operations, layers, networks, training steps, evaluation, timing. It is one
//! program, which opens a GPU once, and which `scripts/gpu-check` takes along to a machine that has one.
//!
//! ```text
//! cargo test --release --features check --test operations            # all of it
//! cargo test --release --features check --test operations matmul::   # one file
//! ```

#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code)]
#[path = "../common/ranks.rs"]
mod ranks;

mod adam;
mod attention;
mod bench;
mod blocks;
mod conv;
mod convert;
mod cross_entropy;
mod diffaug;
mod elementary;
mod eval;
mod features;
mod fused;
mod gradient_penalty;
mod inception;
mod log_partition;
mod losses;
mod matmul;
mod micro_batch;
mod nan;
mod networks;
mod norm;
mod number;
mod optimum;
mod peak;
mod pixels;
mod projection;
mod random;
mod resample;
mod sampling;
mod spectral_norm;
mod state;
mod training;
mod variants;
mod vectors;
mod winograd;
