//! `zgan eval --metrics` and `zgan eval --images`: the figures that people publish.

use std::path::PathBuf;

use clap::Args;
use zgan::Error;
use zgan::data::{DataSource, Dataset};
use zgan::device::Device;
use zgan::eval::inception::{DIMENSIONS, Like, Weights};
use zgan::eval::judge::{FIFTY, Figures, Judge, Metric, Sight, USUAL, save_statistics};
use zgan::eval::metrics::{SUBSET, Spread};
use zgan::eval::{self, Cache};

use super::{ranks, say, tell, thousands};

#[derive(Args)]
#[command(next_help_heading = "Published figures")]
pub struct Published {
    /// Compute these by the features of Inception: fid, fid50k, kid, is, pr, dc, ifid; or cas, by a classifier that learns from the
    /// generated images [default with --images: fid,kid,pr,dc]
    #[arg(long, value_name = "METRIC,...", value_delimiter = ',', hide_possible_values = true)]
    pub metrics: Vec<Metric>,
    /// Images that are drawn for them [default: 10000; 50000 for fid50k]
    #[arg(long, value_name = "IMAGES")]
    count: Option<usize>,
    /// Most real images that they are compared with, chosen by chance [default: all]
    #[arg(long, value_name = "IMAGES")]
    real: Option<usize>,
    /// Inception's weights, a safetensors file [default: what ZGAN_INCEPTION names]
    #[arg(long, value_name = "FILE")]
    inception: Option<PathBuf>,
    /// The program whose numbers are wanted: pytorch-fid, torch-fidelity or clean-fid resize images in different ways
    #[arg(long, value_name = "NAME", default_value = "pytorch-fid", hide_possible_values = true)]
    fid_as: Like,
    /// Dimensions of the features: 2048, or those of an earlier layer, 64, 192 or 768
    #[arg(long, value_name = "N", default_value_t = 2048)]
    dims: usize,
    /// Images of each subset of kid
    #[arg(long, value_name = "IMAGES", default_value_t = SUBSET)]
    kid_subset: usize,
    /// Compare with the statistics in this file, which pytorch-fid or --save-stats has written, and not with real images
    #[arg(long, value_name = "FILE.npz")]
    pub stats: Option<PathBuf>,
    /// Write the statistics of the real images to this file, as pytorch-fid does
    #[arg(long, value_name = "FILE.npz", conflicts_with = "stats")]
    save_stats: Option<PathBuf>,
}

impl Published {
    /// The images to draw.
    pub fn count(&self) -> Result<usize, Error> {
        let fifty = self.metrics.contains(&Metric::Fid50k);
        if let Some(count) = self.count.filter(|count| fifty && *count != FIFTY) {
            return Err(Error::Config(format!("count: {count}, but fid50k is of 50,000 images; fid is of any number")));
        }
        let count = self.count.unwrap_or(if fifty { FIFTY } else { USUAL });
        if !(2..=10_000_000).contains(&count) {
            return Err(Error::Config(format!("count: {count}, expected 2 to 10000000")));
        }
        Ok(count)
    }

    /// The weights of Inception, where a metric needs them. What is wrong with the options is told before anything is computed.
    pub fn weights(&self) -> Result<Option<Weights>, Error> {
        self.count()?;
        if !DIMENSIONS.contains(&self.dims) {
            return Err(Error::Config(format!("dims: {}, expected one of {DIMENSIONS:?}", self.dims)));
        }
        for (name, value) in [("real", self.real.unwrap_or(2)), ("kid-subset", self.kid_subset)] {
            if value < 2 {
                return Err(Error::Config(format!("{name}: {value}, expected 2 or more")));
            }
        }
        if let Some(path) = &self.save_stats {
            super::writable("save-stats", path)?;
        }
        if self.metrics == [Metric::Cas] {
            return Ok(None);
        }
        Weights::find(self.inception.as_deref()).map(Some)
    }

    pub fn judge(&self, device: &Device, weights: &Weights, usual: &[Metric]) -> Result<Judge, Error> {
        let metrics = if self.metrics.is_empty() { usual } else { &self.metrics };
        Judge::new(device, weights, metrics, self.dims, self.fid_as, self.kid_subset)
    }

