//! What a training step does on the device, in its order.

use std::ops::Range;

use super::classes::ClassLoss;
use super::networks::{self, Latent};
use super::options::{PowerIterations, Update};
use super::player::Player;
use super::trainer::Trainer;
use crate::Result;
use crate::device::Buffer;
use crate::nn::{Backward, Forward, Mode, Network, Value};
use crate::ops::log_partition::Evaluation;
use crate::ops::pixels::{self, Augment};
use crate::ops::random;
use crate::ops::state;

/// Each use of random numbers in a step has its own stream; the draws of a step are this many streams apart.
pub(crate) const LATENTS: u32 = 0;
pub(crate) const LABELS: u32 = 1;
const PIXELS: u32 = 2;
const SHARES: u32 = 3;
pub(crate) const STREAMS: u32 = 8;

/// The running statistics' momentum while training, PyTorch's default.
const MOMENTUM: f32 = 0.1;

/// The parts of a step that [`Trainer::time_step`] tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// From bytes to the batch, with noise and flips.
    Data,
    GeneratorForward,
    /// With the losses and the spectral normalisation.
    DiscriminatorForward,
    DiscriminatorBackward,
    GeneratorBackward,
    Optimiser,
}

impl Phase {
    pub const ALL: [Phase; 6] = [
        Phase::Data,
        Phase::GeneratorForward,
        Phase::DiscriminatorForward,
        Phase::DiscriminatorBackward,
        Phase::GeneratorBackward,
        Phase::Optimiser,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Phase::Data => "data",
            Phase::GeneratorForward => "G forward",
            Phase::DiscriminatorForward => "D forward",
            Phase::DiscriminatorBackward => "D backward",
            Phase::GeneratorBackward => "G backward",
            Phase::Optimiser => "optimiser",
        }
    }
}

impl Trainer {
    /// What a step on the batches of a slot does on the device, but for the copies of images.
    pub(super) fn launch(&self, slot: usize, given: Option<(&[f32], &[u32])>) -> Result<()> {
        let (n, m_d, m_g) = (self.options.batch, self.options.batch, self.options.batch_g);
        let n_dis = self.options.n_dis;
        let (all_d, fakes_g) = (0..n + m_d, n..n + m_g);
        match self.options.update {
            Update::Simultaneous => {
                self.load(slot, 0)?;
                self.draw_for_g(given)?;
                self.normalise_for_d()?;
                self.judge(0..n + m_g, &self.workspace.of_d)?;
                self.learn_d(all_d, 0)?;
                // Without a class loss the one backward pass has left the signal at the fakes.
                if self.workspace.classes.is_some() || self.two_backwards {
                    self.take_signal(fakes_g, &self.workspace.of_d)?;
                }
                self.learn_g(&self.workspace.of_d)?;
                self.optimise(&self.discriminator)?;
                self.optimise(&self.generator)?;
            }
            Update::Alternating if self.options.n_dis == 1 && m_d == m_g => {
                self.load(slot, 0)?;
                self.draw_for_g(given)?;
                self.normalise_for_d()?;
                self.judge(all_d.clone(), &self.workspace.of_d)?;
                self.learn_d(all_d, 0)?;
                self.optimise(&self.discriminator)?;
                self.move_g(fakes_g)?;
            }
            Update::Alternating => {
                // As the projection discriminator's authors do: G first, then every D step with fakes of its own.
                for i in 0..n_dis {
                    self.load(slot, i)?;
                    if i == 0 {
                        self.draw_for_g(given)?;
                        self.move_g(fakes_g.clone())?;
                    }
                    self.draw_for_d((i as u32 + 1) * STREAMS)?;
                    self.normalise_for_d()?;
                    self.judge(all_d.clone(), &self.workspace.of_d)?;
                    self.learn_d(all_d.clone(), i as u32 * STREAMS)?;
                    self.optimise(&self.discriminator)?;
                }
            }
        }
        state::advance(&self.state)
    }

