//! Builds files byte by byte, right or wrong, independently of the writer under test.
#![allow(dead_code, reason = "each test binary uses its own part")]

/// A file under construction.
#[derive(Clone, Default)]
pub(crate) struct Raw(pub(crate) Vec<u8>);

pub(crate) const U8: u32 = 0;
pub(crate) const U32: u32 = 4;
pub(crate) const I32: u32 = 5;
pub(crate) const F32: u32 = 6;
pub(crate) const BOOL: u32 = 7;
pub(crate) const STRING: u32 = 8;
pub(crate) const ARRAY: u32 = 9;
pub(crate) const U64: u32 = 10;

impl Raw {
    /// Magic, version and the two counts.
    pub(crate) fn header(version: u32, n_tensors: u64, n_kv: u64) -> Self {
        Self(b"GGUF".to_vec()).u32(version).u64(n_tensors).u64(n_kv)
    }

    pub(crate) fn u8(self, v: u8) -> Self {
        self.raw(&[v])
    }

    pub(crate) fn u32(self, v: u32) -> Self {
        self.raw(&v.to_le_bytes())
    }

    pub(crate) fn u64(self, v: u64) -> Self {
        self.raw(&v.to_le_bytes())
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// A string with its length in front.
    pub(crate) fn str(self, text: &str) -> Self {
        self.u64(text.len() as u64).raw(text.as_bytes())
    }

    /// A whole pair with a u32 value.
    pub(crate) fn kv_u32(self, key: &str, v: u32) -> Self {
        self.str(key).u32(U32).u32(v)
    }

    /// A whole tensor description.
    pub(crate) fn info(mut self, name: &str, dims: &[u64], ty: u32, offset: u64) -> Self {
        self = self.str(name).u32(dims.len() as u32);
        for d in dims {
            self = self.u64(*d);
        }
        self.u32(ty).u64(offset)
    }

    /// Zeros up to a multiple of `alignment`.
    pub(crate) fn pad(mut self, alignment: usize) -> Self {
        self.0.resize(self.0.len().next_multiple_of(alignment), 0);
        self
    }

    /// `n` bytes of tensor data.
    pub(crate) fn data(mut self, n: usize) -> Self {
        self.0.extend((0..n).map(|i| i as u8));
        self
    }
}

/// Bytes of a file whose only tensor is described as given, with `data` bytes of data.
pub(crate) fn one_tensor(dims: &[u64], ty: u32, offset: u64, data: usize) -> Vec<u8> {
    Raw::header(3, 1, 0).info("w", dims, ty, offset).pad(32).data(data).0
}
