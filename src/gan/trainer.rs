//! The training step.
//!
//! Everything is placed when the trainer is made: the fakes are written straight into the discriminator's batch behind
//! the real images, and its gradient there is the generator's output gradient. A step allocates nothing and does not
//! wait for the device; what changes from step to step (its number, learning rates, random numbers) lives there. So a
//! GPU can do it again and again as one captured graph; only the batches of real images are copied before it, to one of two
//! slots while the device still works on the other. Each slot has a graph of its own: nothing in it is changed afterwards.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use super::classes::ClassLoss;
use super::latents::Latents;
use super::options::{Metrics, Plan, Preset, TrainerOptions, Update, Weights};
use super::penalty::GradientPenalty;
use super::player::{Player, Players};
use super::sampler::Sampler;
use super::step::Phase;
use super::workspace::Workspace;
use crate::checkpoint::{NamedTensor, Scaling};
use crate::data::ring;
use crate::device::{Device, Event, Feed, Graph};
use crate::nn::Arena;
use crate::nn::parameters::first_not_finite;
use crate::ops::state::{self, State, StateBuffer};
use crate::{Error, Result};

pub struct Trainer {
    pub(super) options: TrainerOptions,
    pub(super) device: Device,
    pub(super) state: StateBuffer,
    step: u64,
    pub(super) generator: Player,
    pub(super) discriminator: Player,
    /// Before what it fills: it waits for copies that are under way.
    feed: Feed,
    pub(super) workspace: Workspace,
    sampler: Option<Sampler>,
    way: Way,
    /// Where the phases of a step began in the device's queue, in one that is timed.
    pub(super) marks: Option<RefCell<Vec<(Phase, Event)>>>,
    /// Of D in a simultaneous step, where one would do.
    pub(super) two_backwards: bool,
}

/// How a step is started.
enum Way {
    /// Launch by launch.
    Launched,
    /// So for the first time, for a driver may load code then, which it cannot do in a capture; then captured.
    ToCapture,
    /// A graph for each slot.
    Captured(Vec<Graph>),
}

impl Trainer {
    pub fn new(device: &Device, options: &TrainerOptions) -> Result<Trainer> {
        check(options)?;
        let (_, bytes) = measure(device, options)?;
        let mut players = Players::default();
        let mut arena = Arena::new(device, bytes)?;
        let workspace = Workspace::build(options, device, &mut players, &mut arena)?;
        workspace.logits.dx.as_ref().map_or(Ok(()), |ones| ones.write(&vec![1.0; ones.len()]))?;
        // Two streams of seeds, so that the players' weights are independent.
        let (seed_g, seed_d) = (options.seed, options.seed ^ 0x9e37_79b9_7f4a_7c15);
        Ok(Trainer {
            device: device.clone(),
            state: StateBuffer::new(device, &start(options, 0))?,
            step: 0,
            generator: Player::new(device, "generator", players.generator, options, seed_g)?,
            discriminator: Player::new(device, "discriminator", players.discriminator, options, seed_d)?,
            feed: device.feed(workspace.inputs[0].bytes())?,
            workspace,
            sampler: None,
            way: Way::ToCapture,
            marks: None,
            two_backwards: false,
            options: options.clone(),
        })
    }

    /// What a trainer of these options would take.
    pub fn plan(options: &TrainerOptions) -> Result<Plan> {
        check(options)?;
        let (players, arena) = measure(&Device::unbacked(), options)?;
        let (g, d) = (&players.generator, &players.discriminator);
        Ok(Plan {
            generator: g.table(),
            discriminator: d.table(),
            parameters_g: g.parameters.count(),
            parameters_d: d.parameters.count(),
            bytes: arena
                + g.bytes(options.average > 0.0, options.spectral_norm_g, options.precision)
                + d.bytes(false, options.spectral_norm, options.precision),
        })
    }

    pub fn options(&self) -> &TrainerOptions {
        &self.options
    }

    /// Steps done.
    pub fn step_number(&self) -> u64 {
        self.step
    }

    /// Images that a step takes: `n_dis` batches.
    pub fn images_per_step(&self) -> usize {
        self.options.batch * self.options.n_dis
    }

