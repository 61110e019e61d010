//! What fusion buys for a whole training step: the step as training runs it, and with each fusion, and all of them, taken
//! apart into separate kernels.

use crate::Result;
use crate::device::Device;
use crate::instruments::bench::{self, MeasuredStep, Scale, Settings, StepProblem};
use crate::nn::Fusion;
use crate::settings::Preset;

/// A step in all its forms. The first one has every fusion, the last one has none.
pub struct StepForms {
    /// What is trained: preset, width, batch.
    pub name: String,
    pub forms: Vec<StepForm>,
}

pub struct StepForm {
    /// What runs from separate kernels.
    pub name: String,
    pub measured: MeasuredStep,
}

impl StepForms {
    pub fn fused(&self) -> Option<&MeasuredStep> {
        self.forms.first().map(|form| &form.measured)
    }

    pub fn unfused(&self) -> Option<&MeasuredStep> {
        self.forms.last().map(|form| &form.measured)
    }
}

/// A small preset and a wide one, as training runs them on a GPU, or, on a CPU, at sizes that take seconds at most; both players
/// move at once, so that one backward pass of D can stand beside two.
fn problems(device: &Device, tiny: bool) -> Result<Vec<StepProblem>> {
    let scale = if tiny { Scale::Tiny } else { Scale::of(device) };
    let of = |name: &str, small: (usize, usize)| -> Result<StepProblem> {
        let preset: Preset = name.parse()?;
        let own = preset.settings();
        let (width, batch) = match scale {
            Scale::Tiny => (4, 2),
            Scale::Small => small,
            Scale::Real => (own.networks.width, own.training.batch),
        };
        Ok(bench::step_of(preset, width, batch))
    };
    Ok(vec![of("mnist", (16, 64))?, of("sngan-projection-32", (64, 16))?])
}

/// The forms of a step: every fusion, each of them taken apart, all of them taken apart.
fn forms(problem: &StepProblem) -> Vec<(String, StepProblem)> {
    const APART: [Fusion; 4] = [Fusion::LogPartition, Fusion::Projection, Fusion::Norm, Fusion::Conv];
    let as_is = StepProblem { name: problem.name.clone(), setup: problem.setup.clone() };
    let mut forms = vec![("everything fused".to_string(), as_is)];
    let each = APART.iter().filter_map(|part| Some((format!("{part} apart"), problem.unfused(&[*part])?)));
    forms.extend(each);
    forms.extend(problem.unfused(&APART).map(|all| ("everything apart".to_string(), all)));
    forms
}

pub fn measure(
    device: &Device,
    settings: Settings,
    tiny: bool,
    tell: &mut dyn FnMut(String),
) -> Result<Vec<StepForms>> {
    let mut all = Vec::new();
    for problem in problems(device, tiny)? {
        let mut measured = Vec::new();
        for (name, form) in forms(&problem) {
            measured.push(StepForm { name, measured: bench::measure_step(device, &form, settings)? });
        }
        let times: Vec<String> = measured.iter().map(|form| format!("{:.1}", form.measured.seconds * 1e3)).collect();
        tell(format!("{}: {} ms", problem.name, times.join(", ")));
        all.push(StepForms { name: problem.name, forms: measured });
    }
    Ok(all)
}
