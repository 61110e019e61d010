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

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A listing of these lines, which are instructions and labels, with an end.
    pub fn listing(lines: &[&str]) -> String {
        let line = |line: &&str| match line.strip_suffix(':') {
            Some(_) => format!("{line}\n"),
            None => format!("        /*0010*/                   {line} ;\n"),
        };
        lines.iter().chain([&"EXIT"]).map(line).collect()
    }

    /// A loop as a product has it, whose label is `.L_x_` and this letter, with something more.
    pub fn product(letter: &str, more: &[&str]) -> Vec<String> {
        let head = [
            format!(".L_x_{letter}:"),
            "DEPBAR.LE SB0, 0x1".into(),
            "BAR.SYNC.DEFER_BLOCKING 0x0".into(),
            "LDSM.16.M88.4 R8, [R2]".into(),
        ];
        let tail = [
            "HMMA.16816.F32.BF16 R16, R8, R12, R16".into(),
            "HMMA.16816.F32.BF16 R20, R8, R14, R20".into(),
            "@P1 LDGSTS.E.BYPASS.128 [R3], [R4.64]".into(),
            "LDGDEPBAR".into(),
            "IADD3 R0, R0, 0x1, RZ".into(),
            "ISETP.GE.AND P0, PT, R0, c[0x0][0x160], PT".into(),
            format!("@!P0 BRA `(.L_x_{letter})"),
        ];
        head.into_iter().chain(more.iter().map(|line| line.to_string())).chain(tail).collect()
    }

    fn counted(lines: &[String]) -> Vec<Loop> {
        steady_loops(&listing(&lines.iter().map(String::as_str).collect::<Vec<_>>()))
    }

    #[test]
    fn one_loop_is_counted_by_kinds() {
        let more =
            ["@!PT LDS RZ, [RZ]", "LDC R5, c[0x0][0x200]", "@P2 MOV R6, c[0x0][0x208]", "IMAD.HI.U32 R7, R5, R6, RZ"];
        let loops = counted(&product("1", &more));
        let lean = Counts {
            issued: 14,
            mma: 2,
            ldsm: 1,
            lds: 1,
            ldgsts: 1,
            integer: 3,
            moves: 1,
            branches: 1,
            barriers: 1,
            other: 3,
            divisions: 1,
            reloads: 2,
            // The load of nothing moves nothing.
            shared: 2 * 512,
            in_flight: 2,
            ..Counts::default()
        };
        assert_eq!(loops, [Loop { name: "lean", multiplier: Multiplier::Mma, lean, rich: lean, guessed: false }]);
    }

    #[test]
    fn an_inner_loop_counts_as_often_as_it_is_passed() {
        let fma = "FFMA R1, R2, R3, R1";
        let inner = |end: &str| -> Vec<String> {
            let head = [".L_x_0:", "STS.128 [R9], R4", "BAR.SYNC 0x0", "MOV R7, 0x2", ".L_x_1:", "LDS.128 R4, [R8]"];
            let tail = ["IADD3 R7, R7, 0x2, RZ", end, "@P0 BRA `(.L_x_1)", "@P1 BRA `(.L_x_0)"];
            head.into_iter().chain([fma; 32]).chain(tail).map(String::from).collect()
        };
        let known = &counted(&inner("ISETP.NE.AND P0, PT, R7, 0xa, PT"))[..];
        let [Loop { multiplier: Multiplier::Ffma, lean, guessed: false, .. }] = known else { panic!("{known:?}") };
        assert_eq!((lean.ffma, lean.lds, lean.sts, lean.issued), (4 * 32, 4, 1, 3 + 4 * 36 + 1));
        let unknown = &counted(&inner("ISETP.NE.AND P0, PT, R7, R6, PT"))[..];
        assert!(matches!(unknown, [Loop { guessed: true, lean: Counts { ffma: 32, .. }, .. }]), "{unknown:?}");
    }

    #[test]
    fn of_several_loops_each_has_its_name() {
        let rolled = [".L_x_4:", "LDG.E R5, [R4.64]", "STS [R3], R5", "@P3 BRA `(.L_x_4)"];
        let changed = ["LDG.E.128 R24, [R4.64]", "HFMA2.BF16 R5, R24, R5, R5", "STS [R3], R5"];
        let mut both = product("4", &["LDG.E.128 R24, [R4.64]", "STS [R3], R24", "STS [R3], R25"]);
        both.retain(|line| !line.contains("LDGSTS"));
        let mut rolled = product("1", &rolled);
        // It issues less than the lean one where its own loop is left out.
        rolled.retain(|line| !line.contains("LDGSTS") && !line.contains("IADD3"));
        let all = [rolled, product("2", &changed), product("3", &[]), both].concat();
        // A loop around them, as of a kernel that goes from tile to tile.
        let persistent =
            [&[".L_x_0:".to_string(), "NOP".into()][..], &all, &["@P4 BRA `(.L_x_0)".to_string()]].concat();
        for lines in [all, persistent] {
            let loops = counted(&lines);
            let found: Vec<_> = loops.iter().map(|l| (l.name, l.lean.issued, l.lean.sts)).collect();
            // One turn of the loop that takes element after element stands for all of its turns.
            assert_eq!(found, [("lean", 10, 0), ("both", 12, 2), ("changed", 13, 1), ("elements", 11, 1)]);
        }
    }

    #[test]
    fn what_parameters_decide_goes_the_cheap_way_and_the_dear_one() {
        let of = |condition: &str| {
            let more = [condition, "@P2 BRA `(.L_x_5)", "FMUL R5, R5, R6", "FMUL R6, R5, R6", ".L_x_5:"];
            let loops = counted(&product("1", &more));
            (loops[0].lean.issued, loops[0].rich.issued)
        };
        assert_eq!(of("ISETP.NE.AND P2, PT, RZ, c[0x0][0x170], PT"), (12, 14));
        // The turn decides, or the thread.
        assert_eq!(of("ISETP.NE.AND P2, PT, R0, c[0x0][0x170], PT"), (14, 14));
        assert_eq!(of("S2R R6, SR_TID.X"), (12, 14));
        // A far jump.
        let far = ["ISETP.NE.AND P2, PT, R0, RZ, PT", "@P2 CALL.REL.NOINC `(.L_x_5)", "FMUL R5, R5, R6", ".L_x_5:"];
        let loops = counted(&product("1", &far));
        assert_eq!((loops[0].lean.issued, loops[0].lean.calls), (13, 0));
    }

    #[test]
    fn a_branch_on_what_was_loaded_lets_one_load_be_in_flight() {
        let load = |at: usize| format!("LDG.E R{at}, [R4.64]");
        let test = |at: usize| format!("FSETP.GT.AND P2, PT, R{at}, RZ, PT");
        let store = |at: usize| format!("STS [R3], R{at}");
        let apart: Vec<String> = (0..4).flat_map(|i| [load(40 + i), test(40 + i), store(40 + i)]).collect();
        let together: Vec<String> = (0..4).map(|i| load(40 + i)).chain((0..4).map(|i| store(40 + i))).collect();
        let lean = |lines: &[String]| {
            let branch = ["@P2 BRA `(.L_x_5)".to_string(), "FMUL R40, R40, R40".into(), ".L_x_5:".into()];
            let lines = [lines, &branch].concat();
            let more: Vec<&str> = lines.iter().map(String::as_str).collect();
            // Without the copies.
            let mut all = product("1", &more);
            all.retain(|line| !line.contains("LDGSTS"));
            counted(&all)[0].lean
        };
        let (apart, together) = (lean(&apart), lean(&together));
        assert_eq!((apart.in_flight, apart.data_branches), (1, 1));
        assert_eq!((together.in_flight, together.data_branches), (4, 0));
    }
}
