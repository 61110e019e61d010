//! Signals that ask the program to stop, and what stays as whoever started it has set it up.

use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook::flag;

use super::say;

static STOP: AtomicBool = AtomicBool::new(false);
static NOTHING_TO_SAVE: AtomicBool = AtomicBool::new(true);
static FILE_TOO_LARGE: AtomicBool = AtomicBool::new(false);

/// Whether a signal has asked to stop since [`save_from_now_on`].
pub fn stopped() -> bool {
    STOP.load(Ordering::SeqCst)
}

/// From now on, Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 (as batch systems send them before the time is up) quit with status 130,
/// until [`save_from_now_on`]. A signal that was ignored when the program started, as `nohup` and a script's `&` do it, stays
/// ignored.
pub fn quit_or_save() {
    let ignored = inherited_ignored();
    for (signal, name) in [(SIGINT, "Ctrl-C"), (SIGTERM, "SIGTERM"), (SIGHUP, "SIGHUP"), (SIGUSR1, "SIGUSR1")] {
        if ignored & (1 << (signal - 1)) != 0 {
            continue;
        }
        let quits = |condition| flag::register_conditional_shutdown(signal, 130, condition).map(drop);
        // In this order: the first signal finds that there was none before.
        let again = || if signal == SIGINT { quits(&STOP) } else { Ok(()) };
        let noted = || flag::register(signal, &STOP).map(drop);
        if let Err(error) = quits(&NOTHING_TO_SAVE).and_then(|()| again()).and_then(|()| noted()) {
            say(format!("{name} will not save: {error}"));
        }
    }
}

/// From now on these signals are noted, and [`stopped`] tells: the step ends, and everything is saved. Ctrl-C after any of
/// them quits at once.
pub fn save_from_now_on() {
    NOTHING_TO_SAVE.store(false, Ordering::SeqCst);
}

/// A file that grows beyond `ulimit -f` is an error of the write, which names it; the signal would end the program.
pub fn keep_large_files_errors() {
    if inherited_ignored() & (1 << (SIGXFSZ - 1)) == 0 {
        // Where it fails, the signal ends the program as before.
        let _ = flag::register(SIGXFSZ, &FILE_TOO_LARGE);
    }
}

/// The signals that are ignored, signal n as bit n - 1. A system without `/proc` does not tell; none is taken to be.
fn inherited_ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
