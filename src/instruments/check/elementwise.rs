//! Operations on flat buffers: elementary ones, bytes, random numbers, the optimiser.

use super::{Cases, Tray};
use crate::data::mixture::Mixture;
use crate::device::Precision;
use crate::ops::elementary::{
    Function, add, add_columns, affine, divide, divide_by, function, leaky_relu, leaky_relu_backward, maximum,
    multiply, scale_rows, sine_cosine, softmax_rows, softmax_rows_backward, subtract, sum, tanh_backward,
};
use crate::ops::pixels::Augment;
use crate::ops::state::{Network, State, StateBuffer};
use crate::ops::{self, elementary as ops_elementary};

/// One element, odd numbers of them, numbers around the 2,048 that a block takes, and several blocks.
const SIZES: [usize; 6] = [1, 33, 1000, 2048, 2049, 5003];

pub fn elementary(cases: &mut Cases) {
    for n in cases.pick(&[1, 255, 1000, 9000], &[1, 3]) {
        cases.add(format!("leaky ReLU backward, {n}"), move |t| {
            let (dx, dy, x) = (t.out_values("dx", n)?, t.values(n)?, t.values(n)?);
            leaky_relu_backward(&dx, &dy, &x, 0.2)
        });
    }
    // The others are there for comparison, in f32 alone.
    if cases.precision != Precision::F32 {
        return;
    }
    for n in SIZES {
        for f in [Function::Exp, Function::Log, Function::Tanh, Function::SquareRoot] {
            cases.add(format!("{f:?}, {n}"), move |t| {
                let (y, x) = (t.out("y", n)?, t.uniforms(n, 0.1, 3.0)?);
                function(f, &y, &x)
            });
        }
        cases.add(format!("affine, add, subtract, {n}"), move |t| {
            let (y, z, w) = (t.out("affine", n)?, t.out("sum", n)?, t.out("difference", n)?);
            let (x, s) = (t.numbers(n)?, t.numbers(1)?);
            affine(&y, &x, 3.0, -1.0)?;
            add(&z, &x, &y)?;
            subtract(&w, &x, &s)
        });
        cases.add(format!("multiply, divide, {n}"), move |t| {
            let (y, z, w) = (t.out("product", n)?, t.out("quotients", n)?, t.out("quotient", n)?);
            let (x, s) = (t.uniforms(n, 0.5, 2.0)?, t.uniforms(1, 0.5, 2.0)?);
            multiply(&y, &x, &x)?;
            divide(&z, &y, &x)?;
            divide_by(&w, &x, &s)
        });
        cases.add(format!("leaky ReLU, tanh backward, {n}"), move |t| {
            let (y, dx, x) = (t.out("leaky ReLU", n)?, t.out("dx", n)?, t.numbers(n)?);
            leaky_relu(&y, &x, 0.2)?;
            tanh_backward(&dx, &x, &t.uniforms(n, -1.0, 1.0)?)
        });
        cases.add(format!("sine and cosine, {n}"), move |t| {
            let (sine, cosine, u) = (t.out("sine", n)?, t.out("cosine", n)?, t.uniforms(n, 0.0, 0.999)?);
            sine_cosine(&sine, &cosine, &u)
        });
        cases.add(format!("sum, maximum, {n}"), move |t| {
            let (total, most, x) = (t.out("sum", 1)?, t.out("maximum", 1)?, t.uniforms(n, 1.0, 2.0)?);
            let workspace = t.scratch(ops_elementary::workspace_len(t.device(), n))?;
            sum(&total, &x, &workspace)?;
            maximum(&most, &x, &workspace)
        });
    }
    elementary_by_rows(cases);
}

/// One element, a row, a column, rows of which a block takes several, and rows that are longer than a block takes.
const MATRICES: [[usize; 2]; 6] = [[1, 1], [1, 33], [1000, 1], [70, 31], [5, 513], [3, 2050]];

