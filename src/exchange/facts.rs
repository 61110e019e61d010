//! What the shapes of a file's tensors say of its networks.

use super::import::Incoming;
use super::names::{self, Side};
use crate::Result;
use crate::data::mixture::Mixture;
use crate::data::{ImageShape, Size};
use crate::gan::Setup;
use crate::settings::{Architecture, Blocks, Preset, Residual};

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    pub width: Option<usize>,
    pub latent: Option<usize>,
    pub channels: Option<usize>,
    /// Of the images. The weights of residual networks tell it, of G, where the images are square.
    pub size: Option<Size>,
    /// None where a network knows no labels.
    pub classes: Option<usize>,
    /// Whether weights come with the vectors of a spectral norm.
    pub spectral: bool,
}

/// The shape of a tensor that is called so here, with inputs before outputs, as it would lie here.
type Shape<'a> = &'a dyn Fn(&str) -> Option<Vec<usize>>;

impl Incoming {
    /// What the shapes say, of networks of this preset.
    pub fn facts(&self, preset: Preset, side: Side) -> Result<Facts> {
        let settings = preset.settings();
        let shape = match preset.architecture {
            Architecture::Residual(networks) => {
                let Size { height, width } = self.size_with_its_blocks(&networks, side);
                ImageShape { height, width, channels: 3 }
            }
            _ => preset.sample,
        };
        let (networks, training, batches) = (settings.networks, settings.training, settings.batches);
        let setup =
            Setup { mixture: Mixture::Ring, preset, networks, training, batches, shape, classes: 2, vectors: None };
        let rows = names::table(&setup, side)?;
        let shape = |ours: &str| {
            let found = self.find(side, rows.iter().find(|row| row.ours == ours)?)?;
            let mut shape = found.shape.clone();
            match (self.own, shape.len()) {
                (false, 2) if !ours.contains("norm") && !ours.contains("embedding") => shape.reverse(),
                (false, 4) => shape = [2, 3, 1, 0].map(|i| shape[i]).to_vec(),
                _ => {}
            }
            Some(shape)
        };
        let mut facts = Facts { spectral: self.spectral(side).is_some(), size: self.size, ..Facts::default() };
        match (preset.architecture, side) {
            (Architecture::Residual(networks), Side::Generator) => {
                facts.of_residual_generator(&networks, &setup.blocks(&networks)?, &shape);
            }
            (Architecture::Residual(_), Side::Discriminator) => {
                // The first block has the base width.
                facts.width = shape("block1.conv1.weight").and_then(|shape| shape.last().copied());
                facts.classes = self.classes_of_heads();
            }
            (_, Side::Generator) => {
                let first = shape("linear1.weight");
                facts.latent = first.as_ref().and_then(|shape| shape.first().copied());
                if matches!(preset.architecture, Architecture::PointPerceptrons) {
                    facts.width = first.and_then(|shape| shape.get(1).copied());
                }
            }
            (_, Side::Discriminator) => {}
        }
        Ok(facts)
    }

    /// A size of images for which networks of a preset have as many blocks as this file's.
    fn size_with_its_blocks(&self, networks: &Residual, side: Side) -> Size {
        let begins = |i: usize| match self.own {
            true => format!("generator.block{i}."),
            false => format!("block{}.", i + 1),
        };
        let blocks = (1..16).take_while(|i| self.tensors.iter().any(|t| t.name.starts_with(&begins(*i)))).count();
        let by_blocks = Size::from(4 << blocks);
        let fits = side == Side::Generator && networks.blocks(by_blocks).is_ok();
        self.size.unwrap_or(if fits { by_blocks } else { networks.size.into() })
    }

    /// The classes that a residual D knows by rows of its own.
    fn classes_of_heads(&self) -> Option<usize> {
        let names = match self.own {
            true => ["discriminator.head.embedding", "discriminator.embedding", "discriminator.classes.bias"],
            false => ["l_y.weight", "l_y.weight_orig", "l_c.bias"],
        };
        let rows = self.tensors.iter().find(|t| names.contains(&t.name.as_str()));
        rows.and_then(|t| t.shape.first().copied())
    }
}

impl Facts {
    /// Of networks with as many blocks as these.
    fn of_residual_generator(&mut self, networks: &Residual, blocks: &Blocks, shape: Shape) {
        // A plain norm has one dimension.
        self.classes = shape("block1.norm1.weight").filter(|shape| shape.len() == 2).map(|shape| shape[0]);
        self.channels = shape("conv.weight").and_then(|shape| shape.last().copied());
        let Some([inputs, outputs]) = shape("linear.weight").and_then(|shape| <[usize; 2]>::try_from(shape).ok())
        else {
            return;
        };
        self.width = shape("block1.conv1.weight").and_then(|shape| Some(shape.last()? / blocks.up[0]));
        let marks = if networks.label.is_some() { self.classes.unwrap_or(0) } else { 0 };
        self.latent = inputs.checked_sub(marks);
        let pixels = outputs / (blocks.start * self.width.unwrap_or(1)).max(1);
        let square = Size::from(pixels.isqrt() << blocks.up.len());
        if networks.blocks(square).is_ok_and(|blocks| blocks.bottom.pixels() == pixels) {
            self.size = self.size.or(Some(square));
        }
    }
}
