//! One of the two networks with all that goes with its parameters.

use std::collections::HashMap;
use std::ops::Range;

use super::setup::{Setup, Weights};
use crate::checkpoint::NamedTensor;
use crate::device::{Device, Precision, Reals, Reduction};
use crate::nn::parameters;
use crate::nn::{self, Backward, Forward, Layout, Mode, PassWeights};
use crate::ops::adam::{self, Adam};
use crate::ops::convert;
use crate::ops::spectral_norm::{self, Matrix, Plan};
use crate::ops::state::{self, Network, StateBuffer};
use crate::random::Random;
use crate::sizes::{product, sum};
use crate::{Error, Result};

/// The layouts of a player's flat buffers, found while its network is built.
#[derive(Default)]
pub struct Layouts {
    pub parameters: Layout,
    /// Running statistics.
    pub running: Layout,
}

#[derive(Default)]
pub struct Players {
    pub generator: Layouts,
    pub discriminator: Layouts,
}

impl Layouts {
    /// A line per tensor, for people.
    pub fn table(&self) -> String {
        let line = |e: &crate::nn::parameters::Entry| {
            let shape: Vec<String> = e.shape.iter().map(usize::to_string).collect();
            format!("  {:<28} {}\n", e.name, shape.join(" x "))
        };
        self.parameters.entries().iter().map(line).collect()
    }

    /// An error unless these tensors of a checkpoint have all parameters and running statistics of the network called `name`.
    pub fn check(&self, name: &str, tensors: &HashMap<&str, &NamedTensor>) -> Result<()> {
        [&self.parameters, &self.running].into_iter().try_for_each(|layout| {
            parameters::check(layout, &format!("{name}."), |name| {
                tensors.get(name).map(|t| (t.shape.as_slice(), t.values.as_slice()))
            })
        })
    }

    /// Device memory of the flat buffers.
    pub fn bytes(&self, average: bool, spectral: bool, precision: Precision) -> usize {
        let copies = 4 + usize::from(average) + usize::from(spectral);
        let rounded = if precision.bytes() == 2 { product([2, self.parameters.len()]) } else { 0 };
        let reals = sum([product([copies, self.parameters.len()]), self.running.len()]);
        sum([product([size_of::<f32>(), reals]), rounded])
    }
}

pub struct Player {
    pub name: &'static str,
    pub layouts: Layouts,
    pub values: Reals,
    /// Empty, as the moments are, where nothing is trained.
    pub gradients: Reals,
    first_moment: Reals,
    second_moment: Reals,
    /// The moving average of `values`; only the generator has one.
    pub average: Option<Reals>,
    pub running: Reals,
    spectral: Option<Spectral>,
    /// What [`Player::weights`] are, rounded to the 16 bits of the activations.
    rounded: Option<Reals>,
    network: Network,
    adam: Adam,
    average_decay: f32,
    average_from: u32,
}

/// The spectral normalisation of a network.
pub struct Spectral {
    plan: Plan,
    /// u of all matrices, one after the other, and v; each under the name of its weight.
    layouts: [Layout; 2],
    vectors: [Reals; 2],
    sigma: Reals,
    workspace: Reals,
    /// All parameters, the normalised ones divided by their sigma.
    effective: Reals,
}

impl Player {
    pub fn new(device: &Device, name: &'static str, layouts: Layouts, setup: &Setup, seed: u64) -> Result<Player> {
        let trained = layouts.parameters.len();
        Player::with_moments(device, name, layouts, setup, seed, trained)
    }

    /// One that draws and is not trained.
    pub fn drawing(device: &Device, layouts: Layouts, setup: &Setup) -> Result<Player> {
        Player::with_moments(device, "generator", layouts, setup, setup.training.seed, 0)
    }

