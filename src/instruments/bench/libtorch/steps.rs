//! Whole training steps.

use tch::{Kind, Tensor};

use super::logits::losses;
use super::native::{Adam, gradients, lerp};
use super::networks::{Discriminator, Generator};
use super::{Torch, scalar};
use crate::checkpoint::NamedTensor;
use crate::data::ImageShape;
use crate::device::Device;
use crate::gan::latents::{LABELS, LATENTS, STREAMS};
use crate::gan::{Setup, Trainer};
use crate::instruments::bench::StepProblem;
use crate::instruments::bench::rivals::Rival;
use crate::random::Random;
use crate::settings::{Architecture, Loss, Training, Update};
use crate::{Error, Result};

/// How a simultaneous step differentiates its two losses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Each loss with respect to its own network alone, by `autograd.grad` from one forward pass; in a zero-sum game both
    /// gradients from one backward pass.
    Asked,
    /// As the Softmax GAN of PyTorch-GAN does it, but in an order that PyTorch allows: with log(Z + 1e-8), and with both losses
    /// going backward through the one graph, each to all parameters of both networks.
    Reference,
}

/// Where a step's latents and labels come from.
#[derive(Clone, Copy)]
enum Draws {
    /// The generator of random numbers of libtorch.
    Own,
    /// The numbers that our trainer draws in the step of this number.
    Ours(u32),
}

struct Peer {
    torch: Torch,
    setup: Setup,
    way: Way,
    generator: Generator,
    discriminator: Discriminator,
    adams: [Adam; 2],
    average: Vec<Tensor>,
    /// For each D step of a step: images, channels last, and their labels.
    real: Vec<(Tensor, Tensor)>,
}

/// The losses of one step; where it has several D steps, those of the last.
struct Losses {
    d: Tensor,
    g: Tensor,
}

impl Peer {
    /// Starts from the tensors of a trainer, and has the images and labels of a step.
    fn new(
        torch: Torch,
        (setup, way): (&Setup, Way),
        tensors: &[NamedTensor],
        (images, labels): (&[u8], &[u32]),
    ) -> Result<Peer> {
        let training = &setup.training;
        let generator = Generator::new(torch, setup, tensors)?;
        let discriminator = Discriminator::new(torch, setup, tensors)?;
        let betas = [training.beta1, training.beta2];
        let adam = |parameters: &[Tensor], rate: f64| Adam::new(parameters, f64::from(rate as f32), betas);
        let adams =
            [adam(&generator.parameters.leaves, training.lr_g), adam(&discriminator.parameters.leaves, training.lr_d)];
        let averaged = generator.parameters.leaves.iter().filter(|_| training.average > 0.0);
        let average = averaged.map(|leaf| leaf.detach().copy()).collect();
        let (n, ImageShape { height, width, channels }) = (training.batch, setup.shape);
        let size = height * width * channels;
        let batch = |i: usize| {
            let bytes = &images[i * n * size..(i + 1) * n * size];
            let pixels: Vec<f32> = bytes.iter().map(|&byte| f32::from(byte) / 127.5 - 1.0).collect();
            let images = match setup.architecture() {
                Architecture::ImagePerceptrons => torch.tensor(&pixels, &[n, size]),
                _ => torch.tensor(&pixels, &[n, height, width, channels]).permute([0, 3, 1, 2]),
            };
            (images, torch.labels(labels[i * n..(i + 1) * n].iter().copied()))
        };
        let real = (0..training.n_dis).map(batch).collect();
        Ok(Peer { torch, setup: setup.clone(), way, generator, discriminator, adams, average, real })
    }

    /// Draws latents and wanted labels; `i` counts how often a step has drawn before.
    fn draw(&self, draws: Draws, i: u32) -> (Tensor, Tensor) {
        let (m, latent, classes) = (self.setup.training.batch_of_g(), self.setup.networks.latent, self.setup.classes);
        let on = |kind| (kind, self.torch.device);
        match draws {
            Draws::Own => (
                Tensor::randn([m as i64, latent as i64], on(Kind::Float)),
                Tensor::randint(classes as i64, [m as i64], on(Kind::Int64)),
            ),
            Draws::Ours(step) => {
                let random = |stream| Random::new(self.setup.training.seed, i * STREAMS + stream, step);
                let mut z = vec![0.0; m * latent];
                random(LATENTS).fill_normal(&mut z, 1.0);
                let mut labels = random(LABELS);
                let wanted = (0..m).map(|_| labels.below(classes as u32));
                (self.torch.tensor(&z, &[m, latent]), self.torch.labels(wanted))
            }
        }
    }

