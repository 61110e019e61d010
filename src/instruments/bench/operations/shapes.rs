//! The sizes that operations are timed at: those of some presets together, or those of one preset alone.

use crate::gan::{Setup, layouts};
use crate::nn::Layout;
use crate::ops::attention::Shape;
use crate::ops::spectral_norm::{Matrix, Outputs};
use crate::settings::{Architecture, Conditioning};
use crate::{Error, Result};

/// Every list may be empty: then the operation has no place in the networks that the sizes are those of.
#[derive(Clone, Debug, Default)]
pub struct Shapes {
    /// Logits of real samples, and of as many fakes.
    pub logits: Vec<usize>,
    /// The same for the hinge loss.
    pub hinge: Vec<usize>,
    /// Samples, pixels, channels, classes.
    pub heads: Vec<[usize; 4]>,
    /// N and classes of class logits.
    pub class_logits: Vec<[usize; 2]>,
    /// N, H, W, C of conditional norms that are followed by upsampling.
    pub norms: Vec<[usize; 4]>,
    /// N, H, W, C that are pooled, and of half the height and width that are enlarged.
    pub resampled: Vec<[usize; 4]>,
    /// N, H, W, C of a batch of images.
    pub images: Vec<[usize; 4]>,
    /// Parameters of networks.
    pub parameters: Vec<usize>,
    /// Networks whose weights are normalised.
    pub spectral: Vec<Normalised>,
    /// N, C and K of linear layers.
    pub linears: Vec<[usize; 3]>,
    /// N, H = W, C and K of 3x3 convolutions: the passes of each, alone.
    pub convolutions: Vec<[usize; 4]>,
    /// The same before G enlarges, with all that is fused.
    pub up: Vec<[usize; 4]>,
    /// The same before D pools, with all that is fused.
    pub down: Vec<[usize; 4]>,
    /// N, H = W, C and K of whole blocks of D that pool.
    pub blocks: Vec<[usize; 4]>,
    pub attention: Vec<Shape>,
}

/// The weights of a network that are normalised, one after the other.
#[derive(Clone, Debug)]
pub struct Normalised {
    pub name: String,
    pub parameters: usize,
    pub matrices: Vec<Matrix>,
}

impl Shapes {
    /// Sizes of `mnist`, of `softmax-gan`, of `sngan-projection-32` at width 64 and batch 32, of `sngan-projection-64` at batch 8, and
    /// of `sagan-64`.
    pub fn usual() -> Shapes {
        Shapes {
            logits: vec![64, 256, 65_536],
            hinge: vec![64],
            heads: vec![[128, 49, 32, 10], [64, 64, 64, 10], [16, 4, 1024, 1000]],
            class_logits: vec![[128, 10], [64, 1000]],
            norms: vec![[64, 7, 7, 32], [64, 14, 14, 32], [32, 4, 4, 128], [32, 8, 8, 128], [32, 16, 16, 128]],
            resampled: vec![[64, 28, 28, 16], [32, 32, 32, 64]],
            images: vec![[64, 28, 28, 1], [32, 64, 64, 3]],
            parameters: vec![147_041, 1_510_032, 4_304_387],
            spectral: vec![Normalised::sngan(128)],
            linears: vec![
                [64, 128, 256],
                [64, 256, 512],
                [64, 512, 1024],
                [64, 1024, 784],
                [128, 784, 512],
                [128, 512, 256],
            ],
            convolutions: vec![
                [64, 28, 16, 16],
                [64, 28, 32, 16],
                [64, 14, 32, 32],
                [128, 7, 32, 32],
                [64, 32, 64, 64],
                [64, 16, 64, 64],
                [64, 8, 64, 64],
                [32, 16, 128, 128],
                [32, 8, 128, 128],
                [16, 8, 256, 256],
            ],
            up: vec![[64, 14, 32, 16], [32, 16, 64, 64], [32, 8, 128, 128]],
            down: vec![[64, 28, 32, 16], [32, 32, 64, 64], [32, 16, 128, 128]],
            blocks: vec![[128, 14, 16, 32]],
            attention: vec![Shape { n: 8, l: 1024, lk: 256, dk: 16, dv: 64 }],
        }
    }

    /// Sizes that only try the program.
    pub fn tiny() -> Shapes {
        Shapes {
            logits: vec![5],
            hinge: vec![5],
            heads: vec![[4, 6, 8, 3]],
            class_logits: vec![[5, 3]],
            norms: vec![[3, 4, 4, 5]],
            resampled: vec![[2, 4, 6, 5]],
            images: vec![[2, 5, 4, 3]],
            // Some blocks' for `zgan tune`.
            parameters: vec![3000],
            spectral: vec![Normalised::sngan(4)],
            linears: vec![[5, 7, 9]],
            convolutions: vec![[2, 6, 5, 7]],
            up: vec![[2, 4, 5, 7]],
            down: vec![[2, 8, 5, 7]],
            blocks: vec![[3, 6, 5, 7]],
            attention: vec![Shape { n: 1, l: 16, lk: 4, dk: 3, dv: 5 }],
        }
    }

