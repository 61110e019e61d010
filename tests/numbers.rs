//! What diverges stops and says so, and leaves good checkpoints; networks that died are told; schedules keep their shape.

#[path = "common/place.rs"]
mod place;

use std::path::PathBuf;

use clap::ValueEnum;
use place::{Place, ZGAN, says};
use zgan::Error;
use zgan::checkpoint::{self, NamedTensor, load, load_finite, save};
use zgan::data::{DataInfo, DataSource, ImageShape, Split, mixture};
use zgan::device::{Device, HAS_CHECK, Precision};
use zgan::gan::{Metrics, Setup, Trainer, Vitals};
use zgan::settings::{Loss, PRESETS, Preset, Settings, Update};

impl Place {
    /// Runs `zgan train` to its end, which must be `code`, and gives everything it wrote.
    #[track_caller]
    fn train(&self, arguments: &str, code: i32) -> String {
        self.says(arguments, code, &[])
    }

    #[track_caller]
    fn says(&self, arguments: &str, code: i32, parts: &[&str]) -> String {
        let mut command = self.program(ZGAN);
        command.arg("train").args(arguments.split_whitespace()).args(["--no-eval", "--device", "host"]);
        says(&mut command, &format!("zgan train {arguments}"), code, parts)
    }

    fn checkpoints(&self, run: &str) -> Vec<(u64, PathBuf)> {
        zgan::run::checkpoints(&self.path(&format!("runs/{run}"))).unwrap()
    }

    /// Trains until it diverges; no checkpoint is then left that is not finite, and the newest one is named and goes on.
    fn diverges(&self, arguments: &str, run: &str) -> String {
        let said = self.says(&format!("{arguments} --run {run}"), 1, &["is not finite", "the training diverged"]);
        let all = self.checkpoints(run);
        for (_, path) in &all {
            load_finite(path).unwrap();
        }
        match all.last() {
            Some((_, path)) => {
                let name = path.file_name().unwrap().to_str().unwrap();
                assert!(said.contains(&format!("the last good checkpoint is runs/{run}/checkpoints/{name}")), "{said}");
                self.says(&format!("--resume {run}"), 1, &["is not finite", "the last good checkpoint is"]);
            }
            None => assert!(said.contains("before its first good checkpoint"), "{said}"),
        }
        said
    }
}

/// A ReLU that drops NaN hid this one: the loss stood still while all weights were NaN.
#[test]
fn a_d_that_explodes_on_digits_stops() {
    let place = Place::new();
    place.diverges("--preset mnist --batch 8 --steps 30 --lr-d 1e9", "a");
}

/// Second moments at infinity, which froze the weights.
#[test]
fn moments_that_overflow_stop() {
    let place = Place::new();
    place.diverges("--preset ring --lr-d 1e9 --steps 60", "a");
    place.diverges("--preset ring --lr-g 1e9 --steps 60", "b");
}

/// A weight became infinite after the step's loss had been looked at, and the checkpoint was written.
#[test]
fn a_weight_that_overflows_stops_before_it_is_saved() {
    let place = Place::new();
    let settings = "--preset ring --batch 16 --width 16 --lr-g 2.85e6 --lr-d 2.33e7 --update alternating --seed 33 \
                    --softmax-target uniform --r1 0 --steps 40 --checkpoint-every 1 --keep-checkpoints 2";
    place.diverges(settings, "a");
}

/// After hundreds of good steps: the checkpoints that were kept are good ones.
#[test]
fn the_last_good_checkpoint_stays() {
    let place = Place::new();
    let settings = "--preset ring --batch 16 --width 16 --lr-g 1000 --lr-d 1000 --loss wasserstein --r1 0 \
                    --steps 3000 --checkpoint-every 10 --keep-checkpoints 2";
    place.diverges(settings, "a");
    assert_eq!(place.checkpoints("a").len(), 2);
}

/// Checkpoints that an older program saved although they were not finite are neither named as good nor gone on from.
#[test]
fn the_last_good_checkpoint_has_been_looked_at() {
    let place = Place::new();
    place.train("--preset ring --width 16 --latent 2 --batch 4 --steps 8 --stop-at 3 --run a", 0);
    let newest = place.checkpoint("a", 4);
    std::fs::copy("tests/goldens/not_finite.safetensors", &newest).unwrap();
    assert!(load(&newest).is_ok());
    let parts = ["is not finite", "remove runs/a/checkpoints/step-000004", "go on from runs/a/checkpoints/step-000003"];
    place.says("--resume a", 1, &parts);
    std::fs::remove_file(newest).unwrap();
    place.train("--resume a", 0);
}

