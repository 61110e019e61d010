//! The steady loops of a product: what a warp issues in one turn of the loop that does the multiplications.
//!
//! A kernel may have several such loops, one for each way in which its operands reach shared memory, and branches inside of
//! them. Of the branches that depend on parameters alone, every combination is tried; at the others the way is gone on which
//! more is loaded, then the longer one. So the counts are those of one turn far from the matrix's edges.

use std::collections::BTreeSet;

use half::f16;
use serde::Serialize;

use super::choices::{Choices, depends_on_loads, hexadecimal};
use super::flow::{Flow, Instruction, Register, plain};

/// What a warp issues in one turn of a loop. An instruction that its predicate switches off takes its place as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub issued: u32,
    /// Instructions of the tensor cores.
    pub mma: u32,
    pub ffma: u32,
    pub ldsm: u32,
    pub lds: u32,
    pub sts: u32,
    pub ldg: u32,
    pub ldgsts: u32,
    pub integer: u32,
    pub uniform: u32,
    pub moves: u32,
    pub float: u32,
    pub branches: u32,
    pub barriers: u32,
    pub other: u32,
    /// Among the instructions above: multiplications of which the upper half is kept, with which the compiler divides;
    /// parameters loaded into registers; branches on what the loop loaded; and calls anywhere in the loop.
    pub divisions: u32,
    pub reloads: u32,
    pub data_branches: u32,
    pub calls: u32,
    /// Bytes of shared memory, read and written.
    pub shared: u32,
    /// Loads and copies from global memory that a thread waits for together, at most.
    pub in_flight: u32,
}

/// What a loop multiplies with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Multiplier {
    #[serde(rename = "HMMA")]
    Mma,
    #[serde(rename = "FFMA")]
    Ffma,
}

impl Multiplier {
    pub fn name(self) -> &'static str {
        if self == Multiplier::Mma { "HMMA" } else { "FFMA" }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Loop {
    /// Of several loops, `lean` is the one with the fewest instructions for each multiplication: it copies its operands as they
    /// are. `changed` does something to an operand on the way, and `both` to both, where `lean` copies without registers.
    /// `elements` loads one element after the other, and is never the lean one where there is another.
    pub name: &'static str,
    pub multiplier: Multiplier,
    /// With the parameters for which the least is issued, and those for which the most is, but for calls.
    pub lean: Counts,
    pub rich: Counts,
    /// Whether it has an inner loop whose number of turns is not known; it was counted once.
    pub guessed: bool,
}

impl Counts {
    fn add(&mut self, instruction: &Instruction, times: u32) {
        *self.of_kind(instruction) += times;
        self.issued += times;
        let Instruction { opcode, name, operands, .. } = instruction;
        let divides = opcode.starts_with("IMAD.HI") || opcode.starts_with("UIMAD.HI");
        self.divisions += if divides { times } else { 0 };
        let of_parameter = || operands.last().is_some_and(|operand| operand.starts_with("c["));
        let moves = matches!(*name, "MOV" | "UMOV") || opcode.starts_with("IMAD.MOV");
        let reloads = matches!(*name, "LDC" | "ULDC") || moves && of_parameter();
        self.reloads += if reloads { times } else { 0 };
        let reads = matches!(*name, "LDSM" | "LDS") && instruction.guard != Some("!PT");
        let moved = if reads || matches!(*name, "STS" | "LDGSTS") { bytes(instruction) } else { 0 };
        self.shared += times * moved;
    }

