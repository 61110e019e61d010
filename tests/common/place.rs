//! A folder of its own in which a test runs the program.
#![allow(dead_code)]

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

pub const ZGAN: &str = env!("CARGO_BIN_EXE_zgan");

pub struct Place(pub tempfile::TempDir);

impl Place {
    pub fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// The file of a run's checkpoint.
    pub fn checkpoint(&self, run: &str, step: u64) -> PathBuf {
        self.path(&format!("runs/{run}/checkpoints/step-{step:06}.safetensors"))
    }

    /// Two classes of five pictures of noise.
    pub fn folder_of_noise(&self, name: &str) {
        let mut state = 1u32;
        for (i, class) in [0, 1, 0, 1, 0, 1, 0, 1, 0, 1].into_iter().enumerate() {
            let folder = self.path(name).join(["ant", "bee"][class]);
            std::fs::create_dir_all(&folder).unwrap();
            let side = 30 + i as u32;
            let file = std::fs::File::create(folder.join(format!("{i}.png"))).unwrap();
            let mut encoder = png::Encoder::new(file, side, side);
            encoder.set_color(png::ColorType::Rgb);
            let pixels: Vec<u8> = (0..3 * side * side)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                })
                .collect();
            encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
        }
    }

    /// This program in the folder. What somebody measured on this machine is nothing to tests. It heeds signals also where
    /// the tests do not, as in a job in the background of a script, or under nohup.
    pub fn program(&self, program: &str) -> Command {
        let mut command = if ignores_signals() { Command::new("env") } else { Command::new(program) };
        if ignores_signals() {
            command.args(["--default-signal=HUP,INT,USR1", program]);
        }
        command.env("ZGAN_TUNING", "off").current_dir(self.0.path()).stdin(Stdio::null());
        command
    }
}

/// Whether this process ignores SIGHUP, SIGINT or SIGUSR1, whose numbers are 1, 2 and 10.
fn ignores_signals() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 0b10_0000_0011 != 0)
}

/// Everything that a program wrote.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The command must end with `code`, and say all of `parts`; `shown` is what a failure calls it. Gives everything it wrote.
#[track_caller]
pub fn says(command: &mut Command, shown: &str, code: i32, parts: &[&str]) -> String {
    let output = command.output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(code), "{shown}\n{said}");
    assert!(!said.contains("panicked"), "{shown}\n{said}");
    for part in parts {
        assert!(said.contains(part), "{shown}\ndoes not say {part:?}:\n{said}");
    }
    said
}
