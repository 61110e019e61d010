//! How good generated images are in the eyes of a small classifier: whether they show the wanted class, how much of the
//! variety of the real images they cover, and how far their features are from those of real images.

mod cache;
mod classifier;
pub mod eigen;
pub mod inception;
pub mod judge;
pub mod metrics;
pub mod network;
mod numpy;

use serde::Serialize;

pub use cache::{Cache, Ready, Tested, held_out};
pub use classifier::{Classifier, Seen, Training};

use crate::data::Dataset;
use crate::device::Device;
use crate::gan::{Latents, Trainer, Weights};
use crate::{Error, Result};
use metrics::{Overlap, Points, frechet_distance, overlap};

/// What is drawn and compared.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub weights: Weights,
    /// All latents follow from this number.
    pub seed: u64,
    /// Generated images of each class.
    pub per_class: usize,
    /// Real images of each class; fewer where the data has fewer.
    pub real_per_class: usize,
}

/// The results. A number is missing where there were too few images for it, or where it has no meaning.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// Generated images.
    pub generated: usize,
    pub real: usize,
    /// The share of the generated images to which the classifier gives their wanted label. Only runs that know labels have
    /// it.
    pub label_accuracy: Option<f64>,
    /// Over all real images. Where the run knows labels, each image is compared with generated ones of its class.
    pub coverage: Option<f64>,
    pub density: Option<f64>,
    pub frechet_distance: Option<f64>,
    /// Of images of one class there are none, as no classifier can learn from them.
    pub classes: Vec<ClassReport>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ClassReport {
    pub name: String,
    /// Images that were drawn for this class. A run that does not know labels has none.
    pub generated: usize,
    pub real: usize,
    /// All generated images to which the classifier gives this label.
    pub labelled: usize,
    pub label_accuracy: Option<f64>,
    pub coverage: Option<f64>,
    pub density: Option<f64>,
}

/// Real images, as the classifier sees them.
pub struct Real {
    /// (count)
    labels: Vec<u32>,
    features: Points,
}

impl Real {
    /// Chooses up to `per_class` images of each class at random, the same ones every time.
    pub fn new(classifier: &Classifier, data: &Dataset, per_class: usize) -> Result<Real> {
        whole(Real::new_while(classifier, data, per_class, &|| true)?)
    }

