//! What a training step does on the device, in its order.

use std::cell::RefCell;
use std::ops::Range;

use super::latents::{self, CHANGES, LABELS, LATENTS, PIXELS, SHARES, STREAMS};
use super::passes::{Judgement, OfD, OfG, Part};
use super::penalty::Penalties;
use super::player::Player;
use super::setup::Setup;
use super::share::Share;
use super::workspace::{Workspace, gradient};
use crate::Result;
use crate::device::{Device, Event, Reals, nvtx};
use crate::nn::{Backward, Mode};
use crate::ops::diffaug::{self, Draw};
use crate::ops::pixels::{self, Augment};
use crate::ops::random;
use crate::ops::state::{self, StateBuffer};
use crate::settings::{Batches, PowerIterations, Training, Update};

/// The running statistics' momentum while training, PyTorch's default.
const MOMENTUM: f32 = 0.1;

/// The parts of a step that [`super::Trainer::time_step`] tells apart.
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

/// One training step: what it works on, and the launches in their order.
pub(super) struct Step {
    /// Of this rank's share of the batch, as if there were no other.
    pub setup: Setup,
    pub share: Share,
    pub device: Device,
    pub state: StateBuffer,
    pub generator: Player,
    pub discriminator: Player,
    pub workspace: Workspace,
    /// In a step that is timed: where its phases began in the device's queue.
    pub marks: Option<RefCell<Vec<(Phase, Event)>>>,
    /// The gradients of the lowest blocks of D, where these are not to move.
    pub frozen: Option<Reals>,
    /// Whether a simultaneous step makes a second backward pass of D where one would do.
    pub two_backwards: bool,
}