    fn losses(&self, logits: &Tensor) -> Result<[Tensor; 2]> {
        let n = self.setup.training.batch as i64;
        if self.way == Way::Reference {
            let log_z = (logits.neg().exp().sum(Kind::Float) + 1e-8).log();
            return Ok([logits.narrow(0, 0, n).mean(Kind::Float) + &log_z, logits.mean(Kind::Float) + log_z]);
        }
        let [d, g] = losses(self.setup.training.loss, logits, n, self.setup.real_is_low())?;
        let g = if self.zero_sum() { -&d } else { g };
        Ok([d, g])
    }

    /// Whether what one player loses, the other wins.
    fn zero_sum(&self) -> bool {
        self.setup.training.loss == Loss::Softmax && self.setup.game().zero_sum
    }

    fn step(&self, draws: Draws) -> Result<Losses> {
        let losses = match self.setup.training.update {
            Update::Simultaneous => self.together(draws)?,
            Update::Alternating if self.setup.training.n_dis == 1 => {
                let (z, wanted) = self.draw(draws, 0);
                let fake = self.generator.forward(&z, &wanted)?;
                let d = self.move_d(&self.real[0], &fake.detach(), &wanted)?;
                Losses { d, g: self.move_g(&fake, &wanted)? }
            }
            // G first, then every D step with fakes of its own.
            Update::Alternating => {
                let (z, wanted) = self.draw(draws, 0);
                let g = self.move_g(&self.generator.forward(&z, &wanted)?, &wanted)?;
                let mut d = g.shallow_clone();
                for (real, i) in self.real.iter().zip(1..) {
                    let (z, wanted) = self.draw(draws, i);
                    let fake = tch::no_grad(|| self.generator.forward(&z, &wanted))?;
                    d = self.move_d(real, &fake, &wanted)?;
                }
                Losses { d, g }
            }
        };
        self.torch.wait();
        Ok(losses)
    }

    /// Updates both players from one forward pass.
    fn together(&self, draws: Draws) -> Result<Losses> {
        let (images, labels) = &self.real[0];
        let (z, wanted) = self.draw(draws, 0);
        let fake = self.generator.forward(&z, &wanted)?;
        let weights = self.discriminator.weights(true);
        let both = Tensor::cat(&[images, &fake], 0);
        let logits = self.discriminator.forward(&weights, &both, &Tensor::cat(&[labels, &wanted], 0))?;
        let [d, g] = self.losses(&logits)?;
        let (of_g, of_d) = (&self.generator.parameters.leaves, &self.discriminator.parameters.leaves);
        let (by_g, by_d) = match self.way {
            // One backward pass serves both players.
            Way::Asked if self.zero_sum() => {
                let all: Vec<Tensor> = of_d.iter().chain(of_g).map(Tensor::shallow_clone).collect();
                let mut by_d = gradients(&d, None, &all, false)?;
                let mut by_g = by_d.split_off(of_d.len());
                by_g.iter_mut().for_each(|gradient| drop(gradient.neg_()));
                (by_g, by_d)
            }
            Way::Asked => {
                let by_d = gradients(&d, None, of_d, true)?;
                (gradients(&g, None, of_g, false)?, by_d)
            }
            Way::Reference => {
                let all: Vec<Tensor> = of_g.iter().chain(of_d).map(Tensor::shallow_clone).collect();
                let mut by_g = gradients(&g, None, &all, true)?;
                by_g.truncate(of_g.len());
                (by_g, gradients(&d, None, &all, false)?.split_off(of_g.len()))
            }
        };
        self.adams[1].step(of_d, &by_d)?;
        self.update_g(&by_g)?;
        Ok(Losses { d, g })
    }

    fn move_d(&self, (images, labels): &(Tensor, Tensor), fake: &Tensor, wanted: &Tensor) -> Result<Tensor> {
        let weights = self.discriminator.weights(true);
        let both = Tensor::cat(&[images, fake], 0);
        let logits = self.discriminator.forward(&weights, &both, &Tensor::cat(&[labels, wanted], 0))?;
        let [d, _] = self.losses(&logits)?;
        let leaves = &self.discriminator.parameters.leaves;
        self.adams[1].step(leaves, &gradients(&d, None, leaves, false)?)?;
        Ok(d)
    }