    fn of_kind(&mut self, instruction: &Instruction) -> &mut u32 {
        match instruction.name {
            "HMMA" | "IMMA" | "DMMA" | "BMMA" | "HGMMA" | "IGMMA" | "QGMMA" => &mut self.mma,
            name if name.starts_with("FFMA") => &mut self.ffma,
            "LDSM" => &mut self.ldsm,
            "LDS" => &mut self.lds,
            "STS" => &mut self.sts,
            "LDG" => &mut self.ldg,
            "LDGSTS" => &mut self.ldgsts,
            "BAR" => &mut self.barriers,
            "BRA" | "BRX" | "JMP" | "CALL" | "RET" | "EXIT" | "BSSY" | "BSYNC" | "BREAK" | "WARPSYNC" | "YIELD" => {
                &mut self.branches
            }
            "IMAD" if instruction.opcode.starts_with("IMAD.MOV") => &mut self.moves,
            "IADD3" | "IMAD" | "LOP3" | "ISETP" | "SHF" | "LEA" | "VIADD" | "VIMNMX" | "VIADDMNMX" | "IABS" | "SEL"
            | "PRMT" | "PLOP3" | "P2R" | "R2P" | "IMNMX" | "BMSK" | "POPC" | "FLO" | "I2F" | "F2I" | "I2I" | "LEPC"
            | "PSETP" => &mut self.integer,
            "MOV" | "CS2R" | "S2R" | "S2UR" | "R2UR" | "B2R" => &mut self.moves,
            "F2F" | "F2FP" | "FADD" | "FMUL" | "FSETP" | "FSEL" | "FMNMX" | "HADD2" | "HFMA2" | "HMUL2" | "MUFU"
            | "FCHK" | "FRND" | "HMNMX2" | "HSETP2" | "HSET2" => &mut self.float,
            "ULDC" => &mut self.other,
            name if name.starts_with('U') => &mut self.uniform,
            _ => &mut self.other,
        }
    }

    fn of<'a>(instructions: impl IntoIterator<Item = &'a Instruction<'a>>) -> Counts {
        let mut counts = Counts::default();
        instructions.into_iter().for_each(|instruction| counts.add(instruction, 1));
        counts
    }

    /// The multiplications.
    pub fn products(&self, multiplier: Multiplier) -> u32 {
        if multiplier == Multiplier::Mma { self.mma } else { self.ffma }
    }
}

/// The bytes of shared memory that a warp reads or writes with this instruction.
fn bytes(instruction: &Instruction) -> u32 {
    let has = |modifiers: &[&str]| modifiers.iter().any(|modifier| instruction.has(modifier));
    match instruction.name {
        // Matrices of 128 bytes.
        "LDSM" => 128 * instruction.opcode.rsplit('.').next().and_then(|count| count.parse().ok()).unwrap_or(1),
        _ if has(&["128"]) => 32 * 16,
        _ if has(&["64"]) => 32 * 8,
        _ if has(&["U8", "S8"]) => 32,
        _ if has(&["U16", "S16", "16"]) => 32 * 2,
        _ => 32 * 4,
    }
}

/// What ways are chosen by, the first number first: multiplications, copies, loads, no calls, no inner loops of unknown
/// length, and then more instructions.
type Weight = [i64; 6];

fn weight(counts: &Counts, multiplier: Multiplier) -> Weight {
    let [products, copies, loads] = [counts.products(multiplier), counts.ldgsts, counts.ldg].map(i64::from);
    [products, copies, loads, -i64::from(counts.calls), 0, i64::from(counts.issued)]
}

/// A loop whose inner loops are taken for one node each, so that the rest has no circles.
struct Region {
    /// Each stands behind all that it leads to; the last one is where a turn begins.
    nodes: Vec<Node>,
    guessed: bool,
}

struct Node {
    content: Content,
    ways: Vec<Way>,
    /// The branch that parameters decide: its block, and where it goes if it is taken and if not.
    choice: Option<(usize, [Option<Way>; 2])>,
}

#[derive(Clone, Copy)]
enum Way {
    Again,
    To(usize),
}

enum Content {
    Block(usize, Weight),
    /// A loop with multiplications, and how many turns it has.
    Inner(Region, u32),
    /// A loop without, of unknown length.
    Rolled(BTreeSet<usize>, Weight),
}