    fn new_while(
        classifier: &Classifier,
        data: &Dataset,
        per_class: usize,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Option<Real>> {
        let mut by_class = vec![Vec::new(); data.groups()];
        for index in 0..data.len() {
            by_class[data.group(index) as usize].push(index);
        }
        let chosen = by_class.into_iter().enumerate().map(|(k, all)| cache::some_of(all, per_class, k as u32));
        let indices: Vec<usize> = chosen.flatten().collect();
        let labels = indices.iter().map(|index| data.group(*index)).collect();
        let seen = classifier.see_parts(indices.len(), go_on, |part| classifier.see_data(data, &indices[part]))?;
        Ok(seen.map(|seen| Real { labels, features: seen.features }))
    }
}

/// Draws images and compares them with real ones. Images of a run that knows labels are compared class by class.
pub fn evaluate(classifier: &Classifier, trainer: &mut Trainer, data: &Dataset, request: &Request) -> Result<Report> {
    whole(evaluate_while(classifier, trainer, data, request, &|| true)?)
}

/// The same, as long as `go_on` says yes; it is asked every hundred images. There is no report where it says no. Where the
/// classifier is on a device of one of several ranks, they share the images out, and the report is the first rank's alone.
pub fn evaluate_while(
    classifier: &Classifier,
    trainer: &mut Trainer,
    data: &Dataset,
    request: &Request,
    go_on: &dyn Fn() -> bool,
) -> Result<Option<Report>> {
    let (classes, setup) = (data.groups(), trainer.setup());
    let names = if data.vectors().is_some() { &[] } else { data.classes() };
    let conditional = setup.conditional();
    let latents = if setup.vectors.is_some() {
        Latents::spread(request.seed, request.per_class, setup.labels())
    } else if conditional {
        let all: Vec<u32> = (0..classes as u32).collect();
        Latents::by_class(request.seed, &all, request.per_class)
    } else {
        Latents::unlabelled(request.seed, classes * request.per_class)
    };
    let seen = classifier.see_parts(latents.count, go_on, |part| {
        let labels = latents.labels.get(part.clone()).unwrap_or_default().to_vec();
        let first = latents.first + part.start as u32;
        classifier.see(&trainer.sample(request.weights, &Latents { first, count: part.len(), labels, ..latents })?)
    })?;
    let Some(seen) = seen else { return Ok(None) };
    let Some(real) = Real::new_while(classifier, data, request.real_per_class, go_on)? else { return Ok(None) };
    if classifier.device().ranks().is_some_and(|ranks| ranks.rank() > 0) {
        return Ok(None);
    }
    let wanted = conditional.then_some(latents.labels.as_slice());
    compare(classifier.device(), &seen, wanted, &real, names).map(Some)
}

/// What an evaluation gives that goes on to its end, as nobody stops it.
pub fn whole<T>(outcome: Option<T>) -> Result<T> {
    outcome.ok_or_else(|| Error::Check("an evaluation that nobody stops has ended early".into()))
}

/// The classification accuracy score (Ravuri and Vinyals, 2019, <https://arxiv.org/abs/1905.10887>): a classifier is trained on
/// `generated` images, with the labels that they were drawn for, and real images that nobody was trained on say how often it is
/// right. A generator that leaves out a part of a class, or confuses classes, gets less than real images would. The classifier is
/// the small one of this program, where the paper has a ResNet-50, so its scores compare with each other alone.
pub fn classification_accuracy(
    device: &Device,
    generated: &Dataset,
    held_out: &Dataset,
    go_on: &dyn Fn() -> bool,
) -> Result<Option<Tested>> {
    let classifier = Classifier::train(device, generated, &Training::new(generated.len()), go_on)?;
    classifier.map_or(Ok(None), |classifier| cache::tested(&classifier, generated, Some(held_out), go_on))
}

/// Compares generated images with real ones, by what the classifier saw of them. `wanted` are the labels that the images
/// were drawn for.
pub fn compare(
    device: &Device,
    seen: &Seen,
    wanted: Option<&[u32]>,
    real: &Real,
    classes: &[String],
) -> Result<Report> {
    if let Some(wanted) = wanted.filter(|wanted| wanted.len() != seen.labels.len()) {
        let (labels, images) = (wanted.len(), seen.labels.len());
        return Err(Error::Shape(format!("evaluation: {labels} wanted labels for {images} images")));
    }
    // The labels and the distances of a classifier that has learnt nothing have no meaning.
    let (wanted, classes) = if classes.len() > 1 { (wanted, classes) } else { (None, [].as_slice()) };
    let enough = classes.len() > 1 && real.labels.len() > 1 && seen.labels.len() > 1;
    let mut reports: Vec<ClassReport> = Vec::with_capacity(classes.len());
    for (class, name) in classes.iter().enumerate() {
        let class = class as u32;
        let of = |labels: &[u32]| (0..labels.len()).filter(|i| labels[*i] == class).collect::<Vec<_>>();
        let (mine, real_mine) = (of(wanted.unwrap_or(&[])), of(&real.labels));
        let right = mine.iter().filter(|i| seen.labels[**i] == class).count();
        let points = seen.features.select(mine.iter().copied());
        let overlap = overlap(device, &real.features.select(real_mine.iter().copied()), &points)?;
        reports.push(ClassReport {
            name: name.clone(),
            generated: mine.len(),
            real: real_mine.len(),
            labelled: seen.labels.iter().filter(|label| **label == class).count(),
            label_accuracy: (!mine.is_empty()).then(|| right as f64 / mine.len() as f64),
            coverage: overlap.map(|o| o.coverage),
            density: overlap.map(|o| o.density),
        });
    }
    let (label_accuracy, coverage, density) = match wanted {
        Some(wanted) => {
            let right = wanted.iter().zip(&seen.labels).filter(|(wanted, label)| wanted == label).count();
            let all =
                |part: fn(&ClassReport) -> Option<f64>, weight: fn(&ClassReport) -> usize| mean(&reports, part, weight);
            (
                Some(right as f64 / wanted.len().max(1) as f64),
                all(|c| c.coverage, |c| c.real),
                all(|c| c.density, |c| c.generated),
            )
        }
        None => {
            let all: Option<Overlap> = overlap(device, &real.features, &seen.features)?;
            (None, all.map(|o| o.coverage), all.map(|o| o.density))
        }
    };
    Ok(Report {
        generated: seen.labels.len(),
        real: real.labels.len(),
        label_accuracy,
        coverage,
        density,
        frechet_distance: enough.then(|| frechet_distance(&real.features, &seen.features)).transpose()?,
        classes: reports,
    })
}

/// The weighted mean over the classes that have the number.
fn mean(
    classes: &[ClassReport],
    part: fn(&ClassReport) -> Option<f64>,
    weight: fn(&ClassReport) -> usize,
) -> Option<f64> {
    let (mut sum, mut weights) = (0.0, 0.0);
    for class in classes {
        if let Some(value) = part(class) {
            sum += value * weight(class) as f64;
            weights += weight(class) as f64;
        }
    }
    (weights > 0.0).then(|| sum / weights)
}
