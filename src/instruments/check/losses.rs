//! Losses of logits, and the gradient penalty.

use super::{Cases, Tray};
use crate::Result;
use crate::ops::gradient_penalty::{self, Direction};
use crate::ops::log_partition::{self, Evaluation, Game};
use crate::ops::losses::LogitLoss;
use crate::ops::{cross_entropy, losses as ops};

const SIZES: [(usize, usize); 6] = [(1, 1), (1, 31), (33, 1), (255, 257), (300, 5), (4096, 4096)];
/// More than the 8,192 logits that one block takes.
const MANY: (usize, usize) = (8000, 200);

fn evaluation(t: &mut Tray, n: usize, m: usize) -> Result<Evaluation> {
    Ok(Evaluation { statistics: t.out("statistics", 4)?, seed_d: t.out("seed_d", n + m)?, seed_g: t.out("seed_g", m)? })
}

fn fused(t: &mut Tray, n: usize, m: usize, game: Game) -> Result<()> {
    let (out, real, fake) = (evaluation(t, n, m)?, t.numbers(n)?, t.numbers(m)?);
    let workspace = t.scratch(log_partition::workspace_len(t.device(), n + m))?;
    log_partition::fused(&out, &real, &fake, game, &workspace)
}

pub fn log_partition(cases: &mut Cases) {
    for (n, m) in SIZES.into_iter().chain([MANY]) {
        for sign in [1.0, -1.0] {
            cases.add(format!("fused, {n} + {m}, sign {sign}"), move |t| fused(t, n, m, sign.into()));
        }
        let zero_sum = Game { sign: 1.0, real_weight: 0.1, zero_sum: true };
        cases.add(format!("fused, {n} + {m}, zero-sum, real weight 0.1"), move |t| fused(t, n, m, zero_sum));
    }
    cases.add("fused, 70000 + 60000".into(), |t| fused(t, 70_000, 60_000, 1.0.into())).large = true;
    for (n, m) in [(33, 31), (900, 1200)] {
        cases.add(format!("unfused, {n} + {m}"), move |t| {
            let (out, real, fake) = (evaluation(t, n, m)?, t.numbers(n)?, t.numbers(m)?);
            let workspace = t.scratch(log_partition::unfused_workspace_len(t.device(), n + m))?;
            log_partition::unfused(&out, &real, &fake, 1.0, &workspace)
        });
    }
}

pub fn losses(cases: &mut Cases) {
    for loss in LogitLoss::ALL {
        for (n, m) in SIZES {
            cases.add(format!("{loss:?}, {n} + {m}"), move |t| {
                let (out, real, fake) = (evaluation(t, n, m)?, t.numbers(n)?, t.numbers(m)?);
                ops::fused(&out, &real, &fake, loss)
            });
        }
    }
}

pub fn cross_entropy(cases: &mut Cases) {
    for (n, classes) in [(1, 1), (1, 10), (63, 10), (65, 33), (130, 100)] {
        cases.add(format!("{n} x {classes}"), move |t| {
            let out = (t.out("statistics", 2)?, t.out("dx", n * classes)?);
            let (x, labels) = (t.numbers(n * classes)?, t.labels(n, classes)?);
            let workspace = t.scratch(cross_entropy::workspace_len(n))?;
            let out = cross_entropy::Evaluation { statistics: &out.0, dx: &out.1 };
            cross_entropy::evaluate(&out, &x, &labels, 0.7, &workspace)
        });
    }
}

pub fn gradient_penalty(cases: &mut Cases) {
    for (n, f) in cases.pick(&[(1, 1), (3, 31), (5, 784), (33, 257), (2, 5000)], &[1, 4]) {
        cases.add(format!("mix and direction, {n} x {f}"), move |t| {
            let (mixed, v, norms, statistics) =
                (t.out_values("mixed", n * f)?, t.out_values("v", n * f)?, t.out("norms", n)?, t.out("statistics", 2)?);
            let (real, fake, share) = (t.values(n * f)?, t.values(n * f)?, t.uniforms(n, 0.0, 1.0)?);
            let (g, state) = (t.values(n * f)?, t.state()?);
            gradient_penalty::mix(&mixed, &real, &fake, &share)?;
            let out = Direction { v: &v, norms: &norms, statistics: &statistics };
            gradient_penalty::direction(out, &g, 10.0, 1.0, &state)
        });
    }
    for (n, p, c) in cases.pick(&[(1, 1, 1), (3, 49, 32), (2, 5, 129), (7, 300, 3)], &[2, 3]) {
        cases.add(format!("pool, {n} x {p} x {c}"), move |t| {
            let (h, tangent, x) = (t.out("h", n * c)?, t.values(n * p * c)?, t.values(n * p * c)?);
            gradient_penalty::pool(&h, &tangent, &x, n, 0.25)
        });
    }
}
