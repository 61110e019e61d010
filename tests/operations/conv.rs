//! `kernels/conv.cu` against f64 loops, central differences of them, and PyTorch.

use crate::common::*;
use zgan::device::{Buffer, Convolution, Device, Precision, Products, Tuning};
use zgan::ops::Activation;
use zgan::ops::conv::{self, Conv, ConvGradient, Epilogue, Filters, InputEpilogue, Parts, Prologue};
use zgan::ops::matmul::OutputGradient;

/// A convolution and everything that is fused into it.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub sizes: Conv,
    /// Samples of the scale and shift tables: 0 for none, 1, or N.
    pub tables: usize,
    pub before: Activation,
    pub upsample: bool,
    pub bias: bool,
    pub residual: bool,
    pub after: Activation,
    pub pool: bool,
    pub row_scale: bool,
    pub accumulate: bool,
}

/// A filter that is long in one direction, padded so that the pixels stay as many.
fn long(seen: [usize; 4], k: usize, [r, s]: [usize; 2]) -> Setup {
    let plain = plain(seen, k, [r, s], 0, 1);
    Setup { sizes: Conv { pad: [r / 2, s / 2], ..plain.sizes }, ..plain }
}

/// (N, H, W, C) to (K), R x S, padding, stride; nothing fused.
pub fn plain(seen: [usize; 4], k: usize, filter: [usize; 2], pad: usize, stride: usize) -> Setup {
    let ([n, h, w, c], [r, s]) = (seen, filter);
    Setup {
        sizes: Conv { n, h, w, c, k, r, s, pad: [pad; 2], stride },
        tables: 0,
        before: Activation::Identity,
        upsample: false,
        bias: false,
        residual: false,
        after: Activation::Identity,
        pool: false,
        row_scale: false,
        accumulate: false,
    }
}

fn act(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Identity => x,
        Activation::LeakyRelu(slope) => x * if x > 0.0 { 1.0 } else { f64::from(slope) },
        Activation::Tanh => x.tanh(),
    }
}

fn derivative(activation: Activation, y: f64) -> f64 {
    match activation {
        Activation::LeakyRelu(slope) if y <= 0.0 => f64::from(slope),
        Activation::Tanh => 1.0 - y * y,
        _ => 1.0,
    }
}

pub struct Tensors<T> {
    x: Vec<T>,
    scale: Vec<T>,
    shift: Vec<T>,
    filters: Vec<T>,
    bias: Vec<T>,
    residual: Vec<T>,
    dy: Vec<T>,
    row_scale: Vec<T>,
}

impl Setup {
    fn input_len(&self) -> usize {
        let Conv { n, h, w, c, .. } = self.sizes;
        n * h * w * c / if self.upsample { 4 } else { 1 }
    }

    fn output_len(&self) -> usize {
        self.sizes.n * self.sizes.p() * self.sizes.q() * self.sizes.k / if self.pool { 4 } else { 1 }
    }

    pub fn tensors(&self) -> Tensors<f32> {
        let Conv { n, c, k, r, s, .. } = self.sizes;
        let mut random = Random((n * 31 + self.input_len() * 7 + k * 3 + r) as u64);
        let depth = (r * s * c) as f32;
        Tensors {
            x: random.normals(self.input_len()),
            scale: random.normals(self.tables * c),
            shift: random.normals(self.tables * c),
            filters: random.normals(r * s * c * k).iter().map(|w| w / depth.sqrt()).collect(),
            bias: random.normals(k),
            residual: random.normals(self.output_len()),
            dy: random.normals(self.output_len()),
            row_scale: random.normals(n),
        }
    }

    /// v: what the filter sees.
    fn seen(&self, t: &Tensors<f64>) -> Vec<f64> {
        let Conv { n, h, w, c, .. } = self.sizes;
        let up = usize::from(self.upsample);
        let mut v = Vec::with_capacity(n * h * w * c);
        for i in 0..n * h * w * c {
            let (ch, x, y, sample) = (i % c, i / c % w, i / c / w % h, i / c / w / h);
            let value = t.x[((sample * (h >> up) + (y >> up)) * (w >> up) + (x >> up)) * c + ch];
            let value = match self.tables {
                0 => value,
                tables => {
                    let at = if tables == 1 { ch } else { sample * c + ch };
                    value * t.scale[at] + t.shift[at]
                }
            };
            v.push(act(self.before, value));
        }
        v
    }