fn settings(preset: &str) -> Settings {
    preset.parse::<Preset>().unwrap().settings()
}

/// Data as a preset wants it, ten classes.
fn data(shape: ImageShape) -> DataInfo {
    let digits = DataSource::Mnist10k.open(Split::Train, &Settings::default().data_options()).unwrap();
    DataInfo { shape, ..digits.info() }
}

/// Trains for some steps, looking at the metrics after each; what was found not to be finite, if anything was. While nothing
/// is said, everything is finite.
fn train(setup: &Setup, steps: usize) -> Option<String> {
    let mut trainer = Trainer::new(&Device::host(1).unwrap(), setup).unwrap();
    let (n, points) = (trainer.images_per_step(), setup.draws_points());
    let count = if points { 0 } else { n };
    let images: Vec<u8> = (0..count * setup.shape.len()).map(|i| (i * 7919 % 251) as u8).collect();
    let labels: Vec<u32> = (0..count).map(|i| (i % setup.classes) as u32).collect();
    for _ in 0..steps {
        trainer.step(&images, &labels).unwrap();
        match trainer.metrics() {
            Err(Error::NotFinite { what, .. }) => return Some(what),
            other => {
                other.unwrap();
            }
        }
        if let Some(bad) = not_finite(&trainer.tensors().unwrap()) {
            // Running statistics are no weights: they are looked at before they are saved.
            assert!(bad.contains("running"), "{bad} is not finite, and nothing was said");
            return Some(bad);
        }
    }
    None
}

fn not_finite(tensors: &[NamedTensor]) -> Option<String> {
    tensors.iter().find(|t| t.values.iter().any(|x| !x.is_finite())).map(|t| t.name.clone())
}

/// Every preset, loss, precision and update rule with learning rates that explode, of either network. Each has one of four
/// pairs of rates; with `ZGAN_SWEEP=all`, where images are small, all four.
#[test]
fn nothing_diverges_in_silence() {
    let whole = std::env::var("ZGAN_SWEEP").is_ok_and(|sweep| sweep == "all");
    let (mut found, mut all) = (0, 0);
    // Those of pictures are as those of their sizes, and 256 pixels as 128, and slow.
    for preset in
        PRESETS.into_iter().filter(|preset| !["sngan-projection-256", "photos-64", "photos-128"].contains(&preset.name))
    {
        let info = data(if preset.name == "ring" { mixture::SHAPE } else { preset.sample });
        let large = info.shape.height > 32;
        for (i, loss) in Loss::value_variants().iter().enumerate() {
            if *loss == Loss::WassersteinGp && preset.name == "sagan-64" {
                continue;
            }
            for (j, precision) in Precision::ALL.into_iter().enumerate() {
                // CPUs have the others in builds with the feature `check`. Of large images, one precision for each loss.
                if precision != Precision::F32 && !HAS_CHECK || large && HAS_CHECK && i % Precision::ALL.len() != j {
                    continue;
                }
                for (k, update) in [Update::Simultaneous, Update::Alternating].into_iter().enumerate() {
                    let rates = [(1e9, 1e-3), (1e-3, 1e9), (1e9, 1e9), (1e6, 1e7)];
                    let (first, step) = if large || !whole { ((i + j + k) % 4, 4) } else { (0, 1) };
                    for (lr_g, lr_d) in rates.into_iter().skip(first).step_by(step) {
                        let setup = Setup::new(&preset.settings(), &info).with(|s| {
                            s.networks.width = 2;
                            s.training.batch = 3;
                            s.training.batch_g = None;
                            s.training.n_dis = 1;
                            s.training.loss = *loss;
                            s.training.precision = precision.into();
                            s.training.update = update;
                            (s.training.lr_g, s.training.lr_d) = (lr_g, lr_d);
                        });
                        all += 1;
                        found += usize::from(train(&setup, if large { 4 } else { 12 }).is_some());
                    }
                }
            }
        }
    }
    eprintln!("{found} of {all} trainings diverged");
    assert!(found * 10 > all, "{found} of {all} trainings diverged: the rates are too small to show anything");
}

/// In f16 gradients overflow by design: the loss scale finds its size, and the training goes on.
#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn overflows_of_the_loss_scale_do_not_stop() {
    let setup = Setup::new(&settings("mnist"), &data(settings("mnist").preset.sample)).with(|s| {
        s.networks.width = 2;
        s.training.batch = 4;
        s.training.precision = Precision::F16.into();
    });
    assert_eq!(train(&setup, 20), None);
}

