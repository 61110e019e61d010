//! What times, checks, counts and explains the kernels. Training, drawing and judging use only one part of it: the file of
//! tuned block sizes that [`tune`] reads and writes.
//!
//! - [`bench`]: operations and steps timed beside what the machine can do;
//! - [`check`]: every kernel as thread blocks, under checkers that see each access to memory;
//! - [`gate`]: what the compiler made of the kernels for GPUs, and how much each of them may take at most;
//! - [`gpu_report`]: a page of what `scripts/gpu-check` found on GPUs;
//! - [`study`]: what fusion buys, rung by rung, and the page that shows it; [`plot`] draws;
//! - [`record`]: rows as CSV and JSON;
//! - [`tune`]: block sizes and tiles measured for a device, and the file they are kept in.

pub mod bench;
pub mod check;
pub mod gate;
pub mod gpu_report;
pub mod plot;
pub mod record;
pub mod study;
pub mod tune;
