//! Defects planted in the kernels, one at a time, and how many of them `zgan check`'s cases find: by a checker, or because
//! results differ from the host's. What is not found is explained in docs/planted-defects.md, or this test fails.
//!
//! Each mutant is compiled as build.rs compiles for `simt`, and counts where that changes the machine code. A process of its
//! own runs it: a mutant may never end. A few mutants are tried in every run; with `ZGAN_PLANTED=all`, all of them; with
//! `ZGAN_PLANTED=sample:600:1`, 600 of them drawn with seed 1, in the order in which they were drawn; with other values, one
//! a line, those with one of them in their names.

#[path = "common/simt_module.rs"]
mod simt_module;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use zgan::device::{Device, kernel};
use zgan::instruments::check;
use zgan::random::Random;

/// Mutants of an ordinary run.
const SOME: usize = 12;
const PATIENCE: Duration = Duration::from_secs(120);
/// In how many modules at most a header's mutant is tried.
const MODULES: usize = 8;
/// How a worker process ends.
const FOUND: i32 = 10;
const MISSED: i32 = 11;

#[derive(Clone)]
struct Mutant {
    module: &'static str,
    /// The line of the flattened text, from 0.
    at: usize,
    /// `kernels/device/reduce.h`
    file: String,
    line: usize,
    kind: &'static str,
    /// The line above, where a line alone says little.
    above: String,
    before: String,
    after: String,
}

impl Mutant {
    /// As docs/planted-defects.md names it: no line number, which moves.
    fn name(&self) -> String {
        let Mutant { file, above, before, after, .. } = self;
        let above = if above.is_empty() { String::new() } else { format!("after `{}` ", above.trim()) };
        format!("{file}: {above}`{}` to `{}`", before.trim(), after.trim())
    }

    /// What is changed, in whichever module: file, line and the line's new text.
    fn change(&self) -> (String, usize, String) {
        (self.file.clone(), self.line, self.after.clone())
    }

    fn text(&self, original: &str) -> String {
        let mut lines: Vec<&str> = original.lines().collect();
        lines[self.at] = &self.after;
        lines.join("\n") + "\n"
    }
}

/// What is said in comments is not code.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or("")
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The places of `what` in `line` that are not a part of a longer word.
fn words<'a>(line: &'a str, what: &'a str) -> impl Iterator<Item = usize> + 'a {
    line.match_indices(what).map(|(at, _)| at).filter(move |at| {
        let before = line[..*at].chars().next_back();
        let after = line[at + what.len()..].chars().next();
        let joined = what.starts_with(is_word) && before.is_some_and(is_word);
        !(joined || what.ends_with(is_word) && after.is_some_and(is_word))
    })
}

fn replace(line: &str, at: usize, old: &str, new: &str) -> String {
    format!("{}{new}{}", &line[..at], &line[at + old.len()..])
}