    /// The real side: what `stats` says, or images.
    pub fn real(
        &self,
        judge: &Judge,
        data: Option<(&Dataset, &DataSource)>,
        whole: bool,
        for_people: bool,
    ) -> anyhow::Result<Sight> {
        if let Some(path) = &self.stats {
            return Ok(judge.known(judge.read(path)?)?);
        }
        let Some((data, source)) = data else {
            return Err(Error::Config("--data or --stats says what the pictures are compared with".into()).into());
        };
        let most = self.real.unwrap_or(usize::MAX);
        tell(for_people, format!("real    {} images go through Inception", thousands(most.min(data.len()))));
        let mut note = |line| tell(for_people, line);
        let sight = judge.look_at_real(data, &Cache::of(source), most, whole, &mut note, &|| true)?;
        let sight = eval::whole(sight)?;
        if let Some(path) = self.save_stats.as_ref().filter(|_| !ranks::is_silent()) {
            save_statistics(path, &sight.statistics)?;
        }
        Ok(sight)
    }

    /// Adds the classification accuracy score to the figures, where it is wanted, or why there is none. `generated` gives the images
    /// that a classifier is to learn from, where they have labels.
    pub fn add_cas(
        &self,
        figures: &mut Figures,
        device: &Device,
        generated: impl FnOnce() -> Result<Option<Dataset>, Error>,
        held_out: Option<&Dataset>,
        for_people: bool,
    ) -> Result<(), Error> {
        if !self.metrics.contains(&Metric::Cas) {
            return Ok(());
        }
        let mut lacks = |what: String| figures.left_out.push(format!("cas: {what}"));
        let Some(held_out) = held_out else {
            lacks("the data have no held-out images".into());
            return Ok(());
        };
        let Some(generated) = generated()? else {
            lacks("it needs generated images with labels of two classes or more".into());
            return Ok(());
        };
        if generated.shape() != held_out.shape() {
            let (found, expected) = (generated.shape(), held_out.shape());
            lacks(format!(
                "the images are of {found}, the held-out ones of {expected}; --size brings pictures to one size"
            ));
            return Ok(());
        }
        tell(for_people, format!("cas     a classifier learns from {} images", thousands(generated.len())));
        let tested = eval::whole(eval::classification_accuracy(device, &generated, held_out, &|| true)?)?;
        (figures.generated, figures.cas) = (figures.generated.max(generated.len()), Some(tested));
        if figures.real == 0 && self.metrics == [Metric::Cas] {
            figures.real = tested.images;
        }
        Ok(())
    }

    pub fn print(&self, figures: &Figures, as_json: bool) -> anyhow::Result<()> {
        if as_json {
            let mut object = serde_json::to_value(figures)?;
            object["fid-as"] = self.fid_as.name().into();
            object["dims"] = self.dims.into();
            say(serde_json::to_string_pretty(&object)?);
            return Ok(());
        }
        let width = figures.intra_fids.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).clamp(5, 24);
        if !figures.intra_fids.is_empty() {
            say(format!("{:<width$}     fid", "class"));
        }
        for (name, fid) in &figures.intra_fids {
            say(format!("{name:<width$}  {:>6}", number(*fid)));
        }
        figures.left_out.iter().for_each(|line| say(format!("left out {line}")));
        let dims = if self.dims == 2048 { String::new() } else { format!(", {} dimensions", self.dims) };
        say(format!("{}; as {}{dims}", line(figures), self.fid_as.name()));
        Ok(())
    }
}

fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.1}"),
        v if v >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.5}"),
    }
}

/// A line like `fid 12.31  kid 0.00212 ± 0.00034 (10,000 generated, 60,000 real)`
pub fn line(figures: &Figures) -> String {
    let spread = |name: &str, spread: Option<Spread>| {
        spread.map(|s| format!("{name} {} ± {}", number(s.mean), number(s.deviation)))
    };
    let plain = |name: &str, value: Option<f64>| value.map(|value| format!("{name} {}", number(value)));
    let parts: Vec<String> = [
        plain("fid", figures.fid),
        spread("kid", figures.kid),
        spread("is", figures.inception_score),
        plain("precision", figures.precision),
        plain("recall", figures.recall),
        plain("density", figures.density),
        plain("coverage", figures.coverage),
        plain("ifid", figures.intra_fid),
        figures.cas.map(|cas| format!("cas {:.1} %", 100.0 * cas.right as f64 / cas.images as f64)),
    ]
    .into_iter()
    .flatten()
    .collect();
    let parts = if parts.is_empty() { "no figure".into() } else { parts.join("  ") };
    let real = if figures.real == 0 { "an unknown number of".into() } else { thousands(figures.real) };
    format!("{parts} ({} generated, {real} real)", thousands(figures.generated))
}

/// What `--images` is judged by where nobody says.
pub const USUAL_METRICS: [Metric; 4] = [Metric::Fid, Metric::Kid, Metric::Pr, Metric::Dc];
