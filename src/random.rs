//! Philox4x32-10 on the CPU, the same generator as in `kernels/device/philox.h`. Initial weights and the order of the data
//! are drawn from it; they are the same on every machine and device.

/// Four random words from a counter and a key.
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        let first = 0xd251_1f53 * u64::from(c0);
        let second = 0xcd9e_8d57 * u64::from(c2);
        (c0, c1, c2, c3) =
            ((second >> 32) as u32 ^ c1 ^ k0, second as u32, (first >> 32) as u32 ^ c3 ^ k1, first as u32);
        k0 = k0.wrapping_add(0x9e37_79b9);
        k1 = k1.wrapping_add(0xbb67_ae85);
    }
    [c0, c1, c2, c3]
}

/// A sequence of random numbers: word `i % 4` of counter `(i / 4, stream, step, 0)`, one after the other.
#[derive(Clone, Debug)]
pub struct Random {
    key: [u32; 2],
    stream: u32,
    step: u32,
    drawn: u32,
    words: [u32; 4],
}

impl Random {
    pub fn new(seed: u64, stream: u32, step: u32) -> Random {
        Random { key: [seed as u32, (seed >> 32) as u32], stream, step, drawn: 0, words: [0; 4] }
    }

    pub fn word(&mut self) -> u32 {
        if self.drawn.is_multiple_of(4) {
            self.words = philox([self.drawn / 4, self.stream, self.step, 0], self.key);
        }
        let word = self.words[(self.drawn % 4) as usize];
        self.drawn = self.drawn.wrapping_add(1);
        word
    }

    /// A uniform number in [0, 1), a multiple of 2^-24.
    pub fn uniform(&mut self) -> f32 {
        (self.word() >> 8) as f32 / 16_777_216.0
    }

    /// A whole number in 0 .. n; 0 where n is 0.
    pub fn below(&mut self, n: u32) -> u32 {
        ((u64::from(self.word()) * u64::from(n)) >> 32) as u32
    }

    /// Two normal numbers with mean 0 and deviation 1. They are those of the kernel but for rounding.
    pub fn normals(&mut self) -> [f32; 2] {
        let u = (f64::from(self.word() >> 1) + 0.5) / 2_147_483_648.0;
        let turn = std::f64::consts::TAU * f64::from(self.uniform());
        let radius = (-2.0 * u.ln()).sqrt();
        [(radius * turn.cos()) as f32, (radius * turn.sin()) as f32]
    }

    /// Fills `out` with numbers uniform between `low` and `high`.
    pub fn fill_uniform(&mut self, out: &mut [f32], low: f32, high: f32) {
        for x in out {
            *x = low + (high - low) * self.uniform();
        }
    }

    /// Fills `out` with normal numbers of mean 0 and this deviation.
    pub fn fill_normal(&mut self, out: &mut [f32], deviation: f32) {
        for pair in out.chunks_mut(2) {
            for (x, normal) in pair.iter_mut().zip(self.normals()) {
                *x = normal * deviation;
            }
        }
    }
}