impl Step {
    /// What a step on the batches of a slot does on the device, but for the copies of images. Whether it has gradient
    /// penalties, in a run that has some.
    pub fn launch(&self, slot: usize, given: Option<(&[f32], &[u32])>, penalised: bool) -> Result<()> {
        let penalties = self.workspace.discriminator.penalties.as_ref().filter(|_| penalised);
        let Training { batch: n, n_dis, update, .. } = self.setup.training;
        let (m_d, m_g) = (n, self.setup.training.batch_of_g());
        let (fakes_d, fakes_g) = (n..n + m_d, n..n + m_g);
        match update {
            Update::Simultaneous => {
                self.load(slot, 0)?;
                self.draw_for_g(given)?;
                self.normalise_for_d()?;
                self.judge(0..n, fakes_g.clone(), &self.workspace.of_d)?;
                self.learn_d(fakes_d, 0, penalties)?;
                // Without a class loss the one backward pass has left the signal at the fakes.
                if self.workspace.discriminator.classes.is_some() || self.two_backwards {
                    self.take_signal(fakes_g, &self.workspace.of_d)?;
                }
                self.learn_g(&self.workspace.of_d)?;
                self.optimise(&self.discriminator)?;
                self.optimise(&self.generator)?;
            }
            Update::Alternating if n_dis == 1 && self.share.has_one_kind_of_fakes() => {
                self.load(slot, 0)?;
                self.draw_for_g(given)?;
                self.normalise_for_d()?;
                self.judge(0..n, fakes_d.clone(), &self.workspace.of_d)?;
                self.learn_d(fakes_d, 0, penalties)?;
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
                    self.judge(0..n, fakes_d.clone(), &self.workspace.of_d)?;
                    self.learn_d(fakes_d.clone(), i as u32 * STREAMS, penalties)?;
                    self.optimise(&self.discriminator)?;
                }
            }
        }
        if let Some(ranks) = self.device.ranks().filter(|_| self.setup.training.local_norm) {
            // The fakes of each rank have moved its own.
            ranks.broadcast(&self.generator.running, 0)?;
        }
        state::advance(&self.state)
    }

    /// The real images (or points) and labels of D's step `i` into the first part of the batch.
    fn load(&self, slot: usize, i: usize) -> Result<()> {
        self.enter(Phase::Data)?;
        let (w, n) = (&self.workspace, self.setup.training.batch);
        let (real, stream) = (w.whole.images.rows(&(0..n)), i as u32 * STREAMS);
        if self.setup.draws_points() {
            let drawn = w.points.as_ref().unwrap_or(&real.x);
            random::points(drawn, self.setup.mixture, &self.state, PIXELS + stream)?;
            let own = &self.share.of_d.own;
            return w.points.as_ref().map_or(Ok(()), |all| {
                real.x.copy_from(&all.view(own.start * real.features()..own.end * real.features()))
            });
        }
        let input = &w.inputs[slot];
        let labels = (&w.whole.labels.view(0..n), &input.labels.view(i * n..(i + 1) * n));
        let images = input.images.view(i * real.x.len()..(i + 1) * real.x.len());
        let Batches { flip, noise, noise_within, .. } = self.setup.batches;
        let first = self.share.of_d.own.start;
        let augment = Augment { noise: noise as f32, within: noise_within, flip, first };
        let shape = [n, real.h, real.w, real.c];
        pixels::load(&real.x, &images, Some(labels), &self.state, PIXELS + stream, augment, shape)?;
        self.show(0..n, first, stream)
    }

    /// What D sees of these images, where that is not the images themselves. Among those of all ranks, they begin at `first`.
    fn show(&self, rows: Range<usize>, first: usize, stream: u32) -> Result<()> {
        let Some(strengths) = self.setup.diffaug() else { return Ok(()) };
        let whole = &self.workspace.whole;
        let (image, seen) = (whole.images.rows(&rows), whole.seen.rows(&rows));
        let draw = Draw { state: &self.state, stream: CHANGES + stream, first };
        diffaug::forward(&seen.x, &image.x, strengths, draw, [image.n, image.h, image.w, image.c])
    }

    /// The gradient of G's fakes, from that of what D saw of them.
    fn see_through(&self) -> Result<()> {
        let Some(strengths) = self.setup.diffaug() else { return Ok(()) };
        let whole = &self.workspace.whole;
        let g = &self.workspace.generator;
        let rows = self.fakes(g.latent.z.n);
        let (image, seen) = (whole.images.rows(&rows), whole.seen.rows(&rows));
        let draw = Draw { state: &self.state, stream: CHANGES, first: self.first_of(g) };
        let [dx, dy] = [gradient(&image, "the fakes")?, gradient(&seen, "what D sees")?];
        diffaug::backward(dx, dy, strengths, draw, [image.n, image.h, image.w, image.c])
    }

    fn draw_for_g(&self, given: Option<(&[f32], &[u32])>) -> Result<()> {
        self.enter(Phase::GeneratorForward)?;
        let g = &self.workspace.generator;
        match given {
            Some((latents, wanted)) => {
                g.all.0.write(latents)?;
                g.drawn_labels().write(wanted)?;
                g.take_labels()?;
            }
            None => {
                let for_d = self.workspace.drawing.is_none() && self.setup.training.n_dis == 1;
                self.draw_latent(g, 0, for_d)?;
            }
        }
        self.generator.normalise(true)?;
        self.generate(g)?;
        self.show(self.fakes(g.latent.z.n), self.first_of(g), 0)
    }

    /// Where the fakes of this rank begin in the batch of all ranks.
    fn first_of(&self, g: &OfG) -> usize {
        self.share.of_d.all + g.rows.own.start
    }

    /// The rows of so many fakes.
    fn fakes(&self, count: usize) -> Range<usize> {
        self.setup.training.batch..self.setup.training.batch + count
    }

    fn draw_for_d(&self, stream: u32) -> Result<()> {
        self.enter(Phase::GeneratorForward)?;
        let w = &self.workspace;
        let g = w.drawing.as_ref().unwrap_or(&w.generator);
        self.draw_latent(g, stream, true)?;
        self.generator.normalise(self.setup.networks.sn_policy == PowerIterations::PerForward)?;
        self.generate(g)?;
        self.show(self.fakes(g.latent.z.n), self.first_of(g), stream)
    }

    /// Whether D will judge these fakes to learn from them. With a penalty at points between them and real images they
    /// then have the labels of these: such a point lies between a real image and a fake of one class.
    fn draw_latent(&self, g: &OfG, stream: u32, for_d: bool) -> Result<()> {
        latents::draw(&g.all.0, &self.state, LATENTS + stream, self.setup.networks.latent_distribution)?;
        if for_d && self.interpolates() {
            return g.latent.labels.numbers.copy_from(&self.workspace.whole.labels.view(0..g.latent.z.n));
        }
        random::labels(g.drawn_labels(), &self.state, LABELS + stream, self.setup.labels() as u32)?;
        g.take_labels()
    }

    fn generate(&self, g: &OfG) -> Result<()> {
        let fakes = self.workspace.whole.images.rows(&self.fakes(g.latent.z.n));
        g.parts().try_for_each(|(here, of)| {
            g.take(&here, &of)?;
            self.generator.forward(&g.network, Mode::Train { momentum: MOMENTUM }, here.clone())?;
            g.give(&fakes, &here, &of)
        })
    }

    fn interpolates(&self) -> bool {
        self.workspace.discriminator.penalties.as_ref().is_some_and(Penalties::interpolate)
    }

    /// Spectral normalisation of D's weights as they are now, after a power iteration. Per forward it is one for the
    /// real images, the fakes and the points between them each, before the pass that they share here.
    fn normalise_for_d(&self) -> Result<()> {
        self.enter(Phase::DiscriminatorForward)?;
        let iterations = match self.setup.networks.sn_policy {
            PowerIterations::PerStep => 1,
            PowerIterations::PerForward => 2 + usize::from(self.interpolates()),
        };
        (0..iterations).try_for_each(|_| self.discriminator.normalise(true))
    }

    /// The logits of these samples, and, where real ones are among them, the losses and their seeds.
    ///
    /// Where D takes parts of the batch, and the seeds of a part do not depend on the others, nothing is judged yet:
    /// [`Step::judge_again`] does it, part by part, and no part twice.
    fn judge(&self, real: Range<usize>, fake: Range<usize>, judgement: &Judgement) -> Result<()> {
        self.enter(Phase::DiscriminatorForward)?;
        let d = &self.workspace.discriminator;
        if self.setup.scales_losses() {
            // The scale of all backward passes until the next judgement.
            state::settle(&self.state)?;
            state::seed(d.backward_seed()?, &self.state, true)?;
        }
        if d.split.is_some() && !self.judges_at_once() {
            return Ok(());
        }
        d.parts(real.clone(), fake.clone()).iter().try_for_each(|part| self.judge_part(d, part))?;
        self.workspace.whole.gather((real, fake), &self.share.of_d, &judgement.fakes)?;
        self.evaluate(judgement)
    }

    /// Whether there are no seeds before all logits are there: the loss looks at all together, or ranks gather them once, however
    /// many parts each has.
    fn judges_at_once(&self) -> bool {
        self.setup.training.loss.couples_the_batch() || self.device.ranks().is_some()
    }

    fn judge_part(&self, d: &OfD, part: &Part) -> Result<()> {
        d.take(&self.workspace.whole, part)?;
        self.discriminator.forward(&d.network, Mode::Train { momentum: MOMENTUM }, part.rows())?;
        d.give_logits(&self.workspace.whole, part)
    }

    /// The losses and their seeds, from the logits of all real images and of the fakes that were judged.
    fn evaluate(&self, judgement: &Judgement) -> Result<()> {
        let (w, Training { loss, unfused, .. }) = (&self.workspace, &self.setup.training);
        let (logits, real, of_all) = (w.whole.all_logits(), &self.share.of_d, judgement.of_all());
        let (real_logits, fake) = (logits.view(0..real.all), logits.view(real.all..real.all + judgement.fakes.all));
        loss.evaluate(of_all, &real_logits, &fake, self.setup.game(), unfused, &w.loss_workspace)?;
        judgement.take_seeds(real)?;
        state::check(&self.state, &of_all.statistics)
    }

    /// Before the backward pass of a part: where D takes parts, its activations are those of another one. So its forward
    /// pass is run again, or, of a loss that looks at each logit by itself, for the first time. Then the seeds of this part
    /// follow from its own logits; the statistics are right after the last part.
    fn judge_again(&self, part: &Part, judgement: &Judgement) -> Result<()> {
        let d = &self.workspace.discriminator;
        if d.split.is_none() {
            return Ok(());
        }
        self.enter(Phase::DiscriminatorForward)?;
        self.judge_part(d, part)?;
        if !self.judges_at_once() {
            self.evaluate(judgement)?;
        }
        self.enter(Phase::DiscriminatorBackward)
    }

    /// The backward passes of D over all real images and these fakes, and all contributions to its gradients.
    fn learn_d(&self, fake: Range<usize>, stream: u32, penalties: Option<&Penalties>) -> Result<()> {
        self.enter(Phase::DiscriminatorBackward)?;
        let (w, player) = (&self.workspace, &self.discriminator);
        player.gradients.zero()?;
        for part in w.discriminator.parts(0..fake.start, fake.clone()) {
            self.judge_again(&part, &w.of_d)?;
            self.learn_part(&part, stream, penalties)?;
        }
        player.finish_gradient()?;
        // With gradients that are always 0, Adam leaves weights as they are. A penalty has added to those of all layers.
        self.frozen.as_ref().map_or(Ok(()), Reals::zero)
    }

    /// It starts from 1 for each sample, or from the loss scale, and each sample's part in the parameters' gradients is
    /// scaled by its seed in L_D. So in a simultaneous update it also leaves the signal for G at the fakes. With a class
    /// loss the seeds of the two heads are no multiples of those of G: the pass starts from D's, and the signal for G takes
    /// a pass of its own.
    fn learn_part(&self, part: &Part, stream: u32, penalties: Option<&Penalties>) -> Result<()> {
        let (w, player) = (&self.workspace, &self.discriminator);
        let d = &w.discriminator;
        let seeds = d.seeds(w.of_d.seed_d(), part)?;
        if let Some(classes) = &d.classes {
            classes.seed_d(part, &self.state)?;
            self.seed_logits(d, part.rows(), &seeds.view(part.rows()))?;
        }
        let one_pass = d.classes.is_none();
        let leaves_signal = one_pass && self.setup.training.update == Update::Simultaneous && !self.two_backwards;
        let mut input_rows = if leaves_signal { part.fake.clone() } else { 0..0 };
        // R1 and R2 take their gradients from this pass. With a class loss, that starts from other numbers.
        if let Some(samples) =
            penalties.map(|penalties| penalties.samples(part)).filter(|samples| one_pass && !samples.is_empty())
        {
            let start = if leaves_signal { samples.start.min(input_rows.start) } else { samples.start };
            input_rows = start..samples.end.max(input_rows.end);
        }
        d.network.backward(&Backward {
            gradients: Some(&player.gradients),
            // The seeds in L_D: they scale each sample's part in the gradients alone, as the signal is to be G's.
            parameter_seeds: one_pass.then_some(seeds),
            input_rows,
            ..player.signal(part.rows())
        })?;
        if leaves_signal {
            d.give_signal(&w.whole, part)?;
        }
        penalties.map_or(Ok(()), |penalties| penalties.add(d, part, player, &self.state, SHARES + stream))
    }

    /// Lets a backward pass start from the seeds of both heads; those of the class loss are there already.
    fn seed_logits(&self, d: &OfD, rows: Range<usize>, seeds: &Reals) -> Result<()> {
        let to = d.backward_seed()?.view(rows.clone());
        to.copy_from(seeds)?;
        if let Some(classes) = d.classes.as_ref().filter(|_| self.setup.scales_losses()) {
            state::seed(&to, &self.state, false)?;
            state::seed(&classes.seeds(&rows), &self.state, false)?;
        }
        Ok(())
    }

    /// The signal at the fakes, through D without its parameters: with seed 1, or, with a class loss, G's seeds.
    fn take_signal(&self, fake: Range<usize>, judgement: &Judgement) -> Result<()> {
        self.enter(Phase::DiscriminatorBackward)?;
        let (d, n) = (&self.workspace.discriminator, self.setup.training.batch);
        d.parts(0..0, fake.clone()).iter().try_for_each(|part| {
            self.judge_again(part, judgement)?;
            if let Some(classes) = &d.classes {
                classes.seed_g(part, &self.state)?;
                let of = &part.fake_of_batch;
                self.seed_logits(d, part.fake.clone(), &judgement.seed_g().view(of.start - n..of.end - n))?;
            }
            d.network.backward(&self.discriminator.signal(part.fake.clone()))?;
            d.give_signal(&self.workspace.whole, part)
        })
    }

    /// A G step of its own, which judges the fakes anew.
    fn move_g(&self, fakes: Range<usize>) -> Result<()> {
        self.enter(Phase::DiscriminatorForward)?;
        self.discriminator.normalise(self.setup.networks.sn_policy == PowerIterations::PerForward)?;
        // The real logits are those of the last pass where the loss does not look at them.
        let real = if self.setup.training.loss.couples_the_batch() { 0..fakes.start } else { 0..0 };
        self.judge(real, fakes.clone(), &self.workspace.of_g)?;
        self.take_signal(fakes, &self.workspace.of_g)?;
        self.learn_g(&self.workspace.of_g)?;
        self.optimise(&self.generator)
    }

    /// From the signal at the fakes, each scaled by its seed in L_G where that is not in it yet, to the generator's
    /// gradients.
    fn learn_g(&self, judgement: &Judgement) -> Result<()> {
        self.enter(Phase::GeneratorBackward)?;
        self.generator.gradients.zero()?;
        self.see_through()?;
        let g = &self.workspace.generator;
        let fakes = self.workspace.whole.images.rows(&self.fakes(g.latent.z.n));
        for (here, of) in g.parts() {
            if g.part.is_some() {
                g.take(&here, &of)?;
                // The running statistics have followed this part already.
                self.generator.forward(&g.network, Mode::Train { momentum: 0.0 }, here.clone())?;
                g.take_signal(&fakes, &here, &of)?;
            }
            let seeds = judgement.seed_g().view(of);
            g.network.backward(&Backward {
                gradients: Some(&self.generator.gradients),
                signal_seeds: self.workspace.discriminator.classes.is_none().then_some(&seeds),
                ..self.generator.signal(here)
            })?;
        }
        self.generator.finish_gradient()
    }

    fn optimise(&self, player: &Player) -> Result<()> {
        self.enter(Phase::Optimiser)?;
        if self.setup.scales_losses() {
            player.note_overflow(&self.state)?;
        }
        player.update(&self.state, &self.workspace.norms, &self.workspace.adam_workspace)
    }

    /// Tells profilers that a phase begins and, in a step that is timed, notes where in the device's queue it does.
    fn enter(&self, phase: Phase) -> Result<()> {
        nvtx::phase(phase.name());
        if let Some(marks) = &self.marks {
            marks.borrow_mut().push((phase, self.device.event()?));
        }
        Ok(())
    }
}
