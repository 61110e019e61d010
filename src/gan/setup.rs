//! What a trainer is made from and what it tells: plain data.

use std::sync::Arc;

use super::health;
use super::penalty::Penalties;
use crate::Result;
use crate::data::mixture::Mixture;
use crate::data::vectors::Vectors;
use crate::data::{DataInfo, Dataset, ImageShape};
use crate::device::Precision;
use crate::nn::Fusion;
use crate::ops::diffaug::Strengths;
use crate::ops::log_partition::Game;
use crate::settings::{
    Architecture, Batches, Blocks, Change, Conditioning, Loss, Networks, Preset, Residual, Settings, SoftmaxTarget,
    Training,
};

/// Everything that a trainer is made from: the settings that numbers depend on, and what only the data tells.
#[derive(Clone, Debug, PartialEq)]
pub struct Setup {
    pub preset: Preset,
    pub networks: Networks,
    pub training: Training,
    pub batches: Batches,
    /// Of an image, or of a point as if it were one.
    pub shape: ImageShape,
    pub classes: usize,
    /// Where labels are vectors: all of them. A label is then the number of one.
    pub vectors: Option<Arc<Vectors>>,
    /// Of a preset that learns points: where they are drawn from.
    pub mixture: Mixture,
}

impl Setup {
    pub fn new(settings: &Settings, data: &DataInfo) -> Setup {
        Setup {
            preset: settings.preset,
            networks: settings.networks.clone(),
            training: settings.training.clone(),
            batches: settings.batches.clone(),
            shape: data.shape,
            classes: data.classes.len(),
            vectors: None,
            mixture: Mixture::named(&data.name).unwrap_or(Mixture::Ring),
        }
    }

    /// The same for labels of these images, which may be vectors.
    pub fn of(self, data: &Dataset) -> Setup {
        let vectors = data.vectors().filter(|_| self.conditional()).cloned();
        Setup { vectors, ..self }
    }

    /// How many labels there are to draw images for: classes, or vectors.
    pub fn labels(&self) -> usize {
        self.vectors.as_ref().map_or(self.classes, |vectors| vectors.count())
    }

    /// The same but for what `change` changes.
    pub fn with(&self, change: impl FnOnce(&mut Setup)) -> Setup {
        let mut setup = self.clone();
        change(&mut setup);
        setup
    }

    pub fn architecture(&self) -> &Architecture {
        &self.preset.architecture
    }

    /// The blocks of residual networks for the size of the images.
    pub fn blocks(&self, networks: &Residual) -> Result<Blocks> {
        networks.blocks(self.shape.size())
    }

    /// Whether images are drawn for a wanted label.
    pub fn conditional(&self) -> bool {
        self.networks.conditioning != Conditioning::None
    }

    /// Whether a low logit of D means real: the sign of the Softmax GAN note, which its own networks keep.
    pub fn real_is_low(&self) -> bool {
        matches!(self.architecture(), Architecture::ImagePerceptrons) && self.training.loss == Loss::Softmax
    }

    /// What the softmax loss plays.
    pub fn game(&self) -> Game {
        let Training { real_weight, softmax_target, .. } = self.training;
        let sign = if self.real_is_low() { 1.0 } else { -1.0 };
        Game { sign, real_weight: real_weight as f32, zero_sum: softmax_target == SoftmaxTarget::ZeroSum }
    }

    /// How what D sees is changed, where it is.
    pub fn diffaug(&self) -> Option<Strengths> {
        let strength = |change| if self.batches.diffaug.contains(&change) { 1.0 } else { 0.0 };
        let [colour, translation, cutout] = [Change::Color, Change::Translation, Change::Cutout].map(strength);
        (!self.batches.diffaug.is_empty()).then_some(Strengths { colour, translation, cutout })
    }

    /// The fusions that a step of these networks and this loss has.
    pub fn fusions(&self) -> Vec<Fusion> {
        let mut all = Vec::new();
        if self.training.loss == Loss::Softmax {
            all.push(Fusion::LogPartition);
        }
        let convolutions = self.architecture().is_convolutional();
        // AC-GAN's head is another.
        if convolutions && self.networks.conditioning != Conditioning::AcGan {
            all.push(Fusion::Projection);
        }
        if !self.architecture().draws_points() {
            all.push(Fusion::Norm);
        }
        if convolutions {
            all.extend([Fusion::Conv, Fusion::ConvReading, Fusion::ConvWriting]);
        }
        all
    }

