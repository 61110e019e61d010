//! The presets, one entry each. An entry is all that a preset is: add one to [`PRESETS`], and the command line, files,
//! the help and the benchmarks have it.

use clap::ValueEnum;
use clap::builder::PossibleValue;

use super::architecture::{Architecture, Residual, Widths};
use super::choices::{Change, Conditioning, Loss, Pool, SoftmaxTarget, Update};
use super::{Batches, Images, Judging, Networks, Place, Settings, Training, Written};
use crate::data::mixture::{self, Mixture};
use crate::data::{DataSource, ImageShape};
use crate::ops::resample::Upsampling;
use crate::{Error, Result};

/// Networks and settings that belong together, under a name.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    pub name: &'static str,
    /// A line for the help.
    pub about: &'static str,
    pub architecture: Architecture,
    /// Sets what differs from the defaults.
    settings: fn(&mut Settings),
    /// What `zgan bench` times a step of it on.
    pub sample: ImageShape,
    /// The widths and batches that are timed; those of large images are narrow, so that a CPU does a step within seconds. One
    /// without any is timed where it is named, and at its own size.
    pub timed: &'static [(usize, usize)],
}

/// The first one is the default.
pub static PRESETS: [Preset; 12] = [
    Preset {
        name: "mnist",
        about: "Residual networks for 28x28 digits, projection discriminator, softmax loss",
        architecture: Architecture::Residual(Residual {
            size: 28,
            widths: Widths::Digits,
            hidden_is_output: true,
            head_bias: false,
            eps: 1e-5,
            label: Some(2.0),
            last_gain: std::f32::consts::SQRT_2,
            ..SNGAN
        }),
        settings: |_| (),
        sample: images(28, 1),
        timed: &[(16, 64)],
    },
    Preset {
        name: "sngan-projection-32",
        about: "cGANs with projection discriminator for 32x32 images",
        architecture: Architecture::Residual(Residual { size: 32, widths: Widths::Equal, head_bias: false, ..SNGAN }),
        settings: |s| {
            sngan(s, 50_000, Some(0));
            s.networks.width = 128;
            s.training.batch_g = Some(128);
        },
        sample: images(32, 3),
        timed: &[(32, 32), (64, 32)],
    },
    Preset {
        name: "sngan-projection-48",
        about: "The same for 48x48 images",
        architecture: Architecture::Residual(Residual { size: 48, ..SNGAN }),
        settings: |s| sngan(s, 100_000, Some(0)),
        sample: images(48, 3),
        timed: &[],
    },
    Preset {
        name: "sngan-projection-64",
        about: "The same for 64x64 images",
        architecture: Architecture::Residual(SNGAN),
        settings: |s| sngan(s, 250_000, Some(200_000)),
        sample: images(64, 3),
        timed: &[(16, 8)],
    },
    Preset {
        name: "sngan-projection-128",
        about: "The same for 128x128 images",
        architecture: Architecture::Residual(Residual { size: 128, ..SNGAN }),
        settings: |s| {
            sngan(s, 450_000, Some(400_000));
            s.training.batch_g = Some(128);
        },
        sample: images(128, 3),
        timed: &[(16, 4)],
    },
    Preset {
        name: "sngan-projection-256",
        about: "The same for 256x256 images",
        architecture: Architecture::Residual(Residual { size: 256, ..SNGAN }),
        settings: |s| {
            sngan(s, 450_000, Some(400_000));
            s.networks.width = 32;
            s.training.batch = 32;
            s.training.batch_g = Some(64);
            s.batches.flip = true;
        },
        sample: images(256, 3),
        timed: &[],
    },
    Preset {
        name: "crcrpar-64",
        about: "Its PyTorch port, 64x64: bilinear upsampling, PyTorch's initialisation",
        architecture: Architecture::Residual(Residual {
            upsampling: Upsampling::Bilinear,
            last: 1,
            eps: 1e-5,
            pytorch_init: true,
            ..SNGAN
        }),
        settings: |s| sngan(s, 100_000, Some(50_000)),
        sample: images(64, 3),
        timed: &[(16, 8)],
    },
    Preset {
        name: "sagan-64",
        about: "Self-attention in both networks, spectral norm in both, for 64x64 images",
        architecture: Architecture::Residual(Residual { attention: true, ..SNGAN }),
        settings: |s| {
            sngan(s, 250_000, None);
            s.networks.spectral_norm_g = true;
            s.training.lr_g = 1e-4;
            s.training.lr_d = 4e-4;
            s.training.beta2 = 0.999;
            s.training.n_dis = 1;
            s.training.average = 0.999;
            s.batches.flip = true;
        },
        sample: images(64, 3),
        timed: &[(16, 8)],
    },
    Preset {
        name: "photos-64",
        about: "For some thousand pictures, 64x64: DiffAug, R1, average, flips",
        architecture: Architecture::Residual(SNGAN),
        settings: |s| photos(s, 64),
        sample: images(64, 3),
        timed: &[],
    },
    Preset {
        name: "photos-128",
        about: "The same for 128x128 images",
        architecture: Architecture::Residual(Residual { size: 128, ..SNGAN }),
        settings: |s| photos(s, 32),
        sample: images(128, 3),
        timed: &[],
    },
    Preset {
        name: "ring",
        about: "Multilayer perceptrons on eight Gaussians in the plane",
        architecture: Architecture::PointPerceptrons,
        settings: |s| {
            s.images.data = DataSource::Points(Mixture::Ring);
            s.networks.conditioning = Conditioning::None;
            s.networks.width = 128;
            s.networks.latent = 16;
            s.training.r1 = 0.1;
            s.training.lr_g = 1e-3;
            s.training.lr_d = 1e-3;
            s.training.batch = 256;
            s.training.steps = 5000;
        },
        sample: mixture::SHAPE,
        timed: &[(128, 256)],
    },
    Preset {
        name: "softmax-gan",
        about: "Multilayer perceptrons and the softmax loss",
        architecture: Architecture::ImagePerceptrons,
        settings: |s| {
            without_average(s);
            s.networks.conditioning = Conditioning::None;
            s.networks.latent = 100;
            // As published.
            s.training.softmax_target = SoftmaxTarget::Uniform;
            s.training.steps = 2000;
            s.training.lr_g = 2e-4;
            s.training.lr_d = 2e-4;
            s.training.beta2 = 0.999;
        },
        sample: images(28, 1),
        timed: &[(0, 64)],
    },
];

