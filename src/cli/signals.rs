//! Signals that ask the program to stop, and what stays as whoever started it has set it up.

use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook::flag;

use super::say;

static STOP: AtomicBool = AtomicBool::new(false);
static FILE_TOO_LARGE: AtomicBool = AtomicBool::new(false);

/// Whether a signal has asked to stop since [`save_and_stop`].
pub fn stopped() -> bool {
    STOP.load(Ordering::SeqCst)
}

/// From now on, Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 (as batch systems send them before the time is up) are noted, and
/// [`stopped`] tells: the step ends, and everything is saved. Ctrl-C after any of them quits at once. A signal that was
/// ignored when the program started, as `nohup` and a script's `&` do it, stays ignored.
pub fn save_and_stop() {
    let ignored = inherited_ignored();
    for (signal, name) in [(SIGINT, "Ctrl-C"), (SIGTERM, "SIGTERM"), (SIGHUP, "SIGHUP"), (SIGUSR1, "SIGUSR1")] {
        if ignored & (1 << (signal - 1)) != 0 {
            continue;
        }
        // In this order: the first signal finds that there was none before.
        let quits =
            if signal == SIGINT { flag::register_conditional_shutdown(signal, 130, &STOP).map(drop) } else { Ok(()) };
        if let Err(error) = quits.and_then(|()| flag::register(signal, &STOP).map(drop)) {
            say(format!("{name} will not save: {error}"));
        }
    }
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
