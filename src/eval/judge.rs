//! The figures that people publish: images as Inception sees them, and what becomes of it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::cache::{Cache, Tested, some_of};
use super::inception::{Inception, LOGITS, Like, Weights};
use super::metrics::{self, Points, Spread, Statistics};
use crate::cores::on_all_cores;
use crate::data::{DataInfo, Dataset, ImageShape};
use crate::device::{Buffer, Device};
use crate::exchange::npy;
use crate::exchange::npz::{self, Named};
use crate::gan::{self, Latents, Setup, Trainer};
use crate::sizes::filled;
use crate::{Error, Result};

/// What is computed of the features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Fréchet distance
    Fid,
    /// The same of 50,000 generated images
    Fid50k,
    /// Kernel distance
    Kid,
    /// Inception score
    Is,
    /// Precision and recall
    Pr,
    /// Density and coverage
    Dc,
    /// Fréchet distance within each class
    Ifid,
    /// Classification accuracy score, which needs no Inception
    Cas,
}

impl Metric {
    pub fn name(self) -> &'static str {
        match self {
            Metric::Fid => "fid",
            Metric::Fid50k => "fid50k",
            Metric::Kid => "kid",
            Metric::Is => "is",
            Metric::Pr => "pr",
            Metric::Dc => "dc",
            Metric::Ifid => "ifid",
            Metric::Cas => "cas",
        }
    }
}

/// One number of a [`Metric`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Figure {
    Fid,
    Kid,
    Is,
    Precision,
    Recall,
    Density,
    Coverage,
    Ifid,
}

impl Figure {
    pub const ALL: [Figure; 8] = [
        Figure::Fid,
        Figure::Kid,
        Figure::Is,
        Figure::Precision,
        Figure::Recall,
        Figure::Density,
        Figure::Coverage,
        Figure::Ifid,
    ];

    /// What it is called on the command line and in `metrics.csv`.
    pub fn name(self) -> &'static str {
        match self {
            Figure::Fid => "fid",
            Figure::Kid => "kid",
            Figure::Is => "is",
            Figure::Precision => "precision",
            Figure::Recall => "recall",
            Figure::Density => "density",
            Figure::Coverage => "coverage",
            Figure::Ifid => "ifid",
        }
    }

    /// The metric that it is a number of.
    pub fn metric(self) -> Metric {
        match self {
            Figure::Fid => Metric::Fid,
            Figure::Kid => Metric::Kid,
            Figure::Is => Metric::Is,
            Figure::Precision | Figure::Recall => Metric::Pr,
            Figure::Density | Figure::Coverage => Metric::Dc,
            Figure::Ifid => Metric::Ifid,
        }
    }

    /// Whether one value of it is better than another.
    pub fn is_better(self, value: f64, than: f64) -> bool {
        match self {
            Figure::Fid | Figure::Kid | Figure::Ifid => value < than,
            _ => value > than,
        }
    }
}

/// Generated images where nobody says how many, and for `fid50k`.
pub const USUAL: usize = 10_000;
pub const FIFTY: usize = 50_000;

/// Images that go through Inception at once.
pub const BATCH: usize = 32;

/// Figures of two sets of images. A number is missing where nobody asked for it, or where it has no meaning.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Figures {
    pub generated: usize,
    pub real: usize,
    pub fid: Option<f64>,
    pub kid: Option<Spread>,
    pub inception_score: Option<Spread>,
    pub precision: Option<f64>,
    pub recall: Option<f64>,
    pub density: Option<f64>,
    pub coverage: Option<f64>,
    /// The mean over the classes.
    pub intra_fid: Option<f64>,
    /// Of each class, with its name.
    pub intra_fids: Vec<(String, f64)>,
    /// [`super::classification_accuracy`], which the judge has no part in.
    pub cas: Option<Tested>,
    /// Each metric that was asked for and is not here, with the reason.
    pub left_out: Vec<String>,
}

