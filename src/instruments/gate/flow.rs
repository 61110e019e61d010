//! The control flow of a kernel's machine code: its instructions, the blocks without branches that they form, and its loops.

use std::collections::{BTreeMap, BTreeSet};

/// An instruction, as `nvdisasm` writes it: `@!P0 IADD3 R3, P1, R2, 0x10, RZ`.
#[derive(Debug)]
pub struct Instruction<'a> {
    /// The predicate that it depends on: `!P0`.
    pub guard: Option<&'a str>,
    /// With its modifiers: `LDG.E.128`.
    pub opcode: &'a str,
    /// Without: `LDG`.
    pub name: &'a str,
    pub operands: Vec<&'a str>,
    /// The registers and predicates that it writes, and those that it reads, its guard among them.
    pub writes: Vec<Register>,
    pub reads: Vec<Register>,
}

/// A register or a predicate, of a thread (`R3`, `P0`) or of the warp (`UR3`, `UP0`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Register {
    uniform: bool,
    predicate: bool,
    number: u16,
}

impl Register {
    /// `None` for those that hold a constant (`RZ`, `PT`), and for what is no register.
    pub fn parse(word: &str) -> Option<Register> {
        let (uniform, rest) = word.strip_prefix('U').map_or((false, word), |rest| (true, rest));
        let predicate = rest.starts_with('P');
        let digits = rest.strip_prefix(['R', 'P'])?;
        let digit = |c: char| c.is_ascii_digit();
        let good = digits.chars().all(digit) && (!predicate || digits.len() == 1);
        good.then(|| digits.parse().ok()).flatten().map(|number| Register { uniform, predicate, number })
    }

    /// The one that an operand is, and nothing else.
    pub fn of(operand: &str) -> Option<Register> {
        Register::parse(plain(operand))
    }
}

impl std::fmt::Display for Register {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let (uniform, kind) = (if self.uniform { "U" } else { "" }, if self.predicate { "P" } else { "R" });
        write!(f, "{uniform}{kind}{}", self.number)
    }
}

/// An operand without the hint that its register is read again.
pub(super) fn plain(operand: &str) -> &str {
    operand.strip_suffix(".reuse").unwrap_or(operand)
}

/// Whether a predicate is always true.
pub(super) fn is_true(predicate: &str) -> bool {
    matches!(predicate, "PT" | "UPT")
}

/// The words of a text with what stands between them: (whether it is a word, text).
pub(super) fn words(text: &str) -> impl Iterator<Item = (bool, &str)> {
    let of_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut rest = text;
    std::iter::from_fn(move || {
        let word = of_word(rest.chars().next()?);
        let end = rest.find(|c| of_word(c) != word).unwrap_or(rest.len());
        let (now, later) = rest.split_at(end);
        rest = later;
        Some((word, now))
    })
}

/// Instructions that write no register, whatever their first operand is.
const WRITE_NOTHING: &[&str] = &[
    "STG",
    "STS",
    "ST",
    "STL",
    "LDGSTS",
    "BRA",
    "BAR",
    "RED",
    "DEPBAR",
    "LDGDEPBAR",
    "EXIT",
    "NOP",
    "BSSY",
    "BSYNC",
    "CALL",
    "RET",
    "WARPSYNC",
    "BREAK",
    "UTMALDG",
    "SYNCS",
    "ERRBAR",
    "MEMBAR",
    "CCTL",
];
/// Instructions whose second operand may be a predicate that they write, behind the first predicate or a register.
const WRITE_PREDICATES: &[&str] = &[
    "ISETP",
    "FSETP",
    "PLOP3",
    "IADD3",
    "LEA",
    "UISETP",
    "UPLOP3",
    "PSETP",
    "IMAD",
    "UIADD3",
    "ULEA",
    "DSETP",
    "VIADDMNMX",
    "R2P",
    "FCHK",
];
const CARRY: &[&str] = &["IADD3", "LEA", "UIADD3", "ULEA", "IMAD"];