/// Every mutation of one line: its kind, and the line after it.
fn mutations(line: &str) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let code = code(line);
    let trimmed = code.trim_start();
    if ["#", "static_assert", "template", "struct"].iter().any(|start| trimmed.starts_with(start)) {
        return found;
    }
    for barrier in ["barrier();", "warp_barrier();"] {
        found.extend(words(code, barrier).map(|at| ("barrier removed", replace(line, at, barrier, ";"))));
    }
    for (at, _) in code.match_indices(" < ") {
        // `a < b ? a : b` is the same number with `<=`.
        let operand = |text: &str, last: bool| {
            let mut parts = text.split(|c: char| !(is_word(c) || "[].>-".contains(c))).filter(|part| !part.is_empty());
            (if last { parts.next_back() } else { parts.next() }).unwrap_or("").to_string()
        };
        let smaller = code[at..].find(" ? ").is_some_and(|question| {
            let chosen = operand(&code[at + question + 3..], false);
            let between = &code[at + 3..at + question];
            let name = |text: &str| text.split(|c| !is_word(c)).find(|w| !w.is_empty()).unwrap_or("").to_string();
            let left = code[..at].rsplit(['=', '(', ',', '{']).next().unwrap_or("");
            !between.contains("&&")
                && (name(left) == name(&chosen)
                    || chosen == operand(&code[..at], true)
                    || chosen == operand(between, false))
        });
        // A number like 0.5 is no bound of an array.
        let number = code[at + 3..].trim_start_matches('-').split([' ', ')', ';']).next().unwrap_or("");
        let number = number.contains('.') || number == "INFINITY";
        if !smaller && !number {
            found.push(("< to <=", replace(line, at, " < ", " <= ")));
        }
    }
    let declares = ["SHARED(", "float ", "uint32_t ", "bool ", "typename ", "constexpr ", "Chain "];
    let declares = declares.iter().any(|t| trimmed.starts_with(t));
    for (open, _) in code.match_indices('[') {
        let before = code[..open].chars().next_back();
        // Not a lambda's list, and not an array's length.
        if !before.is_some_and(|c| is_word(c) || c == ']') || (declares && !code[..open].contains('=')) {
            continue;
        }
        let mut depth = 0;
        let close = code[open..].char_indices().find(|(_, c)| {
            depth += i32::from(*c == '[') - i32::from(*c == ']');
            depth == 0
        });
        if let Some((length, _)) = close {
            found.push(("index off by one", replace(line, open + length, "]", " + 1]")));
        }
    }
    for (old, new) in
        [(" = 0.0f;", ";"), (" = {};", ";"), (" = empty;", ";"), (" = -INFINITY;", ";"), (" = 0.0f, ", ", ")]
    {
        for (at, _) in code.match_indices(old) {
            let start = code[..at].rfind([';', '{', ')']).map_or(0, |i| i + 1);
            let target = code[start..at].trim();
            // `float sum = 0.0f;` keeps the declaration; `x[i] = 0.0f;` goes as a whole.
            let stays = target.contains(' ') && !target.contains("for (");
            let after = if stays {
                replace(line, at, old, new)
            } else {
                format!("{} {}{}", &line[..start], new.trim_start(), &line[at + old.len()..])
            };
            found.push(("initialisation dropped", after));
        }
    }
    for (old, new) in [
        ("BLOCK / 2", "BLOCK / 4"),
        ("WARP / 2", "WARP / 4"),
        ("WARPS / 2", "WARPS / 4"),
        ("+= BLOCK", "+= 2 * BLOCK"),
        ("+= WARPS", "+= 2 * WARPS"),
        ("+= WARP", "+= 2 * WARP"),
        ("+= own.STEP", "+= 2 * own.STEP"),
        ("w < WARPS", "w < WARPS / 2"),
    ] {
        found.extend(words(code, old).map(|at| ("half of the threads", replace(line, at, old, new))));
    }
    // Of the tensor cores' tiles, and of Winograd's transforms.
    for (old, new, kind) in [
        ("POINT_A * odd_a", "POINT_B * odd_a", "wrong coefficient"),
        ("AA * even_a", "BB * even_a", "wrong coefficient"),
        ("(AA + BB) * d[2]", "(AA - BB) * d[2]", "wrong coefficient"),
        ("SCALE_A * even_a", "SCALE_B * even_a", "wrong coefficient"),
        ("SCALE_0 * g[0]", "SCALE_A * g[0]", "wrong coefficient"),
        ("AA * y[2]", "BB * y[2]", "wrong coefficient"),
        ("int32_t(there[i])", "1", "missing zeros"),
        ("bool split = gridDim.z > 1", "bool split = gridDim.z > 2", "part dropped"),
        ("gridDim.z > 1 ? parts", "gridDim.z > 2 ? parts", "part dropped"),
        ("lane / 16", "lane / 8 % 2", "wrong lane of a fragment"),
        ("lane / 8 % 2", "lane / 16", "wrong lane of a fragment"),
        ("lane % 16", "lane % 8", "wrong lane of a fragment"),
        ("lane / 4", "lane % 4", "wrong lane of a fragment"),
        ("lane % 4", "lane / 4", "wrong lane of a fragment"),
        ("[x % 2]", "[x / 2]", "wrong register of a fragment"),
        ("fragment_a[i], fragment_b[j]", "fragment_a[i], fragment_b[j ^ 1]", "wrong register of a fragment"),
        ("wait_copies<STAGES - 2>();", ";", "missing wait"),
        ("commit_copies();", ";", "missing wait"),
        ("wait_copies<STAGES - 2>", "wait_copies<STAGES - 1>", "stage off by one"),
        ("turn >= STAGES - 1", "turn >= STAGES - 2", "stage off by one"),
        ("k_end + (STAGES - 2)", "k_end + (STAGES - 3)", "stage off by one"),
        ("into + 1 == STAGES", "into + 2 == STAGES", "stage off by one"),
        ("filled[i] ? 16 : 0", "16", "missing zeros"),
        ("bool inside = r < from.rows && d < k_end", "bool inside = r < from.rows", "missing zeros"),
        ("if (filled[i]) from.finish", "from.finish", "padding transformed"),
        ("filled[i] = place", "filled[i] = inside", "padding transformed"),
    ] {
        found.extend(words(code, old).map(|at| (kind, replace(line, at, old, new))));
    }
    if let Some(start) = words(code, "SHARED(").next()
        && let Some(end) = code[start..].find(");")
    {
        // Where rows have a pitch, the last element is padding: a row is left out.
        let end = start + end;
        let pitch = ["PITCH", "A_STRIDE", "B_STRIDE"].into_iter().find(|pitch| code[..end].ends_with(pitch));
        found.push(("array one short", replace(line, end, ");", &format!(" - {});", pitch.unwrap_or("1")))));
    }
    found.retain(|(_, after)| after != line);
    found
}

