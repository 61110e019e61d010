//! What NVIDIA publishes about some of its cards: the figures from which `zgan bench --model` computes times.

use crate::device::{Device, Unit};
use crate::instruments::gate::Turn;
use crate::{Error, Result};

/// Rates a second, at boost clock. Those of tensor cores are for dense matrices, with sums in f32; they are `None` where the
/// card has no such instruction.
#[derive(Debug, PartialEq)]
pub struct Card {
    /// What `--model` calls it.
    pub name: &'static str,
    pub title: &'static str,
    /// What drivers call it.
    pub devices: &'static [&'static str],
    pub multiprocessors: usize,
    /// Multiplications and additions.
    pub fma: f64,
    pub tf32: Option<f64>,
    pub bf16: Option<f64>,
    pub f16: Option<f64>,
    /// Bytes, read and written together.
    pub bandwidth: f64,
    pub multiprocessor: Multiprocessor,
    /// What joins it with the other cards of its machine.
    pub link: Link,
    pub source: &'static str,
}

/// What one multiprocessor does in a cycle. It has four schedulers, each of which issues an instruction of a warp, and its shared
/// memory reads or writes 128 bytes.
#[derive(Debug, PartialEq)]
pub struct Multiprocessor {
    /// The generation whose counted loops are taken for this card's.
    pub loops: Option<&'static str>,
    /// Multiply-adds of f32, and those of the tensor cores in 16 bits at the published rate; in tf32 they do half.
    pub fma: f64,
    pub tensor: f64,
    /// The part of that rate which the tensor cores reach by HMMA. On an H100 the rest takes instructions of four warps together;
    /// microbenchmarks (arXiv 2402.13499) found 62 %.
    pub reached: f64,
}

const fn multiprocessor(loops: &'static str, fma: f64, tensor: f64) -> Multiprocessor {
    Multiprocessor { loops: Some(loops), fma, tensor, reached: 1.0 }
}

const AMPERE: Multiprocessor = multiprocessor("sm_80", 64.0, 1024.0);
const HOPPER: Multiprocessor = Multiprocessor { reached: 0.62, ..multiprocessor("sm_90", 128.0, 2048.0) };

/// What joins the cards of a machine.
#[derive(Debug, PartialEq)]
pub struct Link {
    pub kind: LinkKind,
    /// Bytes a second in one direction. Data sheets give both directions together.
    pub bandwidth: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    NvLink,
    Pcie,
}

const fn link(kind: LinkKind, bandwidth: f64) -> Link {
    Link { kind, bandwidth }
}

/// NVLink of the fourth generation, 900 GB/s both ways, and of the third, 600 GB/s (data sheets of the H100, H200 and A100).
const NVLINK_4: Link = link(LinkKind::NvLink, 450e9);
const NVLINK_3: Link = link(LinkKind::NvLink, 300e9);
/// PCIe with 16 lanes: 128 GB/s both ways in its fifth generation (data sheet of the H100 PCIe, whose NVLink joins pairs alone), 64
/// GB/s in its fourth (L40S), 32 GB/s in its third (T4).
const PCIE_5: Link = link(LinkKind::Pcie, 64e9);
const PCIE_4: Link = link(LinkKind::Pcie, 32e9);
const PCIE_3: Link = link(LinkKind::Pcie, 16e9);

/// Cards of a machine, as in NVIDIA's DGX and HGX machines.
pub const IN_A_MACHINE: usize = 8;

/// Bytes a second in one direction between machines, for each card: 400 Gb/s (data sheet of the DGX H100, which has a ConnectX-7 adapter
/// for each GPU).
const BETWEEN_MACHINES: f64 = 50e9;

/// A way in which NCCL sums arrays over cards. The seconds that one takes besides moving bytes, for each step over each kind of link,
/// and the share of the links' bandwidth that is left to it, are those by which NCCL itself chooses (src/graph/tuning.cc of NCCL
/// 2.8: `baseLat`, `hwLat`, and the factors of `busBw`).
struct Way {
    /// Whether the cards are a ring; else the machines are a tree, and the cards of each a chain.
    ring: bool,
    /// Whether it is only for cards that NVLink joins.
    nvlink_alone: bool,
    start: f64,
    nvlink: f64,
    pcie: f64,
    network: f64,
    share: f64,
}

