//! What a training shows while it runs: a bar on a terminal, plain lines in a pipe.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use zgan::gan::Metrics;
use zgan::text::lines;

use super::{ranks, say};

pub struct Progress {
    bar: Option<ProgressBar>,
    end: u64,
    begun: Instant,
    first: u64,
}

impl Progress {
    /// The progress of a training from step `first` to step `end`.
    pub fn new(first: u64, end: u64) -> Progress {
        let bar = on_a_terminal().then(|| {
            let bar = bar(end, "{bar:24} {pos}/{len}  {msg}  {eta} left").with_position(first);
            bar.reset_eta();
            bar
        });
        Progress { bar, end, begun: Instant::now(), first }
    }

    pub fn step(&self, step: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(step);
        }
    }

    pub fn metrics(&self, m: &Metrics, images_per_second: f64) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(format!("D {:.4}  G {:.4}  {images_per_second:.0} images/s", m.loss_d, m.loss_g));
            }
            None => {
                let each = self.begun.elapsed().as_secs_f64() / (m.step - self.first).max(1) as f64;
                let left = Duration::try_from_secs_f64(each * (self.end - m.step) as f64).unwrap_or_default();
                let kl = if m.kl_d.is_nan() { String::new() } else { format!("KL D {:.4} G {:.4}  ", m.kl_d, m.kl_g) };
                let more: String =
                    m.more.iter().map(|(name, x)| format!("{} {x:.4}  ", name.replace('_', " "))).collect();
                say(format!(
                    "step {}/{}  loss D {:.4} G {:.4}  {kl}{more}{images_per_second:.0} images/s  {} left",
                    m.step,
                    self.end,
                    m.loss_d,
                    m.loss_g,
                    clock(left)
                ));
            }
        }
    }

    /// Prints a line above the bar.
    pub fn note(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(lines(line)),
            None => say(line),
        }
    }

    /// Leaves the bar as it is, and begins a new line.
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
            // The cursor still stands behind the bar.
            let _ = writeln!(std::io::stderr());
        }
    }
}

/// Whether people look at what the program prints.
pub fn on_a_terminal() -> bool {
    std::io::stdout().is_terminal() && std::io::stderr().is_terminal() && !ranks::is_silent()
}

pub fn bar(end: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar());
    ProgressBar::new(end).with_style(style)
}

/// A time as `1:02:03` or `2:03`.
pub fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}
