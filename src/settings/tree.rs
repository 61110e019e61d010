//! The structs of the tree. A setting is one field: its option, its key, its help and its place among what numbers depend
//! on follow from it. The values here are those of preset `mnist`, which the other presets are told apart from.

use std::path::PathBuf;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::choices::{
    Change, Conditioning, LatentDistribution, Loss, Pool, PowerIterations, PrecisionChoice, SoftmaxTarget, Update,
};
use super::text;
use crate::data::{DataSource, LastBatch, Size, Unreadable, decode};
use crate::device::{Convolution, DeviceChoice, Precision};
use crate::eval::inception::Like;
use crate::eval::judge::{self, Figure, Metric};
use crate::nn::Fusion;

/// Where the images come from. A checkpoint remembers the images themselves, so that they may move.
#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Data")]
pub struct Images {
    /// Images: mnist-10k (inside this program), idx:DIR, cifar10:DIR, cifar100:DIR or folder:DIR (or a zip); ring, grid: points
    #[arg(long, value_name = "SOURCE")]
    pub data: DataSource,
    /// Classes that the labels of idx:DIR name
    #[arg(long, value_name = "N")]
    pub classes: usize,
    /// A CSV file with labels of the images of folder:DIR that are vectors: a picture's name, then a number for each class
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<PathBuf>,
    /// Size of the images that residual networks are built for, and that those of folder:DIR are cropped and scaled to; a
    /// preset has its own
    #[arg(long, value_name = "SIDE|HEIGHTxWIDTH")]
    pub size: Size,
    /// Channels of images of folder:DIR: 1 (grey) or 3
    #[arg(long, value_name = "N")]
    pub channels: usize,
    /// Most memory for the images of folder:DIR, in MiB; larger folders are streamed
    #[arg(long, value_name = "MIB")]
    pub data_memory: usize,
    /// Decode the pictures of a larger folder once, into a file that all later epochs and trainings read
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub pack: bool,
}

impl Default for Images {
    fn default() -> Images {
        Images {
            data: DataSource::Mnist10k,
            classes: 10,
            labels: None,
            size: 32.into(),
            channels: 3,
            data_memory: 2048,
            pack: true,
        }
    }
}

/// What is trained, besides the architecture that the preset names.
#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Networks")]
pub struct Networks {
    /// How the networks meet the labels
    #[arg(long, value_name = "HOW")]
    pub conditioning: Conditioning,
    /// Base width of the residual networks, in channels
    #[arg(long, value_name = "CHANNELS")]
    pub width: usize,
    /// Dimension of the latent z, in numbers
    #[arg(long, value_name = "N")]
    pub latent: usize,
    /// What the numbers of z are drawn from
    #[arg(long, value_name = "WHAT")]
    pub latent_distribution: LatentDistribution,
    /// How D's features are pooled over the pixels
    #[arg(long, value_name = "HOW")]
    pub pool: Pool,
    /// Factor on the pooled features
    #[arg(long, value_name = "FACTOR")]
    pub pool_factor: f64,
    /// Spectral normalisation of D's weights
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub spectral_norm: bool,
    /// Spectral normalisation of G's weights
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub spectral_norm_g: bool,
    /// When spectral normalisation makes a power iteration
    #[arg(long, value_name = "WHEN")]
    pub sn_policy: PowerIterations,
}

impl Default for Networks {
    fn default() -> Networks {
        Networks {
            conditioning: Conditioning::Projection,
            width: 16,
            latent: 64,
            latent_distribution: LatentDistribution::Normal,
            pool: Pool::Mean,
            pool_factor: 4.0,
            spectral_norm: false,
            spectral_norm_g: false,
            sn_policy: PowerIterations::PerStep,
        }
    }
}

