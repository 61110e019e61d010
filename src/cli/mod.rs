//! The command line: one file per subcommand.

mod bench;
mod check;
mod eval;
mod export;
mod figures;
mod gpu_report;
mod grid;
mod info;
mod inits;
mod judging;
mod kernels;
mod loading;
mod loops;
mod model;
mod planning;
mod plot;
mod profile;
mod progress;
mod ranks;
mod sample;
mod scaling;
mod signals;
mod study;
mod train;
mod tune;
mod tuned;

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use zgan::checkpoint::Header;
use zgan::device::nvtx;
use zgan::settings::{PRESETS, Settings};
use zgan::text::lines;
use zgan::{Error, run};

/// Trains GANs with hand-written kernels, on an NVIDIA GPU or on this machine's cores.
#[derive(Parser)]
#[command(version, arg_required_else_help = true, max_term_width = 120)]
struct Cli {
    /// Name steps, phases and layers for profilers (NVTX); a GPU then launches steps kernel by kernel. So does ZGAN_NVTX=1
    #[arg(long, global = true)]
    nvtx: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train, or go on training
    Train(train::Train),
    /// Draw images from a run or a checkpoint
    Sample(sample::Sample),
    /// Write the weights of a run for PyTorch or ONNX
    Export(export::Export),
    /// Tell how good the images of a run are
    Eval(eval::Eval),
    /// Draw the curves of one run or of several, as a page
    Plot(plot::Plot),
    /// Time the operations beside what the machine can do
    Bench(bench::Bench),
    /// Measure which block sizes and tiles suit this device, for all commands to use
    Tune(tune::Tune),
    /// Show what fusion buys, as a page; or compare the discriminators that know labels
    Study(study::Study),
    /// Make a page of what gpu-check found on GPUs
    GpuReport(gpu_report::GpuReport),
    /// Tell about devices and kernels, a run, or a checkpoint
    Info(info::Info),
    /// Tell what the kernels take on each generation of GPUs, and hold them to their budget
    Kernels(kernels::Kernels),
    /// Run every kernel as real thread blocks under checkers: races, barriers, bounds, memory nobody wrote
    Check(check::Check),
}

/// Exit codes: 0 all done, 1 something failed, 2 the command line or a setting is wrong, 130 stopped by a signal
/// (Ctrl-C, SIGTERM, SIGHUP or SIGUSR1) with everything saved.
pub fn main() -> ExitCode {
    signals::keep_large_files_errors();
    if std::env::args_os().nth(1).is_some_and(|command| command == "train") {
        signals::quit_or_save();
    }
    let brief = std::env::args_os().any(|argument| argument == "-h");
    let matches = command(brief).try_get_matches().unwrap_or_else(|error| not_understood(&error));
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| not_understood(&error));
    // Several processes that do the same end together also where one of them has a mistake of ours.
    let result = catch_unwind(AssertUnwindSafe(|| run(&cli, &matches))).unwrap_or_else(|panic| {
        ranks::several().map_or_else(|| resume_unwind(panic), |_| Err(anyhow::anyhow!("it panicked")))
    });
    match result {
        Ok(code) => ranks::leave(code),
        Err(error) => {
            ranks::tell_others(&error);
            ranks::let_others_speak();
            report(&error);
            ranks::abort(if matches!(error.downcast_ref(), Some(Error::Config(_))) { 2 } else { 1 })
        }
    }
}

/// Ends the program where the command line cannot be understood, or asks for help. Of several processes one says so.
fn not_understood(error: &clap::Error) -> ! {
    ranks::let_others_speak();
    if ranks::is_silent() { std::process::exit(error.exit_code()) } else { error.exit() }
}

fn run(cli: &Cli, matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    if cli.nvtx || std::env::var_os("ZGAN_NVTX").is_some_and(|on| on == "1") {
        nvtx::start()?;
    }
    if !matches!(cli.command, Command::Train(_) | Command::Sample(_) | Command::Eval(_) | Command::Bench(_)) {
        ranks::alone(&format!("zgan {}", matches.subcommand_name().unwrap_or_default()))?;
    }
    match (&cli.command, matches.subcommand()) {
        (Command::Train(train), Some((_, settings))) => train.run(settings),
        (Command::Sample(sample), _) => sample.run(),
        (Command::Export(export), _) => export.run().map(|()| ExitCode::SUCCESS),
        (Command::Eval(eval), _) => eval.run(),
        (Command::Plot(plot), _) => plot.run().map(|()| ExitCode::SUCCESS),
        (Command::Bench(bench), _) => bench.run().map(|()| ExitCode::SUCCESS),
        (Command::Tune(tune), _) => tune.run().map(|()| ExitCode::SUCCESS),
        (Command::Study(study), _) => study.run().map(|()| ExitCode::SUCCESS),
        (Command::GpuReport(report), _) => report.run().map(|()| ExitCode::SUCCESS),
        (Command::Info(info), _) => info.run().map(|()| ExitCode::SUCCESS),
        (Command::Kernels(kernels), _) => kernels.run(),
        (Command::Check(check), _) => check.run(),
        (Command::Train(_), None) => Ok(ExitCode::FAILURE),
    }
}

/// The options of `train` that `-h` has; `--help` has them all.
const MOST_USED: [&str; 15] = [
    "resume", "config", "dry_run", "help", "preset", "data", "size", "loss", "steps", "batch", "seed", "lr_g", "lr_d",
    "device", "run",
];