    /// One training step on `n_dis` batches of images (N, H, W, C), one after the other, and their labels; preset `ring`
    /// takes none.
    pub fn step(&mut self, images: &[u8], labels: &[u32]) -> Result<()> {
        self.update(images, labels, None)
    }

    /// One training step with given latents (M, latent) and labels (M) of the fakes instead of drawn ones, to compare
    /// with another program.
    pub fn step_given(&mut self, images: &[u8], labels: &[u32], latents: &[f32], wanted: &[u32]) -> Result<()> {
        self.update(images, labels, Some((latents, wanted)))
    }

    /// Whether a GPU is to do a step as one captured graph, as it does unless told otherwise; the numbers are the same.
    pub fn set_graph(&mut self, graph: bool) {
        self.way = if graph { Way::ToCapture } else { Way::Launched };
    }

    /// Whether a simultaneous step is to find the signal at the fakes by a second backward pass of D, as it would without
    /// the pass that serves both players; the numbers are the same. To see what that one saves.
    pub fn set_two_backwards(&mut self, two: bool) {
        self.two_backwards = two;
        if !matches!(self.way, Way::Launched) {
            self.way = Way::ToCapture;
        }
    }

    /// One training step, launched kernel by kernel, and the time that the device took for each phase of it, in the order
    /// of [`Phase::ALL`]. Waits for the device.
    pub fn time_step(&mut self, images: &[u8], labels: &[u32]) -> Result<[Duration; Phase::ALL.len()]> {
        self.marks = Some(RefCell::default());
        let way = std::mem::replace(&mut self.way, Way::Launched);
        let done = self.update(images, labels, None).and_then(|()| self.device.event());
        self.way = way;
        let marks = self.marks.take().map(RefCell::into_inner).unwrap_or_default();
        let end = done?;
        let mut times = [Duration::ZERO; Phase::ALL.len()];
        for (i, (phase, start)) in marks.iter().enumerate() {
            let next = marks.get(i + 1).map_or(&end, |(_, event)| event);
            times[*phase as usize] += next.since(start)?;
        }
        Ok(times)
    }

    fn update(&mut self, images: &[u8], labels: &[u32], given: Option<(&[f32], &[u32])>) -> Result<()> {
        let slot = (self.step % self.workspace.inputs.len() as u64) as usize;
        let input = &self.workspace.inputs[slot];
        if images.len() != input.images.len() || labels.len() != input.labels.len() {
            return Err(Error::Shape(format!(
                "a step takes {} bytes and {} labels; it was given {} bytes and {} labels",
                input.images.len(),
                input.labels.len(),
                images.len(),
                labels.len()
            )));
        }
        self.feed.fill(slot, (&input.images, images), (&input.labels, labels))?;
        self.feed.begin(slot)?;
        match &self.way {
            Way::Captured(graphs) if given.is_none() => graphs[slot].launch()?,
            Way::ToCapture if given.is_none() => {
                self.launch(slot, None)?;
                let slots = 0..self.workspace.inputs.len();
                let graphs = slots.map(|slot| self.device.capture(|| self.launch(slot, None)));
                let graphs: Option<Vec<Graph>> = graphs.collect::<Result<_>>()?;
                self.way = graphs.map_or(Way::Launched, Way::Captured);
            }
            _ => self.launch(slot, given)?,
        }
        self.feed.end(slot)?;
        self.step += 1;
        Ok(())
    }

    /// Waits for the device. [`Error::NotFinite`] once a loss was not finite: from that step on nothing was updated.
    pub fn metrics(&self) -> Result<Metrics> {
        let state = self.state.read()?;
        if state.halted != 0 {
            let what = self.first_not_finite()?;
            return Err(Error::NotFinite { step: u64::from(state.step) + 1, what });
        }
        let w = &self.workspace;
        let of_d = w.of_d.statistics.read()?;
        let loss_g = match self.options.update {
            Update::Simultaneous => of_d[1],
            Update::Alternating => w.of_g.statistics.read()?[1],
        };
        let norms = w.norms.read()?;
        let floors = self.options.loss.floors(self.options.batch, self.options.batch_g);
        let (floor_d, floor_g) = floors.unwrap_or((f64::NAN, f64::NAN));
        let mut more = Vec::new();
        more.extend(w.classes.as_ref().map(ClassLoss::read).transpose()?.into_iter().flatten());
        more.extend(w.penalty.as_ref().map(GradientPenalty::read).transpose()?.into_iter().flatten());
        Ok(Metrics {
            step: self.step,
            loss_d: of_d[0],
            loss_g,
            kl_d: (f64::from(of_d[0]) - floor_d) as f32,
            kl_g: (f64::from(loss_g) - floor_g) as f32,
            real_logit: of_d[2],
            fake_logit: of_d[3],
            grad_norm_g: norms[0],
            grad_norm_d: norms[1],
            more: self.options.more_metrics().into_iter().zip(more).collect(),
        })
    }

