//! Which branches of a loop depend on a kernel's parameters alone, and so go the same way in every turn of a launch.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::flow::{Flow, Instruction, Register, is_true, plain, words};

/// What decides about a branch: a formula over conditions, which are numbered.
#[derive(Clone, Debug)]
pub(super) enum Formula {
    Always(bool),
    Condition(usize),
    Not(Box<Formula>),
    /// Whether both, or one of them at least.
    Both(Box<[Formula; 2]>),
    Either(Box<[Formula; 2]>),
    /// The bit of the table whose number the three formulas are.
    Table(u32, Box<[Formula; 3]>),
}

impl Formula {
    pub fn holds(&self, verdict: u32) -> bool {
        match self {
            Formula::Always(holds) => *holds,
            Formula::Condition(number) => verdict >> number & 1 == 1,
            Formula::Not(other) => !other.holds(verdict),
            Formula::Both(two) => two.iter().all(|one| one.holds(verdict)),
            Formula::Either(two) => two.iter().any(|one| one.holds(verdict)),
            Formula::Table(table, three) => {
                table >> three.iter().fold(0, |bits, one| bits << 1 | u32::from(one.holds(verdict))) & 1 == 1
            }
        }
    }

    fn conditions(&self, into: &mut BTreeSet<usize>) {
        match self {
            Formula::Always(_) => (),
            Formula::Condition(number) => drop(into.insert(*number)),
            Formula::Not(other) => other.conditions(into),
            Formula::Both(two) | Formula::Either(two) => two.iter().for_each(|one| one.conditions(into)),
            Formula::Table(_, three) => three.iter().for_each(|one| one.conditions(into)),
        }
    }

    /// With the conditions under other numbers; `None` where one of them has none.
    fn renumbered(&self, numbers: &BTreeMap<usize, usize>) -> Option<Formula> {
        let all = |of: &[Formula]| of.iter().map(|one| one.renumbered(numbers)).collect::<Option<Vec<_>>>();
        let two = |of: &[Formula]| Some(Box::new(<[Formula; 2]>::try_from(all(of)?).ok()?));
        Some(match self {
            Formula::Always(holds) => Formula::Always(*holds),
            Formula::Condition(number) => Formula::Condition(*numbers.get(number)?),
            Formula::Not(other) => Formula::Not(Box::new(other.renumbered(numbers)?)),
            Formula::Both(of) => Formula::Both(two(&of[..])?),
            Formula::Either(of) => Formula::Either(two(&of[..])?),
            Formula::Table(table, of) => {
                Formula::Table(*table, Box::new(<[Formula; 3]>::try_from(all(&of[..])?).ok()?))
            }
        })
    }
}

/// So many conditions are tried in all combinations: those that the most branches depend on. The others are left open.
const TRIED: usize = 13;

/// The branches of a loop that depend on parameters alone.
pub(super) struct Choices {
    /// What each of them is taken for, by its block.
    pub of: BTreeMap<usize, Formula>,
    /// The combinations of conditions that can be: bit i says whether condition i holds.
    pub verdicts: Vec<u32>,
}

impl Choices {
    pub fn of(flow: &Flow, blocks: &BTreeSet<usize>) -> Choices {
        let tracer = Tracer::new(flow, blocks);
        let forks = blocks.iter().filter(|&&block| flow.fork[block].is_some());
        let found: Vec<(usize, Formula)> = forks.filter_map(|&block| Some((block, tracer.branch(block)?))).collect();
        let mut uses: BTreeMap<usize, usize> = BTreeMap::new();
        for (_, formula) in &found {
            let mut conditions = BTreeSet::new();
            formula.conditions(&mut conditions);
            conditions.into_iter().for_each(|condition| *uses.entry(condition).or_default() += 1);
        }
        let names = tracer.conditions.into_inner();
        let mut tried: Vec<usize> = uses.keys().copied().collect();
        tried.sort_by_key(|condition| (std::cmp::Reverse(uses[condition]), &names[*condition]));
        tried.truncate(TRIED);
        let numbers = tried.iter().enumerate().map(|(new, &old)| (old, new)).collect();
        let of = found.into_iter().filter_map(|(block, formula)| Some((block, formula.renumbered(&numbers)?)));
        // One number cannot equal two.
        let equal: Vec<Option<&str>> = tried.iter().map(|&c| names[c].split_once("==").map(|(left, _)| left)).collect();
        let possible = |verdict: &u32| {
            let left = equal.iter().enumerate().filter(|(i, _)| verdict >> i & 1 == 1).filter_map(|(_, left)| *left);
            let left: Vec<&str> = left.collect();
            left.iter().collect::<BTreeSet<_>>().len() == left.len()
        };
        Choices { of: of.collect(), verdicts: (0..1 << tried.len()).filter(possible).collect() }
    }
}