fn elementary_by_rows(cases: &mut Cases) {
    for [rows, columns] in MATRICES {
        cases.add(format!("add columns, scale rows, {rows} x {columns}"), move |t| {
            let len = rows * columns;
            let (y, z, x) = (t.out("shifted", len)?, t.out("scaled", len)?, t.numbers(len)?);
            add_columns(&y, &x, &t.numbers(columns)?)?;
            scale_rows(&z, &x, &t.numbers(rows)?)
        });
        cases.add(format!("softmax of rows, {rows} x {columns}"), move |t| {
            let len = rows * columns;
            let (y, dx, x) = (t.out("softmax", len)?, t.out("dx", len)?, t.numbers(len)?);
            softmax_rows(&y, &x, columns)?;
            softmax_rows_backward(&dx, &x, &y, columns)
        });
    }
}

pub fn pixels(cases: &mut Cases) {
    let shapes = [[1, 1, 1, 1], [3, 5, 7, 3], [2, 31, 33, 1], [5, 28, 28, 1], [2, 3, 180, 3], [1, 2, 3, 300]];
    for shape @ [n, h, w, c] in cases.pick(&shapes, &[1, 4]) {
        let len = n * h * w * c;
        for (noise, flip, within) in [(0.0, false, true), (0.1, true, true), (0.1, false, false)] {
            cases.add(format!("load, {shape:?}, noise {noise}, flip {flip}, within {within}"), move |t| {
                let (x, bytes, state) = (t.out_values("x", len)?, t.bytes(len)?, t.state()?);
                let (to, from) = (t.out_words("labels", n)?, t.labels(n, 7)?);
                let labels = flip.then_some((&to, &from));
                if !flip {
                    to.copy_from(&from)?;
                }
                ops::pixels::load(&x, &bytes, labels, &state, 3, Augment { noise, flip, within, first: 0 }, shape)
            });
        }
        cases.add(format!("store, {shape:?}"), move |t| {
            let (bytes, x) = (t.out_bytes("bytes", len)?, t.values(len)?);
            ops::pixels::store(&bytes, &x)
        });
    }
}

pub fn random(cases: &mut Cases) {
    let both = |t: &mut Tray, n: usize| {
        let (u, z, state) = (t.out_values("uniform", n)?, t.out_values("normal", n)?, t.state()?);
        ops::random::uniform(&u, &state, 1, -2.0, 3.0)?;
        ops::random::normal(&z, &state, 2)
    };
    cases.add("uniform, normal, 300000".into(), move |t| both(t, 300_000)).large = true;
    for n in cases.pick(&SIZES, &[1, 5]) {
        cases.add(format!("uniform, normal, {n}"), move |t| both(t, n));
        cases.add(format!("ring, grid, labels, {n}"), move |t| {
            let (ring, grid, state) = (t.out_values("ring", 2 * n)?, t.out_values("grid", 2 * n)?, t.state()?);
            let labels = t.out_words("labels", n)?;
            ops::random::points(&ring, Mixture::Ring, &state, 3)?;
            ops::random::points(&grid, Mixture::Grid, &state, 3)?;
            ops::random::labels(&labels, &state, 4, 10)
        });
    }
}

pub fn convert(cases: &mut Cases) {
    for n in SIZES {
        cases.add(format!("narrow, widen, {n}"), move |t| {
            let (narrow, wide) = (t.out_values("narrow", n)?, t.out("wide", n)?);
            ops::convert::narrow(&narrow, &t.numbers(n)?)?;
            ops::convert::widen(&wide, &narrow)
        });
    }
}

