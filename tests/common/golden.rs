//! Goldens: small tensors that PyTorch computed, made by the script of the same name in `tests/goldens`.

#![allow(dead_code)]

/// The tensors of `tests/goldens/NAME.safetensors`; the script beside it made them.
pub struct Golden {
    name: String,
    bytes: Vec<u8>,
}

impl Golden {
    pub fn open(name: &str) -> Golden {
        // A test that runs on another machine is told where they are (scripts/gpu-check).
        let here = || concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens").to_string();
        let folder = std::path::PathBuf::from(std::env::var("ZGAN_GOLDENS").unwrap_or_else(|_| here()));
        let path = folder.join(format!("{name}.safetensors"));
        Golden { name: name.into(), bytes: std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())) }
    }

    fn data(&self, tensor: &str, dtype: safetensors::Dtype) -> Vec<u8> {
        let tensors = safetensors::SafeTensors::deserialize(&self.bytes).unwrap();
        let view = tensors.tensor(tensor).unwrap_or_else(|e| panic!("golden {}, {tensor}: {e}", self.name));
        assert_eq!(view.dtype(), dtype, "golden {}, {tensor}", self.name);
        view.data().to_vec()
    }

    pub fn f32(&self, tensor: &str) -> Vec<f32> {
        self.data(tensor, safetensors::Dtype::F32)
            .chunks(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }

    pub fn f64(&self, tensor: &str) -> Vec<f64> {
        self.data(tensor, safetensors::Dtype::F64)
            .chunks(8)
            .map(|b| f64::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }

    pub fn shape(&self, tensor: &str) -> Vec<usize> {
        safetensors::SafeTensors::deserialize(&self.bytes).unwrap().tensor(tensor).unwrap().shape().to_vec()
    }

    /// Labels, stored as 32-bit signed numbers: -1 is the absent label.
    pub fn labels(&self, tensor: &str) -> Vec<u32> {
        self.i32(tensor).into_iter().map(|label| label as u32).collect()
    }

    pub fn names(&self) -> Vec<String> {
        let tensors = safetensors::SafeTensors::deserialize(&self.bytes).unwrap();
        tensors.names().into_iter().map(String::from).collect()
    }

    pub fn i32(&self, tensor: &str) -> Vec<i32> {
        self.data(tensor, safetensors::Dtype::I32)
            .chunks(4)
            .map(|b| i32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }

    pub fn u8(&self, tensor: &str) -> Vec<u8> {
        self.data(tensor, safetensors::Dtype::U8)
    }

    pub fn u32(&self, tensor: &str) -> Vec<u32> {
        self.data(tensor, safetensors::Dtype::I64)
            .chunks(8)
            .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32)
            .collect()
    }
}
