//! What a trainer is made from and what it tells: plain data.

use serde::{Deserialize, Serialize};

use crate::data::ImageShape;
use crate::device::Precision;
use crate::nn::Fusion;

/// Networks and settings that belong together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum Preset {
    /// Residual networks for 28x28 digits, projection discriminator, softmax loss
    #[default]
    #[serde(rename = "mnist")]
    Mnist,
    /// cGANs with projection discriminator for 32x32 images
    #[serde(rename = "sngan-projection-32")]
    #[value(name = "sngan-projection-32")]
    SnganProjection32,
    /// The same for 64x64 images
    #[serde(rename = "sngan-projection-64")]
    #[value(name = "sngan-projection-64")]
    SnganProjection64,
    /// The same for 128x128 images
    #[serde(rename = "sngan-projection-128")]
    #[value(name = "sngan-projection-128")]
    SnganProjection128,
    /// Its PyTorch port for 64x64 images: bilinear upsampling, PyTorch's initialisation in G
    #[serde(rename = "crcrpar-64")]
    #[value(name = "crcrpar-64")]
    Crcrpar64,
    /// Self-attention in both networks, spectral norm in both, for 64x64 images
    #[serde(rename = "sagan-64")]
    #[value(name = "sagan-64")]
    Sagan64,
    /// Multilayer perceptrons on eight Gaussians in the plane
    #[serde(rename = "ring")]
    Ring,
    /// Multilayer perceptrons and the softmax loss
    #[serde(rename = "softmax-gan")]
    SoftmaxGan,
}

impl std::fmt::Display for Preset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Preset::Mnist => "mnist",
            Preset::SnganProjection32 => "sngan-projection-32",
            Preset::SnganProjection64 => "sngan-projection-64",
            Preset::SnganProjection128 => "sngan-projection-128",
            Preset::Crcrpar64 => "crcrpar-64",
            Preset::Sagan64 => "sagan-64",
            Preset::Ring => "ring",
            Preset::SoftmaxGan => "softmax-gan",
        })
    }
}

/// How the networks meet the labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Conditioning {
    /// Neither network knows the labels
    None,
    /// D sees the label as one more plane per class
    InputConcat,
    /// D sees an embedding of the label beside the features of a hidden layer
    HiddenConcat,
    /// D classifies beside telling real from fake; both players want fakes taken for their label
    AcGan,
    /// D adds the inner product of the label's embedding and the features
    Projection,
}

/// What the players minimise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// Softmax GAN: one softmax over the whole batch
    Softmax,
    Hinge,
    /// Goodfellow's, with G on log D
    NonSaturating,
    /// Goodfellow's original game
    Minimax,
    LeastSquares,
    /// The difference of the means, without a penalty
    Wasserstein,
    /// The same, and D's gradient between real images and fakes is to have norm 1
    WassersteinGp,
    /// Relativistic average, with the logistic loss
    RelativisticAverage,
}

/// When the estimate of a weight's largest singular value, which spectral normalisation divides by, is improved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum PowerIterations {
    /// One power iteration a step of the network itself
    PerStep,
    /// One for each time that a training step judges samples with it: real ones, fakes, and fakes again for G
    PerForward,
}

/// How D's features are pooled over the pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Pool {
    Sum,
    Mean,
}

/// Who moves when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Update {
    /// Both players at once, from one backward pass of D
    Simultaneous,
    /// D first, then G against the new D
    Alternating,
}