/// The parser, with [`Settings`] as options of `train`, and their defaults in the help. For `brief` help it shows the most
/// used ones alone.
fn command(brief: bool) -> clap::Command {
    let defaults = Settings::default().table().unwrap_or_default();
    Cli::command().mut_subcommand("train", |train| {
        let about = train.get_about().cloned().unwrap_or_default();
        // Clap's own --help spends three lines on an option; that of -h spends one.
        let help = Arg::new("help").short('h').long("help").action(ArgAction::HelpShort).help_heading(None);
        let help = help.help("Print the options that are used most (-h), or all (--help)");
        let train = Settings::augment_args_for_update(train).about(about).disable_help_flag(true).arg(help);
        let presets: String = PRESETS.iter().map(|p| format!("\n  {:<22}{}", p.name, p.about)).collect();
        let more = if brief { "\n\nThere are more options: zgan train --help" } else { "" };
        let train = train.allow_negative_numbers(true).after_help(format!(
            "Presets:{presets}\n\nThe defaults are those of preset mnist. Every preset has its own: \
             zgan train --preset NAME --dry-run tells them.{more}",
        ));
        train.mut_args(|arg| {
            let arg = if brief && !MOST_USED.contains(&arg.get_id().as_str()) { arg.hide(true) } else { arg };
            let default = arg.get_long().and_then(|name| defaults.get(name));
            let shown = match default {
                Some(toml::Value::String(text)) => text.clone(),
                Some(value) => value.to_string(),
                None => return arg,
            };
            let help = arg.get_help().map(|help| help.to_string()).unwrap_or_default();
            arg.help(format!("{help} [default: {shown}]"))
        })
    })
}

/// Prints `error: ...`, what caused it, and what may help.
fn report(error: &anyhow::Error) {
    let mut shown = error.to_string();
    let who = ranks::who();
    // Some errors say that themselves.
    let mut text = format!("error: {}{shown}", if shown.starts_with(&who) { "" } else { &who });
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // Many errors quote their cause already.
        if !shown.contains(&cause) {
            text.push_str(&format!("\n  because: {cause}"));
            shown = cause;
        }
    }
    if let Some(hint) = error.downcast_ref().and_then(hint) {
        text.push_str(&format!("\n  hint: {hint}"));
    }
    // What an error quotes from a file may be as long as the file.
    const MOST: usize = 4000;
    let cut = |line: &str| match line.char_indices().nth(MOST) {
        Some((at, _)) => format!("{} ... ({} more bytes)", &line[..at], line.len() - at),
        None => line.to_string(),
    };
    let text: Vec<String> = lines(&text).lines().map(cut).collect();
    // The reader may have gone, which is not an error.
    let _ = writeln!(std::io::stderr(), "{}", text.join("\n"));
}

fn hint(error: &Error) -> Option<&'static str> {
    match error {
        Error::Device(_) => Some("zgan info tells which devices there are; --device host always works"),
        Error::NotFinite { .. } => Some("smaller --lr-g and --lr-d, or another --seed, may train"),
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            Some("nothing that was saved before is lost; free space and go on with --resume")
        }
        _ => None,
    }
}

/// Prints a line on the standard output. When its reader has gone (`zgan info | head -1`), nothing ends: a training goes on
/// and saves its work. Of several processes that work together the first one speaks.
fn say(line: impl std::fmt::Display) {
    if !ranks::is_silent() {
        let _ = writeln!(std::io::stdout(), "{}", lines(&line.to_string()));
    }
}

/// Prints a line for people: on the standard output, or on the standard error where the standard output is for programs.
fn tell(for_people: bool, line: String) {
    match for_people {
        true => say(line),
        false if ranks::is_silent() => {}
        false => drop(writeln!(std::io::stderr(), "{}", lines(&line))),
    }
}

/// Refuses a file that cannot be written before minutes are spent on what would be in it, and makes the folder that it goes
/// into. `option` is the option that names the file.
fn writable(option: &str, path: &Path) -> Result<(), Error> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if path.file_name().is_none() || path.is_dir() {
        return Err(Error::Config(format!("{option}: {} is a folder, expected a file's name", path.display())));
    }
    std::fs::create_dir_all(folder).map_err(Error::io(folder))
}

/// The settings of a checkpoint, which may be anybody's.
fn settings_of(path: &Path, header: &Header) -> Result<Settings, Error> {
    let settings = Settings::new(None, &header.config).and_then(|settings| settings.check().map(|()| settings));
    settings.map_err(|error| Error::Checkpoint { path: path.to_path_buf(), what: format!("its settings: {error}") })
}

/// Says of a checkpoint whose tensors do not fit what it cannot be, and which one is older.
fn unfit(path: &Path, what: &str) -> String {
    let older = run::older_checkpoint(path).map(|older| format!("; {} is older", older.display()));
    format!("{} cannot be {what}{}", path.display(), older.unwrap_or_default())
}

/// A command to type next. It names the folder of the runs where that is not the usual one.
fn next_command(command: &str, name: &str, runs_dir: &Path) -> String {
    let place = if runs_dir == Path::new("runs") { String::new() } else { format!(" --runs-dir {}", quoted(runs_dir)) };
    format!("zgan {command} {}{place}", quoted(Path::new(name)))
}

/// As a shell reads it back.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_alphanumeric() || "/._-+,:@%=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into_owned()
    } else if text.contains(char::is_control) {
        format!("$'{}'", zgan::text::plain(&text.replace('\\', r"\\").replace('\'', r"\'"), &[]))
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// A number with commas: 1,510,032.
fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
