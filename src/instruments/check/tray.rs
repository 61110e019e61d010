//! Where a case takes its buffers from. The tray remembers which of them are outputs, to compare them.

use crate::Result;
use crate::device::{Buffer, Device, Precision, Reals};
use crate::ops::state::{State, StateBuffer};
use crate::random::Random;

/// A case's inputs are the same numbers on every device.
pub struct Tray<'a> {
    device: &'a Device,
    precision: Precision,
    random: Random,
    outputs: Vec<(String, Kind)>,
    /// The largest difference from the host that is allowed, relative to the largest value of an output.
    pub tolerance: f32,
    /// The least that this largest value counts as, for outputs that may be nothing but rounding errors.
    pub scale: f32,
}

enum Kind {
    Floats(Reals),
    Words(Buffer<u32>),
    Bytes(Buffer<u8>),
}

/// An output that a case computed.
pub struct Output {
    pub name: String,
    values: Vec<f32>,
    /// 0 for whole numbers.
    tolerance: f32,
    scale: f32,
}

impl Output {
    /// What is wrong with this output, if it is not as expected.
    pub fn difference(&self, expected: &Output) -> Option<String> {
        let name = &self.name;
        if self.values.len() != expected.values.len() {
            return Some(format!("{name} has {} elements, the host's {}", self.values.len(), expected.values.len()));
        }
        let scale = expected.values.iter().fold(self.scale, |m, x| m.max(x.abs()));
        let allowed = self.tolerance * scale;
        let mut pairs = self.values.iter().zip(&expected.values).enumerate();
        // A difference of NaN is never larger than what is allowed, and is wrong all the same.
        let (i, (found, expected)) = pairs.find(|(_, (f, e))| {
            let d = (*f - *e).abs();
            d.is_nan() || d > allowed
        })?;
        Some(format!("{name}[{i}] of {} is {found}, the host's {expected}", self.values.len()))
    }

    pub fn same_bits(&self, other: &Output) -> bool {
        self.values.iter().map(|x| x.to_bits()).eq(other.values.iter().map(|x| x.to_bits()))
    }
}

