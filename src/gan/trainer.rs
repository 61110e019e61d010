//! The trainer: steps one after the other, from real images to metrics, pictures and checkpoints.
//!
//! Everything is placed when the trainer is made: the fakes are written straight into the discriminator's batch behind
//! the real images, and its gradient there is the generator's output gradient. A [`Step`] allocates nothing and does not
//! wait for the device; what changes from step to step (its number, learning rates, random numbers) lives there. So a
//! GPU can do it again and again as one captured graph; only the batches of real images are copied before it, to one of two
//! slots while the device still works on the other. Each slot has a graph of its own: nothing in it is changed afterwards.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::classes::ClassLoss;
use super::health;
use super::latents::Latents;
use super::penalty::Penalties;
use super::player::{Player, Players};
use super::sampler::{Sampler, is_statistic};
use super::setup::{Metrics, Plan, Setup, Weights};
use super::share::Share;
use super::step::{Phase, Step};
use super::workspace::Workspace;
use crate::checkpoint::{NamedTensor, Scaling};
use crate::data::mixture;
use crate::device::{Buffer, Counting, Device, Feed, Graph, Reduction, nvtx};
use crate::nn::parameters::first_not_finite;
use crate::nn::{Arena, Layout};
use crate::ops::state::{self, State, StateBuffer};
use crate::settings::{Architecture, Conditioning, Update, name_of};
use crate::sizes::product;
use crate::{Error, Result};

pub struct Trainer {
    /// It is dropped before the buffers that it fills, as it waits for copies that are under way.
    feed: Feed,
    step: Step,
    /// Steps that are done.
    done: u64,
    sampler: Option<Sampler>,
    way: Way,
    /// Of the whole batch.
    setup: Setup,
    /// The memory of the workspace.
    arena: Arena,
}

/// How a step is started.
enum Way {
    /// Launch by launch.
    Launched,
    /// The next step launch by launch, then captured: a driver may load code in a kernel's first launch, which it cannot do
    /// in a capture.
    ToCapture,
    /// For each slot a graph, and one without the gradient penalties where not every step has them.
    Captured(Vec<Vec<Graph>>),
}

impl Trainer {
    /// On a device of one of several ranks ([`Device::with_ranks`]) it takes this rank's share of each batch of the setup.
    /// All ranks then make a trainer of the same setup and do the same steps, which gives all the same weights.
    pub fn new(device: &Device, setup: &Setup) -> Result<Trainer> {
        check(setup)?;
        check_parts(setup, device.ranks().map_or(1, |ranks| ranks.ranks()))?;
        device.check_precision(setup.training.precision())?;
        let device = &device.with_convolution(setup.training.convolution);
        let (share, own) = Share::new(device, setup)?;
        if setup.training.local_norm && setup.training.micro_batch.is_none() && device.ranks().is_none() {
            return Err(Error::Config(
                "local-norm: without micro-batch there are no parts; add --micro-batch IMAGES".into(),
            ));
        }
        let (_, bytes) = measure(device, setup)?;
        let mut players = Players::default();
        let mut arena = Arena::new(device, bytes)?;
        let mut workspace = Workspace::build(&own, &share, device, &mut players, &mut arena)?;
        let d = &mut workspace.discriminator;
        let backward_seed = d.backward_seed()?;
        backward_seed.write(&vec![1.0; backward_seed.len()])?;
        // Where G moves first, the losses of the first step read logits of real images that nobody has judged yet.
        workspace.whole.all_logits().zero()?;
        d.penalties.as_ref().map_or(Ok(()), Penalties::forget)?;
        // At the points of a gradient penalty they stay zero: the penalty is on the logit alone.
        if let Some(classes) = &d.classes {
            classes.zero_seeds()?;
        }
        let [seed_g, seed_d] = seeds(setup);
        let lowest = lowest_that_learns(setup, &players.discriminator.parameters)?;
        if let Some((layer, _)) = &lowest {
            let network = &mut d.network;
            network.frozen = network.layers.iter().position(|other| other.name() == layer).unwrap_or(0);
        }
        let discriminator = Player::new(device, "discriminator", players.discriminator, setup, seed_d)?;
        Ok(Trainer {
            feed: device.feed(workspace.inputs[0].bytes())?,
            step: Step {
                setup: own,
                share,
                device: device.clone(),
                state: StateBuffer::new(device, &start(setup, 0))?,
                generator: Player::new(device, "generator", players.generator, setup, seed_g)?,
                frozen: lowest.map(|(_, offset)| discriminator.gradients.view(0..offset)),
                discriminator,
                workspace,
                marks: None,
                two_backwards: false,
            },
            done: 0,
            sampler: None,
            way: Way::ToCapture,
            setup: setup.clone(),
            arena,
        })
    }