/// The protocols LL, LL128 and Simple in a ring, and the first two in a tree. The figures for Simple in a tree have a chunk of 256
/// KB in them, which is no latency.
#[rustfmt::skip]
const WAYS: [Way; 5] = [
    Way { ring: true, nvlink_alone: false, start: 3.6e-6, nvlink: 0.47e-6, pcie: 1.0e-6, network: 2.7e-6, share: 0.25 },
    Way { ring: true, nvlink_alone: true, start: 10.0e-6, nvlink: 1.9e-6, pcie: 2.5e-6, network: 4.0e-6, share: 0.92 },
    Way { ring: true, nvlink_alone: false, start: 8.4e-6, nvlink: 3.4e-6, pcie: 5.7e-6, network: 9.6e-6, share: 1.0 },
    Way { ring: false, nvlink_alone: false, start: 4.4e-6, nvlink: 0.52e-6, pcie: 1.0e-6, network: 5.0e-6, share: 0.9 / 3.8 },
    Way { ring: false, nvlink_alone: true, start: 4.4e-6, nvlink: 1.2e-6, pcie: 1.9e-6, network: 8.5e-6, share: 0.9 * 0.915 },
];

const SCHEDULERS: f64 = 4.0;
const SHARED_BYTES: f64 = 128.0;

/// The time of a loop divided by what its products take at the published rate, if nothing but the multiplying instructions,
/// the issuing of all instructions, or shared memory limited it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slowed {
    pub products: f64,
    pub issue: f64,
    pub shared: Option<f64>,
}

impl Slowed {
    /// The shares of the multiplying instructions' own peak, in percent, that issuing and shared memory leave.
    pub fn shares(&self) -> [Option<f64>; 2] {
        [Some(self.issue), self.shared].map(|limit| limit.map(|limit| 100.0 * (self.products / limit).min(1.0)))
    }
}

/// The seconds that a kernel costs besides its own work, within a captured graph and launched by itself. NVIDIA measured
/// them on a V100 with 20 short kernels, one after the other: each works for 2.9 us, and took 3.4 us within a graph and 3.8 us
/// without (technical blog, "Getting Started with CUDA Graphs", 2019). No data sheet has this figure for another card.
pub const IN_GRAPH: f64 = 0.5e-6;
pub const LAUNCHED: f64 = 0.9e-6;