/// All mutants of all modules. A header's belong to the first module that its code is in, the quickest first.
fn mutants(folder: &Path) -> Vec<Mutant> {
    let first = ["elementary", "cross_entropy", "norm", "attention", "matmul_bf16", "matmul_tf32", "conv_f16"];
    let mut modules: Vec<&'static str> = kernel::MODULES.iter().map(|module| module.name).collect();
    modules.sort_by_key(|name| first.iter().position(|f| f == name).unwrap_or(first.len()));
    let mut all = Vec::new();
    for module in modules {
        let (mut file, mut line) = (String::new(), 0);
        let original = simt_module::text(module);
        let active = simt_module::active_lines(folder, &original);
        let mut above = "";
        for (at, text) in original.lines().enumerate() {
            if let Some(mark) = text.strip_prefix("#line ") {
                let (number, name) = mark.split_once(' ').unwrap();
                (file, line) = (name.trim_matches('"').to_string(), number.parse().unwrap());
                continue;
            }
            // Not the other executions' code.
            if !file.starts_with("kernels/host/") && active.contains(&(file.clone(), line)) {
                for (kind, after) in mutations(text) {
                    let file = file.clone();
                    let above = if code(text).trim().len() < 12 { above } else { "" }.to_string();
                    all.push(Mutant { module, at, file, line, kind, above, before: text.to_string(), after });
                }
            }
            above = text;
            line += 1;
        }
    }
    all
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    /// The same machine code, or none: the compiler refuses.
    None,
    Found,
    Missed,
}

/// Each module's object, compiled when a mutant is first compared with it.
type Originals = BTreeMap<&'static str, OnceLock<Vec<u8>>>;

fn original<'a>(originals: &'a Originals, module: &str, folder: &Path) -> &'a [u8] {
    originals[module].get_or_init(|| {
        let text = simt_module::text(module);
        // `lines` and back: what a mutant's text went through.
        let text = text.lines().collect::<Vec<_>>().join("\n") + "\n";
        std::fs::read(simt_module::compile(folder, module, &text, false).unwrap()).unwrap()
    })
}

