//! The training step.
//!
//! Everything is placed when the trainer is made: the fakes are written straight into the discriminator's batch behind
//! the real images, and its gradient there is the generator's output gradient. A step allocates nothing and does not
//! wait for the device; what changes from step to step (its number, learning rates, random numbers) lives there. So a
//! GPU can do it again and again as one captured graph; only the batches of real images are copied before it.

use std::collections::HashMap;
use std::ops::Range;

use super::classes::ClassLoss;
use super::latents::Latents;
use super::networks::{self, Discriminator, Latent};
use super::options::{Metrics, Plan, PowerIterations, Preset, TrainerOptions, Update, Weights};
use super::penalty::GradientPenalty;
use super::player::{Player, Players};
use super::ring;
use super::sampler::Sampler;
use crate::checkpoint::NamedTensor;
use crate::data::ImageShape;
use crate::device::{Buffer, Device, Graph};
use crate::nn::parameters::first_not_finite;
use crate::nn::{Arena, Backward, Builder, Forward, Mode, Network, Value};
use crate::ops::adam;
use crate::ops::log_partition::Evaluation;
use crate::ops::pixels::{self, Augment};
use crate::ops::random;
use crate::ops::state::{self, State, StateBuffer};
use crate::{Error, Result};

/// Each use of random numbers in a step has its own stream; the draws of a step are this many streams apart.
pub(super) const LATENTS: u32 = 0;
pub(super) const LABELS: u32 = 1;
const PIXELS: u32 = 2;
const SHARES: u32 = 3;
const STREAMS: u32 = 8;

/// The running statistics' momentum while training, PyTorch's default.
const MOMENTUM: f32 = 0.1;

/// All that a step reads and writes, but for the parameters.
struct Workspace {
    /// M of the G step; it has gradients.
    generator: Network,
    latent: Latent,
    /// M of a D step, where that is another.
    drawing: Option<(Network, Latent)>,
    discriminator: Network,
    /// (n_dis, N, H, W, C) and (n_dis, N) as the loader gives them; none where points are drawn here.
    images: Buffer<u8>,
    image_labels: Buffer<u32>,
    /// (N + M, H, W, C): real ones, then fakes; then the rows of a gradient penalty.
    batch: Value,
    labels: Buffer<u32>,
    /// Its gradient is 1 everywhere, the seed of the one backward pass; with a class loss, that of either player at the
    /// real images and the fakes.
    logits: Value,
    classes: Option<ClassLoss>,
    penalty: Option<GradientPenalty>,
    /// Of the last D step and the last G step.
    of_d: Evaluation,
    of_g: Evaluation,
    loss_workspace: Buffer<f32>,
    /// (2): the gradients' norms of G and D.
    norms: Buffer<f32>,
    adam_workspace: Buffer<f32>,
}

impl Workspace {
    fn build(options: &TrainerOptions, device: &Device, players: &mut Players, arena: &mut Arena) -> Result<Workspace> {
        let ImageShape { height: h, width: w, channels: c } = options.shape;
        let (n, m_d, m_g) = (options.batch, options.batch, options.batch_g);
        let most = options.samples();
        let rows = most + GradientPenalty::rows(options);
        let mut build = Builder {
            parameters: &mut players.discriminator.parameters,
            running: &mut players.discriminator.running,
            arena,
            gradients: true,
        };
        let batch = build.value(rows, h, w, c)?;
        let labels = build.arena.take(rows)?;
        let Discriminator { network: discriminator, logits, classes } =
            networks::discriminator(options, &mut build, &batch, &labels)?;
        let classes = classes.map(|logits| ClassLoss::new(options, arena, logits, &labels)).transpose()?;
        let penalty = GradientPenalty::new(options, arena, &discriminator, most)?;
        let mut generator = |fakes: usize, gradients| -> Result<(Network, Latent)> {
            let mut build = Builder {
                parameters: &mut players.generator.parameters,
                running: &mut players.generator.running,
                arena,
                gradients,
            };
            let z = Value { dx: None, ..build.value(fakes, 1, 1, options.latent)? };
            let latent = Latent { z, labels: labels.view(n..n + fakes) };
            let network = networks::generator(options, &mut build, &latent, &batch.rows(&(n..n + fakes)))?;
            Ok((network, latent))
        };
        let (of_step, latent) = generator(m_g, true)?;
        let drawing = if m_d == m_g { None } else { Some(generator(m_d, false)?) };
        let mut evaluation = |fakes: usize| -> Result<Evaluation> {
            let (statistics, seed_d, seed_g) = (arena.take(4)?, arena.take(n + fakes)?, arena.take(fakes)?);
            Ok(Evaluation { statistics, seed_d, seed_g })
        };
        let (of_d, of_g) = (evaluation(m_d)?, evaluation(m_g)?);
        let loaded = if options.draws_points() { 0 } else { options.n_dis * n };
        let updated = [&players.generator, &players.discriminator];
        let adam_len = updated.map(|p| adam::workspace_len(device, p.parameters.len()));
        Ok(Workspace {
            generator: of_step,
            latent,
            drawing,
            discriminator,
            images: arena.take(loaded * h * w * c)?,
            image_labels: arena.take(loaded)?,
            batch,
            labels,
            logits,
            classes,
            penalty,
            of_d,
            of_g,
            loss_workspace: arena.take(options.loss.workspace_len(device, most))?,
            norms: arena.take(2)?,
            adam_workspace: arena.take(adam_len[0].max(adam_len[1]))?,
        })
    }
}