impl Region {
    fn new(flow: &Flow, blocks: &BTreeSet<usize>, multiplier: Multiplier) -> Option<Region> {
        let head = *flow.entries(blocks).first()?;
        let mut region = Region { nodes: Vec::new(), guessed: false };
        let mut nodes: std::collections::BTreeMap<usize, usize> = std::collections::BTreeMap::new();
        for (component, again) in flow.components(blocks, &[head].into()) {
            let way = |to: usize| match to {
                to if to == head => Some(Way::Again),
                to => nodes.get(&to).copied().map(Way::To),
            };
            let leaving = component.iter().flat_map(|&block| flow.next[block].iter().copied());
            let ways = leaving.filter(|to| *to == head || !component.contains(to)).filter_map(way).collect();
            let mut counts = Counts::of(flow.instructions(&component));
            counts.calls = calls(flow, &component);
            let block = *component.first()?;
            let mut choice = None;
            let content = if !again {
                choice = flow.fork[block].map(|fork| (block, fork.map(way)));
                Content::Block(block, weight(&counts, multiplier))
            } else if counts.mma > 0 || counts.ffma >= LEAST_FFMA {
                let inner = Region::new(flow, &component, multiplier)?;
                let turns = turns(flow, &component);
                region.guessed |= turns.is_none() || inner.guessed;
                Content::Inner(inner, turns.unwrap_or(1))
            } else {
                let mut weight = weight(&counts, multiplier);
                (weight[2], weight[4]) = (0, -1);
                Content::Rolled(component.clone(), weight)
            };
            nodes.extend(component.iter().map(|&block| (block, region.nodes.len())));
            region.nodes.push(Node { content, ways, choice });
        }
        // Nothing leads to the head but what comes again, so it is found last; blocks that it does not lead to are in no loop.
        (nodes.get(&head) == Some(&(region.nodes.len() - 1))).then_some(region)
    }

    /// For each node the heaviest way from it to the end of the turn, where there is one, and the node that it goes on to.
    fn ways(&self, choices: &Choices, verdict: u32) -> Vec<Option<(Weight, Option<usize>)>> {
        let mut found: Vec<Option<(Weight, Option<usize>)>> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let decided = node.choice.as_ref().and_then(|(block, ways)| {
                let taken = choices.of.get(block)?.holds(verdict);
                Some(ways[usize::from(!taken)])
            });
            let mut best: Option<(Weight, Option<usize>)> = None;
            let mut consider = |way: Way| {
                let option = match way {
                    Way::Again => Some(([0; 6], None)),
                    Way::To(node) => found[node].map(|(weight, _)| (weight, Some(node))),
                };
                if let Some(option) = option.filter(|(weight, _)| best.is_none_or(|(most, _)| *weight > most)) {
                    best = Some(option);
                }
            };
            match decided {
                Some(way) => way.into_iter().for_each(&mut consider),
                None => node.ways.iter().copied().for_each(&mut consider),
            }
            let own = match &node.content {
                Content::Block(_, weight) | Content::Rolled(_, weight) => Some(*weight),
                Content::Inner(inner, turns) => {
                    inner.ways(choices, verdict).pop().flatten().map(|(w, _)| w.map(|n| n * i64::from(*turns)))
                }
            };
            found.push(best.zip(own).map(|((rest, next), own)| (std::array::from_fn(|i| rest[i] + own[i]), next)));
        }
        found
    }

    /// The blocks of the heaviest turn in their order, each with how often it is passed.
    fn path(&self, choices: &Choices, verdict: u32, times: u32, into: &mut Vec<(usize, u32)>) {
        let ways = self.ways(choices, verdict);
        let mut node = self.nodes.len().checked_sub(1);
        while let Some(at) = node {
            match &self.nodes[at].content {
                Content::Block(block, _) => into.push((*block, times)),
                Content::Rolled(blocks, _) => into.extend(blocks.iter().map(|&block| (block, times))),
                Content::Inner(inner, turns) => inner.path(choices, verdict, times * turns, into),
            }
            node = ways[at].and_then(|(_, next)| next);
        }
    }
}

/// Fewer FFMA than these are no product's.
const LEAST_FFMA: u32 = 32;

fn calls(flow: &Flow, blocks: &BTreeSet<usize>) -> u32 {
    flow.instructions(blocks).filter(|i| i.name == "CALL" && !i.jumps()).count() as u32
}

