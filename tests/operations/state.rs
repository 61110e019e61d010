//! `kernels/state.cu`: halting on what is not finite, the learning rate's decay, and the loss scale.

use crate::common::*;
use zgan::ops::state::{self, Network, State, StateBuffer};

#[test]
fn halts_on_any_value_that_is_not_finite_and_stays_so() {
    on_each_device(|device| {
        for n in [1, 4, 31, 257, 1000] {
            let state = StateBuffer::new(device, &State::new(1, [1.0, 1.0], 0, 0)).unwrap();
            let mut values = vec![f32::MAX; n];
            values[n / 2] = -f32::MAX;
            state::check(&state, &device.upload(&values).unwrap()).unwrap();
            assert_eq!(state.read().unwrap().halted, 0, "{n} finite values");
            for (bad, place) in [(f32::NAN, n - 1), (f32::INFINITY, 0), (f32::NEG_INFINITY, n / 2)] {
                state.write(&State::new(1, [1.0, 1.0], 0, 0)).unwrap();
                let mut values = values.clone();
                values[place] = bad;
                state::check(&state, &device.upload(&values).unwrap()).unwrap();
                assert_eq!(state.read().unwrap().halted, 1, "{bad} at {place} of {n}");
            }
            state::check(&state, &device.upload(&values).unwrap()).unwrap();
            state::advance(&state).unwrap();
            let halted = state.read().unwrap();
            assert_eq!((halted.halted, halted.step), (1, 0), "once halted, it stays halted and counts no step");
        }
    });
}

#[test]
fn the_learning_rate_falls_linearly_to_zero() {
    on_each_device(|device| {
        let state = StateBuffer::new(device, &State::new(1, [2e-4, 1.0], 3, 7)).unwrap();
        let mut rates = vec![state.read().unwrap().learning_rate[1]];
        for step in 1..=9 {
            state::advance(&state).unwrap();
            let now = state.read().unwrap();
            assert_eq!(now.step, step);
            assert_eq!(now.learning_rate[0], 2e-4 * now.learning_rate[1]);
            rates.push(now.learning_rate[1]);
        }
        assert_eq!(rates, [1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0, 0.0]);

        let state = StateBuffer::new(device, &State::new(1, [2e-4, 1e-3], 0, 0)).unwrap();
        state::advance(&state).unwrap();
        assert_eq!(state.read().unwrap().learning_rate, [2e-4, 1e-3], "no decay");
    });
}

#[test]
fn the_whole_state_is_written_and_read() {
    on_each_device(|device| {
        let mut expected = State::new(0x0123_4567_89ab_cdef, [1e-4, 4e-4], 10, 20);
        assert_eq!(expected.seed, [0x89ab_cdef, 0x0123_4567]);
        expected.updates = [5, 6];
        expected.step = 15;
        let state = StateBuffer::new(device, &expected).unwrap();
        assert_eq!(state.read().unwrap(), expected);
        state::advance(&state).unwrap();
        let share = 4.0 / 10.0f32;
        expected.step = 16;
        expected.learning_rate = [1e-4 * share, 4e-4 * share];
        assert_eq!(state.read().unwrap(), expected, "only the step and the rates change");
    });
}

/// The rules of PyTorch's GradScaler, with a growth interval of 3.
#[test]
fn an_overflow_halves_the_loss_scale_and_steps_without_one_double_it() {
    on_each_device(|device| {
        let start = State { loss_scale: 64.0, growth_interval: 3, ..State::new(1, [1.0, 1.0], 0, 0) };
        let state = StateBuffer::new(device, &start).unwrap();
        let good = device.upload(&[1.0f32; 3000]).unwrap();
        let mut bad = [1.0f32; 3000];
        bad[2999] = f32::NAN;
        let bad = device.upload(&bad).unwrap();
        let step = |gradients: [&_; 2]| {
            for (network, gradient) in [Network::Generator, Network::Discriminator].into_iter().zip(gradients) {
                state::overflow(&state, gradient, network).unwrap();
            }
            state::advance(&state).unwrap();
            let State { loss_scale, good_steps, overflows, spoilt, .. } = state.read().unwrap();
            assert_eq!((overflows, spoilt), ([0, 0], 0), "nothing is left of it");
            (loss_scale, good_steps)
        };
        assert_eq!(step([&good, &good]), (64.0, 1));
        assert_eq!(step([&good, &bad]), (32.0, 0));
        assert_eq!(step([&good, &good]), (32.0, 1));
        assert_eq!(step([&good, &good]), (32.0, 2));
        assert_eq!(step([&good, &good]), (64.0, 0));
        assert_eq!(step([&bad, &bad]), (32.0, 0), "one step, one half");

        // Twice in a step, with a judgement between: each is a scale that was too large.
        state::overflow(&state, &bad, Network::Discriminator).unwrap();
        state::settle(&state).unwrap();
        assert_eq!(state.read().unwrap().overflows, [0, 0], "the next update is made");
        assert_eq!(step([&good, &bad]), (8.0, 0));
        state::overflow(&state, &bad, Network::Discriminator).unwrap();
        state::settle(&state).unwrap();
        assert_eq!(step([&good, &good]), (4.0, 0), "a step with an overflow is no good step");

        let seeds = device.upload(&[1.0f32, -0.5, 0.0]).unwrap();
        state::seed(&seeds, &state, false).unwrap();
        assert_eq!(seeds.read().unwrap(), [4.0, -2.0, 0.0]);
        state::seed(&seeds, &state, true).unwrap();
        assert_eq!(seeds.read().unwrap(), [4.0; 3]);

        // What is not finite at any scale is no matter of the scale.
        for _ in 0..26 {
            step([&bad, &good]);
        }
        assert_eq!(state.read().unwrap().halted, 0);
        state::overflow(&state, &bad, Network::Generator).unwrap();
        state::advance(&state).unwrap();
        assert_eq!(state.read().unwrap().halted, 1);
    });
}

#[test]
fn without_a_growth_interval_the_scale_stays() {
    on_each_device(|device| {
        let state = StateBuffer::new(device, &State::new(1, [1.0, 1.0], 0, 0)).unwrap();
        for _ in 0..3 {
            state::settle(&state).unwrap();
            state::advance(&state).unwrap();
        }
        let now = state.read().unwrap();
        assert_eq!((now.loss_scale, now.good_steps, now.step), (1.0, 0, 3));
    });
}