    /// Calls `f(index of z, index of v, index of w)` for every product.
    fn products(&self, mut f: impl FnMut(usize, usize, usize)) {
        let Conv { n, h, w, c, k, r, s, pad, stride } = self.sizes;
        let (p, q) = (self.sizes.p(), self.sizes.q());
        for pixel in 0..n * p * q {
            let (qq, pp, sample) = (pixel % q, pixel / q % p, pixel / q / p);
            for tap in 0..r * s {
                let (y, x) = (pp * stride + tap / s, qq * stride + tap % s);
                if y < pad[0] || x < pad[1] || y - pad[0] >= h || x - pad[1] >= w {
                    continue;
                }
                let seen = ((sample * h + y - pad[0]) * w + x - pad[1]) * c;
                for ch in 0..c {
                    for out in 0..k {
                        f(pixel * k + out, seen + ch, (tap * c + ch) * k + out);
                    }
                }
            }
        }
    }

    /// The index in y or dy that belongs to an index of z.
    fn pooled(&self, z: usize) -> usize {
        let k = self.sizes.k;
        let (p, q) = (self.sizes.p(), self.sizes.q());
        let (out, qq, pp, sample) = (z % k, z / k % q, z / k / q % p, z / k / q / p);
        if self.pool { ((sample * (p / 2) + pp / 2) * (q / 2) + qq / 2) * k + out } else { z }
    }

    fn forward(&self, t: &Tensors<f64>) -> Vec<f64> {
        let v = self.seen(t);
        let mut z = vec![0.0; self.sizes.n * self.sizes.p() * self.sizes.q() * self.sizes.k];
        self.products(|iz, iv, iw| z[iz] += v[iv] * t.filters[iw]);
        self.finish(t, &z)
    }

    fn finish(&self, t: &Tensors<f64>, z: &[f64]) -> Vec<f64> {
        let mut y = vec![0.0; self.output_len()];
        let share = if self.pool { 0.25 } else { 1.0 };
        z.iter().enumerate().for_each(|(i, z)| y[self.pooled(i)] += share * z);
        for (i, y) in y.iter_mut().enumerate() {
            let bias = if self.bias { t.bias[i % self.sizes.k] } else { 0.0 };
            *y = act(self.after, *y + bias + if self.residual { t.residual[i] } else { 0.0 });
        }
        y
    }

    /// g, from the output as it was stored.
    fn gradient(&self, t: &Tensors<f64>, y: &[f64]) -> Vec<f64> {
        let per_sample = self.sizes.p() * self.sizes.q() * self.sizes.k;
        let share = if self.pool { 0.25 } else { 1.0 };
        (0..self.sizes.n * per_sample)
            .map(|z| {
                let (i, sample) = (self.pooled(z), z / per_sample);
                let seed = if self.row_scale { t.row_scale[sample] } else { 1.0 };
                t.dy[i] * derivative(self.after, y[i]) * seed * share
            })
            .collect()
    }

    fn dv(&self, t: &Tensors<f64>, g: &[f64]) -> Vec<f64> {
        let Conv { n, h, w, c, .. } = self.sizes;
        let mut dv = vec![0.0; n * h * w * c];
        self.products(|iz, iv, iw| dv[iv] += g[iz] * t.filters[iw]);
        dv
    }

    /// As the kernel gives it: through the upsampling, and through the activation where it is the whole prologue.
    fn dx(&self, t: &Tensors<f64>, dv: &[f64]) -> Vec<f64> {
        let Conv { h, w, c, .. } = self.sizes;
        if !self.upsample {
            return dv
                .iter()
                .zip(&t.x)
                .map(|(d, x)| d * self.mask().map_or(1.0, |_| derivative(self.before, *x)))
                .collect();
        }
        let mut dx = vec![0.0; self.input_len()];
        for (i, d) in dv.iter().enumerate() {
            let (ch, x, y, sample) = (i % c, i / c % w, i / c / w % h, i / c / w / h);
            dx[((sample * h / 2 + y / 2) * (w / 2) + x / 2) * c + ch] += d;
        }
        dx
    }

    fn mask(&self) -> Option<f32> {
        match self.before {
            Activation::LeakyRelu(slope) if self.tables == 0 && !self.upsample => Some(slope),
            _ => None,
        }
    }
}

pub struct Results {
    pub y: Buffer<f32>,
    pub dx: Buffer<f32>,
    pub dfilters: Buffer<f32>,
    pub dbias: Buffer<f32>,
}

const START: f32 = 0.5;

pub fn evaluate(device: &Device, setup: &Setup, t: &Tensors<f32>) -> Results {
    evaluate_in(device, Precision::F32, setup, t)
}

