//! The settings whose values have names.

use serde::{Deserialize, Serialize};

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
