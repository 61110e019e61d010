//! Goldens: small tensors that PyTorch computed, made by the script of the same name in `tests/goldens`.

#![allow(dead_code)]

use safetensors::SafeTensors;

pub struct Golden(Vec<u8>);

impl Golden {
    pub fn open(name: &str) -> Golden {
        // A test that runs on another machine is told where they are (scripts/gpu-check).
        let here = || concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens").to_string();
        let folder = std::env::var("ZGAN_GOLDENS").unwrap_or_else(|_| here());
        let path = format!("{folder}/{name}.safetensors");
        Golden(std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}")))
    }

    fn bytes(&self, name: &str, dtype: safetensors::Dtype) -> Vec<u8> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(tensor.dtype(), dtype, "{name}");
        tensor.data().to_vec()
    }

    pub fn shape(&self, name: &str) -> Vec<usize> {
        SafeTensors::deserialize(&self.0).unwrap().tensor(name).unwrap().shape().to_vec()
    }

    pub fn f32(&self, name: &str) -> Vec<f32> {
        let bytes = self.bytes(name, safetensors::Dtype::F32);
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    pub fn f64(&self, name: &str) -> Vec<f64> {
        let bytes = self.bytes(name, safetensors::Dtype::F64);
        bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
    }

    /// Labels, stored as 32-bit signed numbers: -1 is the absent label.
    pub fn labels(&self, name: &str) -> Vec<u32> {
        let bytes = self.bytes(name, safetensors::Dtype::I32);
        bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
    }
}