impl<'a> Instruction<'a> {
    /// Reads a line of the listing. Labels, directives and lines that only hold an encoding are no instructions.
    fn parse(line: &'a str) -> Option<Instruction<'a>> {
        let (_, rest) = line.trim_start().strip_prefix("/*")?.split_once("*/")?;
        let text = rest.split_once(';')?.0.trim();
        let (guard, text) = match text.strip_prefix('@') {
            Some(guarded) => guarded.split_once(' ').map(|(guard, text)| (Some(guard), text.trim_start()))?,
            None => (None, text),
        };
        let (opcode, operands) = text.split_once(' ').unwrap_or((text, ""));
        if !opcode.starts_with(|c: char| c.is_ascii_uppercase()) {
            return None;
        }
        let name = opcode.split('.').next().unwrap_or(opcode);
        let operands = operands_of(operands);
        let mut instruction = Instruction { guard, opcode, name, operands, writes: Vec::new(), reads: Vec::new() };
        instruction.writes = instruction.find_writes();
        instruction.reads = instruction.find_reads();
        Some(instruction)
    }

    pub fn has(&self, modifier: &str) -> bool {
        self.opcode.split('.').skip(1).any(|part| part == modifier)
    }

    /// Whether it goes elsewhere in the kernel. For some far jumps there is a call that nobody returns from: its label is one of
    /// the kernel's, and a function has a name.
    pub fn jumps(&self) -> bool {
        matches!(self.name, "BRA" | "JMP") || self.name == "CALL" && self.operands.iter().any(|o| o.starts_with("`(.L"))
    }

    /// Whether it is carried out for some threads alone.
    pub fn is_guarded(&self) -> bool {
        self.guard.is_some_and(|guard| guard != "PT")
    }

    /// How many registers its result takes.
    fn width(&self) -> u16 {
        let last = self.opcode.rsplit('.').next().unwrap_or_default();
        match self.name {
            "HMMA" | "IMMA" => 4,
            "LDSM" => last.parse().unwrap_or(1),
            _ if self.has("128") => 4,
            _ if self.has("64") || self.has("WIDE") => 2,
            "CS2R" if !self.has("32") => 2,
            _ => 1,
        }
    }

    fn find_writes(&self) -> Vec<Register> {
        if WRITE_NOTHING.contains(&self.name) {
            return Vec::new();
        }
        let predicate = |operand: Option<&&str>| operand.and_then(|o| Register::of(o)).filter(|r| r.predicate);
        let Some(first) = self.operands.first() else { return Vec::new() };
        let mut writes = Vec::new();
        let mut to_predicate = matches!(*first, "PT" | "UPT" | "RZ" | "URZ") || CARRY.contains(&self.name);
        if let Some(register) = Register::of(first) {
            to_predicate |= register.predicate;
            let registers = if register.predicate { 1 } else { self.width() };
            writes.extend((0..registers).map(|i| Register { number: register.number + i, ..register }));
        }
        if to_predicate && WRITE_PREDICATES.contains(&self.name) {
            writes.extend(predicate(self.operands.get(1)));
        }
        writes
    }

    /// What it writes is read only where it stands a second time.
    fn find_reads(&self) -> Vec<Register> {
        let mut written = self.writes.clone();
        written.dedup();
        let all = self.operands.iter().flat_map(|operand| words(operand)).filter_map(|(_, word)| Register::parse(word));
        let mut reads: Vec<Register> = all
            .filter(|register| match written.iter().position(|w| w == register) {
                Some(at) => {
                    written.remove(at);
                    false
                }
                None => true,
            })
            .collect();
        reads.extend(self.guard.and_then(|guard| Register::parse(guard.trim_start_matches('!'))));
        reads
    }
}

/// Splits at the commas outside of brackets.
fn operands_of(text: &str) -> Vec<&str> {
    let mut depth = 0;
    let parts = text.split(move |c| {
        match c {
            '[' | '(' => depth += 1,
            ']' | ')' => depth -= 1,
            _ => (),
        }
        c == ',' && depth == 0
    });
    parts.map(str::trim).filter(|part| !part.is_empty()).collect()
}

/// A kernel's blocks: stretches without branches, which end where one may go elsewhere or come from elsewhere.
pub struct Flow<'a> {
    pub code: Vec<Instruction<'a>>,
    /// The first instruction of each block, and one behind the last.
    starts: Vec<usize>,
    /// The blocks that each block goes on to.
    pub next: Vec<Vec<usize>>,
    /// Of a block that ends with a choice: where it goes if the branch is taken, and if not.
    pub fork: Vec<Option<[usize; 2]>>,
    pub before: Vec<Vec<usize>>,
    pub block_of: Vec<usize>,
}