    /// The sizes that a step of this setup has. Of layers that have one size alike, one is taken.
    pub fn of(setup: &Setup) -> Result<Shapes> {
        let players = layouts(setup)?;
        let (g, d) = (&players.generator.parameters, &players.discriminator.parameters);
        let (batch, fakes) = (setup.training.batch, setup.training.batch_of_g());
        let judged = batch + fakes;
        let mut shapes = Shapes {
            logits: vec![batch],
            hinge: vec![batch],
            parameters: vec![g.count(), d.count()],
            ..Shapes::default()
        };
        if !setup.draws_points() {
            shapes.images = vec![[batch, setup.shape.height, setup.shape.width, setup.shape.channels]];
        }
        let normalised = [(g, "G", setup.networks.spectral_norm_g), (d, "D", setup.networks.spectral_norm)];
        for (layout, player, _) in normalised.into_iter().filter(|(.., normalised)| *normalised) {
            let name = format!("{player} of {}, width {}", setup.preset.name, setup.networks.width);
            shapes.spectral.push(Normalised::new(name, layout.entries().iter().filter_map(|entry| entry.matrix())));
        }
        for (layout, n) in [(g, fakes), (d, judged)] {
            for entry in layout.entries().iter().filter(|entry| entry.name.starts_with("linear")) {
                if let [c, k] = entry.shape[..] {
                    add(&mut shapes.linears, [n, c, k]);
                }
            }
        }
        if let Architecture::Residual(spec) = setup.architecture() {
            if setup.shape.height != setup.shape.width {
                let what = format!("shapes: images of {}, expected square ones", setup.shape);
                return Err(Error::Config(what));
            }
            shapes.add_blocks(&setup.blocks(spec)?, setup, (g, fakes), (d, judged));
        }
        Ok(shapes)
    }

    fn add_blocks(
        &mut self,
        blocks: &crate::settings::Blocks,
        setup: &Setup,
        (g, fakes): (&Layout, usize),
        (d, judged): (&Layout, usize),
    ) {
        // C and K of a 3x3 convolution of these parameters.
        let conv = |layout: &Layout, name: String| -> Option<[usize; 2]> {
            let entry = layout.entries().iter().find(|entry| entry.name == name)?;
            if let [3, 3, c, k] = entry.shape[..] { Some([c, k]) } else { None }
        };
        let mut side = blocks.bottom.height;
        for i in 1..=blocks.up.len() {
            let [first, second] = [1, 2].map(|j| conv(g, format!("block{i}.conv{j}.weight")));
            if let Some([c, k]) = first {
                add(&mut self.norms, [fakes, side, side, c]);
                add(&mut self.resampled, [fakes, 2 * side, 2 * side, c]);
                add(&mut self.up, [fakes, side, c, k]);
            }
            side *= 2;
            for [c, k] in [first, second].into_iter().flatten() {
                add(&mut self.convolutions, [fakes, side, c, k]);
            }
            if blocks.attention.is_some_and(|last| i + last == blocks.up.len()) {
                self.add_attention(fakes, side, blocks.up[i - 1] * setup.networks.width);
            }
        }
        if let Some([c, k]) = conv(g, "conv.weight".into()) {
            add(&mut self.convolutions, [fakes, side, c, k]);
        }
        let mut side = setup.shape.height;
        for (i, (width, halves)) in (1..).zip(&blocks.down) {
            let [first, second] = [1, 2].map(|j| conv(d, format!("block{i}.conv{j}.weight")));
            for [c, k] in [first, second].into_iter().flatten() {
                add(&mut self.convolutions, [judged, side, c, k]);
            }
            if let Some([c, k]) = second.filter(|_| *halves) {
                add(&mut self.down, [judged, side, c, k]);
                add(&mut self.resampled, [judged, side, side, c]);
            }
            side >>= usize::from(*halves);
            if blocks.attention == Some(i) {
                self.add_attention(judged, side, width * setup.networks.width);
            }
        }
        let features = blocks.down.last().map_or(0, |(width, _)| width * setup.networks.width);
        let pixels = blocks.top.height * blocks.top.width;
        match setup.networks.conditioning {
            Conditioning::AcGan => self.class_logits.push([judged, setup.classes]),
            Conditioning::Projection => self.heads.push([judged, pixels, features, setup.classes]),
            _ => {}
        }
    }

    fn add_attention(&mut self, n: usize, side: usize, c: usize) {
        let half = side / 2;
        add(&mut self.attention, Shape { n, l: side * side, lk: half * half, dk: (c / 8).max(1), dv: (c / 2).max(1) });
    }
}

fn add<T: PartialEq>(all: &mut Vec<T>, one: T) {
    if !all.contains(&one) {
        all.push(one);
    }
}

impl Normalised {
    fn new(name: String, weights: impl IntoIterator<Item = Matrix>) -> Normalised {
        let (mut matrices, mut parameters) = (Vec::new(), 0);
        for weight in weights {
            matrices.push(Matrix { offset: parameters, ..weight });
            parameters += weight.rows * weight.columns;
        }
        Normalised { name, parameters, matrices }
    }

    /// The weights of the D of sngan-projection-32.
    fn sngan(width: usize) -> Normalised {
        let (inner, first) = ((9 * width, width), (27, width));
        let shapes = [first, inner, (3, width), inner, inner, (width, width), inner, inner, inner, inner, (width, 1)];
        let weights = shapes.map(|(rows, columns)| Matrix { offset: 0, rows, columns, outputs: Outputs::Columns });
        Normalised::new(format!("D of sngan-projection-32, width {width}"), weights)
    }
}