    /// In the order in which a step computes them, the first tensor with a value that is not finite.
    fn first_not_finite(&self) -> Result<String> {
        let sides =
            [(&self.generator, &self.workspace.generator), (&self.discriminator, &self.workspace.discriminator)];
        for (player, network) in sides {
            if let Some(name) = first_not_finite(&player.layouts.parameters, &player.values)? {
                return Ok(format!("{}.{name} is not finite", player.name));
            }
            for layer in &network.layers {
                if layer.output().x.read()?.iter().any(|x| !x.is_finite()) {
                    return Ok(format!("the output of {}.{} is not finite", player.name, layer.name()));
                }
            }
        }
        if let Some(classes) = &self.workspace.classes
            && classes.logits.x.read()?.iter().any(|x| !x.is_finite())
        {
            return Ok("a class logit is not finite".into());
        }
        for (player, _) in sides {
            if let Some(name) = first_not_finite(&player.layouts.parameters, &player.gradients)? {
                return Ok(format!("the gradient of {}.{name} is not finite", player.name));
            }
        }
        Ok("the loss is not finite, though every logit is".into())
    }

    /// Everything that a checkpoint needs to go on from here.
    pub fn tensors(&self) -> Result<Vec<NamedTensor>> {
        let mut tensors = Vec::new();
        for player in [&self.generator, &self.discriminator] {
            for (prefix, layout, flat) in player.kept() {
                for (entry, values) in layout.read(flat)? {
                    let name = format!("{prefix}{}.{}", player.name, entry.name);
                    tensors.push(NamedTensor { name, shape: entry.shape.clone(), values });
                }
            }
        }
        Ok(tensors)
    }

    /// What a checkpoint needs besides, of a run whose losses are scaled.
    pub fn scaling(&self) -> Result<Option<Scaling>> {
        if !self.options.scales_losses() {
            return Ok(None);
        }
        let State { loss_scale, good_steps, updates, .. } = self.state.read()?;
        Ok(Some(Scaling { scale: loss_scale, good_steps, updates }))
    }

    /// Goes on from a checkpoint after `step` steps, of this or another precision: every tensor of [`Trainer::tensors`]
    /// must be there, and no other.
    pub fn restore(&mut self, step: u64, tensors: &[NamedTensor]) -> Result<()> {
        let by_name: HashMap<&str, &NamedTensor> = tensors.iter().map(|t| (t.name.as_str(), t)).collect();
        let wanted = self.generator.restore(&by_name)? + self.discriminator.restore(&by_name)?;
        if by_name.len() != wanted {
            return Err(Error::Shape(format!("{} tensors, expected {wanted}", by_name.len())));
        }
        match step.checked_sub(1) {
            None => self.state.write(&start(&self.options, 0))?,
            // The end of the step before sets the learning rates, as it did then.
            Some(before) => {
                let updates = start(&self.options, step).updates;
                self.state.write(&State { updates, ..start(&self.options, before) })?;
                state::advance(&self.state)?;
            }
        }
        self.step = step;
        Ok(())
    }

    /// After [`Trainer::restore`]: goes on with the loss scale of a checkpoint, where this run has one, and its updates.
    pub fn restore_scaling(&mut self, scaling: Scaling) -> Result<()> {
        let Scaling { scale, good_steps, updates } = scaling;
        let state = State { updates, ..self.state.read()? };
        self.state.write(&match self.options.scales_losses() {
            true => State { loss_scale: scale, good_steps, ..state },
            false => state,
        })
    }