/// Everything that a trainer is made from.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainerOptions {
    pub preset: Preset,
    pub shape: ImageShape,
    pub classes: usize,
    pub conditioning: Conditioning,
    /// Base width of the residual networks, in channels.
    pub width: usize,
    /// Spectral normalisation of D, and of G.
    pub spectral_norm: bool,
    pub spectral_norm_g: bool,
    pub sn_policy: PowerIterations,
    pub pool: Pool,
    /// On the pooled features.
    pub pool_factor: f32,
    pub loss: Loss,
    /// What activations and their gradients are stored as, and products computed in. Parameters are f32 whatever it is.
    pub precision: Precision,
    /// On AC-GAN's class loss, in the losses of D and of G.
    pub aux_weight_d: f32,
    pub aux_weight_g: f32,
    /// On the gradient penalty.
    pub gp_weight: f32,
    /// Real images of a D step, and fakes.
    pub batch: usize,
    /// Fakes of a G step.
    pub batch_g: usize,
    /// D steps for each G step.
    pub n_dis: usize,
    pub steps: u64,
    /// The learning rates fall linearly to 0 from this step to the last.
    pub decay_from: Option<u64>,
    pub seed: u64,
    pub update: Update,
    pub lr_g: f32,
    pub lr_d: f32,
    pub beta1: f64,
    pub beta2: f64,
    /// Dimension of z.
    pub latent: usize,
    /// Decay of the moving average of G's parameters a step; 0 keeps none.
    pub average: f32,
    /// Updates of G for which the average is a copy.
    pub average_from: u32,
    /// Real pixels get noise U(0, this).
    pub noise: f32,
    /// Whether real images are flipped at random.
    pub flips: bool,
    /// What a step runs from separate kernels, to show what fusing them buys.
    pub unfused: Vec<Fusion>,
}

impl TrainerOptions {
    /// Whether images are drawn for a wanted label.
    pub fn conditional(&self) -> bool {
        self.conditioning != Conditioning::None
    }

    /// The fusions that a step of these networks and this loss has.
    pub fn fusions(&self) -> Vec<Fusion> {
        let mut all = Vec::new();
        if self.loss == Loss::Softmax {
            all.push(Fusion::LogPartition);
        }
        let convolutions = !matches!(self.preset, Preset::Ring | Preset::SoftmaxGan);
        // AC-GAN's head is another.
        if convolutions && self.conditioning != Conditioning::AcGan {
            all.push(Fusion::Projection);
        }
        if self.preset != Preset::Ring {
            all.push(Fusion::Norm);
        }
        if convolutions {
            all.extend([Fusion::Conv, Fusion::ConvReading, Fusion::ConvWriting]);
        }
        all
    }

    /// Whether gradients are so narrow that the losses are scaled.
    pub fn scales_losses(&self) -> bool {
        self.precision == Precision::F16
    }

    /// Rows of D's batch: real images, and the fakes of a D step or a G step.
    pub(super) fn samples(&self) -> usize {
        self.batch + self.batch.max(self.batch_g)
    }

    /// The names of what [`Metrics::more`] has of such a run.
    pub fn more_metrics(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        if self.conditioning == Conditioning::AcGan {
            names.extend(["class_loss_d", "class_loss_g"]);
        }
        if self.loss.is_penalised() {
            names.extend(["gradient_penalty", "gradient_norm"]);
        }
        names
    }

    /// Whether real samples are points that are drawn on the device, not images.
    pub fn draws_points(&self) -> bool {
        self.preset == Preset::Ring
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
    /// Device memory.
    pub bytes: usize,
}

/// How a step went.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    pub step: u64,
    pub loss_d: f32,
    pub loss_g: f32,
    /// The losses less their floors; NaN for a loss without one.
    pub kl_d: f32,
    pub kl_g: f32,
    /// Batch means.
    pub real_logit: f32,
    pub fake_logit: f32,
    pub grad_norm_d: f32,
    pub grad_norm_g: f32,
    /// What AC-GAN's class loss and the gradient penalty add to the losses above, with their weights, and the mean norm
    /// of the gradients that are penalised: [`TrainerOptions::more_metrics`] and their values.
    pub more: Vec<(&'static str, f32)>,
}

/// Which of G's weights draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// Their moving average, or, of a run that keeps none, as `Raw`.
    Average,
    /// As the last step left them.
    Raw,
}