    /// The real images (or points) and labels of D's step `i` into the first part of the batch.
    fn load(&self, slot: usize, i: usize) -> Result<()> {
        self.enter(Phase::Data)?;
        let (w, n) = (&self.workspace, self.options.batch);
        let (real, stream) = (w.batch.rows(&(0..n)), i as u32 * STREAMS);
        if self.options.draws_points() {
            return random::ring(&real.x, &self.state, PIXELS + stream);
        }
        let input = &w.inputs[slot];
        w.labels.view(0..n).copy_from(&input.labels.view(i * n..(i + 1) * n))?;
        let images = input.images.view(i * real.x.len()..(i + 1) * real.x.len());
        let augment = Augment { noise: self.options.noise, flip: self.options.flips };
        let shape = [n, real.h, real.w, real.c];
        pixels::load(&real.x, &images, &self.state, PIXELS + stream, augment, shape)
    }

    fn draw_for_g(&self, given: Option<(&[f32], &[u32])>) -> Result<()> {
        self.enter(Phase::GeneratorForward)?;
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
        self.enter(Phase::GeneratorForward)?;
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
            rounded_weights: self.generator.rounded_weights(),
            running: &self.generator.running,
            mode: Mode::Train { momentum: MOMENTUM },
            rows: 0..fakes,
        })
    }

    /// Spectral normalisation of D's weights as they are now, after a power iteration. Per forward it is one for the
    /// real images, the fakes and a penalty's points each, before the pass that they share here.
    fn normalise_for_d(&self) -> Result<()> {
        self.enter(Phase::DiscriminatorForward)?;
        let iterations = match self.options.sn_policy {
            PowerIterations::PerStep => 1,
            PowerIterations::PerForward => 2 + usize::from(self.workspace.penalty.is_some()),
        };
        (0..iterations).try_for_each(|_| self.discriminator.normalise(true))
    }

    /// The logits of these samples, and, where real ones are among them, the losses and their seeds.
    fn judge(&self, rows: Range<usize>, evaluation: &Evaluation) -> Result<()> {
        self.enter(Phase::DiscriminatorForward)?;
        let (w, n) = (&self.workspace, self.options.batch);
        w.discriminator.forward(&Forward {
            weights: self.discriminator.weights(),
            rounded_weights: self.discriminator.rounded_weights(),
            running: &self.discriminator.running,
            mode: Mode::Train { momentum: MOMENTUM },
            rows: rows.clone(),
        })?;
        let (real, fake) = (w.logits.x.view(0..n), w.logits.x.view(n..rows.end));
        let real_is_low = networks::real_is_low(&self.options);
        if self.options.scales_losses() {
            // The scale of all backward passes until the next judgement.
            state::settle(&self.state)?;
            w.logits.dx.as_ref().map_or(Ok(()), |ones| state::seed(ones, &self.state, true))?;
        }
        let (loss, unfused) = (self.options.loss, &self.options.unfused);
        loss.evaluate(evaluation, &real, &fake, real_is_low, unfused, &w.loss_workspace)?;
        state::check(&self.state, &evaluation.statistics)
    }

    /// The backward pass of D, all contributions to its gradients.
    ///
    /// With seed 1 per sample, or the loss scale; each sample's part in the parameters' gradients is scaled by its seed in L_D. In a
    /// simultaneous update that leaves the signal at the fakes. With a class loss the seeds of the two heads are no
    /// multiples of those of G, so they go in from the start, and the signal takes a pass of its own.
    fn learn_d(&self, rows: Range<usize>, stream: u32) -> Result<()> {
        self.enter(Phase::DiscriminatorBackward)?;
        let (w, player, real) = (&self.workspace, &self.discriminator, 0..self.options.batch);
        player.gradients.zero()?;
        let fakes = real.end..rows.end;
        if let Some(classes) = &w.classes {
            classes.seed_d(real, fakes.clone(), &self.state)?;
            self.seed_logits(classes, rows.clone(), &w.of_d.seed_d)?;
        }
        let one_pass = w.classes.is_none();
        let leaves_signal = one_pass && self.options.update == Update::Simultaneous && !self.two_backwards;
        w.discriminator.backward(&Backward {
            weights: player.weights(),
            rounded_weights: player.rounded_weights(),
            gradients: Some(&player.gradients),
            parameter_seeds: one_pass.then_some(&w.of_d.seed_d),
            signal_seeds: None,
            input_rows: if leaves_signal { fakes } else { 0..0 },
            rows,
        })?;
        if let Some(penalty) = &w.penalty {
            penalty.add(&w.discriminator, player, &w.batch, &w.labels, &self.state, SHARES + stream)?;
        }
        player.finish_gradient()
    }

    /// Of both heads, the class loss's being there already.
    fn seed_logits(&self, classes: &ClassLoss, rows: Range<usize>, seeds: &Buffer<f32>) -> Result<()> {
        let of = |logits: &Value| logits.rows(&rows).dx;
        let (Some(to), Some(of_classes)) = (of(&self.workspace.logits), of(&classes.logits)) else { return Ok(()) };
        to.copy_from(seeds)?;
        if self.options.scales_losses() {
            state::seed(&to, &self.state, false)?;
            state::seed(&of_classes, &self.state, false)?;
        }
        Ok(())
    }

    /// The signal at the fakes, through D without its parameters: with seed 1, or, with a class loss, G's seeds.
    fn take_signal(&self, fakes: Range<usize>, evaluation: &Evaluation) -> Result<()> {
        self.enter(Phase::DiscriminatorBackward)?;
        if let Some(classes) = &self.workspace.classes {
            classes.seed_g(fakes.clone(), &self.state)?;
            self.seed_logits(classes, fakes.clone(), &evaluation.seed_g)?;
        }
        self.workspace.discriminator.backward(&Backward {
            weights: self.discriminator.weights(),
            rounded_weights: self.discriminator.rounded_weights(),
            gradients: None,
            parameter_seeds: None,
            signal_seeds: None,
            rows: fakes.clone(),
            input_rows: fakes,
        })
    }

    /// A G step of its own, which judges the fakes anew.
    fn move_g(&self, fakes: Range<usize>) -> Result<()> {
        self.enter(Phase::DiscriminatorForward)?;
        self.discriminator.normalise(self.options.sn_policy == PowerIterations::PerForward)?;
        // The real logits are those of the last pass where the loss does not look at them.
        let rows = if self.options.loss.couples_the_batch() { 0..fakes.end } else { fakes.clone() };
        self.judge(rows, &self.workspace.of_g)?;
        self.take_signal(fakes, &self.workspace.of_g)?;
        self.learn_g(&self.workspace.of_g)?;
        self.optimise(&self.generator)
    }

    /// From the signal at the fakes, each scaled by its seed in L_G where that is not in it yet, to the generator's
    /// gradients.
    fn learn_g(&self, evaluation: &Evaluation) -> Result<()> {
        self.enter(Phase::GeneratorBackward)?;
        self.generator.gradients.zero()?;
        let rows = 0..self.workspace.latent.z.n;
        self.workspace.generator.backward(&Backward {
            weights: self.generator.weights(),
            rounded_weights: self.generator.rounded_weights(),
            gradients: Some(&self.generator.gradients),
            parameter_seeds: None,
            signal_seeds: self.workspace.classes.is_none().then_some(&evaluation.seed_g),
            rows: rows.clone(),
            input_rows: rows,
        })?;
        self.generator.finish_gradient()
    }

    fn optimise(&self, player: &Player) -> Result<()> {
        self.enter(Phase::Optimiser)?;
        if self.options.scales_losses() {
            player.note_overflow(&self.state)?;
        }
        player.update(&self.state, &self.workspace.norms, &self.workspace.adam_workspace)
    }

    /// Notes where in the device's queue a phase begins, in a step that is timed.
    fn enter(&self, phase: Phase) -> Result<()> {
        if let Some(marks) = &self.marks {
            marks.borrow_mut().push((phase, self.device.event()?));
        }
        Ok(())
    }
}