/// All passes; of a stride of 2, all but the input gradient. What accumulates starts from `START`, the rest and all workspaces from NaN.
fn evaluate_in(device: &Device, precision: Precision, setup: &Setup, t: &Tensors<f32>) -> Results {
    let s = setup.sizes;
    let up = |x: &[f32]| -> Buffer<f32> { device.upload(x).unwrap() };
    let narrow = |x: &[f32]| -> Buffer<f32> { device.upload_in(x, precision).unwrap() };
    let filled = |len: usize, value: f32| -> Buffer<f32> { device.upload(&vec![value; len]).unwrap() };
    let filled_narrow = |len: usize, value: f32| -> Buffer<f32> { narrow(&vec![value; len]) };
    let start = if setup.accumulate { START } else { f32::NAN };
    let (x, scale, shift, filters) = (narrow(&t.x), up(&t.scale), up(&t.shift), narrow(&t.filters));
    let (bias, residual, dy, row_scale) = (up(&t.bias), narrow(&t.residual), narrow(&t.dy), up(&t.row_scale));
    let out = Results {
        y: filled_narrow(setup.output_len(), start),
        dx: filled_narrow(setup.input_len(), start),
        dfilters: filled(t.filters.len(), START),
        dbias: filled(s.k, START),
    };
    let prologue = Prologue {
        scale_shift: (setup.tables > 0).then_some((&scale, &shift)),
        activation: setup.before,
        upsample: setup.upsample,
    };
    let epilogue = Epilogue {
        bias: setup.bias.then_some(&bias),
        residual: setup.residual.then_some(&residual),
        activation: setup.after,
        pool: setup.pool,
        accumulate: setup.accumulate,
    };
    let room = filled(conv::forward_workspace_len(device, &s), f32::NAN);
    let with_room = Filters { values: &filters, room: Some(&room) };
    conv::conv_forward(s, &out.y, &x, with_room, &prologue, &epilogue).unwrap();
    let gradient = ConvGradient {
        output: OutputGradient {
            dy: &dy,
            y: Some(&out.y),
            activation: setup.after,
            row_scale: setup.row_scale.then_some(&row_scale),
        },
        pooled: setup.pool,
    };
    let into = InputEpilogue {
        mask: setup.mask().map(|slope| (&x, slope)),
        upsample: setup.upsample,
        accumulate: setup.accumulate,
    };
    let parts = filled(conv::weight_gradient_workspace_len(device, &s), f32::NAN);
    let into_parameters = (&out.dfilters, Some(&out.dbias));
    let left = conv::conv_weight_gradient(s, into_parameters, &x, &prologue, &gradient, &parts).unwrap();
    if s.stride == 1 {
        let workspace = filled_narrow(conv::input_gradient_workspace_len(device, &s), f32::NAN);
        conv::conv_input_gradient(s, &out.dx, &gradient, &filters, &into, &workspace, left).unwrap();
    } else {
        left.add().unwrap();
    }
    out
}

pub fn wide(t: &Tensors<f32>) -> Tensors<f64> {
    Tensors {
        x: to_f64(&t.x),
        scale: to_f64(&t.scale),
        shift: to_f64(&t.shift),
        filters: to_f64(&t.filters),
        bias: to_f64(&t.bias),
        residual: to_f64(&t.residual),
        dy: to_f64(&t.dy),
        row_scale: to_f64(&t.row_scale),
    }
}

/// The direct form.
fn check(device: &Device, setup: &Setup) {
    let device = &device.with_convolution(Convolution::Direct);
    let narrow = setup.tensors();
    let t = wide(&narrow);
    let out = evaluate(device, setup, &narrow);
    let Conv { n, c, k, r, s, .. } = setup.sizes;
    let start = if setup.accumulate { f64::from(START) } else { 0.0 };
    // A chain of additions as long as the depth errs like the square root of it, in units of its terms.
    let close = |name: &str, found: &Buffer<f32>, expected: &[f64], depth: usize, term: f64| {
        let depth = (depth as f64).sqrt();
        let error = relative_error(&found.read().unwrap(), expected, term * depth);
        let tolerance = 5e-7 * depth.max(4.0);
        assert!(error <= tolerance, "{setup:?} {name}: relative error {error:.3e}, at most {tolerance:.1e} allowed");
    };
    let term = 1.0 / ((r * s * c) as f64).sqrt();
    let y: Vec<f64> = setup.forward(&t).iter().map(|y| y + start).collect();
    close("y", &out.y, &y, r * s * c, term);
    // The derivative is taken from the output as it was rounded, as the kernel does.
    let g = setup.gradient(&t, &to_f64(&out.y.read().unwrap()));
    let dv = setup.dv(&t, &g);
    let dx: Vec<f64> = setup.dx(&t, &dv).iter().map(|d| d + start).collect();
    if setup.sizes.stride == 1 {
        close("dx", &out.dx, &dx, r * s * k, term);
    }
    let v = setup.seen(&t);
    let mut dfilters = vec![f64::from(START); r * s * c * k];
    setup.products(|iz, iv, iw| dfilters[iw] += v[iv] * g[iz]);
    let pixels = n * setup.sizes.p() * setup.sizes.q();
    close("dfilters", &out.dfilters, &dfilters, pixels, 1.0);
    let mut dbias = vec![f64::from(START); k];
    g.iter().enumerate().for_each(|(i, g)| dbias[i % k] += g);
    close("dbias", &out.dbias, &dbias, pixels, 1.0);
}

