//! The random numbers of NumPy's `RandomState`: torch-fidelity chooses by them which images it compares, so that whoever draws the
//! same ones gets its numbers.

/// The Mersenne Twister (Matsumoto and Nishimura, 1998).
pub struct RandomState {
    words: [u32; WORDS],
    next: usize,
}

const WORDS: usize = 624;
const AHEAD: usize = 397;

impl RandomState {
    pub fn new(seed: u32) -> RandomState {
        let mut words = [seed; WORDS];
        for i in 1..WORDS {
            let before = words[i - 1];
            words[i] = (before ^ before >> 30).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        RandomState { words, next: WORDS }
    }

    fn word(&mut self) -> u32 {
        if self.next == WORDS {
            for i in 0..WORDS {
                let y = self.words[i] & 0x8000_0000 | self.words[(i + 1) % WORDS] & 0x7fff_ffff;
                let odd = if y % 2 == 1 { 0x9908_b0df } else { 0 };
                self.words[i] = self.words[(i + AHEAD) % WORDS] ^ y >> 1 ^ odd;
            }
            self.next = 0;
        }
        let mut y = self.words[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= y << 7 & 0x9d2c_5680;
        y ^= y << 15 & 0xefc6_0000;
        y ^ y >> 18
    }

    /// The numbers below `n` in an order by chance, as `permutation(n)`; what `choice(n, size, replace=False)` gives is its beginning.
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            let mask = u32::MAX >> (i as u32).leading_zeros();
            let j = loop {
                let word = self.word() & mask;
                if word as usize <= i {
                    break word as usize;
                }
            };
            order.swap(i, j);
        }
        order
    }
}
