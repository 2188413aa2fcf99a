//! The header of a safetensors file, read straight into the table of tensors.

use std::path::{Path, PathBuf};

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::SourceTensor;

/// Most dimensions of a tensor; no known checkpoint has more than five.
const MAX_DIMS: usize = 8;

/// Declares the data types of the container format with their names and sizes.
macro_rules! dtypes {
    ($($name:ident $size:literal),* $(,)?) => {
        /// A data type of the container format.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        pub(super) enum Dtype { $($name),* }

        impl Dtype {
            /// As the files spell it.
            pub(super) const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),* }
            }

            /// Bytes of one value.
            const fn size(self) -> u64 {
                match self { $(Self::$name => $size),* }
            }

            fn from_name(name: &str) -> Option<Self> {
                match name { $(stringify!($name) => Some(Self::$name),)* _ => None }
            }
        }
    };
}

dtypes! {
    F64 8, I64 8, U64 8, C64 8, F32 4, I32 4, U32 4, F16 2, BF16 2, I16 2, U16 2,
    BOOL 1, I8 1, U8 1, F8_E4M3 1, F8_E5M2 1, F8_E8M0 1, F8_E4M3FNUZ 1, F8_E5M2FNUZ 1,
}

impl<'de> Deserialize<'de> for Dtype {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = Dtype;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a dtype")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Dtype, E> {
                Dtype::from_name(name).ok_or_else(|| {
                    E::custom(format!("unknown dtype {}", name.chars().take(20).collect::<String>().escape_debug()))
                })
            }
        }
        deserializer.deserialize_str(Name)
    }
}

/// The dimensions of a tensor.
struct Dims(Vec<u64>);

impl<'de> Deserialize<'de> for Dims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Dims;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Dims, A::Error> {
                let (mut dims, mut n) = ([0u64; MAX_DIMS], 0);
                while let Some(dim) = seq.next_element::<u64>()? {
                    let slot = dims.get_mut(n).ok_or_else(|| A::Error::custom("a tensor of too many dimensions"))?;
                    *slot = dim;
                    n += 1;
                }
                Ok(Dims(dims.get(..n).unwrap_or_default().to_vec()))
            }
        }
        deserializer.deserialize_seq(List)
    }
}

#[derive(serde::Deserialize)]
struct Entry {
    dtype: Dtype,
    shape: Dims,
    data_offsets: [u64; 2],
}

/// Makes room for one more element without doubling, so that a table stays close to the size of its text.
pub(crate) fn room_for_one<T>(list: &mut Vec<T>) {
    if list.len() == list.capacity() {
        list.reserve_exact(list.len() / 4 + 16);
    }
}

/// The header's tensors in the order of their data; offsets count from `data_start`. Names may still occur twice.
pub(super) fn parse(bytes: &[u8], data_start: u64, shard: usize) -> Result<Vec<SourceTensor>, serde_json::Error> {
    struct Entries {
        data_start: u64,
        shard: usize,
    }
    impl<'de> Visitor<'de> for Entries {
        type Value = Vec<SourceTensor>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object of tensors")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut out = Vec::new();
            while let Some(name) = map.next_key::<String>()? {
                if name == "__metadata__" {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
                let entry = map.next_value::<Entry>()?;
                let [begin, end] = entry.data_offsets;
                let offset = begin
                    .checked_add(self.data_start)
                    .filter(|_| begin <= end)
                    .ok_or_else(|| A::Error::custom(format!("tensor {name} claims bytes {begin}..{end}")))?;
                room_for_one(&mut out);
                out.push(SourceTensor {
                    name,
                    shape: entry.shape.0,
                    dtype: entry.dtype,
                    shard: self.shard,
                    offset,
                    n_bytes: end - begin,
                });
            }
            Ok(out)
        }
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let mut entries = serde::Deserializer::deserialize_map(&mut json, Entries { data_start, shard })?;
    json.end()?;
    entries.sort_unstable_by(|a, b| (a.offset, a.n_bytes, &a.name).cmp(&(b.offset, b.n_bytes, &b.name)));
    Ok(entries)
}

/// Checks that the tensors, sorted by offset, cover the `data` bytes from `data_start` on exactly once and match their
/// shapes.
pub(super) fn check_tiling(tensors: &[SourceTensor], data_start: u64, data: u64) -> Result<(), String> {
    let mut at = 0u64;
    for tensor in tensors {
        let name = &tensor.name;
        let begin = tensor.offset - data_start;
        let end = begin.checked_add(tensor.n_bytes).filter(|end| *end <= data);
        let Some(end) = end else {
            let end = begin.saturating_add(tensor.n_bytes);
            return Err(format!("tensor {name} claims bytes {begin}..{end}, there are {data}"));
        };
        if begin < at {
            return Err(format!(
                "tensor {name} begins at byte {begin}, inside the tensor before it, which ends at {at}"
            ));
        }
        if begin > at {
            return Err(format!("bytes {at}..{begin} before tensor {name} belong to no tensor"));
        }
        let want = tensor.shape.iter().try_fold(tensor.dtype.size(), |n, d| n.checked_mul(*d));
        if want != Some(tensor.n_bytes) {
            return Err(format!(
                "tensor {name} is {} bytes, but {:?} of {} is not",
                tensor.n_bytes,
                tensor.shape,
                tensor.dtype.name()
            ));
        }
        at = end;
    }
    if at != data {
        return Err(format!("{} bytes after the last tensor belong to none", data - at));
    }
    Ok(())
}

/// Opens a weight file: the system file and its length.
pub(super) fn open(path: &Path) -> Result<(std::fs::File, u64), crate::ConvertError> {
    use crate::ConvertError;
    use crate::read::ReadError;
    let place = || -> PathBuf { path.to_owned() };
    let missing = || ConvertError::MissingFile {
        path: place(),
        remedy: format!("{} lists it as a part of the checkpoint; download it", super::INDEX),
    };
    // Asked before opening: opening a pipe waits for a writer.
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && path.symlink_metadata().is_err() => return Err(missing()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(ReadError::NotAFile { path: place(), found: "a link to a file that is gone" }.into());
        }
        Err(e) => return Err(ReadError::Io { path: place(), source: e }.into()),
    };
    if !meta.is_file() {
        let found = if meta.is_dir() { "a folder" } else { "a device or pipe" };
        return Err(ReadError::NotAFile { path: place(), found }.into());
    }
    let file = std::fs::File::open(path).map_err(ConvertError::io("open", path))?;
    Ok((file, meta.len()))
}