/// sum[i] = the sum of a b over all products that `pick` puts there: exactly, or as a plain loop does in a precision.
fn sums(
    setup: &Setup,
    naive: Option<Precision>,
    len: usize,
    pick: impl Fn(usize, usize, usize) -> (usize, f64, f64),
) -> Vec<f64> {
    let mut exact = vec![0.0f64; len];
    let mut plain = vec![0.0f32; len];
    setup.products(|iz, iv, iw| {
        let (i, a, b) = pick(iz, iv, iw);
        match naive {
            None => exact[i] += a * b,
            Some(precision) => plain[i] += operand(precision, a as f32) * operand(precision, b as f32),
        }
    });
    if naive.is_some() { to_f64(&plain) } else { exact }
}

/// y, dx, dfilters and dbias, in f64 or as plain loops give them in a precision. `y` is the output as it was stored.
pub fn all_passes(setup: &Setup, naive: Option<Precision>, t: &Tensors<f64>, y: &[f64]) -> [Vec<f64>; 4] {
    let Conv { n, h, w, c, k, .. } = setup.sizes;
    let as_stored = |mut values: Vec<f64>, accumulates: bool| {
        let start = if setup.accumulate && accumulates { f64::from(START) } else { 0.0 };
        for value in &mut values {
            *value += start;
            *value = naive.map_or(*value, |precision| f64::from(stored(precision, *value as f32)));
        }
        values
    };
    let v = setup.seen(t);
    let z_len = n * setup.sizes.p() * setup.sizes.q() * k;
    let z = sums(setup, naive, z_len, |iz, iv, iw| (iz, v[iv], t.filters[iw]));
    let out = setup.finish(t, &z);
    let g = setup.gradient(t, y);
    let dv = sums(setup, naive, n * h * w * c, |iz, iv, iw| (iv, g[iz], t.filters[iw]));
    let mut dfilters = sums(setup, naive, t.filters.len(), |iz, iv, iw| (iw, v[iv], g[iz]));
    dfilters.iter_mut().for_each(|d| *d += f64::from(START));
    let mut dbias = vec![f64::from(START); k];
    g.iter().enumerate().for_each(|(i, g)| dbias[i % k] += g);
    [as_stored(out, true), as_stored(setup.dx(t, &dv), true), dfilters, dbias]
}

/// Every pass errs at most twice as much as plain loops in the same precision do.
fn check_in(device: &Device, precision: Precision, setup: &Setup) {
    let mut narrow = setup.tensors();
    for values in [&mut narrow.x, &mut narrow.filters, &mut narrow.residual, &mut narrow.dy] {
        values.iter_mut().for_each(|x| *x = stored(precision, *x));
    }
    let t = wide(&narrow);
    let out = evaluate_in(device, precision, setup, &narrow);
    let y = to_f64(&out.y.read().unwrap());
    let exact = all_passes(setup, None, &t, &y);
    let naive = all_passes(setup, Some(precision), &t, &y);
    let found = [&out.y, &out.dx, &out.dfilters, &out.dbias];
    let Conv { n, c, k, r, s, .. } = setup.sizes;
    let depths = [r * s * c, r * s * k, n * setup.sizes.p() * setup.sizes.q(), 0];
    for (i, name) in ["y", "dx", "dfilters", "dbias"].into_iter().enumerate() {
        if name == "dx" && setup.sizes.stride > 1 {
            continue;
        }
        let what = format!("{setup:?} {precision} {name}");
        let stored = if i < 2 { precision } else { Precision::F32 };
        let cut_off = cut_off_on(device, precision, depths[i]);
        at_most_twice(&what, stored, &found[i].read().unwrap(), &exact[i], &naive[i], cut_off);
    }
}

pub const LEAKY: Activation = Activation::LeakyRelu(0.2);