    /// What a trainer of this setup would take; of several ranks that share the batch out, that of the first, which has most.
    pub fn plan(setup: &Setup, ranks: usize) -> Result<Plan> {
        check(setup)?;
        check_parts(setup, ranks)?;
        let device = Device::unbacked().with_convolution(setup.training.convolution);
        let (players, arena) = measure(&device.with_ranks(Arc::new(Counting::new(ranks))), setup)?;
        lowest_that_learns(setup, &players.discriminator.parameters)?;
        let (g, d) = (&players.generator, &players.discriminator);
        let (networks, training) = (&setup.networks, &setup.training);
        Ok(Plan {
            generator: g.table(),
            discriminator: d.table(),
            parameters_g: g.parameters.count(),
            parameters_d: d.parameters.count(),
            bytes: arena
                + Sampler::bytes(setup)?
                + g.bytes(training.average > 0.0, networks.spectral_norm_g, training.precision())
                + d.bytes(false, networks.spectral_norm, training.precision()),
        })
    }

    /// What parts of the batch would take instead: for each half of the one before, from half the batch down, `--micro-batch`
    /// and the bytes of device memory.
    pub fn plans_in_parts(setup: &Setup, ranks: usize) -> impl Iterator<Item = Result<(usize, usize)>> {
        let whole = setup.training.micro_batch.unwrap_or(usize::MAX).min(setup.training.batch.div_ceil(ranks));
        let halves = std::iter::successors(Some(whole / 2), |part| Some(part / 2)).take_while(|part| *part > 0);
        // With G in parts of one size, some sizes cannot be.
        let parts = halves.map(|part| (part, setup.with(|s| s.training.micro_batch = Some(part))));
        parts
            .filter(move |(_, setup)| check(setup).and(check_parts(setup, ranks)).is_ok())
            .map(move |(part, setup)| Ok((part, Trainer::plan(&setup, ranks)?.bytes)))
    }

    /// What each of so many ranks exchanges with the others in a step: the bytes of each collective, in their order. All of them
    /// are sums, but that with local norm the last is a broadcast. Nothing is computed or sent.
    pub fn exchanged(setup: &Setup, ranks: usize) -> Result<Vec<usize>> {
        let counting = Arc::new(Counting::new(ranks));
        let mut trainer = Trainer::new(&Device::unbacked().with_ranks(counting.clone()), setup)?;
        let images = if setup.draws_points() { 0 } else { trainer.images_per_step() };
        trainer.step(&vec![0; product([images, setup.shape.len()])], &vec![0; images])?;
        Ok(counting.bytes())
    }

    /// An error unless these tensors of a checkpoint are those of networks of this setup. It asks for no memory, so that a
    /// file which speaks of networks that no machine has room for is refused at once.
    pub fn check_tensors(setup: &Setup, tensors: &[NamedTensor]) -> Result<()> {
        check(setup)?;
        let by_name: HashMap<&str, &NamedTensor> = tensors.iter().map(|t| (t.name.as_str(), t)).collect();
        let (players, _) = measure(&Device::unbacked(), setup)?;
        players.generator.check("generator", &by_name)?;
        players.discriminator.check("discriminator", &by_name)
    }