/// The networks for 64x64 images, which the others are told apart from.
const SNGAN: Residual = Residual {
    size: 64,
    widths: Widths::Doubling,
    hidden_is_output: false,
    head_bias: true,
    eps: 2e-5,
    upsampling: Upsampling::Nearest,
    last: 3,
    last_gain: 1.0,
    pytorch_init: false,
    label: None,
    attention: false,
};

/// What all descendants of the projection discriminator's networks set.
fn sngan(s: &mut Settings, steps: u64, decay_from: Option<u64>) {
    without_average(s);
    s.networks.width = 64;
    s.networks.spectral_norm = true;
    s.networks.pool = Pool::Sum;
    s.networks.pool_factor = 1.0;
    s.networks.latent = 128;
    s.training.loss = Loss::Hinge;
    s.training.steps = steps;
    s.training.decay_from = decay_from;
    s.training.n_dis = 5;
    s.training.update = Update::Alternating;
    s.training.lr_g = 2e-4;
    s.training.lr_d = 2e-4;
    s.training.beta1 = 0.0;
    s.batches.noise = 1.0 / 128.0;
    s.written.checkpoint_every = 1000;
    s.written.sample_every = 1000;
}

/// For pictures that are few: D sees them changed, and a penalty keeps it from knowing them by heart.
fn photos(s: &mut Settings, batch: usize) {
    s.networks.width = 64;
    s.networks.latent = 128;
    s.training.loss = Loss::NonSaturating;
    s.training.r1 = 1.0;
    s.training.penalty_every = 4;
    s.training.steps = 400_000;
    s.training.batch = batch;
    s.training.lr_g = 2e-4;
    s.training.lr_d = 2e-4;
    s.training.beta1 = 0.0;
    s.training.beta2 = 0.99;
    s.training.average = 0.999;
    s.batches.diffaug = vec![Change::Color, Change::Translation, Change::Cutout];
    s.batches.flip = true;
    s.written.checkpoint_every = 2000;
    s.written.sample_every = 1000;
}

fn without_average(s: &mut Settings) {
    s.training.average = 0.0;
    s.training.average_from = 0;
}

const fn images(side: usize, channels: usize) -> ImageShape {
    ImageShape { height: side, width: side, channels }
}

impl Preset {
    /// The defaults with this preset's differences.
    pub fn settings(self) -> Settings {
        let mut settings = Settings {
            preset: self,
            images: Images::default(),
            networks: Networks::default(),
            training: Training::default(),
            batches: Batches::default(),
            place: Place::default(),
            judging: Judging::default(),
            written: Written::default(),
        };
        if let Architecture::Residual(networks) = self.architecture {
            settings.images.size = networks.size.into();
        }
        (self.settings)(&mut settings);
        settings
    }
}

impl Default for Preset {
    fn default() -> Preset {
        PRESETS[0]
    }
}

impl PartialEq for Preset {
    fn eq(&self, other: &Preset) -> bool {
        self.name == other.name
    }
}

impl std::fmt::Display for Preset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl std::str::FromStr for Preset {
    type Err = Error;

    fn from_str(name: &str) -> Result<Preset> {
        PRESETS.iter().copied().find(|preset| preset.name == name).ok_or_else(|| {
            let names = PRESETS.map(|preset| preset.name).join(", ");
            Error::Config(format!("no preset is called {name:?}; there are {names}"))
        })
    }
}

/// For the command line: `--help` has the names, and a wrong one is answered with them.
impl ValueEnum for Preset {
    fn value_variants<'a>() -> &'a [Preset] {
        &PRESETS
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name).help(self.about))
    }
}