/// Every feature, odd sizes, and each kind of tile.
fn setups() -> Vec<Setup> {
    let fused = Setup { before: LEAKY, bias: true, row_scale: true, ..plain([2, 6, 8, 5], 7, [3, 3], 1, 1) };
    vec![
        plain([1, 1, 1, 1], 1, [1, 1], 0, 1),
        plain([3, 5, 7, 1], 16, [3, 3], 1, 1),
        plain([2, 7, 5, 3], 33, [3, 3], 1, 1),
        plain([2, 9, 6, 16], 1, [3, 3], 1, 1),
        plain([2, 8, 8, 17], 40, [1, 1], 0, 1),
        plain([2, 9, 7, 4], 6, [3, 3], 1, 2),
        plain([1, 8, 9, 3], 5, [4, 2], 0, 2),
        plain([2, 6, 5, 2], 3, [2, 3], 2, 1),
        long([2, 4, 9, 5], 6, [1, 7]),
        long([1, 9, 4, 18], 24, [7, 1]),
        plain([1, 3, 3, 2], 4, [1, 1], 2, 1),
        plain([3, 1, 1, 31], 33, [3, 3], 1, 1),
        Setup { accumulate: true, ..fused },
        Setup { after: Activation::Tanh, ..fused },
        Setup { after: LEAKY, pool: true, residual: true, ..fused },
        Setup { pool: true, accumulate: true, residual: true, ..fused },
        Setup { upsample: true, tables: 1, before: Activation::RELU, ..fused },
        Setup { upsample: true, tables: 2, accumulate: true, ..fused },
        Setup { upsample: true, pool: true, tables: 2, before: LEAKY, after: LEAKY, ..fused },
        Setup { tables: 2, residual: true, ..plain([2, 5, 5, 18], 20, [3, 3], 1, 2) },
        Setup { pool: true, ..plain([2, 4, 6, 66], 70, [3, 3], 1, 1) },
        // Channels in pieces of 16 bytes: with a stride; more filter positions than a mask has bits; images that are smaller than a
        // step along the depth.
        Setup { tables: 1, ..plain([2, 9, 7, 16], 24, [3, 3], 1, 2) },
        plain([2, 9, 7, 8], 16, [5, 3], 2, 2),
        plain([1, 9, 8, 8], 16, [7, 7], 3, 1),
        plain([7, 2, 3, 16], 24, [3, 3], 1, 1),
        Setup { upsample: true, row_scale: true, ..plain([7, 2, 2, 8], 16, [3, 3], 1, 1) },
    ]
}

#[test]
fn matches_the_reference() {
    on_each_device(|device| setups().iter().for_each(|setup| check(device, setup)));
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn every_precision_errs_as_plain_loops_do() {
    on_each_device(|device| {
        for precision in [Precision::Tf32, Precision::Bf16, Precision::F16] {
            setups().iter().for_each(|setup| check_in(device, precision, setup));
        }
    });
}

/// Channels that fill 16 bytes and that do not, alone and beside each other, with what is fused around them and without.
#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn every_precision_takes_any_number_of_channels() {
    let channels = [1, 3, 8, 20, 64];
    on_each_device(|device| {
        for (i, (c, k)) in channels.into_iter().flat_map(|c| channels.map(|k| (c, k))).enumerate() {
            let precision = [Precision::Tf32, Precision::Bf16, Precision::F16][i % 3];
            let bare = plain([2, 6, 4, c], k, [3, 3], 1, 1);
            let fused = Setup {
                tables: 2,
                before: Activation::RELU,
                bias: true,
                residual: true,
                after: LEAKY,
                pool: i % 2 == 0,
                upsample: i % 4 < 2,
                row_scale: true,
                ..bare
            };
            check_in(device, precision, &bare);
            check_in(device, precision, &fused);
        }
        // Several tiles each way, each kind of tile.
        for (i, size) in [7, 8, 15, 17, 64, 129, 255].into_iter().enumerate() {
            let precision = [Precision::Bf16, Precision::Tf32, Precision::F16][i % 3];
            check_in(device, precision, &Setup { before: LEAKY, ..plain([1, 5, 13, size], 272 - size, [1, 3], 1, 1) });
        }
    });
}

/// Several tiles each way, with edges that no tile divides and with pieces of 16 bytes; what is fused around them in turn.
#[test]
fn every_tile_of_every_precision_gives_the_convolution() {
    on_each_device(|device| {
        on_each_tile(device, Products::Conv, |device, precision, [rows, columns]| {
            for (odd, pool) in [(0, true), (1, false)] {
                let channels = columns + 8 - odd;
                // More pixels, and more taps times channels, than a tile has rows.
                let (height, taps) = (rows / 16 * 2 + 2, (rows / channels + 2).next_multiple_of(2) - 1);
                let seen = [1, height, 8 - odd, channels];
                let setup = Setup { before: LEAKY, bias: true, pool, ..plain(seen, channels, [taps, 1], taps / 2, 1) };
                match precision {
                    Precision::F32 => check(device, &setup),
                    _ => check_in(device, precision, &setup),
                }
            }
        });
    });
}