pub const CARDS: [Card; 9] = [
    Card {
        name: "h100",
        title: "NVIDIA H100 SXM5 80 GB",
        // A driver that stands in for a GPU's is given this card, so that what is written for a GPU can be tried on it whole.
        devices: &["NVIDIA H100 80GB HBM3", "zgan stand-in, host", "zgan stand-in, simt"],
        multiprocessors: 132,
        fma: 66.9e12,
        // For tensor cores the data sheet gives twice these rates, which hold "with sparsity".
        tf32: Some(494.7e12),
        bf16: Some(989.4e12),
        f16: Some(989.4e12),
        bandwidth: 3.35e12,
        multiprocessor: HOPPER,
        link: NVLINK_4,
        source: "NVIDIA H100 Tensor Core GPU data sheet (bandwidth) and architecture white paper, table of peak rates",
    },
    Card {
        name: "h100-pcie",
        title: "NVIDIA H100 PCIe 80 GB",
        devices: &["NVIDIA H100 PCIe"],
        multiprocessors: 114,
        fma: 51.2e12,
        tf32: Some(378e12),
        bf16: Some(756e12),
        f16: Some(756e12),
        bandwidth: 2e12,
        multiprocessor: HOPPER,
        link: PCIE_5,
        source: "NVIDIA H100 Tensor Core GPU data sheet and architecture white paper, table of peak rates",
    },
    Card {
        name: "h200",
        title: "NVIDIA H200 SXM5 141 GB",
        devices: &["NVIDIA H200"],
        multiprocessors: 132,
        // The data sheet gives those of an H100 SXM5, rounded; only the memory is another.
        fma: 66.9e12,
        tf32: Some(494.7e12),
        bf16: Some(989.4e12),
        f16: Some(989.4e12),
        bandwidth: 4.8e12,
        multiprocessor: HOPPER,
        link: NVLINK_4,
        source: "NVIDIA H200 Tensor Core GPU data sheet and H100 architecture white paper, table of peak rates",
    },
    Card {
        name: "a100",
        title: "NVIDIA A100 SXM4 80 GB",
        devices: &["NVIDIA A100-SXM4-80GB"],
        multiprocessors: 108,
        fma: 19.5e12,
        tf32: Some(156e12),
        bf16: Some(312e12),
        f16: Some(312e12),
        bandwidth: 2.039e12,
        multiprocessor: AMPERE,
        link: NVLINK_3,
        source: "NVIDIA A100 Tensor Core GPU data sheet",
    },
    Card {
        name: "a100-40gb",
        title: "NVIDIA A100 SXM4 40 GB",
        devices: &["NVIDIA A100-SXM4-40GB"],
        multiprocessors: 108,
        fma: 19.5e12,
        tf32: Some(156e12),
        bf16: Some(312e12),
        f16: Some(312e12),
        bandwidth: 1.555e12,
        multiprocessor: AMPERE,
        link: NVLINK_3,
        source: "NVIDIA A100 Tensor Core GPU data sheet and architecture white paper (bandwidth)",
    },
    Card {
        name: "l40s",
        title: "NVIDIA L40S",
        devices: &["NVIDIA L40S"],
        multiprocessors: 142,
        fma: 91.6e12,
        tf32: Some(183e12),
        bf16: Some(362.05e12),
        f16: Some(362.05e12),
        bandwidth: 864e9,
        multiprocessor: multiprocessor("sm_80", 128.0, 512.0),
        link: PCIE_4,
        source: "NVIDIA L40S data sheet",
    },
    Card {
        name: "rtx4090",
        title: "NVIDIA GeForce RTX 4090",
        devices: &["NVIDIA GeForce RTX 4090"],
        multiprocessors: 128,
        fma: 82.6e12,
        tf32: Some(82.6e12),
        bf16: Some(165.2e12),
        // It would be twice this with sums in f16.
        f16: Some(165.2e12),
        bandwidth: 1.008e12,
        multiprocessor: multiprocessor("sm_80", 128.0, 256.0),
        link: PCIE_4,
        source: "NVIDIA Ada GPU architecture white paper, appendix A",
    },
    Card {
        name: "rtx5090",
        title: "NVIDIA GeForce RTX 5090",
        devices: &["NVIDIA GeForce RTX 5090"],
        multiprocessors: 170,
        fma: 104.8e12,
        tf32: Some(104.8e12),
        bf16: Some(209.5e12),
        f16: Some(209.5e12),
        bandwidth: 1.792e12,
        multiprocessor: multiprocessor("sm_90", 128.0, 256.0),
        link: PCIE_5,
        source: "NVIDIA RTX Blackwell GPU architecture white paper, appendix A",
    },
    Card {
        name: "t4",
        title: "NVIDIA T4",
        devices: &["Tesla T4", "NVIDIA T4"],
        multiprocessors: 40,
        fma: 8.1e12,
        tf32: None,
        bf16: None,
        f16: Some(65e12),
        bandwidth: 320e9,
        multiprocessor: Multiprocessor { loops: None, ..multiprocessor("", 64.0, 512.0) },
        link: PCIE_3,
        source: "NVIDIA T4 Tensor Core GPU data sheet and Turing architecture white paper (bandwidth)",
    },
];