/// The ReLUs of a D that one huge step has thrown far off are all shut: it gives every image one logit.
#[test]
fn a_network_that_died_is_told() {
    let place = Place::new();
    let train = "--preset ring --width 2 --batch 8 --steps 300 --log-every 10";
    let told = "D is dead: all its logits are equal, since step 10 ";
    let said = place.says(&format!("{train} --lr-d 100 --loss non-saturating --run a"), 0, &[told, "G is dead: "]);
    assert!(said.rfind(told) > said.find("trained in"), "at the end too:\n{said}");
    let metrics = place.read("runs/a/metrics.csv");
    let header: Vec<&str> = metrics.lines().next().unwrap().split(',').collect();
    let spread = header.iter().position(|name| *name == "logit_spread").unwrap();
    assert_eq!(metrics.lines().last().unwrap().split(',').nth(spread), Some("0"), "{metrics}");
    let said = place.train("--preset ring --steps 300 --log-every 10 --run b", 0);
    assert!(!said.contains("dead"), "{said}");
}

#[test]
fn a_network_is_dead_when_it_was_still_for_long() {
    let lively = Metrics { logit_spread: 0.1, grad_norm_d: 1.0, grad_norm_g: 1.0, ..Metrics::default() };
    let mut vitals = Vitals::default();
    let mut look = |step, metrics: Metrics| {
        vitals.look(&Metrics { step, ..metrics });
        vitals.dead()
    };
    assert!(look(10, lively.clone()).is_empty());
    let equal = Metrics { logit_spread: 0.0, grad_norm_g: 0.0, ..lively.clone() };
    assert!(look(20, equal.clone()).is_empty());
    assert!(look(119, equal.clone()).is_empty());
    let lines = look(120, equal.clone());
    assert!(lines.len() == 2 && lines.iter().all(|line| line.contains("since step 20 ")), "{lines:?}");
    assert!(look(130, lively.clone()).is_empty(), "it has moved");
    assert!(look(140, equal).is_empty());
    // A batch of one has no spread.
    let one = Metrics { logit_spread: f32::NAN, ..lively };
    assert!(look(150, one.clone()).is_empty() && look(400, one).is_empty());
}

#[test]
fn a_presets_schedule_scales_with_its_length() {
    let from = |settings: Settings| (settings.training.decay_from, settings.training.steps);
    let with = |preset: &str, keys: &[(&str, i64)]| {
        let table = keys.iter().map(|(name, value)| (name.to_string(), (*value).into())).collect();
        from(Settings::new(Some(preset.parse().unwrap()), &table).unwrap())
    };
    assert_eq!(with("sngan-projection-64", &[]), (Some(200_000), 250_000));
    assert_eq!(with("sngan-projection-64", &[("steps", 1000)]), (Some(800), 1000));
    assert_eq!(with("sngan-projection-64", &[("steps", 1)]), (Some(0), 1));
    assert_eq!(with("sngan-projection-128", &[("steps", 900_000)]), (Some(800_000), 900_000));
    assert_eq!(with("sngan-projection-32", &[("steps", 10)]), (Some(0), 10));
    assert_eq!(with("sngan-projection-64", &[("steps", 1000), ("decay-from", 10)]), (Some(10), 1000));
    assert_eq!(with("mnist", &[("steps", 10)]), (None, 10));
    let place = Place::new();
    let train = "--preset ring --width 2 --batch 2";
    for from in ["10", "11", "4294967295"] {
        let parts = [&format!("decay-from: {from} is past the end"), "10 steps"].map(|s| s.to_string());
        place.says(&format!("{train} --steps 10 --decay-from {from}"), 2, &[&parts[0], &parts[1]]);
    }
    // Given on the command line, also where it is the preset's own.
    let images = "--data mnist-10k --preset crcrpar-64";
    place.says(&format!("{images} --steps 1000 --decay-from 200000"), 2, &["decay-from: 200000 is past the end"]);
    assert!(!place.path("runs").exists(), "nothing was made");
}

#[test]
fn a_longer_run_keeps_the_start_of_its_decay() {
    let place = Place::new();
    let train = "--preset ring --width 4 --batch 4 --decay-from 6 --checkpoint-every 0";
    place.train(&format!("{train} --steps 12 --run through"), 0);
    place.train(&format!("{train} --steps 8 --stop-at 5 --run parts"), 0);
    // Shorter than the start of its decay, it would train without one.
    place.says("--resume parts --steps 6", 2, &["decay-from: 6 is past the end", "6 steps"]);
    place.train("--resume parts --steps 12", 0);
    let bytes = |run: &str| std::fs::read(place.checkpoint(run, 12)).unwrap();
    assert!(bytes("through") == bytes("parts"), "the rates are those of a run of this length");
    place.train(&format!("{train} --steps 8 --stop-at 7 --run begun"), 0);
    place.says("--resume begun --steps 12", 2, &["steps is 8", "12 here", "from step 6 to 0 at step 8", "at step 7"]);
    place.train("--resume begun", 0);
}

