//! Measures which block sizes and tiles suit a device: what `zgan tune` does.
//!
//! One pass of coordinate descent over the fields of [`Tuning`]. A candidate is timed in turns with the present value, on
//! the problems of `zgan bench` whose launches it changes, after both have computed the same; it is taken where it saves
//! more than [`WORTH`], and again does so when it is timed a second time.

pub mod file;

use std::cmp::Reverse;

use crate::device::{
    Convolution, Device, FIELDS, Field, Launched, Precision, Products, TileCost, Tuning, kernel_named, trace,
};
use crate::instruments::bench::operations::products::{self, Pass, convolution_alone, square};
use crate::instruments::bench::{self, Form, Problem, Settings, numbers_in};
use crate::ops::Activation;
use crate::ops::matmul::{self, Linear, OutputGradient};
use crate::{Error, Result};

/// The share of the time that a candidate must save, on the geometric mean.
pub const WORTH: f64 = 0.03;

/// Something to tell.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// What a tile costs beside what its size lets expect, the first tile that all products have being 1.
    Cost {
        family: &'static str,
        precision: Precision,
        tile: String,
        cost: f64,
    },
    Trial(Trial),
    /// No problem depends on it here.
    Untried {
        field: &'static str,
        present: String,
    },
}

/// A candidate that was timed.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    pub field: &'static str,
    pub present: String,
    pub tried: String,
    /// Its time over the present value's, the geometric mean over so many problems; and timed a second time.
    pub ratio: f64,
    pub again: Option<f64>,
    pub problems: usize,
    pub taken: bool,
}

/// What is asked for.
pub struct Request<'a> {
    /// For each problem of a field, and each candidate that is timed again.
    pub settings: Settings,
    /// Sizes that only try the program.
    pub tiny: bool,
    /// Only the fields that hold this text.
    pub filter: Option<&'a str>,
}

/// The operation of the problems that time these products.
fn operation(products: Products) -> &'static str {
    match products {
        Products::Linear => "matmul",
        Products::Conv => "conv",
    }
}

/// The names of what can be tuned.
pub fn fields() -> Vec<&'static str> {
    Products::ALL.iter().map(|products| products.key()).chain(FIELDS.iter().map(|field| field.name)).collect()
}

/// A tuning for `device`, from the one in force there. `tell` gets a line for all that was measured.
pub fn tune(device: &Device, request: &Request, tell: &mut dyn FnMut(Line)) -> Result<Tuning> {
    if device.execution() == "simt" {
        let what = "simt checks kernels on coroutines, whose times say nothing of any device: nothing to tune";
        return Err(Error::Config(what.into()));
    }
    let wanted = |name: &str| request.filter.is_none_or(|text| name.contains(text));
    if !fields().into_iter().any(wanted) {
        let (text, there) = (request.filter.unwrap_or_default(), fields().join(", "));
        return Err(Error::Config(format!("nothing to tune is called {text:?}; there are {there}")));
    }
    let mut search =
        Search { device, request, problems: problems(device, request.tiny), present: device.tuning().clone() };
    for products in Products::ALL.into_iter().filter(|products| wanted(products.key())) {
        search.tiles(products, tell)?;
    }
    for field in FIELDS.iter().filter(|field| wanted(field.name)) {
        search.field(field, tell)?;
    }
    search.present.check()?;
    Ok(search.present)
}

/// A CPU has no instructions for the others.
fn precisions(device: &Device) -> &'static [Precision] {
    if device.execution() == "cuda" { &Precision::ALL } else { &Precision::ALL[..1] }
}

/// Those of `zgan bench`, and convolutions of few tiles in Winograd's form.
fn problems(device: &Device, tiny: bool) -> Vec<Problem> {
    let channels = if tiny { 16 } else { 64 };
    let few = [1, 3, 6, 12, 24, 48].into_iter().flat_map(|n| {
        let sizes = square([n, 8, channels, channels]);
        Pass::ALL.map(|pass| products::convolution(sizes, pass, Precision::F32))
    });
    precisions(device).iter().flat_map(|&precision| bench::problems_in(precision, tiny)).chain(few).collect()
}

/// Whether the problem may depend on the field; whether it does, its launches tell.
fn may_depend(field: &str, problem: &Problem) -> bool {
    let (operation, sizes) = (problem.operation, &problem.sizes);
    // The same fields serve all precisions.
    problem.precision == Precision::F32
        && match field {
            "elements" => matches!(operation, "adam" | "projection"),
            "reduce-blocks" => operation == "adam",
            "logits" | "logit-blocks" => operation == "log_partition",
            "rows" => operation == "norm",
            "winograd-tiles" => operation == "conv",
            "split-blocks" | "split-pixels" => operation == "conv" && sizes.ends_with("weight gradient"),
            _ => false,
        }
}

struct Search<'a> {
    device: &'a Device,
    request: &'a Request<'a>,
    problems: Vec<Problem>,
    /// What was found so far.
    present: Tuning,
}

/// Of one candidate: logarithms of its time over the present value's, one for each problem that it changes.
type Ratios = Vec<f64>;