    /// That of the whole batch, of all ranks.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Which images of each of the `n_dis` batches of a step this rank takes: all, where it is the only one.
    pub fn share(&self) -> Range<usize> {
        self.step.share.of_d.own.clone()
    }

    /// Steps done.
    pub fn step_number(&self) -> u64 {
        self.done
    }

    /// Images that a step takes: [`Trainer::share`] of `n_dis` batches.
    pub fn images_per_step(&self) -> usize {
        self.share().len() * self.setup().training.n_dis
    }

    /// One training step on `n_dis` batches of images (N, H, W, C), one after the other, and their labels; preset `ring`
    /// takes none. Of several ranks, each is given its [`Trainer::share`] of each batch.
    pub fn step(&mut self, images: &[u8], labels: &[u32]) -> Result<()> {
        self.update(images, labels, None)
    }

    /// One training step with given latents (M, latent) and labels (M) of the fakes instead of drawn ones, to compare
    /// with another program. They are those of all ranks.
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
        self.step.two_backwards = two;
        if !matches!(self.way, Way::Launched) {
            self.way = Way::ToCapture;
        }
    }

    /// One training step, launched kernel by kernel, whatever way the others are done.
    pub fn step_launched(&mut self, images: &[u8], labels: &[u32]) -> Result<()> {
        let way = std::mem::replace(&mut self.way, Way::Launched);
        let done = self.update(images, labels, None);
        self.way = way;
        done
    }

    /// One training step, launched kernel by kernel, and the time that the device took for each phase of it, in the order
    /// of [`Phase::ALL`]. Waits for the device.
    pub fn time_step(&mut self, images: &[u8], labels: &[u32]) -> Result<[Duration; Phase::ALL.len()]> {
        self.step.marks = Some(RefCell::default());
        let done = self.step_launched(images, labels).and_then(|()| self.step.device.event());
        let marks = self.step.marks.take().map(RefCell::into_inner).unwrap_or_default();
        let end = done?;
        let mut times = [Duration::ZERO; Phase::ALL.len()];
        for (i, (phase, start)) in marks.iter().enumerate() {
            let next = marks.get(i + 1).map_or(&end, |(_, event)| event);
            times[*phase as usize] += next.since(start)?;
        }
        Ok(times)
    }

    fn update(&mut self, images: &[u8], labels: &[u32], given: Option<(&[f32], &[u32])>) -> Result<()> {
        let inputs = &self.step.workspace.inputs;
        let slot = (self.done % inputs.len() as u64) as usize;
        let input = &inputs[slot];
        if images.len() != input.images.len() || labels.len() != input.labels.len() {
            return Err(Error::Shape(format!(
                "a step takes {} bytes and {} labels; it was given {} bytes and {} labels",
                input.images.len(),
                input.labels.len(),
                images.len(),
                labels.len()
            )));
        }
        let _range = nvtx::range(|| format!("step {}", self.done + 1));
        self.feed.fill(slot, (&input.images, images), (&input.labels, labels))?;
        self.feed.begin(slot)?;
        let penalties = self.step.workspace.discriminator.penalties.as_ref();
        let penalised = penalties.is_none_or(|penalties| penalties.due(self.done));
        match &self.way {
            Way::Captured(graphs) if given.is_none() => graphs[slot][usize::from(!penalised)].launch()?,
            // A step without its penalties would not have loaded their kernels.
            Way::ToCapture if given.is_none() && penalised => {
                self.step.launch(slot, None, true)?;
                let kinds: &[bool] = if penalties.is_some_and(Penalties::are_lazy) { &[true, false] } else { &[true] };
                let capture = |slot, kind| self.step.device.capture(|| self.step.launch(slot, None, kind));
                let of_slot =
                    |slot| kinds.iter().map(|kind| capture(slot, *kind)).collect::<Result<Option<Vec<Graph>>>>();
                let graphs = (0..inputs.len()).map(of_slot).collect::<Result<Option<Vec<Vec<Graph>>>>>()?;
                self.way = graphs.map_or(Way::Launched, Way::Captured);
            }
            _ => self.step.launch(slot, given, penalised)?,
        }
        self.feed.end(slot)?;
        self.done += 1;
        self.sampler.iter().for_each(Sampler::forget);
        self.arena.check()
    }

    /// Waits for the device. [`Error::NotFinite`] once a loss, the norm of a gradient or a weight was not finite: after that
    /// nothing was updated. Of several ranks, all have to ask for them after the same step, and all get the same.
    pub fn metrics(&self) -> Result<Metrics> {
        let state = self.step.state.read()?;
        let (w, d) = (&self.step.workspace, &self.step.workspace.discriminator);
        let [[a, b], [c, e]] = health::parts_of_logits(&self.step)?;
        let mut sums = vec![if state.halted == 0 { 0.0 } else { 1.0 }, a, b, c, e];
        sums.extend(d.classes.as_ref().map(ClassLoss::read).transpose()?.into_iter().flatten());
        sums.extend(d.penalties.as_ref().map(Penalties::read).transpose()?.into_iter().flatten());
        let sums = self.sum_over_ranks(sums)?;
        let (parts, more) = ([[sums[1], sums[2]], [sums[3], sums[4]]], sums[5..].iter().copied());
        if state.halted != 0 {
            let what = match state.halted_by() {
                None => self.first_not_finite()?,
                Some(network) => {
                    let name = [self.step.generator.name, self.step.discriminator.name][network as usize];
                    format!("the norm of the {name}'s gradient, or a weight after its update, is not finite")
                }
            };
            return Err(Error::NotFinite { step: u64::from(state.step) + 1, what });
        }
        if sums[0] > 0.0 {
            return Err(Error::NotFinite { step: self.done, what: "something of another rank is not finite".into() });
        }
        let setup = &self.setup;
        let of_d = w.of_d.of_all().statistics.read()?;
        let loss_g = match setup.training.update {
            Update::Simultaneous => of_d[1],
            Update::Alternating => w.of_g.of_all().statistics.read()?[1],
        };
        let norms = w.norms.read()?;
        let floors = setup.training.loss.floors(setup.game(), setup.training.batch, setup.training.batch_of_g());
        let (floor_d, floor_g) = floors.unwrap_or((f64::NAN, f64::NAN));
        Ok(Metrics {
            step: self.done,
            loss_d: of_d[0],
            loss_g,
            kl_d: (f64::from(of_d[0]) - floor_d) as f32,
            kl_g: (f64::from(loss_g) - floor_g) as f32,
            real_logit: of_d[2],
            fake_logit: of_d[3],
            grad_norm_g: norms[0],
            grad_norm_d: norms[1],
            logit_spread: self.logit_spread()?,
            more: setup.more_metrics().into_iter().zip(more).collect(),
            health: health::read(&self.step, &state, parts)?,
        })
    }

    /// Numbers that each rank has of its own samples, summed.
    fn sum_over_ranks(&self, own: Vec<f32>) -> Result<Vec<f32>> {
        let Some(ranks) = self.step.device.ranks() else { return Ok(own) };
        let sums = self.step.device.upload(&own)?;
        ranks.all_reduce(&sums, Reduction::Sum)?;
        sums.read()
    }

    /// See [`Metrics::logit_spread`]. Reals and fakes apart, as a G step judges its fakes by another D than the reals.
    fn logit_spread(&self) -> Result<f32> {
        let n = self.setup.training.batch;
        let logits = self.step.workspace.whole.all_logits().view(0..2 * n).read()?;
        let spread = |logits: &[f32]| {
            let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            most - logits.iter().copied().fold(f32::INFINITY, f32::min)
        };
        Ok(if n > 1 { spread(&logits[..n]).max(spread(&logits[n..])) } else { f32::NAN })
    }

    /// In the order in which a step computes them, the first tensor with a value that is not finite.
    fn first_not_finite(&self) -> Result<String> {
        let sides = [
            (&self.step.generator, &self.step.workspace.generator.network),
            (&self.step.discriminator, &self.step.workspace.discriminator.network),
        ];
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
        if let Some(classes) = &self.step.workspace.discriminator.classes
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

    /// The batch statistics that belong to G's average, as drawing gathers them: for a checkpoint, so that others draw with
    /// the same. None without an average or without batch norm.
    pub fn average_statistics(&mut self) -> Result<Vec<NamedTensor>> {
        if self.step.generator.average.is_none() || self.step.generator.running.is_empty() {
            return Ok(Vec::new());
        }
        sampler(&mut self.sampler, &self.step)?.statistics(&self.step.generator)
    }

    /// Everything that a checkpoint needs to go on from here.
    pub fn tensors(&self) -> Result<Vec<NamedTensor>> {
        let mut tensors = Vec::new();
        for player in [&self.step.generator, &self.step.discriminator] {
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
        if !self.step.setup.scales_losses() {
            return Ok(None);
        }
        let State { loss_scale, good_steps, updates, .. } = self.step.state.read()?;
        Ok(Some(Scaling { scale: loss_scale, good_steps, updates }))
    }

    /// Goes on from a checkpoint after `step` steps, of this or another precision: every tensor of [`Trainer::tensors`]
    /// must be there, and no other but those of [`Trainer::average_statistics`], which follow from them. In checkpoints of
    /// format 1 the vectors of the spectral norm are one tensor for each network.
    pub fn restore(&mut self, step: u64, tensors: &[NamedTensor]) -> Result<()> {
        let by_name: HashMap<&str, &NamedTensor> = tensors.iter().map(|t| (t.name.as_str(), t)).collect();
        let wanted = self.step.generator.restore(&by_name)? + self.step.discriminator.restore(&by_name)?;
        let found = by_name.keys().filter(|name| !is_statistic(name)).count();
        if found != wanted {
            return Err(Error::Shape(format!("{found} tensors, expected {wanted}")));
        }
        self.sampler.iter().for_each(Sampler::forget);
        match step.checked_sub(1) {
            None => self.step.state.write(&start(&self.step.setup, 0))?,
            // The end of the step before sets the learning rates, as it did then.
            Some(before) => {
                let updates = start(&self.step.setup, step).updates;
                self.step.state.write(&State { updates, ..start(&self.step.setup, before) })?;
                state::advance(&self.step.state)?;
            }
        }
        self.done = step;
        Ok(())
    }

    /// After [`Trainer::restore`]: goes on with the loss scale of a checkpoint, where this run has one, and its updates.
    pub fn restore_scaling(&mut self, scaling: Scaling) -> Result<()> {
        let Scaling { scale, good_steps, updates } = scaling;
        let state = State { updates, ..self.step.state.read()? };
        self.step.state.write(&match self.step.setup.scales_losses() {
            true => State { loss_scale: scale, good_steps, ..state },
            false => state,
        })
    }

    /// The fakes of the last step, (M, H, W, C), of this rank.
    pub fn fakes(&self) -> Result<Vec<f32>> {
        let (w, real) = (&self.step.workspace, self.step.setup.training.batch);
        let fakes = real..real + w.generator.latent.z.n;
        w.whole.images.rows(&fakes).x.read()
    }

    /// The logits of the last step, the real ones first, of all ranks.
    pub fn logits(&self) -> Result<Vec<f32>> {
        self.step.workspace.whole.all_logits().view(0..self.setup.samples()).read()
    }

    /// Draws images, (count, H, W, C) bytes.
    pub fn sample(&mut self, weights: Weights, latents: &Latents) -> Result<Vec<u8>> {
        sampler(&mut self.sampler, &self.step)?.images(&self.step.generator, weights, latents)
    }

    /// Draws images a few at a time: `take` gets those of each batch, (batch, H, W, C) bytes on the device.
    pub fn sample_each(
        &mut self,
        weights: Weights,
        latents: &Latents,
        take: &mut dyn FnMut(&Buffer<u8>) -> Result<()>,
    ) -> Result<()> {
        sampler(&mut self.sampler, &self.step)?.each(&self.step.generator, weights, latents, take)
    }

    /// Draws what the generator gives as it is, (count, H, W, C): the points of preset `ring`.
    pub fn points(&mut self, weights: Weights, latents: &Latents) -> Result<Vec<f32>> {
        sampler(&mut self.sampler, &self.step)?.values(&self.step.generator, weights, latents)
    }

    pub fn generator(&self) -> &Player {
        &self.step.generator
    }

    pub fn discriminator(&self) -> &Player {
        &self.step.discriminator
    }
}

/// Made when something is drawn for the first time.
fn sampler<'a>(made: &'a mut Option<Sampler>, step: &Step) -> Result<&'a Sampler> {
    let sampler = match made.take() {
        Some(sampler) => sampler,
        None => Sampler::new(&step.device, &step.setup)?.0,
    };
    Ok(made.insert(sampler))
}