    /// Gradients and moments of `len` numbers.
    fn with_moments(
        device: &Device,
        name: &'static str,
        layouts: Layouts,
        setup: &Setup,
        seed: u64,
        len: usize,
    ) -> Result<Player> {
        let (networks, training) = (&setup.networks, &setup.training);
        let layout = &layouts.parameters;
        let initial = layout.initial_values(seed)?;
        let generator = name == "generator";
        let averaged = generator && training.average > 0.0;
        let normalised = if generator { networks.spectral_norm_g } else { networks.spectral_norm };
        let player = Player {
            name,
            values: device.upload(&initial)?,
            gradients: device.zeros(len)?,
            first_moment: device.zeros(len)?,
            second_moment: device.zeros(len)?,
            average: if averaged { Some(device.upload(&initial)?) } else { None },
            running: device.upload(&layouts.running.initial_values(0)?)?,
            spectral: if normalised { Some(Spectral::new(device, layout, seed)?) } else { None },
            rounded: match training.precision() {
                precision if precision.bytes() == 2 => Some(device.zeros_in(layout.len(), precision)?),
                _ => None,
            },
            network: if generator { Network::Generator } else { Network::Discriminator },
            adam: Adam { beta1: training.beta1, beta2: training.beta2, eps: 1e-8 },
            average_decay: training.average as f32,
            average_from: training.average_from,
            layouts,
        };
        // One iteration, so that a pass that makes none of its own finds a norm.
        player.normalise(true)?;
        player.round()?;
        Ok(player)
    }

    /// The parameters that draw: their average, if there is one and it is wanted.
    pub fn choose(&self, weights: Weights) -> &Reals {
        self.average.as_ref().filter(|_| weights == Weights::Average).unwrap_or(&self.values)
    }

    /// What a forward or backward pass multiplies with.
    pub fn weights(&self) -> PassWeights<'_> {
        PassWeights { values: self.weights_of(&self.values), rounded: self.rounded.as_ref() }
    }

    /// A forward pass of a network with these parameters.
    pub fn forward(&self, network: &nn::Network, mode: Mode, rows: Range<usize>) -> Result<()> {
        network.forward(&Forward { weights: self.weights(), running: &self.running, mode, rows })
    }

    /// A backward pass with these parameters that takes the signal of some samples to the network's input.
    pub fn signal(&self, rows: Range<usize>) -> Backward<'_> {
        Backward::of(self.weights(), None, rows)
    }

    /// After the weights have changed.
    fn round(&self) -> Result<()> {
        self.rounded.as_ref().map_or(Ok(()), |rounded| convert::narrow(rounded, self.weights().values))
    }

    /// Notes in the state where the gradient is not finite.
    pub fn note_overflow(&self, state: &StateBuffer) -> Result<()> {
        state::overflow(state, &self.gradients, self.network)
    }

    /// As [`Player::weights`], after [`Player::normalise_from`] of `values`.
    pub fn weights_of<'a>(&'a self, values: &'a Reals) -> &'a Reals {
        self.spectral.as_ref().map_or(values, |spectral| &spectral.effective)
    }

    /// The largest of the norms that its weights were divided by last; NaN without spectral normalisation.
    pub fn largest_sigma(&self) -> Result<f32> {
        let Some(s) = &self.spectral else { return Ok(f32::NAN) };
        let sigma = s.sigma.read()?;
        let all = (0..s.layouts[0].entries().len()).map(|i| sigma[s.plan.sigma_of(i)]);
        Ok(all.fold(f32::NAN, f32::max))
    }

    /// The parameter of this name that is one number; NaN where there is none.
    pub fn number(&self, name: &str) -> Result<f32> {
        let entry = self.layouts.parameters.entries().iter().find(|entry| entry.name == name);
        entry.map_or(Ok(f32::NAN), |entry| Ok(entry.at.of(&self.values).read()?[0]))
    }

    /// Divides the weights, as they are now, by their largest singular value as far as it is known; `iterate` makes a
    /// power iteration first. Nothing without spectral normalisation.
    pub fn normalise(&self, iterate: bool) -> Result<()> {
        self.normalise_from(&self.values, iterate)?;
        if self.spectral.is_some() { self.round() } else { Ok(()) }
    }

    /// The same for other parameters, such as the average.
    pub fn normalise_from(&self, values: &Reals, iterate: bool) -> Result<()> {
        let Some(s) = &self.spectral else { return Ok(()) };
        spectral_norm::forward(&s.plan, &s.effective, values, s.state(), iterate)
    }

    /// From the gradient with respect to the normalised weights to that of the weights, after the last contribution: that of
    /// the other ranks.
    pub fn finish_gradient(&self) -> Result<()> {
        if let Some(ranks) = self.gradients.device().ranks() {
            ranks.all_reduce(&self.gradients, Reduction::Sum)?;
        }
        let Some(s) = &self.spectral else { return Ok(()) };
        spectral_norm::backward(&s.plan, &self.gradients, &s.effective, s.state())
    }

    /// An Adam update from `gradients`, and the average's; `norms` gets the gradient's Euclidean norm.
    pub fn update(&self, state: &StateBuffer, norms: &Reals, workspace: &Reals) -> Result<()> {
        let buffers = adam::Buffers {
            parameters: &self.values,
            first_moment: &self.first_moment,
            second_moment: &self.second_moment,
            gradient: &self.gradients,
        };
        let average = self.average.as_ref().map(|values| adam::Average {
            values,
            decay: self.average_decay,
            start: self.average_from,
        });
        let slot = self.network as usize;
        let workspace = workspace.view(0..adam::workspace_len(self.values.device(), self.values.len()));
        let norm = norms.view(slot..slot + 1);
        adam::update(&buffers, average.as_ref(), &norm, state, self.network, &self.adam, &workspace)?;
        if self.spectral.is_none() { self.round() } else { Ok(()) }
    }

    /// The flat buffers that a checkpoint keeps, each with the prefix of its tensors' names.
    pub fn kept(&self) -> Vec<(&'static str, &Layout, &Reals)> {
        let p = &self.layouts.parameters;
        let mut kept = vec![("", p, &self.values)];
        if self.is_trained() {
            kept.extend([("adam.m.", p, &self.first_moment), ("adam.v.", p, &self.second_moment)]);
        }
        kept.push(("", &self.layouts.running, &self.running));
        kept.extend(self.average.as_ref().map(|average| ("average.", p, average)));
        kept.extend(self.spectral_vectors().into_iter().map(|(layout, vector)| ("", layout, vector)));
        kept
    }

    /// The vectors of the spectral norm, with their layouts; none without it.
    pub fn spectral_vectors(&self) -> Vec<(&Layout, &Reals)> {
        self.spectral.as_ref().map_or(Vec::new(), |s| s.layouts.iter().zip(&s.vectors).collect())
    }

    fn is_trained(&self) -> bool {
        self.gradients.len() == self.values.len()
    }

    /// Takes its own tensors up from a checkpoint; how many they were.
    pub fn restore(&self, tensors: &HashMap<&str, &NamedTensor>) -> Result<usize> {
        let find = |name: &str| tensors.get(name).map(|t| (t.shape.as_slice(), t.values.as_slice()));
        let old = |part: &str| tensors.get(format!("{}.spectral_{part}", self.name).as_str());
        let mut taken = 0;
        for (prefix, layout, flat) in self.kept() {
            let is = |part: &str| self.spectral.as_ref().is_some_and(|s| std::ptr::eq(layout, s.layout(part)));
            // Until format 2 the vectors of all weights were one tensor.
            match ["u", "v"].into_iter().find(|part| is(part)).and_then(old) {
                Some(all) if all.values.len() == layout.len() => {
                    flat.write(&all.values)?;
                    taken += 1;
                }
                Some(all) => {
                    let (name, len) = (&all.name, layout.len());
                    return Err(Error::Shape(format!("tensor {name} has shape {:?}, expected [{len}]", all.shape)));
                }
                None => {
                    parameters::restore(layout, flat, &format!("{prefix}{}.", self.name), find)?;
                    taken += layout.entries().len();
                }
            }
        }
        self.round()?;
        Ok(taken)
    }
}