fn mean(ratios: &Ratios) -> f64 {
    (ratios.iter().sum::<f64>() / ratios.len().max(1) as f64).exp()
}

impl Search<'_> {
    fn field(&mut self, field: &Field, tell: &mut dyn FnMut(Line)) -> Result<()> {
        let present = (field.get)(&self.present);
        let tried = [present / 4, present / 2, present * 2, present * 4];
        let tried: Vec<usize> = tried.into_iter().filter(|value| (field.least..=field.most).contains(value)).collect();
        let with = |value: &usize| {
            let mut tuning = self.present.clone();
            (field.set)(&mut tuning, *value);
            (value.to_string(), tuning)
        };
        let candidates = tried.iter().map(with).collect();
        let depends = |problem: &Problem| may_depend(field.name, problem);
        self.choose(field.name, &present.to_string(), candidates, &depends, tell)
    }

    /// Times the candidates beside what is there, and takes the best that is worth it.
    fn choose(
        &mut self,
        field: &'static str,
        present: &str,
        candidates: Vec<(String, Tuning)>,
        depends: &dyn Fn(&Problem) -> bool,
        tell: &mut dyn FnMut(Line),
    ) -> Result<()> {
        let ratios = self.time(candidates.iter().map(|(_, tuning)| tuning), depends)?;
        let timed = candidates.into_iter().zip(ratios).filter(|(_, ratios)| !ratios.is_empty());
        let timed = timed.map(|((tried, tuning), ratios)| {
            let (ratio, problems) = (mean(&ratios), ratios.len());
            let present = present.to_string();
            (Trial { field, present, tried, ratio, again: None, problems, taken: false }, tuning)
        });
        let mut timed: Vec<(Trial, Tuning)> = timed.collect();
        if let Some((trial, tuning)) = timed.iter_mut().min_by(|(a, _), (b, _)| a.ratio.total_cmp(&b.ratio))
            && trial.ratio < 1.0 - WORTH
        {
            // The best of several is best by chance as well.
            let again = self.time(std::iter::once(&*tuning), depends)?;
            trial.again = again.first().map(mean);
            trial.taken = trial.again.is_some_and(|again| again < 1.0 - WORTH);
            if trial.taken {
                self.present = tuning.clone();
            }
        }
        if timed.is_empty() {
            tell(Line::Untried { field, present: present.to_string() });
        }
        timed.into_iter().for_each(|(trial, _)| tell(Line::Trial(trial)));
        Ok(())
    }

    /// Each candidate's times on the problems whose launches it changes.
    fn time<'t>(
        &self,
        candidates: impl Iterator<Item = &'t Tuning>,
        depends: &dyn Fn(&Problem) -> bool,
    ) -> Result<Vec<Ratios>> {
        let there = self.device.with_tuning(self.present.clone())?;
        let others = candidates.map(|tuning| self.device.with_tuning(tuning.clone())).collect::<Result<Vec<_>>>()?;
        let mut ratios = vec![Ratios::new(); others.len()];
        for problem in self.problems.iter().filter(|problem| depends(problem)) {
            // The first form is what training runs.
            let form = |device: &Device| -> Result<(Form, Vec<_>)> {
                let form = (problem.make)(device)?.swap_remove(0);
                let launched = trace(|| form.run())?;
                Ok((form, launched.into_iter().map(|launched| (launched.kernel, launched.grid)).collect()))
            };
            let (first, launched) = form(&there)?;
            let (mut forms, mut which) = (vec![first], Vec::new());
            for (i, other) in others.iter().enumerate() {
                let (other, different) = form(other)?;
                if different != launched {
                    forms.push(other);
                    which.push(i);
                }
            }
            if which.is_empty() {
                continue;
            }
            problem.check(&forms)?;
            let measured = bench::time(self.device, &forms, self.request.settings)?;
            for (i, candidate) in which.into_iter().zip(&measured[1..]) {
                ratios[i].push((candidate.seconds / measured[0].seconds).ln());
            }
        }
        Ok(ratios)
    }

    /// What each tile costs, in each precision that there is: tried on the problems of that precision like any candidate.
    fn tiles(&mut self, products: Products, tell: &mut dyn FnMut(Line)) -> Result<()> {
        for &precision in precisions(self.device) {
            let costs = match self.costs(products, precision) {
                Ok(costs) => costs,
                // An older generation.
                Err(Error::Device(_)) if precision != Precision::F32 => continue,
                Err(error) => return Err(error),
            };
            let mut tuning = self.present.clone();
            let tiles = products.list(&mut tuning);
            for ((rows, columns), cost) in products.sizes().into_iter().zip(costs) {
                let Some(cost) = cost else { continue };
                let at = tiles.iter().position(|tile| (tile.rows, tile.columns) == (rows, columns));
                let at = at.unwrap_or_else(|| {
                    tiles.push(TileCost { rows, columns, cost: [1.0; 4] });
                    tiles.len() - 1
                });
                tiles[at].cost[precision as usize] = cost;
                tell(Line::Cost { family: products.key(), precision, tile: tiles[at].name(), cost });
            }
            // As the built-in tables and files have them.
            tiles.sort_by_key(|tile| Reverse((tile.rows * tile.columns, tile.rows)));
            let depends =
                |problem: &Problem| problem.operation == operation(products) && problem.precision == precision;
            let candidate = (format!("{precision} costs"), tuning);
            self.choose(products.key(), "as it was", vec![candidate], &depends, tell)?;
        }
        Ok(())
    }

    /// Of each tile of [`Products::sizes`] that there is in this precision, from products that all tiles divide and that fill
    /// the device evenly.
    fn costs(&self, products: Products, precision: Precision) -> Result<Vec<Option<f64>>> {
        let all = products.sizes();
        let mut logarithms = vec![Vec::new(); all.len()];
        let passes: &[Pass] = match products {
            Products::Linear => &Pass::ALL,
            Products::Conv => &[Pass::Forward, Pass::InputGradient],
        };
        for &pass in passes {
            let (mut forms, mut which) = (Vec::new(), Vec::new());
            let mut most_blocks = Vec::new();
            for (i, &(rows, columns)) in all.iter().enumerate() {
                let device = self.device.with_tuning(only(&self.present, products, i))?;
                let form = match products {
                    Products::Linear => linear(&device, precision, pass, self.request.tiny)?,
                    Products::Conv => convolution(&device, precision, pass, self.request.tiny)?,
                };
                let launched = trace(|| form.run())?;
                // A product that has no kernel of this size takes another.
                let tile = |launched: &&Launched| kernel_named(launched.kernel).and_then(|kernel| kernel.tile);
                if let Some(launched) = launched.iter().find(|launched| tile(launched) == Some((rows, columns))) {
                    forms.push(form);
                    which.push(i);
                    most_blocks.push(launched.grid.iter().map(|n| f64::from(*n)).product::<f64>());
                }
            }
            let Some(reference) = which.iter().position(|i| products.all_have(all[*i])) else { continue };
            let measured = bench::time(self.device, &forms, self.request.settings)?;
            let cost = |at: usize| {
                let (rows, columns) = all[which[at]];
                // As `ops/tile.rs` has it.
                measured[at].seconds / (most_blocks[at] * (rows * columns + 4 * (rows + columns)) as f64)
            };
            for (at, &i) in which.iter().enumerate() {
                logarithms[i].push((cost(at) / cost(reference)).ln());
            }
        }
        // Three digits are more than is known.
        let rounded = |logs: &Ratios| (mean(logs).clamp(1e-3, 1e3) * 1e3).round() / 1e3;
        Ok(logarithms.iter().map(|logs| (!logs.is_empty()).then(|| rounded(logs))).collect())
    }
}