/// The state after `step` steps.
fn start(setup: &Setup, step: u64) -> State {
    let training = &setup.training;
    let (step, steps) = (step as u32, training.steps as u32);
    let decay = training.decay_from.map_or((0, 0), |from| (from as u32, steps));
    let mut state = State::new(training.seed, [training.lr_g as f32, training.lr_d as f32], decay.0, decay.1);
    state.step = step;
    state.updates = [step, step * training.n_dis as u32];
    if setup.scales_losses() { state.scaled() } else { state }
}

/// Refuses settings that cannot work together.
fn check(setup: &Setup) -> Result<()> {
    let Setup { preset, training, .. } = setup;
    let (batch, batch_g) = (training.batch, training.batch_of_g());
    let refuse = |what: String| Err(Error::Config(what));
    if training.update == Update::Simultaneous && training.n_dis > 1 {
        return refuse(format!(
            "n-dis {} with update simultaneous: both networks move once a step; --update alternating takes more D steps",
            training.n_dis
        ));
    }
    if training.update == Update::Simultaneous && batch != batch_g {
        return refuse(format!(
            "batch-g {batch_g} with update simultaneous: one pass of D serves both, so it must be batch, {batch}"
        ));
    }
    if setup.draws_points() && setup.shape != mixture::SHAPE {
        return refuse(format!("preset {preset} learns points, not images of {}: --data ring or grid", setup.shape));
    }
    if !setup.architecture().is_convolutional() && setup.conditional() {
        return refuse(format!("preset {preset} has no networks that know labels: --conditioning none"));
    }
    let conditioning = setup.networks.conditioning;
    if setup.vectors.is_some() && conditioning != Conditioning::Projection {
        let conditioning = name_of(&conditioning);
        return refuse(format!(
            "conditioning {conditioning}: the labels are vectors, which --conditioning projection takes and none leaves out"
        ));
    }
    if let Architecture::Residual(networks) = setup.architecture() {
        setup.blocks(networks)?;
    }
    if setup.draws_points() && setup.diffaug().is_some() {
        return refuse(format!("diffaug with preset {preset}: it changes images, and these are points"));
    }
    let fusions = setup.fusions();
    if !training.unfused.is_empty() && training.precision().bytes() < 4 {
        return refuse(format!("precision {} with unfused parts: separate kernels are f32's", training.precision()));
    }
    if let Some(other) = training.unfused.iter().find(|fusion| !fusions.contains(fusion)) {
        let there = fusions.iter().map(|fusion| fusion.to_string()).collect::<Vec<_>>().join(", ");
        let there = if there.is_empty() { "nothing".to_string() } else { there };
        return refuse(format!(
            "unfused {other}: a step of preset {preset} with this loss and conditioning has {there} to run apart"
        ));
    }
    if training.steps > u64::from(u32::MAX) / training.n_dis as u64 {
        return refuse(format!(
            "steps {} with n-dis {}: more updates than {}",
            training.steps,
            training.n_dis,
            u32::MAX
        ));
    }
    Ok(())
}