impl Figures {
    pub fn get(&self, figure: Figure) -> Option<f64> {
        match figure {
            Figure::Fid => self.fid,
            Figure::Kid => self.kid.map(|kid| kid.mean),
            Figure::Is => self.inception_score.map(|is| is.mean),
            Figure::Precision => self.precision,
            Figure::Recall => self.recall,
            Figure::Density => self.density,
            Figure::Coverage => self.coverage,
            Figure::Ifid => self.intra_fid,
        }
    }
}

/// What Inception saw of some images.
pub struct Sight {
    pub statistics: Statistics,
    /// (count, dimensions), where a metric needs them.
    features: Points,
    logits: Points,
    /// One per image, where there are labels.
    labels: Vec<u32>,
}

/// Inception, and what is wanted of it.
pub struct Judge {
    inception: Inception,
    metrics: Vec<Metric>,
    dimensions: usize,
    like: Like,
    digest: String,
    /// Points of a subset of the kernel distance.
    subset: usize,
}

impl Judge {
    pub fn new(
        device: &Device,
        weights: &Weights,
        metrics: &[Metric],
        dimensions: usize,
        like: Like,
        subset: usize,
    ) -> Result<Judge> {
        if metrics.contains(&Metric::Is) && dimensions != 2048 {
            return Err(Error::Config(format!("metrics: is needs the logits behind 2048 features, not {dimensions}")));
        }
        let inception = Inception::new(device, weights, dimensions, like, BATCH)?;
        let (metrics, digest) = (metrics.to_vec(), weights.digest.clone());
        Ok(Judge { inception, metrics, dimensions, like, digest, subset })
    }

    fn wants(&self, some: &[Metric]) -> bool {
        self.metrics.iter().any(|metric| some.contains(metric))
    }

    /// Whether a metric needs the features of each image, and not their statistics alone.
    fn wants_features(&self) -> bool {
        self.wants(&[Metric::Kid, Metric::Pr, Metric::Dc, Metric::Ifid])
    }

    fn sight(&self) -> Result<Sight> {
        let statistics = Statistics::new(self.dimensions)?;
        Ok(Sight { statistics, features: Points::default(), logits: Points::default(), labels: Vec::new() })
    }

    /// Numbers of a row of [`Judge::see`]: the features of an image, and its logits where a metric needs them. Real images have none.
    fn width(&self, real: bool) -> usize {
        self.dimensions + if !real && self.wants(&[Metric::Is]) { LOGITS } else { 0 }
    }

    /// What Inception sees of images (count, H, W, C) on the device: a row of each.
    fn see(&self, images: &Buffer<u8>, shape: ImageShape, width: usize) -> Result<Vec<f32>> {
        let (each, d) = (shape.len(), self.dimensions);
        let mut rows = Vec::with_capacity(images.len() / each * width);
        for first in (0..images.len()).step_by(each * BATCH) {
            let part = images.view(first..images.len().min(first + each * BATCH));
            let n = part.len() / each;
            self.inception.network().run(&part, shape)?;
            let features = self.inception.features(n)?;
            if features.iter().any(|x| !x.is_finite()) {
                return Err(Error::Check("Inception's features are not finite: its weights may be damaged".into()));
            }
            let logits = if width > d { self.inception.logits(n)? } else { None }.unwrap_or_default();
            for (i, features) in features.chunks_exact(d).enumerate() {
                rows.extend_from_slice(features);
                rows.extend_from_slice(&logits[i * (width - d)..(i + 1) * (width - d)]);
            }
        }
        Ok(rows)
    }