/// How often a loop is passed that counts from one constant to another.
fn turns(flow: &Flow, blocks: &BTreeSet<usize>) -> Option<u32> {
    let code: Vec<&Instruction> = flow.instructions(blocks).collect();
    let constant = |operand: &&str| hexadecimal(operand);
    let mut ends = code.iter().rev().filter(|i| matches!(i.name, "ISETP" | "UISETP"));
    ends.find_map(|end| {
        let (counter, last) = (Register::of(end.operands.get(2)?)?, constant(end.operands.get(3)?)?);
        let counts = |i: &&&Instruction| {
            matches!(i.name, "VIADD" | "IADD3" | "UIADD3")
                && i.operands.first().and_then(|first| Register::of(first)) == Some(counter)
        };
        let steps = code.iter().filter(counts).flat_map(|i| i.operands.iter().skip(1).filter_map(constant));
        let step = steps.last()?;
        let start = flow.range(*blocks.first()?).start;
        let set = flow.code[..start].iter().rev().find(|i| i.writes.contains(&counter))?;
        let half = |operand: usize| {
            let value: f32 = set.operands.get(operand)?.parse().ok()?;
            Some(u32::from(f16::from_f32(value).to_bits()))
        };
        let first = match set.operands.last().map(|operand| plain(operand))? {
            // Two halves, as the bits of a number.
            _ if set.name == "HFMA2" && set.operands.len() == 5 => half(3)? << 16 | half(4)?,
            _ if set.name == "CS2R" => 0,
            "RZ" | "URZ" => 0,
            number => hexadecimal(number)?,
        };
        let (way, step) = (last.wrapping_sub(first) as i32, step as i32);
        let turns = way.checked_div(step)?;
        (turns > 0 && turns.wrapping_mul(step) == way).then_some(turns as u32)
    })
}

/// The most loads and copies that a thread has asked for and not waited for yet, in the second of two turns.
fn in_flight(flow: &Flow, path: &[(usize, u32)]) -> u32 {
    let (mut loads, mut groups, mut open, mut most): (Vec<&[Register]>, Vec<usize>, usize, usize) = Default::default();
    for turn in 0..2 {
        for instruction in path.iter().flat_map(|(block, _)| &flow.code[flow.range(*block)]) {
            let uses = |load: &&[Register]| {
                load.iter()
                    .any(|register| instruction.reads.contains(register) || instruction.writes.contains(register))
            };
            // Loads arrive in their order.
            if let Some(last) = loads.iter().rposition(uses) {
                loads.drain(..=last);
            }
            match instruction.name {
                "LDG" => loads.push(&instruction.writes),
                "LDGSTS" => open += 1,
                "LDGDEPBAR" => groups.push(std::mem::take(&mut open)),
                "DEPBAR" => {
                    let left = instruction.operands.get(1).and_then(|n| hexadecimal(n)).unwrap_or(0) as usize;
                    groups.drain(..groups.len().saturating_sub(left));
                }
                _ => (),
            }
            if turn == 1 {
                most = most.max(loads.len() + open + groups.iter().sum::<usize>());
            }
        }
    }
    most as u32
}

/// All loops among these blocks, with how many instructions each has.
fn loops(flow: &Flow, of: &BTreeSet<usize>, cut: &BTreeSet<usize>) -> Vec<(BTreeSet<usize>, Counts)> {
    let mut found = Vec::new();
    for (blocks, _) in flow.components(of, cut).into_iter().filter(|(_, again)| *again) {
        found.extend(loops(flow, &blocks, &flow.entries(&blocks)));
        found.push((blocks.clone(), Counts::of(flow.instructions(&blocks))));
    }
    found
}