/// Refuses parts of G's fakes that are not of one size, with any of the shares of so many ranks.
fn check_parts(setup: &Setup, ranks: usize) -> Result<()> {
    let Some(part) = setup.part_of_g().filter(|_| setup.training.local_norm) else { return Ok(()) };
    let all = [("batch", setup.training.batch), ("batch-g", setup.training.batch_of_g())];
    let shares = all.map(|(name, all)| [(name, all / ranks), (name, all.div_ceil(ranks))]).concat();
    let uneven = shares.iter().find(|(_, fakes)| *fakes > part && !fakes.is_multiple_of(part));
    uneven.map_or(Ok(()), |(name, fakes)| {
        let whose = if ranks > 1 { " of a rank" } else { "" };
        let divides = |part: &usize| shares.iter().all(|(_, fakes)| fakes.is_multiple_of(*part));
        Err(Error::Config(format!(
            "{name} {fakes}{whose} with local-norm and micro-batch {part}: G takes parts of one size; {} would do",
            (1..=part).rev().find(divides).unwrap_or(1)
        )))
    })
}

/// Where lower blocks of D stay as they begin: the name of the first layer that learns, a block or the head, and how many
/// numbers of D's parameters lie before its own.
fn lowest_that_learns(setup: &Setup, layout: &Layout) -> Result<Option<(String, usize)>> {
    let blocks = setup.training.freeze_d;
    if blocks == 0 {
        return Ok(None);
    }
    let is = |name: &str, i: usize| ["block", "linear"].iter().any(|kind| name.starts_with(&format!("{kind}{i}.")));
    let all = (1..).take_while(|i| layout.entries().iter().any(|e| is(&e.name, *i))).count();
    // The last layer of a perceptron is its head.
    let all = if setup.architecture().is_convolutional() { all } else { all.saturating_sub(1) };
    let first = layout.entries().iter().find(|e| is(&e.name, blocks + 1) || e.name.starts_with("head."));
    match first.filter(|_| blocks <= all) {
        Some(entry) => {
            let layer = entry.name.split('.').next().unwrap_or_default();
            Ok(Some((layer.to_string(), entry.at.offset())))
        }
        None => Err(Error::Config(format!("freeze-d: {blocks}, D of preset {} has {all} blocks", setup.preset))),
    }
}

/// The seeds of G's and of D's first weights: two, so that the weights are independent.
pub(crate) fn seeds(setup: &Setup) -> [u64; 2] {
    [setup.training.seed, setup.training.seed ^ 0x9e37_79b9_7f4a_7c15]
}

/// The layouts of both networks of a setup. It asks for no memory.
pub(crate) fn layouts(setup: &Setup) -> Result<Players> {
    check(setup)?;
    Ok(measure(&Device::unbacked(), setup)?.0)
}

/// The layouts, and the bytes of an arena, found by building everything without memory. Block sizes, and with them
/// some workspaces, are the device's.
fn measure(device: &Device, setup: &Setup) -> Result<(Players, usize)> {
    let mut players = Players::default();
    let mut arena = Arena::measuring(device);
    let (share, own) = Share::new(device, setup)?;
    Workspace::build(&own, &share, device, &mut players, &mut arena)?;
    Ok((players, arena.used()))
}