    /// What `see` sees of `count` images, `at_once` in a part; the ranks share them out. None where `go_on` says no, which is asked
    /// before each part.
    fn sight_of(
        &self,
        (count, at_once): (usize, usize),
        real: bool,
        go_on: &dyn Fn() -> bool,
        see: impl FnMut(Range<usize>) -> Result<Vec<f32>>,
    ) -> Result<Option<Sight>> {
        let (mut sight, d) = (self.sight()?, self.dimensions);
        let add = |row: &[f32]| {
            sight.statistics.add(&row[..d]);
            if self.wants_features() {
                sight.features.extend(d, &row[..d]);
            }
            if row.len() > d {
                sight.logits.extend(row.len() - d, &row[d..]);
            }
        };
        let device = self.inception.network().device();
        let whole = device.see_in_turns((count, at_once, self.width(real)), go_on, see, add)?;
        sight.statistics = sight.statistics.finished();
        Ok(whole.then_some(sight))
    }

    /// Draws images from a trainer, which never leave the device. None where `go_on` says no, which is asked before every batch.
    /// On a device of one of several ranks, this and the other looks are shared out, and what is seen is the first rank's alone.
    pub fn draw(
        &self,
        trainer: &mut Trainer,
        weights: gan::Weights,
        seed: u64,
        count: usize,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Option<Sight>> {
        const AT_ONCE: usize = 64;
        let (setup, shape) = (trainer.setup(), trainer.setup().shape);
        let (latents, vectors) = (latents(setup, seed, count), setup.vectors.is_some());
        let see = |images: Range<usize>| {
            let labels = latents.labels.get(images.clone()).unwrap_or_default().to_vec();
            let part = Latents { first: images.start as u32, count: images.len(), labels, ..latents };
            let mut rows = Vec::new();
            trainer.sample_each(weights, &part, &mut |images| {
                rows.extend(self.see(images, shape, self.width(false))?);
                Ok(())
            })?;
            Ok(rows)
        };
        let sight = self.sight_of((count, AT_ONCE), false, go_on, see)?;
        let labels = if vectors { Vec::new() } else { latents.labels };
        Ok(sight.map(|sight| Sight { labels, ..sight }))
    }

    /// Looks at up to `most` images of some data, chosen by chance where there are more. Pictures of files are seen in their own size
    /// where `whole`. Only the generated side, which is not `real`, has logits.
    pub fn look(
        &self,
        data: &Dataset,
        most: usize,
        whole: bool,
        real: bool,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Option<Sight>> {
        let chosen = some_of((0..data.len()).collect(), most, 0);
        let device = self.inception.network().device();
        let see = |part: Range<usize>| {
            let part = &chosen[part];
            let read = |i: usize| -> Result<(ImageShape, Vec<u8>)> {
                if whole {
                    return data.read_whole(part[i]);
                }
                let mut image = filled("an image", data.shape().len(), 0)?;
                data.read(part[i], &mut image)?;
                Ok((data.shape(), image))
            };
            let images = on_all_cores(part.len(), || Ok(()), |_, i| read(i))?;
            let images: Vec<_> = images.into_iter().collect::<Result<_>>()?;
            let mut rows = Vec::new();
            // Those of one size that follow each other go through Inception together.
            for same in images.chunk_by(|a, b| a.0 == b.0) {
                let bytes: Vec<u8> = same.iter().flat_map(|(_, bytes)| bytes).copied().collect();
                rows.extend(self.see(&device.upload(&bytes)?, same[0].0, self.width(real))?);
            }
            Ok(rows)
        };
        let sight = self.sight_of((chosen.len(), BATCH), real, go_on, see)?;
        let labels = match data.vectors() {
            None => chosen.iter().map(|index| data.label(*index)).collect(),
            Some(_) => Vec::new(),
        };
        Ok(sight.map(|sight| Sight { labels, ..sight }))
    }

    /// As [`Judge::look`] at real images. Statistics that were computed before are taken from the cache, where they are enough; new ones
    /// are kept there.
    pub fn look_at_real(
        &self,
        data: &Dataset,
        cache: &Cache,
        most: usize,
        whole: bool,
        tell: &mut dyn FnMut(String),
        go_on: &dyn Fn() -> bool,
    ) -> Result<Option<Sight>> {
        let (name, device) =
            (self.cache_name(&data.info(), most.min(data.len()), whole), self.inception.network().device());
        let first = device.ranks().is_none_or(|ranks| ranks.rank() == 0);
        let mut kept = cache.places().map(|place| place.join(&name)).filter(|path| path.is_file());
        let mut read = |path: PathBuf| {
            let anew = |error| tell(format!("{error}; its statistics are computed anew"));
            self.read(&path).map_err(anew).ok()
        };
        let known = if first && !self.wants_features() { kept.find_map(&mut read) } else { None };
        if device.any_rank(known.is_some())? {
            return Ok(Some(known.map_or_else(|| self.sight(), |known| self.known(known))?));
        }
        let Some(sight) = self.look(data, most, whole, true, go_on)? else { return Ok(None) };
        if !first {
            return Ok(Some(sight));
        }
        // Where it cannot be kept, it serves all the same.
        let kept = cache.places().any(|place| {
            let there = std::fs::create_dir_all(place).is_ok();
            there && save_statistics(&place.join(&name), &sight.statistics).is_ok()
        });
        if !kept {
            tell(
                "the statistics of the real images are not kept: there is no folder that they can be written to".into(),
            );
        }
        Ok(Some(sight))
    }

    fn cache_name(&self, info: &DataInfo, count: usize, whole: bool) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
        let name: String = info.name.chars().map(plain).collect();
        let shape = if whole { format!("whole-{}", info.shape.channels) } else { info.shape.to_string() };
        let (digest, like, dims) = (&self.digest, self.like.name(), self.dimensions);
        format!(".zgan-inception-{name}-{shape}-{}-{digest}-{like}-{dims}-{count}.npz", info.crc32)
    }

    /// Statistics of a file that pytorch-fid or this program has written.
    pub fn read(&self, path: &Path) -> Result<Statistics> {
        let statistics = load_statistics(path)?;
        let (found, d) = (statistics.mean.len(), self.dimensions);
        if found != d {
            let what = format!("statistics of {found} dimensions, expected {d}; --dims {found} compares those");
            return Err(Error::Data { path: path.to_path_buf(), what });
        }
        Ok(statistics)
    }

    /// Real images of which there are statistics alone.
    pub fn known(&self, statistics: Statistics) -> Result<Sight> {
        Ok(Sight { statistics, ..self.sight()? })
    }

    /// Compares generated images with real ones. `classes` are the names that the labels of both sides count in; empty where one of them
    /// has no labels.
    pub fn compare(&self, generated: &Sight, real: &Sight, classes: &[String]) -> Result<Figures> {
        let device = self.inception.network().device();
        let mut figures =
            Figures { generated: generated.statistics.count, real: real.statistics.count, ..Figures::default() };
        let mut left_out = Vec::new();
        let statistics_alone = real.features.is_empty();
        for metric in &self.metrics {
            let mut lacks = |what: &str| left_out.push(format!("{}: {what}", metric.name()));
            if statistics_alone && matches!(metric, Metric::Kid | Metric::Pr | Metric::Dc | Metric::Ifid) {
                lacks("of the real images there are statistics alone");
                continue;
            }
            match metric {
                Metric::Fid | Metric::Fid50k => {
                    // A file of statistics may not say of how many images they are.
                    if generated.statistics.count < 2 || real.statistics.count == 1 {
                        lacks("it needs 2 images on each side");
                    } else if figures.fid.is_none() {
                        figures.fid = Some(metrics::frechet(&generated.statistics, &real.statistics)?);
                    }
                }
                Metric::Kid => {
                    figures.kid = metrics::kernel_distance(device, &generated.features, &real.features, self.subset)?;
                    if figures.kid.is_none() {
                        lacks("it needs 2 images on each side");
                    }
                }
                Metric::Is => {
                    figures.inception_score = metrics::inception_score(&generated.logits);
                    if figures.inception_score.is_none() {
                        lacks("it needs 10 generated images");
                    }
                }
                Metric::Pr => {
                    let both = metrics::precision_recall(device, &real.features, &generated.features)?;
                    (figures.precision, figures.recall) = (both.map(|b| b.precision), both.map(|b| b.recall));
                    if both.is_none() {
                        lacks("it needs 4 images on each side");
                    }
                }
                Metric::Dc => {
                    let both = metrics::overlap(device, &real.features, &generated.features)?;
                    (figures.density, figures.coverage) = (both.map(|b| b.density), both.map(|b| b.coverage));
                    if both.is_none() {
                        lacks("it needs 6 real images");
                    }
                }
                Metric::Cas => {}
                Metric::Ifid => {
                    if classes.len() < 2 || generated.labels.is_empty() || real.labels.is_empty() {
                        lacks("it needs labels of two classes or more on both sides");
                        continue;
                    }
                    for (class, name) in classes.iter().enumerate() {
                        let of = |sight: &Sight| {
                            let mine = (0..sight.labels.len()).filter(|i| sight.labels[*i] as usize == class);
                            sight.features.select(mine)
                        };
                        let (generated, real) = (of(generated), of(real));
                        if generated.len() < 2 || real.len() < 2 {
                            lacks(&format!("class {name} has fewer than 2 images on one side"));
                            continue;
                        }
                        figures.intra_fids.push((name.clone(), metrics::frechet_distance(&generated, &real)?));
                    }
                    let all = &figures.intra_fids;
                    let mean = all.iter().map(|(_, fid)| fid).sum::<f64>() / all.len().max(1) as f64;
                    figures.intra_fid = (all.len() == classes.len()).then_some(mean);
                }
            }
        }
        figures.left_out = left_out;
        Ok(figures)
    }
}

/// What so many images are drawn from: of a run that knows labels, as many for each label, but for one.
pub fn latents(setup: &Setup, seed: u64, count: usize) -> Latents {
    match setup.conditional() {
        true => Latents::spread(seed, count, setup.labels()),
        false => Latents::unlabelled(seed, count),
    }
}

/// Writes statistics as pytorch-fid does, and how many images they are of.
pub fn save_statistics(path: &Path, statistics: &Statistics) -> Result<()> {
    let d = statistics.mean.len();
    let bytes = |values: &[f64]| values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let covariance = statistics.covariance()?;
    let count = (statistics.count as i64).to_le_bytes().to_vec();
    npz::write(
        path,
        &[
            Named { name: "mu", descr: "<f8", shape: &[d], bytes: bytes(&statistics.mean) },
            Named { name: "sigma", descr: "<f8", shape: &[d, d], bytes: bytes(&covariance.values) },
            Named { name: "count", descr: "<i8", shape: &[1], bytes: count },
        ],
    )
}

/// Reads statistics that pytorch-fid, or [`save_statistics`], has written. Where the file does not say of how many images they are,
/// their count is 0.
pub fn load_statistics(path: &Path) -> Result<Statistics> {
    let fail = |what: String| Error::Data { path: PathBuf::from(path), what };
    let mut arrays: BTreeMap<String, npy::Array> = npz::read(path)?.into_iter().collect();
    let mut array = |name: &str| {
        let found = arrays.remove(name).map(|array| (array.shape, array.values));
        found.ok_or_else(|| fail(format!("there is no array {name}; pytorch-fid writes mu and sigma")))
    };
    let ((mu_shape, mu), (sigma_shape, sigma)) = (array("mu")?, array("sigma")?);
    let [d] = mu_shape[..] else { return Err(fail(format!("mu is {mu_shape:?}, expected one axis"))) };
    if sigma_shape != [d, d] {
        return Err(fail(format!("sigma is {sigma_shape:?}, expected [{d}, {d}]")));
    }
    if mu.iter().chain(&sigma).any(|x| !x.is_finite()) {
        return Err(fail("its numbers are not all finite".into()));
    }
    let count = array("count").ok().and_then(|(_, count)| count.first().map(|n| *n as usize));
    Statistics::known(count.unwrap_or(0), mu, sigma)
}