/// With costs that make tile `i` of a family the one that is chosen wherever it is.
fn only(tuning: &Tuning, products: Products, i: usize) -> Tuning {
    let mut tuning = tuning.clone();
    let tiles = products.sizes().into_iter().enumerate().map(|(j, (rows, columns))| {
        let cost = if i == j { 1e-3 } else { 1e3 };
        TileCost { rows, columns, cost: [cost; 4] }
    });
    *products.list(&mut tuning) = tiles.collect();
    tuning
}

/// Two rows of the widest tiles for each worker, and two tiles across.
fn linear(device: &Device, precision: Precision, pass: Pass, tiny: bool) -> Result<Form> {
    let (down, across, depth) = if tiny { (9, 9, 9) } else { (256 * device.workers(), 512, 256) };
    let sizes = match pass {
        Pass::Forward => Linear { n: down, k: across, c: depth },
        Pass::InputGradient => Linear { n: down, c: across, k: depth },
        Pass::WeightGradient => Linear { c: down, k: across, n: depth },
    };
    let Linear { n, c, k } = sizes;
    let (x, dy) = (numbers_in(device, precision, n * c, 1)?, numbers_in(device, precision, n * k, 2)?);
    // Weights are of the precision, their gradients f32.
    let (weight, dweight) = (numbers_in(device, precision, c * k, 3)?, device.zeros(c * k)?);
    Ok(Form::new("tile", [], move || {
        let gradient = OutputGradient::stored(&dy);
        match pass {
            Pass::Forward => matmul::linear_forward(sizes, &dy, &x, &weight, None, Activation::Identity),
            Pass::InputGradient => matmul::linear_input_gradient(sizes, &x, &gradient, &weight),
            Pass::WeightGradient => matmul::linear_weight_gradient(sizes, (&dweight, None), &x, &gradient),
        }
    }))
}

/// An image of 16x16 for each worker.
fn convolution(device: &Device, precision: Precision, pass: Pass, tiny: bool) -> Result<Form> {
    let (n, side, across, depth) = if tiny { (1, 3, 33, 3) } else { (device.workers(), 16, 256, 64) };
    let (c, k) = if matches!(pass, Pass::InputGradient) { (across, depth) } else { (depth, across) };
    let direct = device.with_convolution(Convolution::Direct);
    convolution_alone(&direct, "direct", square([n, side, c, k]), pass, precision)
}
