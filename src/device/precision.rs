//! What real numbers are stored as on a device, and multiplied in.

use half::{bf16, f16};

/// Of a buffer of real numbers. Whatever it is, sums and all else are computed in f32; the host sees f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    #[default]
    F32,
    /// Stored as f32; the factors of matrix products and convolutions are rounded to 10 bits of mantissa as they are read.
    Tf32,
    Bf16,
    F16,
}

impl Precision {
    pub const ALL: [Precision; 4] = [Precision::F32, Precision::Tf32, Precision::Bf16, Precision::F16];

    /// Of a number in memory.
    pub fn bytes(self) -> usize {
        match self {
            Precision::F32 | Precision::Tf32 => 4,
            Precision::Bf16 | Precision::F16 => 2,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Tf32 => "tf32",
            Precision::Bf16 => "bf16",
            Precision::F16 => "f16",
        }
    }

    /// What kernels call the type that is stored.
    pub(super) fn stored_type(self) -> &'static str {
        match self {
            Precision::F32 | Precision::Tf32 => "float",
            Precision::Bf16 | Precision::F16 => self.name(),
        }
    }

    /// The nearest number, in 16 bits.
    pub(super) fn narrow(self, value: f32) -> u16 {
        if self == Precision::Bf16 { bf16::from_f32(value).to_bits() } else { f16::from_f32(value).to_bits() }
    }

    pub(super) fn widen(self, bits: u16) -> f32 {
        if self == Precision::Bf16 { bf16::from_bits(bits).to_f32() } else { f16::from_bits(bits).to_f32() }
    }
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Precision::ALL.into_iter().find(|precision| precision.name() == text);
        found.ok_or_else(|| format!("no precision is called {text:?}; there are f32, tf32, bf16 and f16"))
    }
}
