//! Weights for PyTorch: what draws, what judges, and the networks that take them.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::file::{self, Whole};
use super::names::{self, Kind, Side};
use super::{onnx, spectral};
use crate::checkpoint::{Header, NamedTensor};
use crate::gan::{Generator, Setup};
use crate::settings::{Architecture, LatentDistribution, Pool, name_of};
use crate::{Error, Result, files};

/// A checkpoint that has been read, whose weights go out.
pub struct Source<'a> {
    pub setup: &'a Setup,
    pub header: &'a Header,
    pub tensors: &'a [NamedTensor],
    /// What draws from it.
    pub generator: &'a Generator,
    /// Whether weights are divided by their spectral norms instead of carrying its vectors along.
    pub folded: bool,
    /// Whether the networks go out as ONNX files besides.
    pub onnx: bool,
}

impl Source<'_> {
    /// Writes `generator.safetensors`, `discriminator.safetensors` and `networks.py` into a folder, and where it is wanted
    /// `generator.onnx` and `discriminator.onnx`; gives their paths. Without D's weights in the checkpoint, D is left out.
    pub fn write(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let mut written = Vec::new();
        let mut networks = vec![(Side::Generator, self.generator.tensors()?)];
        let prefix = "discriminator.";
        let judging: Vec<NamedTensor> = self.tensors.iter().filter(|t| t.name.starts_with(prefix)).cloned().collect();
        if !judging.is_empty() {
            let rows = names::table(self.setup, Side::Discriminator)?;
            networks.push((Side::Discriminator, spectral::spread(judging, Side::Discriminator, &rows)));
        }
        for (side, ours) in &networks {
            let (tensors, counts) = self.arranged(*side, ours, self.folded)?;
            written.push(folder.join(format!("{}.safetensors", side.name())));
            file::write(&written[written.len() - 1], &self.metadata(), &tensors, &counts)?;
        }
        written.push(folder.join("networks.py"));
        files::write_bytes(&written[written.len() - 1], self.networks()?.as_bytes())?;
        for (side, ours) in networks.iter().filter(|_| self.onnx) {
            let tensors = self.arranged(*side, ours, true)?.0;
            written.push(folder.join(format!("{}.onnx", side.name())));
            onnx::write(&written[written.len() - 1], self.setup, *side, &tensors, &self.metadata())?;
        }
        Ok(written)
    }

    /// A network's tensors as they are called and lie in PyTorch; `folded` divides weights by their spectral norms.
    fn arranged(&self, side: Side, ours: &[NamedTensor], folded: bool) -> Result<(Vec<NamedTensor>, Vec<Whole>)> {
        let by_name: HashMap<&str, &NamedTensor> = ours.iter().map(|t| (t.name.as_str(), t)).collect();
        let (mut tensors, mut counts) = (Vec::new(), Vec::new());
        for row in names::table(self.setup, side)? {
            if folded && matches!(row.kind, Kind::U | Kind::V) {
                continue;
            }
            let name = format!("{}.{}", side.name(), row.ours);
            let tensor = by_name.get(name.as_str()).filter(|t| t.shape == row.our_shape);
            let tensor = tensor.ok_or_else(|| Error::Shape(format!("tensor {name} {:?} is missing", row.our_shape)))?;
            let theirs = if folded { row.theirs.trim_end_matches("_orig") } else { &row.theirs };
            if let Some(norm) = row.theirs.strip_suffix("running_mean") {
                let (name, steps) = (format!("{norm}num_batches_tracked"), self.header.step as i64);
                counts.push(Whole { name, shape: Vec::new(), values: vec![steps] });
            }
            let mut values = row.out(&tensor.values);
            if let [Some(u), Some(v)] = ["u", "v"].map(|part| by_name.get(format!("{name}.{part}").as_str()))
                && folded
            {
                let norm = spectral::norm(tensor, &u.values, &v.values);
                values.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
            }
            tensors.push(NamedTensor { name: theirs.into(), shape: row.their_shape, values });
        }
        if let Some(bias) = names::last_bias(self.setup, side) {
            tensors.push(NamedTensor { name: bias.into(), shape: vec![1], values: vec![0.0] });
        }
        Ok((tensors, counts))
    }

    /// What a reader of the file needs to know of its networks.
    pub fn metadata(&self) -> BTreeMap<String, String> {
        let Setup { networks, training, .. } = self.setup;
        let text = |value: Option<toml::Value>| match value {
            Some(toml::Value::String(text)) => text,
            other => other.map(|value| value.to_string()).unwrap_or_default(),
        };
        let table = toml::Table::try_from(networks).unwrap_or_default();
        let mut all: BTreeMap<String, String> =
            table.into_iter().map(|(name, value)| (name, text(Some(value)))).collect();
        all.extend([
            ("format".into(), "pt".into()),
            ("preset".into(), self.setup.preset.to_string()),
            ("class-names".into(), serde_json::json!(self.header.data.classes).to_string()),
            ("size".into(), self.setup.shape.size().to_string()),
            ("channels".into(), self.setup.shape.channels.to_string()),
            ("step".into(), self.header.step.to_string()),
            ("seed".into(), training.seed.to_string()),
        ]);
        all
    }

    /// `networks.py`.
    fn networks(&self) -> Result<String> {
        let Setup { networks, shape, .. } = self.setup;
        let flag = |value: bool| if value { "True" } else { "False" };
        let mut constants = vec![
            format!("\n# Preset {}, after step {}.", self.setup.preset, self.header.step),
            format!(
                "HEIGHT, WIDTH, CHANNELS, LATENT = {}, {}, {}, {}",
                shape.height, shape.width, shape.channels, networks.latent
            ),
        ];
        let normalised = [networks.spectral_norm_g, networks.spectral_norm].map(|on| flag(on && !self.folded));
        let template = match self.setup.architecture() {
            Architecture::Residual(spec) => {
                let (blocks, width) = (self.setup.blocks(spec)?, networks.width);
                let up = blocks.up.iter().map(|factor| (factor * width).to_string()).collect::<Vec<_>>().join(", ");
                let down =
                    blocks.down.iter().map(|(factor, halves)| format!("({}, {})", factor * width, flag(*halves)));
                let conditioning = name_of(&networks.conditioning);
                let pool = match networks.pool {
                    Pool::Sum => networks.pool_factor,
                    Pool::Mean => networks.pool_factor / blocks.top.pixels() as f64,
                };
                constants.extend([
                    format!("CONDITIONING, CLASSES = \"{conditioning}\", {}", self.setup.classes),
                    "# G: size and width of the first tensor, widths of the blocks, side of the last filter; the number that".into(),
                    "# marks the label beside the latent.".into(),
                    format!(
                        "BOTTOM, START, UP, LAST = ({}, {}), {}, [{up}], {}",
                        blocks.bottom.height, blocks.bottom.width, blocks.start * width, spec.last
                    ),
                    format!("LABEL = {}", spec.label.map_or("None".into(), |label| format!("{label:?}"))),
                    format!("EPS, UPSAMPLING = {:e}, \"{}\"", spec.eps, match spec.upsampling {
                        crate::ops::resample::Upsampling::Nearest => "nearest",
                        crate::ops::resample::Upsampling::Bilinear => "bilinear",
                    }),
                    "# D: widths of the blocks and whether each halves the size; the factor on the pooled features.".into(),
                    format!("DOWN = [{}]", down.collect::<Vec<_>>().join(", ")),
                    format!("HIDDEN_IS_OUTPUT, HEAD_BIAS, POOL = {}, {}, {pool:?}", flag(spec.hidden_is_output), flag(spec.head_bias)),
                    format!("EMBEDDING, JOINS = 128, {}", 3.min(blocks.down.len() - 1)),
                    "# Self-attention in D behind so many blocks, and in G before so many of its last ones.".into(),
                    format!("ATTENTION = {}", blocks.attention.map_or("None".into(), |blocks| blocks.to_string())),
                ]);
                include_str!("networks.py")
            }
            Architecture::ImagePerceptrons => {
                constants
                    .push("WIDTHS_G, WIDTHS_D, SLOPE_G, SLOPE_D = [128, 256, 512, 1024], [512, 256], 0.2, 0.2".into());
                constants.push("NORMS, EPS = True, 0.8".into());
                include_str!("perceptrons.py")
            }
            Architecture::PointPerceptrons => {
                let width = networks.width;
                constants
                    .push(format!("WIDTHS_G, WIDTHS_D, SLOPE_G, SLOPE_D = [{width}] * 2, [{width}] * 2, 0.0, 0.0"));
                constants.push("NORMS, EPS = False, 0.8".into());
                include_str!("perceptrons.py")
            }
        };
        constants.push(format!("SPECTRAL_NORM_G, SPECTRAL_NORM_D = {}, {}", normalised[0], normalised[1]));
        let conditional = self.setup.conditional();
        let draw = match networks.latent_distribution {
            LatentDistribution::Normal => "torch.randn(rows * 8, LATENT)",
            LatentDistribution::Uniform => "2.0 * torch.rand(rows * 8, LATENT) - 1.0",
        };
        let labels = if conditional { ", torch.arange(rows).repeat_interleave(8)" } else { "" };
        let grid = include_str!("grid.py")
            .replace("#ROWS#", if conditional { "CLASSES" } else { "8" })
            .replace("#ARGUMENTS#", &format!("{draw}{labels}"));
        let points = self.setup.draws_points();
        Ok(template
            .replace("#SETTINGS#", &constants.join("\n"))
            .replace("#GRID#\n", if points { "" } else { &grid })
            .replace("#WHAT#", if points { "points (N, 2, 1, 1)" } else { "images (N, C, H, W) between -1 and 1" })
            .replace("#DRAWS#", if points { "" } else { " `python networks.py` draws a grid." })
            .replace("#HIGH#", if self.setup.real_is_low() { "low" } else { "high" })
            .replace("#LOW#", ""))
    }
}