pub struct Trainer {
    options: TrainerOptions,
    device: Device,
    state: StateBuffer,
    step: u64,
    generator: Player,
    discriminator: Player,
    workspace: Workspace,
    sampler: Option<Sampler>,
    way: Way,
}

/// How a step is started.
enum Way {
    /// Launch by launch.
    Launched,
    /// So for the first time, for a driver may load code then, which it cannot do in a capture; then captured.
    ToCapture,
    Captured(Graph),
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
            workspace,
            sampler: None,
            way: Way::ToCapture,
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
                + g.bytes(options.average > 0.0, options.spectral_norm_g)
                + d.bytes(false, options.spectral_norm),
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

    fn update(&mut self, images: &[u8], labels: &[u32], given: Option<(&[f32], &[u32])>) -> Result<()> {
        let w = &self.workspace;
        if images.len() != w.images.len() || labels.len() != w.image_labels.len() {
            return Err(Error::Shape(format!(
                "a step takes {} bytes and {} labels; it was given {} bytes and {} labels",
                w.images.len(),
                w.image_labels.len(),
                images.len(),
                labels.len()
            )));
        }
        w.images.write(images)?;
        w.image_labels.write(labels)?;
        match &self.way {
            Way::Captured(graph) if given.is_none() => graph.launch()?,
            Way::ToCapture if given.is_none() => {
                self.launch(None)?;
                let graph = self.device.capture(|| self.launch(None))?;
                self.way = graph.map_or(Way::Launched, Way::Captured);
            }
            _ => self.launch(given)?,
        }
        self.step += 1;
        Ok(())
    }

    /// What a step does on the device, but for the copies of images.
    fn launch(&self, given: Option<(&[f32], &[u32])>) -> Result<()> {
        let (n, m_d, m_g) = (self.options.batch, self.options.batch, self.options.batch_g);
        let n_dis = self.options.n_dis;
        let (all_d, fakes_g) = (0..n + m_d, n..n + m_g);
        match self.options.update {
            Update::Simultaneous => {
                self.load(0)?;
                self.draw_for_g(given)?;
                self.normalise_for_d()?;
                self.judge(0..n + m_g, &self.workspace.of_d)?;
                self.learn_d(all_d, 0)?;
                // Without a class loss the one backward pass has left the signal at the fakes.
                if self.workspace.classes.is_some() {
                    self.take_signal(fakes_g, &self.workspace.of_d)?;
                }
                self.learn_g(&self.workspace.of_d)?;
                self.discriminator.update(&self.state, &self.workspace.norms, &self.workspace.adam_workspace)?;
                self.generator.update(&self.state, &self.workspace.norms, &self.workspace.adam_workspace)?;
            }
            Update::Alternating if self.options.n_dis == 1 && m_d == m_g => {
                self.load(0)?;
                self.draw_for_g(given)?;
                self.normalise_for_d()?;
                self.judge(all_d.clone(), &self.workspace.of_d)?;
                self.learn_d(all_d, 0)?;
                self.discriminator.update(&self.state, &self.workspace.norms, &self.workspace.adam_workspace)?;
                self.move_g(fakes_g)?;
            }
            Update::Alternating => {
                // As the projection discriminator's authors do: G first, then every D step with fakes of its own.
                for i in 0..n_dis {
                    self.load(i)?;
                    if i == 0 {
                        self.draw_for_g(given)?;
                        self.move_g(fakes_g.clone())?;
                    }
                    self.draw_for_d((i as u32 + 1) * STREAMS)?;
                    self.normalise_for_d()?;
                    self.judge(all_d.clone(), &self.workspace.of_d)?;
                    self.learn_d(all_d.clone(), i as u32 * STREAMS)?;
                    self.discriminator.update(&self.state, &self.workspace.norms, &self.workspace.adam_workspace)?;
                }
            }
        }
        state::advance(&self.state)
    }