    /// Whether gradients are so narrow that the losses are scaled.
    pub fn scales_losses(&self) -> bool {
        self.training.precision() == Precision::F16
    }

    /// Rows of D's batch: real images, and the fakes of a D step or a G step.
    pub(super) fn samples(&self) -> usize {
        self.training.batch + self.training.batch.max(self.training.batch_of_g())
    }

    /// Most real images, and most fakes, that D takes at a time, where that is a part of them.
    pub(super) fn part_of_d(&self) -> Option<usize> {
        self.training.micro_batch.filter(|part| *part < self.training.batch.max(self.training.batch_of_g()))
    }

    /// Most fakes that G takes at a time, where it may take a part of them.
    pub(super) fn part_of_g(&self) -> Option<usize> {
        self.training.micro_batch.filter(|_| self.training.local_norm || !self.fusions().contains(&Fusion::Norm))
    }

    /// The names of what [`Metrics::more`] has of such a run.
    pub fn more_metrics(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        if self.networks.conditioning == Conditioning::AcGan {
            names.extend(["class_loss_d", "class_loss_g"]);
        }
        names.extend(Penalties::columns(self));
        names
    }

    /// The names of what [`Metrics::health`] has of such a run.
    pub fn health(&self) -> Vec<&'static str> {
        health::columns(self)
    }

    /// Whether real samples are points that are drawn on the device, not images.
    pub fn draws_points(&self) -> bool {
        self.architecture().draws_points()
    }
}

/// What a trainer would be: for a dry run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// A table of layers.
    pub generator: String,
    pub discriminator: String,
    pub parameters_g: usize,
    pub parameters_d: usize,
    /// Device memory, of the training and of what draws its pictures.
    pub bytes: usize,
}

/// How a step went.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    pub step: u64,
    pub loss_d: f32,
    pub loss_g: f32,
    /// The losses less what they are compared with, [`Loss::floors`]; NaN for a loss without that.
    pub kl_d: f32,
    pub kl_g: f32,
    /// Batch means.
    pub real_logit: f32,
    pub fake_logit: f32,
    pub grad_norm_d: f32,
    pub grad_norm_g: f32,
    /// The largest difference between the logits of two real images, or of two fakes; NaN for a batch of one.
    pub logit_spread: f32,
    /// What AC-GAN's class loss and gradient penalties add to the losses above, with their weights, and the mean norms
    /// of the gradients that are penalised: [`Setup::more_metrics`] and their values.
    pub more: Vec<(&'static str, f32)>,
    /// [`Setup::health`] and their values:
    ///
    /// - `lr_d`, `lr_g`: the learning rates of the step to come;
    /// - `dead_logits`: the share of the logits in the last D step by which its loss has the derivative 0, from which D learns nothing;
    /// - `sigma_d`, `sigma_g`: the largest spectral norm of the weights of a network that is normalised by them;
    /// - `gamma_d`, `gamma_g`: what weighs self-attention;
    /// - `r_x_real`, `r_x_fake`: of a projection discriminator, the mean of psi(h) over the real images and over the fakes that it judged
    ///   last, with its weights as they are now; NaN where it takes parts of a batch whose labels are vectors;
    /// - `r_yx_real`, `r_yx_fake`: that of V\[y\] . h, which the label adds.
    pub health: Vec<(&'static str, f32)>,
}

impl Metrics {
    /// What every run has, by the names of `metrics.csv`.
    pub fn named(&self) -> [(&'static str, f32); 9] {
        [
            ("loss_d", self.loss_d),
            ("loss_g", self.loss_g),
            ("kl_d", self.kl_d),
            ("kl_g", self.kl_g),
            ("real_logit", self.real_logit),
            ("fake_logit", self.fake_logit),
            ("grad_norm_d", self.grad_norm_d),
            ("grad_norm_g", self.grad_norm_g),
            ("logit_spread", self.logit_spread),
        ]
    }
}

/// Which of G's weights draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// Their moving average, or, of a run that keeps none, as `Raw`.
    Average,
    /// As the last step left them.
    Raw,
}