impl Card {
    /// Multiplications and additions a second.
    pub fn rate(&self, unit: Unit) -> Option<f64> {
        match unit {
            Unit::Fma => Some(self.fma),
            Unit::Tf32 => self.tf32,
            Unit::Bf16 => self.bf16,
            Unit::F16 => self.f16,
        }
    }

    /// How much longer than at the published rate a loop takes at least, by what limits it, where that is known.
    pub fn slowed(&self, unit: Unit, turn: &Turn) -> Slowed {
        let of = &self.multiprocessor;
        let (products, issued, shared) = (f64::from(turn.products), f64::from(turn.issued), f64::from(turn.shared));
        // The multiply-adds of a warp's instruction, as if of 16 bits, and those of a cycle at the published rate.
        let (fma, rate, reached) = match unit {
            Unit::Fma => (32.0, of.fma, 1.0),
            Unit::Tf32 | Unit::Bf16 | Unit::F16 => (2048.0, of.tensor, of.reached),
        };
        let cycles = products * fma / rate;
        Slowed {
            products: 1.0 / reached,
            issue: issued / SCHEDULERS / cycles,
            // Threads of a warp that read the same number share it, which a count of f32 loads does not see.
            shared: (unit != Unit::Fma).then_some(shared / SHARED_BYTES / cycles),
        }
    }

    /// The least seconds that a sum of so many bytes over so many of these cards takes: those in which it waits, and those in which
    /// it moves bytes. Cards beyond [`IN_A_MACHINE`] are in other machines, each of which has that many.
    pub fn all_reduce(&self, ranks: usize, bytes: u64) -> (f64, f64) {
        let (inside, machines) = (ranks.min(IN_A_MACHINE) as f64, ranks.div_ceil(IN_A_MACHINE) as f64);
        let bandwidth = match machines > 1.0 {
            // Each card of a machine has an adapter of its own, and sends a part of what leaves the machine.
            true => self.link.bandwidth.min(IN_A_MACHINE as f64 * BETWEEN_MACHINES),
            false => self.link.bandwidth,
        };
        let nvlink = self.link.kind == LinkKind::NvLink;
        let time = |way: &Way| {
            let near = if nvlink { way.nvlink } else { way.pcie };
            let (steps_far, steps_near, sent) = match way.ring {
                // Each card passes on each of the other cards' shares twice: until it is summed, and as a sum.
                true => {
                    let (all, far) = (2.0 * (ranks as f64 - 1.0), 2.0 * (machines - 1.0));
                    (far, all - far, all / ranks as f64)
                }
                false => (2.0 * machines.log2().ceil(), 2.0 * (inside - 1.0), 2.0),
            };
            let waits = way.start + steps_far * way.network + steps_near * near;
            (waits, sent * bytes as f64 / (bandwidth * way.share))
        };
        let times = WAYS.iter().filter(|way| nvlink || !way.nvlink_alone).map(time);
        let least = times.reduce(|a, b| if b.0 + b.1 < a.0 + a.1 { b } else { a });
        least.filter(|_| ranks > 1).unwrap_or_default()
    }

    /// The card that drivers call so.
    pub fn called(name: &str) -> Option<&'static Card> {
        CARDS.iter().find(|card| card.devices.contains(&name))
    }

    /// The card of this device.
    pub fn of(device: &Device) -> Result<&'static Card> {
        let name = device.name();
        Card::called(&name)
            .ok_or_else(|| Error::Config(format!("no rates of {name:?} are known; --model takes {}", names())))
    }
}

fn names() -> String {
    CARDS.map(|card| card.name).join(", ")
}

/// What `--model` names.
#[derive(Clone, Copy, Debug)]
pub enum CardChoice {
    /// The card of the device.
    Auto,
    Named(&'static Card),
}

impl std::str::FromStr for CardChoice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text == "auto" {
            return Ok(CardChoice::Auto);
        }
        let card = CARDS.iter().find(|card| card.name == text).map(CardChoice::Named);
        card.ok_or_else(|| format!("no card is called {text:?}; there are {}, and auto for this machine's", names()))
    }
}