    /// Updates G. The parameters of D and the real images get no gradient.
    fn move_g(&self, fake: &Tensor, wanted: &Tensor) -> Result<Tensor> {
        let weights: Vec<Tensor> =
            tch::no_grad(|| self.discriminator.weights(false)).iter().map(Tensor::detach).collect();
        let of_fakes = self.discriminator.forward(&weights, fake, wanted)?;
        let (images, labels) = &self.real[0];
        let of_real = if self.setup.training.loss.couples_the_batch() {
            tch::no_grad(|| self.discriminator.forward(&weights, images, labels))?
        } else {
            of_fakes.detach()
        };
        let [_, g] = self.losses(&Tensor::cat(&[of_real, of_fakes], 0))?;
        self.update_g(&gradients(&g, None, &self.generator.parameters.leaves, false)?)?;
        Ok(g)
    }

    fn update_g(&self, gradients: &[Tensor]) -> Result<()> {
        let leaves = &self.generator.parameters.leaves;
        self.adams[0].step(leaves, gradients)?;
        if self.average.is_empty() {
            return Ok(());
        }
        lerp(&self.average, leaves, 1.0 - f64::from(self.setup.training.average as f32))
    }
}

/// Whether this step is written in libtorch.
fn has(setup: &Setup) -> bool {
    ["softmax-gan", "mnist", "sngan-projection-32", "sngan-projection-64"].contains(&setup.preset.name)
}

/// The step in libtorch, after it was checked against ours; none where it is not written in libtorch.
pub fn step(device: &Device, problem: &StepProblem) -> Result<Option<Rival>> {
    if !has(&problem.setup) {
        return Ok(None);
    }
    rival(device, problem, super::NAME, Way::Asked).map(Some)
}

/// The same for the step of PyTorch-GAN's Softmax GAN.
pub fn reference_step(device: &Device, problem: &StepProblem) -> Result<Option<Rival>> {
    let written = matches!(problem.setup.architecture(), Architecture::ImagePerceptrons);
    let Training { update, loss, .. } = problem.setup.training;
    if !written || (update, loss) != (Update::Simultaneous, Loss::Softmax) {
        return Ok(None);
    }
    rival(device, problem, super::REFERENCE, Way::Reference).map(Some)
}

/// How many steps are compared, from the same parameters, images and random numbers. A mistake in a gradient or an update
/// shows in the losses of the next step. Where a step has several D steps, one is enough.
const CHECKED: u32 = 3;
/// The largest difference allowed between the losses, relative to the loss (or to 1, where it is smaller): before anything
/// was updated, and after. It is larger after, because Adam makes full steps even of gradients that are only rounding errors.
const TOLERANCES: [f32; 2] = [1e-4, 1e-2];

fn rival(device: &Device, problem: &StepProblem, name: &'static str, way: Way) -> Result<Rival> {
    let torch = Torch::new(device)?;
    // Only our device draws noise on the images, so there is none.
    let setup = problem.setup.with(|s| {
        s.batches.noise = 0.0;
        s.batches.flip = false;
    });
    let mut trainer = Trainer::new(device, &setup)?;
    let (mut images, labels) = problem.batch(&trainer);
    let mut random = Random::new(1, 0, 0);
    images.fill_with(|| random.word() as u8);
    let peer = Peer::new(torch, (&setup, way), &trainer.tensors()?, (&images, &labels))?;
    for step in 0..if setup.training.n_dis == 1 { CHECKED } else { 1 } {
        trainer.step(&images, &labels)?;
        let ours = trainer.metrics()?;
        let theirs = peer.step(Draws::Ours(step))?;
        for (player, ours, theirs) in [("D", ours.loss_d, scalar(&theirs.d)), ("G", ours.loss_g, scalar(&theirs.g))] {
            let updated = step > 0 || setup.training.update == Update::Alternating;
            let difference = (ours - theirs).abs() / ours.abs().max(1.0);
            if difference.is_nan() || difference > TOLERANCES[usize::from(updated)] {
                return Err(Error::Check(format!(
                    "{}, {name}: the loss of {player} in step {} is {theirs}, ours {ours}",
                    problem.name,
                    step + 1
                )));
            }
        }
    }
    Ok(Rival::new(name, true, move || peer.step(Draws::Own).map(|_| ())))
}
