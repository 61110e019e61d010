//! How many blocks of a kernel a multiprocessor holds at a time.

const WARP: u32 = 32;
/// The registers of a multiprocessor, the same number on every generation here.
const REGISTERS: u32 = 65_536;

/// What a multiprocessor of a generation has.
struct Limits {
    arch: u32,
    warps: u32,
    blocks: u32,
    /// Bytes of shared memory; the steps in which blocks get it; and what the system takes for each block.
    shared: u32,
    shared_step: u32,
    reserved: u32,
}

const fn limits(arch: u32, warps: u32, blocks: u32, shared_kib: u32) -> Limits {
    let (shared_step, reserved) = if arch < 80 { (256, 0) } else { (128, 1024) };
    Limits { arch, warps, blocks, shared: shared_kib * 1024, shared_step, reserved }
}

/// From NVIDIA's CUDA C++ Programming Guide 12.9, section "Technical Specifications per Compute Capability"; the steps are
/// from its header `cuda_occupancy.h`.
const TABLE: &[Limits] = &[
    limits(75, 32, 16, 64),
    limits(80, 64, 32, 164),
    limits(86, 48, 16, 100),
    limits(89, 48, 24, 100),
    limits(90, 64, 32, 228),
    limits(100, 64, 32, 228),
    limits(120, 48, 24, 100),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupancy {
    /// Blocks that are on a multiprocessor at the same time.
    pub blocks: u32,
    /// Their warps, in percent of the warps that a multiprocessor can hold.
    pub percent: u32,
}

/// The occupancy of a kernel whose blocks have so many threads, with so many registers each, and so much shared memory. There
/// is none for a generation that is not in the table.
pub fn occupancy(arch: u32, threads: u32, registers: u32, shared: u32) -> Option<Occupancy> {
    let limits = TABLE.iter().find(|limits| limits.arch == arch)?;
    let warps = threads / WARP;
    // A warp gets registers in steps of 256, and warps get them four at a time.
    let of_warp = (registers.max(1) * WARP).next_multiple_of(256);
    let by_registers = REGISTERS / of_warp / 4 * 4 / warps;
    let of_block = (shared + limits.reserved).next_multiple_of(limits.shared_step);
    let by_shared = limits.shared.checked_div(of_block).unwrap_or(u32::MAX);
    let blocks = by_registers.min(by_shared).min(limits.blocks).min(limits.warps / warps);
    Some(Occupancy { blocks, percent: blocks * warps * 100 / limits.warps })
}