    /// The real images (or points) and labels of D's step `i` into the first part of the batch.
    fn load(&self, i: usize) -> Result<()> {
        let (w, n) = (&self.workspace, self.options.batch);
        let (real, stream) = (w.batch.rows(&(0..n)), i as u32 * STREAMS);
        if self.options.draws_points() {
            return random::ring(&real.x, &self.state, PIXELS + stream);
        }
        w.labels.view(0..n).copy_from(&w.image_labels.view(i * n..(i + 1) * n))?;
        let images = w.images.view(i * real.x.len()..(i + 1) * real.x.len());
        let augment = Augment { noise: self.options.noise, flip: self.options.flips };
        let shape = [n, real.h, real.w, real.c];
        pixels::load(&real.x, &images, &self.state, PIXELS + stream, augment, shape)
    }

    fn draw_for_g(&self, given: Option<(&[f32], &[u32])>) -> Result<()> {
        let Latent { z, labels } = &self.workspace.latent;
        match given {
            Some((latents, wanted)) => {
                z.x.write(latents)?;
                labels.write(wanted)?;
            }
            None => {
                let for_d = self.workspace.drawing.is_none() && self.options.n_dis == 1;
                self.draw_latent(&self.workspace.latent, 0, for_d)?;
            }
        }
        self.generator.normalise(true)?;
        self.generate(&self.workspace.generator, z.n)
    }

    fn draw_for_d(&self, stream: u32) -> Result<()> {
        let w = &self.workspace;
        let (network, latent) =
            w.drawing.as_ref().map_or((&w.generator, &w.latent), |(network, latent)| (network, latent));
        self.draw_latent(latent, stream, true)?;
        self.generator.normalise(self.options.sn_policy == PowerIterations::PerForward)?;
        self.generate(network, latent.z.n)
    }

    /// Whether D will judge these fakes to learn from them. With a gradient penalty they then have the labels of the
    /// real images: its points lie between a real image and a fake of one class.
    fn draw_latent(&self, latent: &Latent, stream: u32, for_d: bool) -> Result<()> {
        random::normal(&latent.z.x, &self.state, LATENTS + stream)?;
        if for_d && self.workspace.penalty.is_some() {
            return latent.labels.copy_from(&self.workspace.labels.view(0..latent.z.n));
        }
        random::labels(&latent.labels, &self.state, LABELS + stream, self.options.classes as u32)
    }

    fn generate(&self, network: &Network, fakes: usize) -> Result<()> {
        network.forward(&Forward {
            weights: self.generator.weights(),
            running: &self.generator.running,
            mode: Mode::Train { momentum: MOMENTUM },
            rows: 0..fakes,
        })
    }

    /// Spectral normalisation of D's weights as they are now, after a power iteration. Per forward it is one for the
    /// real images, the fakes and a penalty's points each, before the pass that they share here.
    fn normalise_for_d(&self) -> Result<()> {
        let iterations = match self.options.sn_policy {
            PowerIterations::PerStep => 1,
            PowerIterations::PerForward => 2 + usize::from(self.workspace.penalty.is_some()),
        };
        (0..iterations).try_for_each(|_| self.discriminator.normalise(true))
    }