/// How it is trained.
#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Training")]
pub struct Training {
    /// What the players minimise
    #[arg(long, value_name = "LOSS")]
    pub loss: Loss,
    /// What G wants, where the loss is softmax
    #[arg(long, value_name = "WHAT")]
    pub softmax_target: SoftmaxTarget,
    /// What a real image weighs in the sum of the softmax loss, where a fake weighs 1
    #[arg(long, value_name = "WEIGHT")]
    pub real_weight: f64,
    /// Which network moves when
    #[arg(long, value_name = "RULE")]
    pub update: Update,
    /// Length of the training, in steps
    #[arg(long, value_name = "STEPS")]
    pub steps: u64,
    /// Real images of a D step, and as many fakes
    #[arg(long, value_name = "IMAGES")]
    pub batch: usize,
    /// Fakes of a G step [default: as --batch, but for some presets]
    #[arg(long, value_name = "IMAGES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_g: Option<usize>,
    /// Most real images, and most fakes, that the networks take at a time: less memory, the same training to rounding
    /// [default: all]
    #[arg(long, value_name = "IMAGES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<usize>,
    /// Let G's batch norm take the statistics of each part of --micro-batch, so that G too is split, or of each process's fakes;
    /// that is another training
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub local_norm: bool,
    /// Lowest blocks of D whose weights stay as they begin
    #[arg(long, value_name = "BLOCKS")]
    pub freeze_d: usize,
    /// D steps for each G step; more than 1 needs --update alternating
    #[arg(long, value_name = "STEPS")]
    pub n_dis: usize,
    /// All random numbers follow from this one
    #[arg(long, value_name = "N")]
    pub seed: u64,
    /// Learning rate of G, a step
    #[arg(long, value_name = "RATE")]
    pub lr_g: f64,
    /// Learning rate of D, a step
    #[arg(long, value_name = "RATE")]
    pub lr_d: f64,
    /// Step from which both rates fall linearly to 0 at the last step [default: never, but for some presets, whose step moves
    /// with --steps]
    #[arg(long, value_name = "STEP")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay_from: Option<u64>,
    /// Decay of Adam's mean of gradients, a step
    #[arg(long, value_name = "DECAY")]
    pub beta1: f64,
    /// Decay of Adam's mean of squared gradients, a step
    #[arg(long, value_name = "DECAY")]
    pub beta2: f64,
    /// Decay of the moving average of G's weights, a step; 0 keeps none
    #[arg(long, value_name = "DECAY")]
    pub average: f64,
    /// Updates of G for which the average is a copy of the weights
    #[arg(long, value_name = "UPDATES")]
    pub average_from: u32,
    /// Factor on the class loss of conditioning ac-gan in D's loss
    #[arg(long, value_name = "FACTOR")]
    pub aux_weight_d: f64,
    /// The same in G's loss
    #[arg(long, value_name = "FACTOR")]
    pub aux_weight_g: f64,
    /// Factor on the gradient penalty of loss wasserstein-gp
    #[arg(long, value_name = "FACTOR")]
    pub gp_weight: f64,
    /// R1: half of this times the squared norm of D's gradient at real images is added to D's loss; 0 leaves it out
    #[arg(long, value_name = "FACTOR")]
    pub r1: f64,
    /// R2: the same at fakes
    #[arg(long, value_name = "FACTOR")]
    pub r2: f64,
    /// Steps from one with gradient penalties to the next; their factors are multiplied by it
    #[arg(long, value_name = "STEPS")]
    pub penalty_every: usize,
    /// What activations are stored as and products computed in: f32, tf32, bf16 or f16; weights stay f32. auto is tf32 on a
    /// GPU from compute capability 8.0 on, f32 elsewhere
    #[arg(long, value_name = "NAME")]
    #[serde(with = "text")]
    pub precision: PrecisionChoice,
    /// How a CPU computes 3x3 convolutions in f32. A GPU has the direct form alone
    #[arg(long, value_name = "FORM")]
    pub convolution: Convolution,
    /// Run these from separate kernels, to see what fusing them buys: the same training to rounding, slower
    #[arg(long, value_name = "WHAT,...", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unfused: Vec<Fusion>,
}

impl Default for Training {
    fn default() -> Training {
        Training {
            loss: Loss::Softmax,
            softmax_target: SoftmaxTarget::ZeroSum,
            real_weight: 1.0,
            update: Update::Simultaneous,
            steps: 1500,
            batch: 64,
            batch_g: None,
            micro_batch: None,
            local_norm: false,
            freeze_d: 0,
            n_dis: 1,
            seed: 1,
            lr_g: 2e-3,
            lr_d: 2e-3,
            decay_from: None,
            beta1: 0.5,
            beta2: 0.9,
            average: 0.995,
            average_from: 200,
            // As in Gulrajani et al. 2017, for both: a G that follows the class loss as much as D's opinion draws what
            // is easy to classify.
            aux_weight_d: 1.0,
            aux_weight_g: 0.1,
            gp_weight: 10.0,
            r1: 0.0,
            r2: 0.0,
            penalty_every: 1,
            precision: PrecisionChoice::Auto,
            convolution: Convolution::Auto,
            unfused: Vec::new(),
        }
    }
}

impl Training {
    /// The precision that was chosen, or f32 as long as no device has decided it ([`PrecisionChoice::on`]).
    pub fn precision(&self) -> Precision {
        match self.precision {
            PrecisionChoice::Of(precision) => precision,
            PrecisionChoice::Auto => Precision::F32,
        }
    }

    /// Fakes of a G step.
    pub fn batch_of_g(&self) -> usize {
        self.batch_g.unwrap_or(self.batch)
    }
}

/// How batches are made of the images.
#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Data")]
pub struct Batches {
    /// Mirror every other real image, by chance
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub flip: bool,
    /// Noise U(0, this) on real pixels
    #[arg(long, value_name = "AMPLITUDE")]
    pub noise: f64,
    /// Scale real pixels so that they stay within [-1, 1] with their noise, and no real white is beyond what G can draw
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub noise_within: bool,
    /// Change real images and fakes alike, by chance, before D sees them (DiffAug): color,translation,cutout, or some of these
    #[arg(long, value_name = "WHAT,...", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub diffaug: Vec<Change>,
    /// Learn from this share of the images of each class alone, the same ones in every run
    #[arg(long, value_name = "SHARE")]
    pub limit_data: f64,
    /// An epoch's last images that fill no batch: drop them, or fill up from the next epoch
    #[arg(long, value_name = "WHAT")]
    pub last_batch: LastBatch,
    /// A file of folder:DIR that cannot be read: refuse to train, or skip it
    #[arg(long, value_name = "WHAT")]
    pub unreadable: Unreadable,
    /// Most pixels of a file of folder:DIR; a larger one counts as one that cannot be read
    #[arg(long, value_name = "PIXELS")]
    pub max_pixels: usize,
    /// Bits that samples use in 16-bit files of folder:DIR: 12 for many microscopes
    #[arg(long, value_name = "BITS")]
    pub depth: u32,
}