#[test]
fn matches_the_reference_at_the_sizes_of_networks() {
    let relu = |seen, k, pool| Setup { before: Activation::RELU, bias: true, pool, ..plain(seen, k, [3, 3], 1, 1) };
    let up = |seen, k| Setup { tables: 3, upsample: true, ..relu(seen, k, false) };
    on_fast_devices(|device| {
        for setup in [
            relu([5, 28, 28, 1], 16, false),
            relu([5, 28, 28, 16], 16, true),
            relu([3, 14, 14, 32], 32, true),
            relu([7, 7, 7, 32], 32, false),
            up([3, 14, 14, 32], 32),
            up([3, 28, 28, 32], 16),
            Setup { after: Activation::Tanh, ..relu([3, 28, 28, 16], 1, false) },
            relu([2, 16, 16, 130], 128, false),
            relu([1, 3, 200, 40], 20, false),
            // Wider than a patch can be.
            relu([1, 2, 100, 700], 9, false),
            plain([1, 31, 1, 1000], 33, [1, 1], 0, 1),
            plain([40, 4, 4, 8], 12, [4, 4], 0, 1),
        ] {
            check(device, &setup);
        }
    });
}

#[test]
fn the_reference_gradients_are_the_slopes_of_the_reference() {
    for setup in setups().into_iter().filter(|s| s.input_len() * s.output_len() < 60_000) {
        // An accumulated start changes no slope.
        let setup = Setup { before: if setup.tables == 0 { setup.before } else { Activation::Identity }, ..setup };
        let t = wide(&setup.tensors());
        let loss = |t: &Tensors<f64>| -> f64 {
            let per_sample = setup.output_len() / setup.sizes.n;
            let seed = |i: usize| if setup.row_scale { t.row_scale[i / per_sample] } else { 1.0 };
            setup.forward(t).iter().enumerate().map(|(i, y)| y * t.dy[i] * seed(i)).sum()
        };
        let with = |change: &dyn Fn(&mut Tensors<f64>)| {
            let mut t = wide(&setup.tensors());
            change(&mut t);
            loss(&t)
        };
        let g = setup.gradient(&t, &setup.forward(&t));
        let close = |name: &str, found: &[f64], slope: &[f64]| {
            for (f, s) in found.iter().zip(slope) {
                assert!((f - s).abs() < 1e-6 * s.abs().max(1.0), "{setup:?} {name}: {f} beside a slope of {s}");
            }
        };
        let v = setup.seen(&t);
        let mut dfilters = vec![0.0; t.filters.len()];
        setup.products(|iz, iv, iw| dfilters[iw] += v[iv] * g[iz]);
        close("dfilters", &dfilters, &central_differences(&t.filters, |w| with(&|t| t.filters = w.to_vec())));
        if setup.tables == 0 {
            let dx = setup.dx(&t, &setup.dv(&t, &g));
            close("dx", &dx, &central_differences(&t.x, |x| with(&|t| t.x = x.to_vec())));
        }
        if setup.bias {
            let mut dbias = vec![0.0; setup.sizes.k];
            g.iter().enumerate().for_each(|(i, g)| dbias[i % setup.sizes.k] += g);
            close("dbias", &dbias, &central_differences(&t.bias, |b| with(&|t| t.bias = b.to_vec())));
        }
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let setup = Setup { before: LEAKY, bias: true, ..plain([20, 14, 14, 16], 40, [3, 3], 1, 1) };
    let t = setup.tensors();
    assert_same_on_any_threads(|device| {
        let out = evaluate(device, &setup, &t);
        [out.y, out.dx, out.dfilters, out.dbias]
    });
}

/// The number of threads decides the tile. With these channels the last tile of a row is as narrow as it can be.
#[test]
fn bits_do_not_depend_on_the_tile() {
    for isa in Device::host_isas() {
        let device = Device::host_with_isa(2, isa).unwrap();
        for channels in [1, 2, 3, 17, 65, 67, 129] {
            let setup = Setup { before: LEAKY, bias: true, ..plain([1, 10, 9, channels], channels, [3, 3], 1, 1) };
            let t = setup.tensors();
            let mut first = None;
            for (rows, columns) in Products::Conv.sizes_in(Precision::F32) {
                let tuning = Tuning { forced_tile: Some((rows, columns)), ..device.tuning().clone() };
                let out = evaluate(&device.with_tuning(tuning).unwrap(), &setup, &t);
                let bits = bits([out.y, out.dx, out.dfilters, out.dbias]);
                for (name, (bits, first)) in
                    ["y", "dx", "dfilters", "dbias"].iter().zip(bits.iter().zip(first.get_or_insert(bits.clone())))
                {
                    assert!(bits == first, "{isa}, {channels} channels: {rows}x{columns} gives other bits of {name}");
                }
            }
        }
    }
}

#[test]
fn matches_pytorch() {
    let file = include_bytes!("../goldens/conv.safetensors");
    let golden = safetensors::SafeTensors::deserialize(file).unwrap();
    let tensor = |name: &str| -> Vec<f32> {
        let bytes = golden.tensor(name).unwrap().data();
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    };
    let discriminator = Setup {
        before: Activation::RELU,
        bias: true,
        residual: true,
        pool: true,
        row_scale: true,
        ..plain([2, 6, 4, 3], 5, [3, 3], 1, 1)
    };
    let generator = Setup {
        tables: 2,
        before: Activation::RELU,
        upsample: true,
        bias: true,
        after: Activation::Tanh,
        ..plain([2, 6, 4, 3], 5, [3, 3], 1, 1)
    };
    let strided = plain([2, 7, 6, 3], 4, [4, 3], 1, 2);
    on_each_device(|device| {
        for (name, setup) in [("discriminator", discriminator), ("generator", generator), ("strided", strided)] {
            let get = |part: &str| tensor(&format!("{name}.{part}"));
            let or_none = |there: bool, part: &str| if there { get(part) } else { Vec::new() };
            let t = Tensors {
                x: get("x"),
                scale: or_none(setup.tables > 0, "scale"),
                shift: or_none(setup.tables > 0, "shift"),
                filters: get("filters"),
                bias: or_none(setup.bias, "bias"),
                residual: or_none(setup.residual, "residual"),
                dy: get("dy"),
                row_scale: or_none(setup.row_scale, "row_scale"),
            };
            let t = Tensors {
                bias: if setup.bias { t.bias } else { vec![0.0; setup.sizes.k] },
                residual: if setup.residual { t.residual } else { vec![0.0; setup.output_len()] },
                row_scale: if setup.row_scale { t.row_scale } else { vec![0.0; setup.sizes.n] },
                ..t
            };
            let out = evaluate(device, &setup, &t);
            assert_close(&format!("{name} y"), &out.y, &to_f64(&get("y")), 2e-6);
            if setup.sizes.stride == 1 {
                assert_close(&format!("{name} dx"), &out.dx, &to_f64(&get("dx")), 2e-6);
            }
            let plus =
                |values: Vec<f32>| -> Vec<f64> { values.iter().map(|v| f64::from(*v) + f64::from(START)).collect() };
            assert_close(&format!("{name} dfilters"), &out.dfilters, &plus(get("dfilters")), 2e-6);
            if setup.bias {
                assert_close(&format!("{name} dbias"), &out.dbias, &plus(get("dbias")), 2e-6);
            }
        }
    });
}

/// The parts of a weight gradient have the same sums whether a launch of their own adds them or the input gradient's, and
/// the filters' are the same without a bias.
#[test]
fn parts_are_added_in_either_launch() {
    on_each_device(|device| {
        for (n, side, c, k) in [(9, 12, 5, 7), (16, 16, 33, 40), (1, 3, 2, 2)] {
            let s = Conv { n, h: side, w: side, c, k, r: 3, s: 3, pad: [1; 2], stride: 1 };
            let up = |seed, len: usize| device.upload(&Random(seed).normals(len)).unwrap();
            let (x, dy, filters) = (up(1, n * side * side * c), up(2, n * side * side * k), up(3, 9 * c * k));
            let gradient = ConvGradient::stored(&dy);
            let parts = device.zeros(conv::weight_gradient_workspace_len(device, &s)).unwrap();
            let turned = device.zeros(conv::input_gradient_workspace_len(device, &s)).unwrap();
            let gradients = |bias: bool, apart: bool| {
                let (dfilters, dbias) = (up(4, 9 * c * k), up(5, k));
                let dx: Buffer<f32> = device.zeros(x.len()).unwrap();
                let into = (&dfilters, bias.then_some(&dbias));
                let left = conv::conv_weight_gradient(s, into, &x, &Prologue::NONE, &gradient, &parts).unwrap();
                let left = if apart { left.add().map(|()| Parts::NONE).unwrap() } else { left };
                conv::conv_input_gradient(s, &dx, &gradient, &filters, &InputEpilogue::NONE, &turned, left).unwrap();
                [dx, dfilters, dbias].map(|buffer| buffer.read().unwrap())
            };
            let [together, apart, unbiased] =
                [(true, false), (true, true), (false, false)].map(|(b, a)| gradients(b, a));
            assert!(together == apart, "{s:?}");
            assert!(together[..2] == unbiased[..2], "{s:?}, without a bias");
            assert!(unbiased[2] == up(5, k).read().unwrap() && unbiased[2] != together[2], "{s:?}: the bias");
        }
    });
}

#[test]
fn filters_are_turned_around() {
    on_each_device(|device| {
        for (r, c, k) in [(3, 1, 1), (1, 33, 31), (3, 40, 70)] {
            let filters = Random(6).normals(r * r * c * k);
            let flipped: Buffer<f32> = device.zeros(filters.len()).unwrap();
            let s = Conv { n: 1, h: r, w: r, c, k, r, s: r, pad: [0; 2], stride: 1 };
            conv::flip_filters(&s, &flipped, &device.upload(&filters).unwrap()).unwrap();
            let found = flipped.read().unwrap();
            for (i, value) in filters.iter().enumerate() {
                let (tap, of_c, of_k) = (i / (c * k), i / k % c, i % k);
                assert_eq!(found[((r * r - 1 - tap) * k + of_k) * c + of_c], *value, "{s:?}, element {i}");
            }
        }
    });
}

#[test]
fn what_cannot_work_is_refused_with_the_numbers() {
    let device = Device::host(1).unwrap();
    let zeros = |len| -> Buffer<f32> { device.zeros(len).unwrap() };
    let sizes = Conv { n: 1, h: 5, w: 6, c: 2, k: 3, r: 3, s: 3, pad: [1; 2], stride: 1 };
    let (x, w, y) = (zeros(60), zeros(54), zeros(90));
    let forward = |sizes: Conv, x: &Buffer<f32>, prologue: Prologue, epilogue: Epilogue| {
        conv::conv_forward(sizes, &y, x, &w, &prologue, &epilogue).unwrap_err().to_string()
    };
    assert_eq!(
        forward(sizes, &zeros(59), Prologue::NONE, Epilogue::NONE),
        "conv forward: x has 59 elements, expected 60"
    );
    let found = forward(sizes, &x, Prologue::NONE, Epilogue { pool: true, ..Epilogue::NONE });
    assert_eq!(found, "conv forward: pooling 5 x 6 pixels, expected even numbers");
    let found = forward(sizes, &x, Prologue { upsample: true, ..Prologue::NONE }, Epilogue::NONE);
    assert_eq!(found, "conv forward: upsampled to 5 x 6, expected even numbers");
    assert!(forward(Conv { stride: 3, ..sizes }, &x, Prologue::NONE, Epilogue::NONE).contains("a stride of 3"));
    let tanh = Prologue { activation: Activation::Tanh, ..Prologue::NONE };
    assert!(forward(sizes, &x, tanh, Epilogue::NONE).contains("Tanh before a convolution"));
    let steep = Prologue { activation: Activation::LeakyRelu(1.5), ..Prologue::NONE };
    assert!(forward(sizes, &x, steep, Epilogue::NONE).contains("LeakyRelu(1.5) before a convolution"));
    assert!(forward(Conv { r: 8, ..sizes }, &x, Prologue::NONE, Epilogue::NONE).contains("a filter of 8 x 3 on 5 x 6"));
    assert!(forward(Conv { k: 0, ..sizes }, &x, Prologue::NONE, Epilogue::NONE).contains("no size may be 0"));
    assert!(forward(Conv { n: 1 << 40, ..sizes }, &x, Prologue::NONE, Epilogue::NONE).contains("at most"));
    let tanh = Epilogue { accumulate: true, activation: Activation::Tanh, ..Epilogue::NONE };
    assert!(forward(sizes, &x, Prologue::NONE, tanh).contains("accumulating"));
    let (scale, shift) = (zeros(2), zeros(1));
    let found = forward(sizes, &x, Prologue { scale_shift: Some((&scale, &shift)), ..Prologue::NONE }, Epilogue::NONE);
    assert_eq!(found, "conv forward: shift (as scale) has 1 elements, expected 2");
    let output = OutputGradient { dy: &y, y: None, activation: LEAKY, row_scale: None };
    let gradient = ConvGradient { output, pooled: false };
    let found = conv::conv_input_gradient(sizes, &x, &gradient, &w, &InputEpilogue::NONE, &zeros(54), Parts::NONE);
    assert!(found.unwrap_err().to_string().contains("needs the output y"));
    let gradient =
        ConvGradient { output: OutputGradient { activation: Activation::Identity, ..output }, pooled: false };
    let found = conv::conv_input_gradient(sizes, &x, &gradient, &w, &InputEpilogue::NONE, &zeros(53), Parts::NONE);
    assert_eq!(found.unwrap_err().to_string(), "conv input gradient: workspace has 53 elements, expected 54");
    let strided = Conv { stride: 2, h: 9, w: 12, ..sizes };
    let found = conv::conv_input_gradient(strided, &x, &gradient, &w, &InputEpilogue::NONE, &zeros(54), Parts::NONE);
    assert!(found.unwrap_err().to_string().contains("a stride of 2, expected 1"));
}