impl Tray<'_> {
    pub fn new<'a>(device: &'a Device, case: &str, precision: Precision) -> Tray<'a> {
        let seed = case.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        Tray { device, precision, random: Random::new(seed, 0, 0), outputs: Vec::new(), tolerance: 2e-5, scale: 0.0 }
    }

    /// Remembers an output under its name.
    fn keep<T: Clone>(&mut self, name: &str, buffer: Buffer<T>, kind: fn(Buffer<T>) -> Kind) -> Buffer<T> {
        self.outputs.push((name.into(), kind(buffer.clone())));
        buffer
    }

    pub fn device(&self) -> &Device {
        self.device
    }

    /// An input between `low` and `high`.
    pub fn uniforms(&mut self, n: usize, low: f32, high: f32) -> Result<Reals> {
        let mut values = vec![0.0; n];
        self.random.fill_uniform(&mut values, low, high);
        self.device.upload(&values)
    }

    /// An input of numbers around 0.
    pub fn numbers(&mut self, n: usize) -> Result<Reals> {
        let mut values = vec![0.0; n];
        self.random.fill_normal(&mut values, 1.0);
        self.device.upload(&values)
    }

    /// An input of activations or their gradients.
    pub fn values(&mut self, n: usize) -> Result<Reals> {
        let mut values = vec![0.0; n];
        self.random.fill_normal(&mut values, 1.0);
        self.device.upload_in(&values, self.precision)
    }

    /// An output of activations or their gradients that the operation overwrites.
    pub fn out_values(&mut self, name: &str, n: usize) -> Result<Reals> {
        let buffer = self.device.unwritten_in(n, self.precision)?;
        Ok(self.keep(name, buffer, Kind::Floats))
    }

    /// An output of them that the operation overwrites or, where `accumulate`, adds to.
    pub fn either_values(&mut self, name: &str, n: usize, accumulate: bool) -> Result<Reals> {
        if !accumulate {
            return self.out_values(name, n);
        }
        let buffer = self.values(n)?;
        Ok(self.keep(name, buffer, Kind::Floats))
    }

    /// An input of activations between `low` and `high`.
    pub fn values_between(&mut self, n: usize, low: f32, high: f32) -> Result<Reals> {
        let mut values = vec![0.0; n];
        self.random.fill_uniform(&mut values, low, high);
        self.device.upload_in(&values, self.precision)
    }

    pub fn scratch_values(&mut self, n: usize) -> Result<Reals> {
        self.device.unwritten_in(n, self.precision)
    }

    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Whole numbers below `below`.
    pub fn below(&mut self, n: usize, below: usize) -> Result<Buffer<u32>> {
        let values: Vec<u32> = (0..n).map(|_| self.random.below(below as u32)).collect();
        self.device.upload(&values)
    }

    /// Labels of `classes` classes. With more than three samples, one label is absent and one is beyond the last class.
    pub fn labels(&mut self, n: usize, classes: usize) -> Result<Buffer<u32>> {
        let mut labels = self.below(n, classes)?.read()?;
        if n > 3 {
            labels[n / 2] = crate::ops::projection::ABSENT;
            labels[n / 2 + 1] = classes as u32;
        }
        self.device.upload(&labels)
    }

    pub fn bytes(&mut self, n: usize) -> Result<Buffer<u8>> {
        let values: Vec<u8> = (0..n).map(|_| self.random.word() as u8).collect();
        self.device.upload(&values)
    }

    /// The state of a training that has done some steps.
    pub fn state(&mut self) -> Result<StateBuffer> {
        let state =
            State { step: 7, updates: [3, 5], ..State::new(u64::from(self.random.word()), [1e-3, 2e-3], 4, 20) };
        StateBuffer::new(self.device, &state)
    }

    /// An output that the operation overwrites.
    pub fn out(&mut self, name: &str, n: usize) -> Result<Reals> {
        let buffer = self.device.unwritten(n)?;
        Ok(self.keep(name, buffer, Kind::Floats))
    }

    pub fn out_words(&mut self, name: &str, n: usize) -> Result<Buffer<u32>> {
        let buffer = self.device.unwritten(n)?;
        Ok(self.keep(name, buffer, Kind::Words))
    }

    pub fn out_bytes(&mut self, name: &str, n: usize) -> Result<Buffer<u8>> {
        let buffer = self.device.unwritten(n)?;
        Ok(self.keep(name, buffer, Kind::Bytes))
    }

    /// An output that the operation adds to, or changes.
    pub fn update(&mut self, name: &str, n: usize) -> Result<Reals> {
        let buffer = self.numbers(n)?;
        Ok(self.keep(name, buffer, Kind::Floats))
    }

    /// An input that the operation also changes.
    pub fn compare(&mut self, name: &str, buffer: &Reals) {
        self.outputs.push((name.into(), Kind::Floats(buffer.clone())));
    }

    pub fn compare_state(&mut self, state: &StateBuffer) {
        self.outputs.push(("state".into(), Kind::Words(state.words().clone())));
    }

    pub fn scratch(&mut self, n: usize) -> Result<Reals> {
        self.device.unwritten(n)
    }

    pub fn finish(self) -> Result<Vec<Output>> {
        let Tray { tolerance, scale, outputs, .. } = self;
        let output = |(name, kind)| {
            let (values, tolerance) = match kind {
                // Sums that differ in their last bits may be rounded to different neighbours of 16 bits.
                Kind::Floats(buffer) => match buffer.precision() {
                    Precision::Bf16 => (buffer.read()?, tolerance + 1.0 / 128.0),
                    Precision::F16 => (buffer.read()?, tolerance + 1.0 / 1024.0),
                    _ => (buffer.read()?, tolerance),
                },
                Kind::Words(buffer) => (buffer.read()?.iter().map(|x| *x as f32).collect(), 0.0),
                Kind::Bytes(buffer) => (buffer.read()?.iter().map(|x| f32::from(*x)).collect(), 0.0),
            };
            Ok(Output { name, values, tolerance, scale })
        };
        outputs.into_iter().map(output).collect()
    }
}