impl<'a> Flow<'a> {
    /// Reads the listing of one kernel.
    pub fn read(text: &'a str) -> Flow<'a> {
        let (mut code, mut labels) = (Vec::new(), BTreeMap::new());
        for line in text.lines() {
            match line.trim_start().strip_suffix(':') {
                Some(label) if label.starts_with(".L") => drop(labels.insert(label, code.len())),
                _ => code.extend(Instruction::parse(line)),
            }
        }
        let behind = |(at, _): (usize, &Instruction)| at + 1;
        let ends = code.iter().enumerate().filter(|(_, i)| i.jumps() || matches!(i.name, "BRX" | "EXIT" | "RET"));
        let leaders = ends.map(behind).chain(labels.values().copied()).filter(|&at| at < code.len());
        let mut starts: Vec<usize> = leaders.chain([0]).collect::<BTreeSet<_>>().into_iter().collect();
        starts.push(code.len());
        let block_of: Vec<usize> = (0..code.len()).map(|at| starts.partition_point(|&start| start <= at) - 1).collect();

        let count = starts.len() - 1;
        let (mut next, mut fork, mut before) = (vec![Vec::new(); count], vec![None; count], vec![Vec::new(); count]);
        for block in 0..count {
            let Some(last) = code[starts[block]..starts[block + 1]].last() else { continue };
            let after = (block + 1 < count).then_some(block + 1);
            let conditional = last.is_guarded() || last.operands.len() > 1;
            let target = || {
                let label = last.operands.last()?.trim_start_matches("`(").trim_end_matches(')');
                labels.get(label).filter(|&&at| at < block_of.len()).map(|&at| block_of[at])
            };
            let mut ways: Vec<usize> = match last.name {
                // Threads of a warp that went different ways: not the common case.
                "BRA" if last.has("DIV") => after.into_iter().collect(),
                _ if last.jumps() && conditional => target().into_iter().chain(after).collect(),
                _ if last.jumps() => target().into_iter().collect(),
                // Where an indirect branch goes is not known.
                "BRX" | "RET" | "EXIT" if !last.is_guarded() => Vec::new(),
                _ => after.into_iter().collect(),
            };
            if last.jumps() && conditional && ways.len() == 2 {
                fork[block] = Some([ways[0], ways[1]]);
            }
            ways.dedup();
            ways.iter().for_each(|&way| before[way].push(block));
            next[block] = ways;
        }
        Flow { code, starts, next, fork, before, block_of }
    }

    pub fn blocks(&self) -> usize {
        self.next.len()
    }

    /// The instructions of a block.
    pub fn range(&self, block: usize) -> std::ops::Range<usize> {
        self.starts[block]..self.starts[block + 1]
    }

    /// Those of several blocks, in the order of the listing.
    pub fn instructions(&self, blocks: &BTreeSet<usize>) -> impl Iterator<Item = &Instruction<'a>> {
        blocks.iter().flat_map(|&block| &self.code[self.range(block)])
    }

    /// Whether one may return from these blocks to where one was, without passing through `cut`.
    fn is_loop(&self, component: &BTreeSet<usize>, cut: &BTreeSet<usize>) -> bool {
        component.len() > 1 || component.iter().any(|block| self.next[*block].contains(block) && !cut.contains(block))
    }

    /// The strongly connected components of some blocks, each behind all that it leads to, and whether it is a loop. The
    /// edges that lead into `cut` are left out. (Tarjan's algorithm.)
    pub fn components(&self, of: &BTreeSet<usize>, cut: &BTreeSet<usize>) -> Vec<(BTreeSet<usize>, bool)> {
        const NEW: usize = usize::MAX;
        let (mut order, mut low) = (vec![NEW; self.blocks()], vec![NEW; self.blocks()]);
        let (mut stack, mut found, mut count) = (Vec::new(), Vec::new(), 0);
        for &root in of {
            // A block, and how many of its successors were looked at.
            let mut work = if order[root] == NEW { vec![(root, 0)] } else { Vec::new() };
            while let Some((block, seen)) = work.pop() {
                if seen == 0 {
                    (order[block], low[block]) = (count, count);
                    count += 1;
                    stack.push(block);
                }
                let mut ways = self.next[block].iter().enumerate().skip(seen);
                let wanted = |way: &usize| of.contains(way) && !cut.contains(way);
                if let Some((at, &way)) = ways.find(|(_, way)| wanted(way) && order[**way] == NEW) {
                    work.extend([(block, at + 1), (way, 0)]);
                    continue;
                }
                for way in self.next[block].iter().filter(|way| wanted(way) && stack.contains(way)) {
                    low[block] = low[block].min(low[*way]);
                }
                if low[block] == order[block] {
                    let at = stack.iter().position(|&other| other == block).unwrap_or(0);
                    let component: BTreeSet<usize> = stack.split_off(at).into_iter().collect();
                    let again = self.is_loop(&component, cut);
                    found.push((component, again));
                }
            }
        }
        found
    }

    /// The blocks of a loop at which it is entered.
    pub fn entries(&self, blocks: &BTreeSet<usize>) -> BTreeSet<usize> {
        let outside = |block: &&usize| self.before[**block].iter().any(|from| !blocks.contains(from));
        let entries: BTreeSet<usize> = blocks.iter().filter(outside).copied().collect();
        if entries.is_empty() { blocks.first().copied().into_iter().collect() } else { entries }
    }
}