impl Spectral {
    fn new(device: &Device, layout: &Layout, seed: u64) -> Result<Spectral> {
        let (names, matrices): (Vec<&str>, Vec<Matrix>) =
            layout.entries().iter().filter_map(|entry| Some((entry.name.as_str(), entry.matrix()?))).unzip();
        let plan = Plan::new(device, layout.len(), &matrices)?;
        let mut u = vec![0.0; plan.u_len()];
        // A stream that no tensor draws from.
        Random::new(seed, u32::MAX, 0).fill_normal(&mut u, 1.0);
        let mut layouts = [Layout::default(), Layout::default()];
        for (i, name) in names.iter().enumerate() {
            layouts[0].placed(&format!("{name}.u"), plan.u_of(i));
            layouts[1].placed(&format!("{name}.v"), plan.v_of(i));
        }
        Ok(Spectral {
            layouts,
            vectors: [device.upload(&u)?, device.zeros(plan.v_len())?],
            sigma: device.zeros(plan.sigma_len())?,
            workspace: device.zeros(plan.workspace_len())?,
            effective: device.zeros(layout.len())?,
            plan,
        })
    }

    /// Of `u` or `v`.
    fn layout(&self, part: &str) -> &Layout {
        &self.layouts[usize::from(part == "v")]
    }

    fn state(&self) -> spectral_norm::State<'_> {
        let [u, v] = &self.vectors;
        spectral_norm::State { u, v, sigma: &self.sigma, workspace: &self.workspace }
    }
}