/// The steady loops of the kernel of this listing, `lean` first: the innermost loops that have all multiplications of a tile's
/// step, and fill shared memory or wait for others who do.
pub fn steady_loops(text: &str) -> Vec<Loop> {
    let flow = Flow::read(text);
    let all = loops(&flow, &(0..flow.blocks()).collect(), &BTreeSet::new());
    let tensor = all.iter().any(|(_, counts)| counts.mma > 0);
    let (multiplier, least) = if tensor { (Multiplier::Mma, 1) } else { (Multiplier::Ffma, LEAST_FFMA) };
    let fills = |counts: &Counts| counts.ldgsts + counts.sts + counts.barriers > 0;
    let products = |(_, counts): &&(BTreeSet<usize>, Counts)| counts.products(multiplier);
    let steps = all.iter().filter(|one| products(one) >= least && fills(&one.1));
    let steps: Vec<&(BTreeSet<usize>, Counts)> = steps.collect();
    let contains = |one: &BTreeSet<usize>, other: &BTreeSet<usize>| one.len() > other.len() && one.is_superset(other);
    let innermost = steps.iter().filter(|one| !steps.iter().any(|other| contains(&one.0, &other.0))).copied();
    let innermost: Vec<&(BTreeSet<usize>, Counts)> = innermost.collect();
    let most = innermost.iter().map(products).max().unwrap_or(0);
    let large = innermost.iter().filter(|one| 2 * products(one) >= most);
    let mut found: Vec<(Loop, bool)> = large
        .filter_map(|(blocks, _)| Some((steady(&flow, blocks, multiplier)?, by_elements(&flow, blocks))))
        .collect();
    let per = |of: &Loop| f64::from(of.lean.issued) / f64::from(of.lean.products(multiplier));
    found.sort_by(|(a, slow), (b, other)| slow.cmp(other).then(per(a).total_cmp(&per(b))));
    let copies = found.first().is_some_and(|(lean, _)| lean.lean.ldgsts > 0);
    let named = |(at, (found, slow)): (usize, (Loop, bool))| {
        let name = match at {
            0 => "lean",
            _ if slow => "elements",
            _ if copies && found.lean.ldgsts == 0 => "both",
            _ => "changed",
        };
        Loop { name, ..found }
    };
    found.into_iter().enumerate().map(named).collect()
}

/// Whether a loop loads one element after the other: in loops of its own, or by loads of fewer than 16 bytes alone.
fn by_elements(flow: &Flow, blocks: &BTreeSet<usize>) -> bool {
    let inside = loops(flow, blocks, &flow.entries(blocks));
    let rolled = inside.iter().any(|(_, counts)| counts.mma == 0 && counts.ffma < LEAST_FFMA);
    let mut loads = flow.instructions(blocks).filter(|i| matches!(i.name, "LDG" | "LDGSTS"));
    rolled || loads.all(|load| !load.has("128"))
}

fn steady(flow: &Flow, blocks: &BTreeSet<usize>, multiplier: Multiplier) -> Option<Loop> {
    let choices = Choices::of(flow, blocks);
    let region = Region::new(flow, blocks, multiplier)?;
    let turns = choices.verdicts.iter().filter_map(|&verdict| {
        let (weight, _) = region.ways(&choices, verdict).pop().flatten()?;
        Some((verdict, weight))
    });
    let mut turns: Vec<(u32, Weight)> = turns.collect();
    // A scale is an FFMA, too.
    let full = turns.iter().map(|(_, weight)| weight[0]).max()?;
    turns.retain(|(_, weight)| 10 * weight[0] >= 9 * full);
    // Without calls and inner loops of unknown length, if that is possible.
    if turns.iter().any(|(_, weight)| (weight[3], weight[4]) == (0, 0)) {
        turns.retain(|(_, weight)| (weight[3], weight[4]) == (0, 0));
    }
    let copies = turns.iter().map(|(_, weight)| weight[1]).max()?;
    let lean = turns.iter().filter(|(_, weight)| weight[1] == copies).min_by_key(|(_, weight)| weight[5])?;
    let rich = turns.iter().rev().max_by_key(|(_, weight)| weight[5])?;
    let counts = |(verdict, _): &(u32, Weight)| {
        let mut path = Vec::new();
        region.path(&choices, *verdict, 1, &mut path);
        let mut counts = Counts { calls: calls(flow, blocks), ..Counts::default() };
        for &(block, times) in &path {
            flow.code[flow.range(block)].iter().for_each(|instruction| counts.add(instruction, times));
            let on_data = flow.fork[block].is_some() && depends_on_loads(flow, blocks, block);
            counts.data_branches += u32::from(on_data);
        }
        counts.in_flight = in_flight(flow, &path);
        counts
    };
    let guessed = region.guessed || lean.1[4] < 0;
    let (lean, rich) = (counts(lean), counts(rich));
    Some(Loop { name: "lean", multiplier, lean, rich, guessed })
}
