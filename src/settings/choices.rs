//! The settings whose values have names.

use serde::{Deserialize, Serialize};

use crate::device::{Device, Precision};

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

/// What the numbers of a latent z are drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LatentDistribution {
    /// Mean 0 and deviation 1
    Normal,
    /// Between -1 and 1
    Uniform,
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
    /// The same with the hinge loss
    RelativisticHinge,
}

/// What the generator of the softmax loss wants of the softmax over the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum SoftmaxTarget {
    /// Each sample to have its weight's share of it, as published
    Uniform,
    /// What D does not want: D's loss with the other sign
    ZeroSum,
}

/// A part of DiffAug, which changes what D sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Brightness, saturation and contrast
    Color,
    /// By up to an eighth of the image
    Translation,
    /// A rectangle of half the height and half the width is 0
    Cutout,
}

/// When the estimate of a weight's largest singular value, which spectral normalisation divides by, is improved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum PowerIterations {
    /// One power iteration a step of the network itself
    PerStep,
    /// One for real samples, one for fakes, and one for the fakes of a G step; real ones and fakes share the norms after both
    PerForward,
}

/// How D's features are pooled over the pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Pool {
    Sum,
    Mean,
}

/// What activations are stored as and products computed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PrecisionChoice {
    /// What suits the device: tf32 on a GPU whose tensor cores have it, as PyTorch's convolutions do, and f32 elsewhere
    #[default]
    Auto,
    Of(Precision),
}

impl PrecisionChoice {
    /// The precision itself on this device.
    pub fn on(self, device: &Device) -> Precision {
        match self {
            PrecisionChoice::Of(precision) => precision,
            PrecisionChoice::Auto if device.gpu().is_some_and(|gpu| gpu.capability >= (8, 0)) => Precision::Tf32,
            PrecisionChoice::Auto => Precision::F32,
        }
    }
}

impl From<Precision> for PrecisionChoice {
    fn from(precision: Precision) -> PrecisionChoice {
        PrecisionChoice::Of(precision)
    }
}

impl std::fmt::Display for PrecisionChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PrecisionChoice::Auto => f.write_str("auto"),
            PrecisionChoice::Of(precision) => precision.fmt(f),
        }
    }
}

impl std::str::FromStr for PrecisionChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<PrecisionChoice, String> {
        match text {
            "auto" => Ok(PrecisionChoice::Auto),
            _ => text.parse().map(PrecisionChoice::Of).map_err(|error: String| format!("{error}, and auto")),
        }
    }
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

/// What options and files call a choice.
pub fn name_of(choice: &impl clap::ValueEnum) -> String {
    choice.to_possible_value().map_or(String::new(), |value| value.get_name().to_string())
}
