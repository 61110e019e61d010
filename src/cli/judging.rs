//! What judges the images while a training runs: `--eval-every` and `--keep-best`.

use std::path::Path;

use zgan::Result;
use zgan::data::Dataset;
use zgan::device::Device;
use zgan::eval::judge::{Figures, Judge, Sight};
use zgan::eval::metrics::SUBSET;
use zgan::eval::{Cache, inception};
use zgan::gan::Trainer;
use zgan::run::{self, Best};
use zgan::settings::Settings;

use super::signals::stopped;
use super::{eval, say, thousands};

pub struct Judging {
    judge: Judge,
    real: Sight,
}

impl Judging {
    /// Looks at the real images. None where the training was interrupted meanwhile.
    pub fn new(
        device: &Device,
        settings: &Settings,
        data: &Dataset,
        weights: &inception::Weights,
    ) -> Result<Option<Judging>> {
        let judging = &settings.judging;
        let judge = Judge::new(device, weights, &judging.metrics(), 2048, judging.fid_as, SUBSET)?;
        say(format!("real    {} images go through Inception", thousands(data.len())));
        let cache = Cache::of(&settings.images.data);
        let real = judge.look_at_real(data, &cache, usize::MAX, false, &mut |line| say(line), &|| !stopped())?;
        Ok(real.map(|real| Judging { judge, real }))
    }

    /// Draws images and compares them with the real ones. Of several ranks, each draws some, and the first one has the figures. None where the training was interrupted meanwhile.
    pub fn figures(&self, trainer: &mut Trainer, settings: &Settings, classes: &[String]) -> Result<Option<Figures>> {
        let (weights, seed, go_on) = (eval::weights(settings), settings.training.seed, || !stopped());
        let drawn = self.judge.draw(trainer, weights, seed, settings.judging.eval_images, &go_on)?;
        drawn.map(|drawn| self.judge.compare(&drawn, &self.real, classes)).transpose()
    }
}

/// What --keep-best keeps, where these figures are better than all before in the run of this folder.
pub fn best(settings: &Settings, figures: &Figures, step: u64, folder: &Path) -> Option<Best> {
    let by = settings.judging.keep_best?;
    let value = figures.get(by)?;
    let before = run::best(folder).filter(|best| best.by == by);
    before.is_none_or(|before| by.is_better(value, before.value)).then_some(Best { by, value, step })
}