/// Compiles a mutant and runs it.
fn try_out(mutant: &Mutant, number: usize, folder: &Path, originals: &Originals) -> Outcome {
    let text = mutant.text(&simt_module::text(mutant.module));
    let Ok(object) = simt_module::compile(folder, &format!("mutant{number}"), &text, false) else {
        return Outcome::None;
    };
    let outcome = if std::fs::read(&object).unwrap() == original(originals, mutant.module, folder) {
        Outcome::None
    } else {
        let library = simt_module::link(&object);
        let mut worker = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "worker", "--nocapture"])
            .env("ZGAN_PLANTED_LIBRARY", &library)
            .env("ZGAN_PLANTED_MODULE", mutant.module)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let start = Instant::now();
        let code = loop {
            match worker.try_wait().unwrap() {
                Some(status) => break status.code(),
                None if start.elapsed() > PATIENCE => {
                    let _ = worker.kill();
                    let _ = worker.wait();
                    break None;
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let _ = std::fs::remove_file(&library);
        // A mutant that crashes or never ends does not go unnoticed.
        if code == Some(MISSED) { Outcome::Missed } else { Outcome::Found }
    };
    let _ = std::fs::remove_file(&object);
    let _ = std::fs::remove_dir_all(folder.join(format!("mutant{number}")));
    outcome
}

/// In a process of its own, started by the test below: the cases of one module on one mutant, until something is found.
#[test]
fn worker() {
    let Some(library) = std::env::var_os("ZGAN_PLANTED_LIBRARY") else { return };
    let module = std::env::var("ZGAN_PLANTED_MODULE").unwrap();
    let table = simt_module::load(&PathBuf::from(library), &module);
    // SAFETY: the table of this module, compiled from a changed text; it stays loaded.
    let device = |seed| unsafe { (seed, Device::simt_with_module(seed, &module, table).unwrap()) };
    let (host, devices) = (Device::host(1).unwrap(), [0, 1].map(device));
    for case in check::cases().iter().filter(|case| !case.large && case.name.split(':').next() == Some(&module)) {
        let (seen, differences) = check::check(case, &host, &devices);
        if !differences.is_empty() || seen.iter().any(|seen| !seen.findings.is_empty()) {
            std::process::exit(FOUND);
        }
    }
    std::process::exit(MISSED);
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn planted_defects_are_found() {
    let wanted = std::env::var("ZGAN_PLANTED").ok();
    let folder = tempfile::tempdir().unwrap();
    let mut mutants = mutants(folder.path());
    let total = mutants.len();
    let drawn = wanted.as_deref().and_then(|wanted| wanted.strip_prefix("sample:")?.split_once(':'));
    if let Some((count, seed)) = drawn {
        let (count, mut random) = (count.parse().unwrap(), Random::new(seed.parse().unwrap(), 0, 0));
        let mut changes: Vec<_> = mutants.iter().map(Mutant::change).collect::<BTreeSet<_>>().into_iter().collect();
        (1..changes.len()).rev().for_each(|i| changes.swap(i, random.word() as usize % (i + 1)));
        let places: HashMap<_, _> = changes.into_iter().take(count).zip(0..).collect();
        mutants.retain(|mutant| places.contains_key(&mutant.change()));
        mutants.sort_by_key(|mutant| places[&mutant.change()]);
    } else if let Some(part) = wanted.as_deref().filter(|wanted| *wanted != "all") {
        mutants.retain(|mutant| part.lines().any(|part| mutant.name().contains(part)));
    }
    if wanted.is_none() {
        // Every so-many-th: all files and kinds have their share, and the choice changes with the kernels only.
        let mut seen = HashSet::new();
        let firsts: Vec<_> = mutants.iter().map(Mutant::change).filter(|change| seen.insert(change.clone())).collect();
        let step = firsts.len().div_ceil(SOME);
        let chosen: HashSet<_> = firsts.into_iter().step_by(step).collect();
        mutants.retain(|mutant| chosen.contains(&mutant.change()));
    }
    let originals: Originals = mutants.iter().map(|mutant| (mutant.module, OnceLock::new())).collect();
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(BTreeMap::new());
    // A header's line is tried in several modules until it is found in one.
    let tried: Mutex<HashMap<_, (usize, bool)>> = Mutex::default();
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(mutant) = mutants.get(number) else { return };
            if tried.lock().unwrap().get(&mutant.change()).is_some_and(|(modules, found)| *found || *modules >= MODULES)
            {
                continue;
            }
            let outcome = try_out(mutant, number, folder.path(), &originals);
            if outcome == Outcome::Missed || drawn.is_some() {
                eprintln!("{outcome:?} in {}: {}, line {}", mutant.module, mutant.name(), mutant.line);
            }
            let mut tried = tried.lock().unwrap();
            let (modules, found) = tried.entry(mutant.change()).or_default();
            if outcome != Outcome::None {
                *modules += 1;
                *found |= outcome == Outcome::Found;
                outcomes.lock().unwrap().insert(mutant.change(), (*found, mutant));
            } else if wanted.is_none() {
                // Its code may change in another module, but there is no time for that.
                *modules = MODULES;
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(work))));

    let outcomes = outcomes.into_inner().unwrap();
    let mut kinds: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let mut missed = Vec::new();
    for (found, mutant) in outcomes.values() {
        let kind = kinds.entry(mutant.kind).or_default();
        kind.1 += 1;
        if *found {
            kind.0 += 1;
        } else {
            missed.push(*mutant);
        }
    }
    let found = outcomes.len() - missed.len();
    println!(
        "of {total} mutations {} were tried, {} changed the code, {found} were found",
        mutants.iter().map(Mutant::change).collect::<HashSet<_>>().len(),
        outcomes.len()
    );
    for (kind, (found, count)) in &kinds {
        println!("  {kind}: {found} of {count}");
    }
    let explained = include_str!("../docs/planted-defects.md");
    let mut unexplained = 0;
    for mutant in &missed {
        let known = explained.contains(&mutant.name());
        unexplained += usize::from(!known);
        println!(
            "{}missed in {}: {}, line {}",
            if known { "" } else { "NEW: " },
            mutant.module,
            mutant.name(),
            mutant.line
        );
    }
    assert_eq!(unexplained, 0, "defects that were not found and are not in docs/planted-defects.md");
    if wanted.as_deref().is_none_or(|wanted| wanted == "all") {
        assert!(outcomes.len() >= mutants.len().min(SOME) / 3, "too few mutants changed the code");
    }
    // Of a dozen, one more or less is 8 %.
    if wanted.as_deref() == Some("all") {
        assert!(found * 100 >= outcomes.len() * 95, "fewer than 95 % were found");
    }
}