/// Whether a branch of the loop depends on what the loop itself loads from memory.
pub(super) fn depends_on_loads(flow: &Flow, blocks: &BTreeSet<usize>, block: usize) -> bool {
    let at = flow.range(block).end - 1;
    let is_load = |at: usize| {
        matches!(flow.code[at].name, "LDG" | "LD" | "LDS") && blocks.contains(&flow.block_of[at])
            // ptxas puts such loads of nothing before copies.
            && flow.code[at].guard != Some("!PT")
    };
    let tracer = Tracer::new(flow, blocks);
    let mut seen = HashMap::new();
    flow.code[at].reads.iter().any(|&register| tracer.comes_from(register, at, &is_load, &mut seen, 0))
}

/// Instructions whose results depend on the thread, the block or memory.
const OWN: &[&str] = &[
    "S2R", "S2UR", "LDG", "LDS", "LD", "LDL", "LDSM", "VOTE", "VOTEU", "SHFL", "HMMA", "ATOM", "ATOMG", "B2R", "R2P",
    "MUFU", "REDUX", "MATCH",
];
/// Values are followed through so many instructions.
const DEEP: usize = 12;
const DEEPEST: usize = 40;

/// Follows values back to what they were computed from.
struct Tracer<'a> {
    flow: &'a Flow<'a>,
    /// What the loop writes.
    inside: BTreeSet<Register>,
    /// The names of the conditions that were met.
    conditions: RefCell<Vec<String>>,
    values: RefCell<HashMap<(Register, usize), Option<String>>>,
    /// Whether what an instruction computes depends on the thread, the block or memory.
    own: RefCell<HashMap<usize, bool>>,
}