pub fn state(cases: &mut Cases) {
    // Without and with overflows; when the scale is about to grow and when it is not yet; with the least scale there is.
    for (overflows, good_steps, loss_scale) in
        [([0, 0], 2, 64.0), ([0, 0], 3, 64.0), ([1, 0], 3, 64.0), ([0, 2], 0, 1.0), ([1, 1], 0, 5.9604645e-8)]
    {
        for growth_interval in [0, 4] {
            let name = format!("scale, overflows {overflows:?}, good {good_steps}, interval {growth_interval}");
            cases.add(format!("{name}, scale {loss_scale}"), move |t| {
                let state = State::new(1, [1e-3, 2e-3], 0, 0);
                let state = State { overflows, good_steps, loss_scale, growth_interval, ..state };
                let [first, second] = [(); 2].map(|()| StateBuffer::new(t.device(), &state));
                let (first, second) = (first?, second?);
                t.compare_state(&first);
                t.compare_state(&second);
                ops::state::settle(&first)?;
                ops::state::advance(&second)
            });
        }
    }
    for n in [1, 255, 1000] {
        cases.add(format!("seed, {n}"), move |t| {
            let state = StateBuffer::new(t.device(), &State { loss_scale: 8.0, ..State::new(1, [0.0; 2], 0, 0) })?;
            ops::state::seed(&t.out("of one", n)?, &state, true)?;
            ops::state::seed(&t.update("seeds", n)?, &state, false)
        });
    }
    for n in SIZES {
        for spoilt in [None, Some(0), Some(n - 1)] {
            cases.add(format!("overflow, {n}, spoilt {spoilt:?}"), move |t| {
                let (state, mut gradient) = (t.state()?, t.numbers(n)?.read()?);
                spoilt.into_iter().for_each(|at| gradient[at] = f32::INFINITY);
                let gradient = t.device().upload(&gradient)?;
                t.compare_state(&state);
                ops::state::overflow(&state, &gradient, Network::Discriminator)
            });
        }
    }
    // Before the decay of the learning rates, at its first and last steps, after it, and without one; running and halted.
    for (step, decay) in [(2, [4, 20]), (3, [4, 20]), (4, [4, 20]), (19, [4, 20]), (30, [4, 20]), (7, [0, 0])] {
        for halted in [0, 1] {
            cases.add(format!("advance, step {step}, decay {decay:?}, halted {halted}"), move |t| {
                let state = State { step, halted, ..State::new(1, [1e-3, 2e-3], decay[0], decay[1]) };
                let state = StateBuffer::new(t.device(), &state)?;
                t.compare_state(&state);
                ops::state::advance(&state)
            });
        }
    }
    for n in [1, 4, 300] {
        for spoilt in [false, true] {
            cases.add(format!("check, {n}, spoilt {spoilt}"), move |t| {
                let (state, mut values) = (t.state()?, t.numbers(n)?.read()?);
                if spoilt {
                    values[n - 1] = f32::NAN;
                }
                let values = t.device().upload(&values)?;
                t.compare_state(&state);
                ops::state::check(&state, &values)
            });
        }
    }
}

pub fn adam(cases: &mut Cases) {
    for n in SIZES {
        // The average is copied; averaged; absent. Then a halted training, and one whose gradient overflowed.
        for (averaged, start, halted, overflow) in
            [(true, 9, 0, 0), (true, 5, 0, 0), (false, 0, 0, 0), (true, 2, 1, 0), (true, 2, 0, 1)]
        {
            let name = format!("update, {n}, average {averaged} from {start}, halted {halted}, overflow {overflow}");
            cases.add(name, move |t| {
                let (parameters, first) = (t.update("parameters", n)?, t.update("first moment", n)?);
                let second = t.uniforms(n, 0.1, 1.0)?;
                t.compare("second moment", &second);
                let (average, gradient, norm) = (t.update("average", n)?, t.numbers(n)?, t.out("norm", 1)?);
                let state = t.state()?;
                state.write(&State { halted, overflows: [overflow; 2], loss_scale: 4.0, ..state.read()? })?;
                t.compare_state(&state);
                let workspace = t.scratch(ops::adam::workspace_len(t.device(), n))?;
                let buffers = ops::adam::Buffers {
                    parameters: &parameters,
                    first_moment: &first,
                    second_moment: &second,
                    gradient: &gradient,
                };
                let average = ops::adam::Average { values: &average, decay: 0.9, start };
                let adam = ops::adam::Adam { beta1: 0.5, beta2: 0.999, eps: 1e-8 };
                let average = averaged.then_some(&average);
                let network = if averaged { Network::Discriminator } else { Network::Generator };
                ops::adam::update(&buffers, average, &norm, &state, network, &adam, &workspace)
            });
        }
    }
}

pub fn peak(cases: &mut Cases) {
    // Devices run different numbers of chains: only the first 64 are compared, which each of them has.
    cases.add("3 steps".into(), |t| {
        let chains = t.scratch_values(2 * ops::peak::per_block(t.device()))?;
        ops::peak::peak(&chains, 3)?;
        let first = t.out_values("chains", 64)?;
        first.copy_from(&chains.view(0..64))
    });
}