    /// The logits of these samples, and, where real ones are among them, the losses and their seeds.
    fn judge(&self, rows: Range<usize>, evaluation: &Evaluation) -> Result<()> {
        let (w, n) = (&self.workspace, self.options.batch);
        w.discriminator.forward(&Forward {
            weights: self.discriminator.weights(),
            running: &self.discriminator.running,
            mode: Mode::Train { momentum: MOMENTUM },
            rows: rows.clone(),
        })?;
        let (real, fake) = (w.logits.x.view(0..n), w.logits.x.view(n..rows.end));
        let real_is_low = networks::real_is_low(&self.options);
        self.options.loss.evaluate(evaluation, &real, &fake, real_is_low, &w.loss_workspace)?;
        state::check(&self.state, &evaluation.statistics)
    }

    /// The backward pass of D, all contributions to its gradients.
    ///
    /// With seed 1 per sample; each sample's part in the parameters' gradients is scaled by its seed in L_D. In a
    /// simultaneous update that leaves the signal at the fakes. With a class loss the seeds of the two heads are no
    /// multiples of those of G, so they go in from the start, and the signal takes a pass of its own.
    fn learn_d(&self, rows: Range<usize>, stream: u32) -> Result<()> {
        let (w, player, real) = (&self.workspace, &self.discriminator, 0..self.options.batch);
        player.gradients.zero()?;
        let fakes = real.end..rows.end;
        if let Some(classes) = &w.classes {
            self.seed_logits(rows.clone(), &w.of_d.seed_d)?;
            classes.seed_d(real, fakes.clone(), &self.state)?;
        }
        let one_pass = w.classes.is_none();
        let leaves_signal = one_pass && self.options.update == Update::Simultaneous;
        w.discriminator.backward(&Backward {
            weights: player.weights(),
            gradients: Some(&player.gradients),
            parameter_scale: one_pass.then_some(&w.of_d.seed_d),
            signal_scale: None,
            input_rows: if leaves_signal { fakes } else { 0..0 },
            rows,
        })?;
        if let Some(penalty) = &w.penalty {
            penalty.add(&w.discriminator, player, &w.batch, &w.labels, &self.state, SHARES + stream)?;
        }
        player.finish_gradient()
    }

    fn seed_logits(&self, rows: Range<usize>, seeds: &Buffer<f32>) -> Result<()> {
        self.workspace.logits.rows(&rows).dx.map_or(Ok(()), |to| to.copy_from(seeds))
    }

    /// The signal at the fakes, through D without its parameters: with seed 1, or, with a class loss, G's seeds.
    fn take_signal(&self, fakes: Range<usize>, evaluation: &Evaluation) -> Result<()> {
        if let Some(classes) = &self.workspace.classes {
            self.seed_logits(fakes.clone(), &evaluation.seed_g)?;
            classes.seed_g(fakes.clone(), &self.state)?;
        }
        self.workspace.discriminator.backward(&Backward {
            weights: self.discriminator.weights(),
            gradients: None,
            parameter_scale: None,
            signal_scale: None,
            rows: fakes.clone(),
            input_rows: fakes,
        })
    }

    /// A G step of its own, which judges the fakes anew.
    fn move_g(&self, fakes: Range<usize>) -> Result<()> {
        self.discriminator.normalise(self.options.sn_policy == PowerIterations::PerForward)?;
        // The real logits are those of the last pass where the loss does not look at them.
        let rows = if self.options.loss.couples_the_batch() { 0..fakes.end } else { fakes.clone() };
        self.judge(rows, &self.workspace.of_g)?;
        self.take_signal(fakes, &self.workspace.of_g)?;
        self.learn_g(&self.workspace.of_g)?;
        self.generator.update(&self.state, &self.workspace.norms, &self.workspace.adam_workspace)
    }

    /// From the signal at the fakes, each scaled by its seed in L_G where that is not in it yet, to the generator's
    /// gradients.
    fn learn_g(&self, evaluation: &Evaluation) -> Result<()> {
        self.generator.gradients.zero()?;
        let rows = 0..self.workspace.latent.z.n;
        self.workspace.generator.backward(&Backward {
            weights: self.generator.weights(),
            gradients: Some(&self.generator.gradients),
            parameter_scale: None,
            signal_scale: self.workspace.classes.is_none().then_some(&evaluation.seed_g),
            rows: rows.clone(),
            input_rows: rows,
        })?;
        self.generator.finish_gradient()
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

    /// Goes on from a checkpoint after `step` steps: every tensor of [`Trainer::tensors`] must be there, and no other.
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
    state
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