impl<'a> Tracer<'a> {
    fn new(flow: &'a Flow<'a>, blocks: &BTreeSet<usize>) -> Tracer<'a> {
        let inside = flow.instructions(blocks).flat_map(|instruction| &instruction.writes).copied().collect();
        Tracer { flow, inside, conditions: RefCell::default(), values: RefCell::default(), own: RefCell::default() }
    }

    /// The instructions that may have written what the register holds before instruction `at`.
    fn writers(&self, register: Register, at: usize) -> BTreeSet<usize> {
        let flow = self.flow;
        let (mut found, mut seen, mut work) = (BTreeSet::new(), BTreeSet::new(), vec![(flow.block_of[at], at)]);
        while let Some((block, end)) = work.pop() {
            let start = flow.range(block).start;
            match (start..end).rev().find(|&at| flow.code[at].writes.contains(&register)) {
                Some(writer) => drop(found.insert(writer)),
                None => {
                    let fresh = flow.before[block].iter().filter(|from| seen.insert(**from));
                    work.extend(fresh.map(|&from| (from, flow.range(from).end)));
                }
            }
        }
        found
    }

    /// Whether the register's value before instruction `at` was computed from the result of such an instruction.
    fn comes_from(
        &self,
        register: Register,
        at: usize,
        such: &dyn Fn(usize) -> bool,
        seen: &mut HashMap<usize, bool>,
        depth: usize,
    ) -> bool {
        if depth > DEEPEST {
            return true;
        }
        self.writers(register, at).into_iter().any(|writer| {
            if let Some(&known) = seen.get(&writer) {
                return known;
            }
            // A circle adds nothing.
            seen.insert(writer, false);
            let reads = &self.flow.code[writer].reads;
            let found = such(writer) || reads.iter().any(|&r| self.comes_from(r, writer, such, seen, depth + 1));
            seen.insert(writer, found);
            found
        })
    }

    /// Whether the register holds the same for all threads in every turn, though nobody knows what.
    fn is_fixed(&self, register: Register, at: usize) -> bool {
        let own = |writer: usize| OWN.contains(&self.flow.code[writer].name);
        !self.inside.contains(&register) && !self.comes_from(register, at, &own, &mut self.own.borrow_mut(), 0)
    }

    /// A name for the number that a register holds before instruction `at`, made of parameters and constants.
    fn value(&self, register: Register, at: usize, depth: usize) -> Option<String> {
        if depth > DEEP {
            return None;
        }
        let writers = self.writers(register, at);
        if let (1, Some(&writer)) = (writers.len(), writers.first()) {
            let known = self.values.borrow().get(&(register, writer)).cloned();
            if let Some(known) = known {
                return known;
            }
            self.values.borrow_mut().insert((register, writer), None);
            if let Some(value) = self.computed(register, writer, depth) {
                self.values.borrow_mut().insert((register, writer), Some(value.clone()));
                return Some(value);
            }
        }
        self.is_fixed(register, at).then(|| register.to_string())
    }

    fn computed(&self, register: Register, writer: usize, depth: usize) -> Option<String> {
        let instruction = &self.flow.code[writer];
        if OWN.contains(&instruction.name) || instruction.is_guarded() {
            return None;
        }
        let mut operands = String::new();
        for (is_word, text) in words(&instruction.operands.get(1..)?.join(",")) {
            match Register::parse(text).filter(|r| is_word && instruction.reads.contains(r)) {
                Some(read) => operands += &self.value(read, writer, depth + 1)?,
                None => operands += text,
            }
        }
        let part = instruction.writes.iter().position(|&written| written == register)?;
        let moves = matches!(instruction.name, "LDC" | "ULDC" | "MOV" | "UMOV" | "R2UR")
            || matches!(instruction.opcode, "IMAD.U32" | "IMAD.MOV.U32" | "IMAD.MOV");
        Some(match (moves, part) {
            (true, 0) => operands.replace("RZ,RZ,", ""),
            (true, _) => operands.replace("RZ,RZ,", "") + "+4",
            (false, part) => format!("{}{part}({operands})", instruction.opcode),
        })
    }

    fn condition(&self, name: String) -> Formula {
        let mut conditions = self.conditions.borrow_mut();
        let at = conditions.iter().position(|known| *known == name);
        Formula::Condition(at.unwrap_or_else(|| {
            conditions.push(name);
            conditions.len() - 1
        }))
    }

    /// What a predicate is before instruction `at`; `None` where it depends on the thread, on the turn or on memory.
    fn truth(&self, predicate: &str, at: usize, depth: usize) -> Option<Formula> {
        if let Some(other) = predicate.strip_prefix('!') {
            return Some(Formula::Not(Box::new(self.truth(other, at, depth)?)));
        }
        if is_true(predicate) {
            return Some(Formula::Always(true));
        }
        let register = Register::parse(predicate).filter(|_| depth <= DEEP)?;
        let writers = self.writers(register, at);
        if let (1, Some(&writer)) = (writers.len(), writers.first()) {
            let instruction = &self.flow.code[writer];
            let plain = !instruction.is_guarded() && !OWN.contains(&instruction.name);
            if let Some(formula) = plain.then(|| self.compared(register, writer, depth)).flatten() {
                return Some(formula);
            }
        }
        self.is_fixed(register, at).then(|| self.condition(predicate.to_string()))
    }

    fn compared(&self, register: Register, writer: usize, depth: usize) -> Option<Formula> {
        let instruction = &self.flow.code[writer];
        let Instruction { opcode, operands, writes, .. } = instruction;
        let truth = |operand: usize| self.truth(operands.get(operand)?, writer, depth + 1);
        let number = |operand: usize| -> Option<String> {
            let text = plain(operands.get(operand)?);
            match Register::parse(text) {
                Some(register) => self.value(register, writer, 0),
                None if matches!(text, "RZ" | "URZ") => Some("0".into()),
                None => (!text.replace("RZ", "").contains('R')).then(|| text.to_string()),
            }
        };
        let first = writes.first() == Some(&register);
        match instruction.name {
            "ISETP" | "UISETP" if first => {
                let relation = opcode.split('.').nth(1)?;
                let compared = if instruction.has("EX") {
                    // The upper half of 64 bits: the lower one stands for both.
                    truth(5)?
                } else {
                    let mut two = [number(2)?, number(3)?];
                    if matches!(relation, "EQ" | "NE") {
                        two.sort_by(|a, b| b.cmp(a));
                        let equal = self.condition(two.join("=="));
                        if relation == "EQ" { equal } else { Formula::Not(Box::new(equal)) }
                    } else {
                        self.condition(two.join(&format!(" {relation} ")))
                    }
                };
                let two = Box::new([compared, truth(4)?]);
                Some(if instruction.has("OR") { Formula::Either(two) } else { Formula::Both(two) })
            }
            "PLOP3" | "UPLOP3" if first => {
                let table = hexadecimal(operands.get(5)?)?;
                // Which of the three the table depends on.
                let matters = |bit: u32| (0..8).any(|at| table >> at & 1 != table >> (at ^ bit) & 1);
                let three = [(2, 4), (3, 2), (4, 1)]
                    .map(|(operand, bit)| truth(operand).or_else(|| (!matters(bit)).then_some(Formula::Always(false))));
                let [Some(a), Some(b), Some(c)] = three else { return None };
                Some(Formula::Table(table, Box::new([a, b, c])))
            }
            "LOP3" | "ULOP3" if operands.first().and_then(|o| Register::of(o)) == Some(register) => {
                let of = |operand: usize| -> Option<String> {
                    let text = plain(operands.get(operand)?);
                    Register::parse(text).map_or(Some(text.to_string()), |register| self.value(register, writer, 0))
                };
                let three = [of(2)?, of(3)?, of(4)?].join(",");
                Some(self.condition(format!("{opcode}{three}{}", operands.get(5)?)))
            }
            _ => None,
        }
    }

    /// What the branch at the end of a block is taken for.
    fn branch(&self, block: usize) -> Option<Formula> {
        let at = self.flow.range(block).end - 1;
        let last = &self.flow.code[at];
        let operand = last.operands.first().filter(|_| last.operands.len() > 1);
        let mut predicates = last.guard.iter().chain(operand);
        let first = self.truth(predicates.next()?, at, 0)?;
        predicates.try_fold(first, |formula, predicate| {
            Some(Formula::Both(Box::new([formula, self.truth(predicate, at, 0)?])))
        })
    }
}

/// The number that a hexadecimal constant is, modulo 2^32.
pub(super) fn hexadecimal(text: &str) -> Option<u32> {
    match text.strip_prefix('-') {
        Some(digits) => Some(hexadecimal(digits)?.wrapping_neg()),
        None => u32::from_str_radix(text.strip_prefix("0x")?, 16).ok(),
    }
}