    /// The fakes of the last step, (M, H, W, C).
    pub fn fakes(&self) -> Result<Vec<f32>> {
        let fakes = self.options.batch..self.options.batch + self.workspace.latent.z.n;
        self.workspace.batch.rows(&fakes).x.read()
    }

    /// The logits of the last step, the real ones first.
    pub fn logits(&self) -> Result<Vec<f32>> {
        self.workspace.logits.rows(&(0..self.options.samples())).x.read()
    }

    /// Draws images, (count, H, W, C) bytes.
    pub fn sample(&mut self, weights: Weights, latents: &Latents) -> Result<Vec<u8>> {
        sampler(&mut self.sampler, &self.device, &self.options)?.images(&self.generator, weights, latents)
    }

    /// Draws what the generator gives as it is, (count, H, W, C): the points of preset `ring`.
    pub fn points(&mut self, weights: Weights, latents: &Latents) -> Result<Vec<f32>> {
        sampler(&mut self.sampler, &self.device, &self.options)?.values(&self.generator, weights, latents)
    }

    pub fn generator(&self) -> &Player {
        &self.generator
    }

    pub fn discriminator(&self) -> &Player {
        &self.discriminator
    }
}

/// Made when something is drawn for the first time.
fn sampler<'a>(made: &'a mut Option<Sampler>, device: &Device, options: &TrainerOptions) -> Result<&'a Sampler> {
    let sampler = match made.take() {
        Some(sampler) => sampler,
        None => Sampler::new(device, options)?.0,
    };
    Ok(made.insert(sampler))
}

/// The state after `step` steps.
fn start(options: &TrainerOptions, step: u64) -> State {
    let (step, steps) = (step as u32, options.steps as u32);
    let decay = options.decay_from.map_or((0, 0), |from| (from as u32, steps));
    let mut state = State::new(options.seed, [options.lr_g, options.lr_d], decay.0, decay.1);
    state.step = step;
    state.updates = [step, step * options.n_dis as u32];
    if options.scales_losses() { state.scaled() } else { state }
}

/// Refuses settings that cannot work together.
fn check(options: &TrainerOptions) -> Result<()> {
    let refuse = |what: String| Err(Error::Config(what));
    if options.update == Update::Simultaneous && options.n_dis > 1 {
        return refuse(format!(
            "n-dis {} with update simultaneous: both networks move once a step; --update alternating takes more D steps",
            options.n_dis
        ));
    }
    if options.update == Update::Simultaneous && options.batch != options.batch_g {
        return refuse(format!(
            "batch-g {} with update simultaneous: one pass of D serves both, so it must be batch, {}",
            options.batch_g, options.batch
        ));
    }
    if options.draws_points() && options.shape != ring::SHAPE {
        return refuse(format!("preset ring learns points, not images of {}: --data ring", options.shape));
    }
    if matches!(options.preset, Preset::Ring | Preset::SoftmaxGan) && options.conditional() {
        return refuse(format!("preset {} has no networks that know labels: --conditioning none", options.preset));
    }
    let fusions = options.fusions();
    if !options.unfused.is_empty() && options.precision.bytes() < 4 {
        return refuse(format!("precision {} with unfused parts: separate kernels are f32's", options.precision));
    }
    if let Some(other) = options.unfused.iter().find(|fusion| !fusions.contains(fusion)) {
        let there = fusions.iter().map(|fusion| fusion.to_string()).collect::<Vec<_>>().join(", ");
        let there = if there.is_empty() { "nothing".to_string() } else { there };
        let preset = options.preset;
        return refuse(format!(
            "unfused {other}: a step of preset {preset} with this loss and conditioning has {there} to run apart"
        ));
    }
    if options.steps > u64::from(u32::MAX) / options.n_dis as u64 {
        return refuse(format!("steps {} with n-dis {}: more updates than {}", options.steps, options.n_dis, u32::MAX));
    }
    Ok(())
}

/// The layouts, and the bytes of an arena, found by building everything without memory. Block sizes, and with them
/// some workspaces, are the device's.
fn measure(device: &Device, options: &TrainerOptions) -> Result<(Players, usize)> {
    let mut players = Players::default();
    let mut arena = Arena::measuring(device);
    Workspace::build(options, device, &mut players, &mut arena)?;
    Ok((players, arena.used()))
}