impl Default for Batches {
    fn default() -> Batches {
        Batches {
            flip: false,
            noise: 0.0,
            noise_within: true,
            diffaug: Vec::new(),
            limit_data: 1.0,
            last_batch: LastBatch::Drop,
            unreadable: Unreadable::Refuse,
            max_pixels: decode::MAX_PIXELS,
            depth: 16,
        }
    }
}

/// What it runs on.
#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Where it runs")]
pub struct Place {
    /// auto, host, cuda, cuda:N, cuda:N,N,... or cuda:all (a rank on each of several GPUs), or simt; auto takes the first GPU, or the host where there is none
    #[arg(long, value_name = "DEVICE")]
    #[serde(with = "text")]
    pub device: DeviceChoice,
    /// Threads of the host, and threads that decode; 0 for one a core; the results do not depend on it
    #[arg(long, value_name = "N")]
    pub threads: usize,
}

impl Default for Place {
    fn default() -> Place {
        Place { device: DeviceChoice::Auto, threads: 0 }
    }
}

/// How images are judged while they are learnt, through Inception.
#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Judging")]
pub struct Judging {
    /// Steps between evaluations, 0 for none
    #[arg(long, value_name = "STEPS")]
    pub eval_every: u64,
    /// What is computed: fid, kid, is, pr, dc or ifid
    #[arg(long, value_name = "METRIC,...", value_delimiter = ',', hide_possible_values = true)]
    pub eval_metrics: Vec<Metric>,
    /// Images that are drawn for an evaluation
    #[arg(long, value_name = "IMAGES")]
    pub eval_images: usize,
    /// Keep the best checkpoint by this number: fid, kid, is, precision, recall, density, coverage or ifid
    #[arg(long, value_name = "NUMBER", hide_possible_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_best: Option<Figure>,
    /// Inception's weights, a safetensors file [default: what ZGAN_INCEPTION names]
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inception: Option<PathBuf>,
    /// The program whose numbers are wanted: pytorch-fid, torch-fidelity or clean-fid
    #[arg(long, value_name = "NAME", hide_possible_values = true)]
    pub fid_as: Like,
}

impl Default for Judging {
    fn default() -> Judging {
        Judging {
            eval_every: 0,
            eval_metrics: vec![Metric::Fid],
            eval_images: judge::USUAL,
            keep_best: None,
            inception: None,
            fid_as: Like::PytorchFid,
        }
    }
}

impl Judging {
    /// All that is to be computed.
    pub fn metrics(&self) -> Vec<Metric> {
        let mut metrics = self.eval_metrics.clone();
        metrics.extend(self.keep_best.map(Figure::metric).filter(|metric| !self.eval_metrics.contains(metric)));
        metrics
    }

    /// The numbers of those.
    pub fn figures(&self) -> Vec<Figure> {
        let metrics = if self.eval_every > 0 { self.metrics() } else { Vec::new() };
        Figure::ALL.into_iter().filter(|figure| metrics.contains(&figure.metric())).collect()
    }
}

/// What is written, where and how often.
#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "What is written")]
pub struct Written {
    /// Name of the run, a folder in --runs-dir [default: a number and the preset's name]
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing)]
    pub run: Option<String>,
    /// Folder of all runs [default: runs]
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing)]
    pub runs_dir: Option<PathBuf>,
    /// Save and stop after this step, short of --steps; --resume goes on
    #[arg(long, value_name = "STEP")]
    #[serde(skip_serializing)]
    pub stop_at: Option<u64>,
    /// Steps between lines of metrics.csv
    #[arg(long, value_name = "STEPS")]
    pub log_every: u64,
    /// Steps between pictures, 0 for one at the end alone
    #[arg(long, value_name = "STEPS")]
    pub sample_every: u64,
    /// Steps between checkpoints, 0 for one at the end alone
    #[arg(long, value_name = "STEPS")]
    pub checkpoint_every: u64,
    /// Newest checkpoints that are kept, 0 for all
    #[arg(long, value_name = "N")]
    pub keep_checkpoints: usize,
    /// Write event files for TensorBoard beside metrics.csv
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub tensorboard: bool,
}

impl Default for Written {
    fn default() -> Written {
        Written {
            run: None,
            runs_dir: None,
            stop_at: None,
            log_every: 50,
            sample_every: 500,
            checkpoint_every: 500,
            keep_checkpoints: 3,
            tensorboard: true,
        }
    }
}
