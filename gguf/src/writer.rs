//! The streaming writer: header first, then the data of each tensor in order.

use std::{collections::HashSet, io::Write};

use crate::{
    ALIGNMENT_KEY, DEFAULT_ALIGNMENT, Dims, GgufError, Item, MAGIC, MAX_KEY_LEN, MAX_TENSOR_NAME, MetaValue,
    TensorType,
    meta_value::encode_str,
    tensor::{ShapeFault, tensor_size},
};

/// The version written.
const VERSION: u32 = 3;

/// Largest alignment written: beyond a huge page there is nothing to align to.
const MAX_ALIGNMENT: u32 = 1 << 21;

/// A tensor that is going to be written.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PlannedTensor {
    /// Name, unique in the file.
    pub name: String,
    /// Dimensions, innermost first.
    pub dims: Dims,
    /// Format of the data.
    pub ty: TensorType,
    /// Bytes of data, without padding.
    pub n_bytes: u64,
}

/// Collects what goes into the header of a version 3 file.
///
/// Keys and tensors are written in the order they were added. Setting `general.alignment` (a u32 power of two)
/// changes the alignment; the key itself is written only when it differs from the default of 32.
#[derive(Debug, Clone, Default)]
pub struct GgufWriter {
    pairs: Vec<(String, MetaValue)>,
    keys: HashSet<String>,
    tensors: Vec<PlannedTensor>,
    names: HashSet<String>,
    alignment: Option<u32>,
}

impl GgufWriter {
    /// A writer with no keys and no tensors.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a metadata pair.
    ///
    /// # Errors
    /// When the key is empty, too long or already there, or is `general.alignment` with an unusable value.
    pub fn kv(&mut self, key: impl Into<String>, value: impl Into<MetaValue>) -> Result<&mut Self, GgufError> {
        let (key, value) = (key.into(), value.into());
        if key.is_empty() || key.len() > MAX_KEY_LEN {
            let problem = format!("the key has {} bytes; allowed are 1 to {MAX_KEY_LEN}", key.len());
            return Err(invalid(Item::Key(key), problem));
        }
        if key == ALIGNMENT_KEY {
            match value {
                MetaValue::U32(a) if a.is_power_of_two() && a <= MAX_ALIGNMENT => self.alignment = Some(a),
                _ => {
                    let problem = format!("it must be a u32 power of two of at most {MAX_ALIGNMENT}, not {value:?}");
                    return Err(invalid(Item::Key(key), problem));
                }
            }
        }
        if !self.keys.insert(key.clone()) {
            return Err(GgufError::WriteDuplicate { item: Item::Key(key) });
        }
        self.pairs.push((key, value));
        Ok(self)
    }

    /// Adds a tensor; `dims` innermost first.
    ///
    /// # Errors
    /// When the name is too long or already there, there are more than four dimensions, rows do not divide into
    /// blocks, the layout of `ty` is not known, or the size overflows.
    pub fn tensor(
        &mut self,
        name: impl Into<String>,
        dims: &[u64],
        ty: impl Into<TensorType>,
    ) -> Result<&mut Self, GgufError> {
        let (name, ty) = (name.into(), ty.into());
        let fail = |problem: String| Err(invalid(Item::Tensor(name.clone()), problem));
        if name.is_empty() || name.len() >= MAX_TENSOR_NAME {
            return fail(format!("the name has {} bytes; allowed are 1 to {}", name.len(), MAX_TENSOR_NAME - 1));
        }
        let Some(dims) = Dims::new(dims).filter(|d| !d.is_empty()) else {
            return fail(format!("{} dimensions; allowed are 1 to 4", dims.len()));
        };
        let n_bytes = match tensor_size(&dims, ty) {
            Ok((_, n_bytes)) => n_bytes,
            Err(ShapeFault::Overflow) => return fail(format!("the size of {dims:?} {ty} overflows")),
            Err(ShapeFault::UnknownType) => return fail(format!("the layout of {ty} is not known")),
            Err(ShapeFault::RowLength { block }) => {
                let row = dims.row_len();
                return fail(format!("rows of {row} weights do not divide into {ty} blocks of {block}"));
            }
        };
        if !self.names.insert(name.clone()) {
            return Err(GgufError::WriteDuplicate { item: Item::Tensor(name) });
        }
        self.tensors.push(PlannedTensor { name, dims, ty, n_bytes });
        Ok(self)
    }