/// What older programs wrote has no key for what they did not have, and means what they did.
#[test]
fn runs_of_older_programs_go_on_as_they_began() {
    let place = Place::new();
    // White beyond 1, and rates that never fall as their decay would begin after the end.
    let train = "--preset mnist --width 2 --batch 2 --noise 0.5 --noise-within false --checkpoint-every 0";
    place.train(&format!("{train} --steps 6 --run through"), 0);
    place.train(&format!("{train} --steps 6 --stop-at 3 --run parts"), 0);
    let config = place.read("runs/parts/config.toml");
    const LATER: [&str; 3] = ["noise-within", "latent-distribution", "convolution"];
    let kept = |line: &&str| LATER.iter().all(|key| !line.starts_with(key));
    let old: String = config.lines().filter(kept).map(|line| format!("{line}\n")).collect();
    assert_eq!(config.lines().count() - old.lines().count(), LATER.len());
    std::fs::write(place.path("runs/parts/config.toml"), format!("{old}decay-from = 200000\n")).unwrap();
    let (mut header, tensors) = load(&place.checkpoint("parts", 3)).unwrap();
    LATER.iter().for_each(|key| drop(header.config.remove(*key).unwrap()));
    header.config.insert("decay-from".into(), 200_000.into());
    save(&place.checkpoint("parts", 3), &tensors, &header).unwrap();
    place.train("--resume parts", 0);
    assert!(place.read("runs/parts/config.toml").contains("convolution = \"direct\""));
    let tensors = |run: &str, step| checkpoint::load(&place.checkpoint(run, step)).unwrap().1;
    assert!(tensors("through", 6) == tensors("parts", 6));
    // It can be made longer, as its rates have not begun to fall.
    place.train("--resume parts --steps 8", 0);
    let sound = place.read("runs/parts/config.toml").replace("noise-within = false", "noise-within = true");
    assert_ne!(sound, place.read("runs/parts/config.toml"), "what it does is written now");
    // The ring in the game as published, without R1.
    let train = "--preset ring --width 8 --batch 4 --steps 4 --softmax-target uniform --r1 0 --checkpoint-every 0";
    place.train(&format!("{train} --run ring"), 0);
    place.train(&format!("{train} --stop-at 2 --run begun"), 0);
    let config = place.read("runs/begun/config.toml");
    let kept = |line: &&str| !line.starts_with("softmax-target") && !line.starts_with("r1 ");
    let old: String = config.lines().filter(kept).map(|line| format!("{line}\n")).collect();
    assert_eq!(config.lines().count() - old.lines().count(), 2);
    std::fs::write(place.path("runs/begun/config.toml"), old).unwrap();
    let (mut header, begun) = load(&place.checkpoint("begun", 2)).unwrap();
    ["softmax-target", "r1"].iter().for_each(|name| drop(header.config.remove(*name).unwrap()));
    save(&place.checkpoint("begun", 2), &begun, &header).unwrap();
    place.train("--resume begun", 0);
    assert!(tensors("ring", 4) == tensors("begun", 4));
}

/// The networks of pfnet's and crcrpar's programs train on images as they are, and on noise that keeps white within 1.
#[test]
fn presets_do_what_their_names_promise() {
    for preset in PRESETS {
        let batches = preset.settings().batches;
        assert!(batches.noise_within, "{preset}");
        let flips = ["sagan-64", "sngan-projection-256", "photos-64", "photos-128"].contains(&preset.name);
        assert_eq!(batches.flip, flips, "{preset}");
    }
}

#[test]
fn uniform_latents_and_the_relativistic_hinge_train() {
    let place = Place::new();
    let train = "--preset ring --width 8 --batch 8 --latent-distribution uniform --loss relativistic-hinge";
    for update in ["simultaneous", "alternating"] {
        place.train(&format!("{train} --update {update} --steps 6 --checkpoint-every 0 --run {update}"), 0);
        place.train(&format!("{train} --update {update} --steps 6 --stop-at 2 --run {update}-parts"), 0);
        place.train(&format!("--resume {update}-parts"), 0);
        let bytes = |run: &str| std::fs::read(place.checkpoint(run, 6)).unwrap();
        assert!(bytes(update) == bytes(&format!("{update}-parts")));
    }
    assert!(place.read("runs/alternating/config.toml").contains("latent-distribution = \"uniform\""));
}