    /// The tensors added so far, in order.
    #[must_use]
    pub fn tensors(&self) -> &[PlannedTensor] {
        &self.tensors
    }

    /// The metadata added so far, in order.
    #[must_use]
    pub fn pairs(&self) -> &[(String, MetaValue)] {
        &self.pairs
    }

    /// The alignment of tensor data.
    #[must_use]
    pub fn alignment(&self) -> u64 {
        self.alignment.map_or(DEFAULT_ALIGNMENT, u64::from)
    }

    /// The size in bytes the whole file will have.
    ///
    /// # Errors
    /// When the sizes add up to more than 2⁶³ bytes.
    pub fn total_size(&self) -> Result<u64, GgufError> {
        self.layout().map(|(header, data)| header.len() as u64 + data)
    }

    /// Writes the header and returns the sink for the tensor data.
    ///
    /// # Errors
    /// When writing fails or the sizes overflow.
    pub fn start<W: Write>(self, mut out: W) -> Result<TensorSink<W>, GgufError> {
        let (header, data) = self.layout()?;
        let total = header.len() as u64 + data;
        out.write_all(&header).map_err(|error| io("cannot write the header", error))?;
        let alignment = self.alignment();
        Ok(TensorSink { out, tensors: self.tensors, current: None, next: 0, got: 0, alignment, total })
    }

    /// The header's bytes up to the data section, and the size of the data section.
    fn layout(&self) -> Result<(Vec<u8>, u64), GgufError> {
        let alignment = self.alignment();
        let is_written = |key: &str| key != ALIGNMENT_KEY || alignment != DEFAULT_ALIGNMENT;
        let pairs = || self.pairs.iter().filter(|(key, _)| is_written(key));
        let mut header = Vec::new();
        header.extend(MAGIC);
        header.extend(VERSION.to_le_bytes());
        header.extend((self.tensors.len() as u64).to_le_bytes());
        header.extend((pairs().count() as u64).to_le_bytes());
        for (key, value) in pairs() {
            encode_str(key, &mut header);
            value.encode(&mut header);
        }
        let mut data = 0u64;
        for tensor in &self.tensors {
            encode_str(&tensor.name, &mut header);
            // At most four dimensions.
            header.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|d| header.extend(d.to_le_bytes()));
            header.extend(tensor.ty.0.to_le_bytes());
            header.extend(data.to_le_bytes());
            data = tensor
                .n_bytes
                .checked_next_multiple_of(alignment)
                .and_then(|padded| data.checked_add(padded))
                .filter(|total| *total <= i64::MAX.cast_unsigned())
                .ok_or_else(|| {
                    invalid(Item::Tensor(tensor.name.clone()), "the file would exceed 2⁶³ bytes".to_owned())
                })?;
        }
        let padding = padding(header.len() as u64, alignment);
        header.resize(header.len() + padding, 0);
        Ok((header, data))
    }
}

/// Takes the data of the announced tensors, in order, and pads it.
///
/// Either [`Self::write_tensor`] with all bytes of a tensor, or [`Self::begin`] and any number of [`Self::write`]s;
/// [`Self::finish`] after the last one.
#[derive(Debug)]
pub struct TensorSink<W: Write> {
    out: W,
    tensors: Vec<PlannedTensor>,
    /// Index of the tensor that is being written.
    current: Option<usize>,
    next: usize,
    /// Bytes of the current tensor so far.
    got: u64,
    alignment: u64,
    total: u64,
}

impl<W: Write> TensorSink<W> {
    /// The size in bytes the whole file will have.
    #[must_use]
    pub const fn total_size(&self) -> u64 {
        self.total
    }

    /// The tensor that [`Self::begin`] must name next.
    #[must_use]
    pub fn expected(&self) -> Option<&PlannedTensor> {
        self.tensors.get(self.next)
    }

    /// Ends the previous tensor and begins the one called `name`.
    ///
    /// # Errors
    /// When the previous tensor is incomplete, `name` is not the next one announced, or writing fails.
    pub fn begin(&mut self, name: &str) -> Result<(), GgufError> {
        self.end_current()?;
        match self.tensors.get(self.next) {
            Some(t) if t.name == name => {
                self.current = Some(self.next);
                self.next += 1;
                self.got = 0;
                Ok(())
            }
            other => Err(GgufError::WriteOrder {
                found: name.to_owned(),
                expected: other.map_or("no further tensor".to_owned(), |t| format!("tensor `{}`", t.name)),
            }),
        }
    }

    /// Writes some bytes of the current tensor.
    ///
    /// # Errors
    /// When there are more than announced, no tensor was begun, or writing fails.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), GgufError> {
        let Some(tensor) = self.current.and_then(|i| self.tensors.get(i)) else {
            return Err(GgufError::WriteLength { name: String::new(), got: bytes.len() as u64, want: 0 });
        };
        let got = self.got.saturating_add(bytes.len() as u64);
        if got > tensor.n_bytes {
            return Err(GgufError::WriteLength { name: tensor.name.clone(), got, want: tensor.n_bytes });
        }
        self.out
            .write_all(bytes)
            .map_err(|error| io(&format!("cannot write the data of tensor `{}`", tensor.name), error))?;
        self.got = got;
        Ok(())
    }

    /// Writes one whole tensor.
    ///
    /// # Errors
    /// As [`Self::begin`] and [`Self::write`], and when `bytes` is too short.
    pub fn write_tensor(&mut self, name: &str, bytes: &[u8]) -> Result<(), GgufError> {
        self.begin(name)?;
        self.write(bytes)?;
        self.end_current()
    }

    /// Checks that everything announced was written, flushes, and returns the writer.
    ///
    /// # Errors
    /// When a tensor is missing or incomplete, or flushing fails.
    pub fn finish(mut self) -> Result<W, GgufError> {
        self.end_current()?;
        if let Some(missing) = self.tensors.get(self.next) {
            return Err(GgufError::WriteLength { name: missing.name.clone(), got: 0, want: missing.n_bytes });
        }
        self.out.flush().map_err(|error| io("cannot finish writing the file", error))?;
        Ok(self.out)
    }

    fn end_current(&mut self) -> Result<(), GgufError> {
        let Some(tensor) = self.current.and_then(|i| self.tensors.get(i)) else { return Ok(()) };
        if self.got != tensor.n_bytes {
            return Err(GgufError::WriteLength { name: tensor.name.clone(), got: self.got, want: tensor.n_bytes });
        }
        // The header was padded to the alignment, so padding by length pads by offset too.
        let zeros = vec![0; padding(self.got, self.alignment)];
        self.out.write_all(&zeros).map_err(|error| io("cannot write padding", error))?;
        self.current = None;
        Ok(())
    }
}

/// Bytes from `len` to the next multiple of `alignment`, which is at most [`MAX_ALIGNMENT`].
fn padding(len: u64, alignment: u64) -> usize {
    let over = len % alignment;
    if over == 0 { 0 } else { usize::try_from(alignment - over).unwrap_or_default() }
}

fn invalid(item: Item, problem: String) -> GgufError {
    GgufError::WriteInvalid { item, problem }
}

fn io(context: &str, error: std::io::Error) -> GgufError {
    GgufError::Io { context: context.to_owned(), error }
}
