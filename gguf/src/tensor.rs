//! Tensor descriptions: shape, format, place in the file.

use std::{fmt, ops::Deref};

use crate::{GgufError, Item, TensorType, cursor::Cursor};

/// Tensor names must be shorter than this, in bytes.
pub const MAX_TENSOR_NAME: usize = 64;

/// Most dimensions a tensor can have.
pub const MAX_DIMS: usize = 4;

/// Fewest bytes a tensor description takes: name length, dimension count, type, offset.
const MIN_INFO_BYTES: u64 = 8 + 4 + 4 + 8;

/// Up to four dimensions, innermost (row length) first. Dereferences to a slice.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Dims {
    len: u8,
    dims: [u64; MAX_DIMS],
}

impl Dims {
    /// Takes a slice of at most four.
    #[must_use]
    pub fn new(dims: &[u64]) -> Option<Self> {
        let mut all = [1; MAX_DIMS];
        all.get_mut(..dims.len())?.copy_from_slice(dims);
        Some(Self { len: u8::try_from(dims.len()).ok()?, dims: all })
    }

    /// The row length: the innermost dimension, 1 for a scalar.
    #[must_use]
    pub const fn row_len(&self) -> u64 {
        self.dims[0]
    }

    /// The product of all dimensions, `None` when it does not fit an i64 (the width other GGUF readers use).
    #[must_use]
    pub fn n_elements(&self) -> Option<u64> {
        // With a zero anywhere the tensor is empty, however large the rest.
        if self.dims.contains(&0) {
            return Some(0);
        }
        let product = self.dims.iter().try_fold(1u64, |p, d| p.checked_mul(*d))?;
        (product <= i64::MAX.cast_unsigned()).then_some(product)
    }
}

impl Deref for Dims {
    type Target = [u64];

    fn deref(&self) -> &[u64] {
        self.dims.get(..usize::from(self.len)).unwrap_or(&self.dims)
    }
}

impl fmt::Debug for Dims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl fmt::Display for Dims {
    /// `2560 × 64`, innermost first; `1` for a scalar.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text: Vec<_> = self.iter().map(u64::to_string).collect();
        f.pad(&if text.is_empty() { "1".to_owned() } else { text.join(" × ") })
    }
}

/// Why a shape cannot be stored in a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShapeFault {
    Overflow,
    UnknownType,
    RowLength { block: u64 },
}

/// Elements and bytes of a tensor.
pub(crate) fn tensor_size(dims: &Dims, ty: TensorType) -> Result<(u64, u64), ShapeFault> {
    let (block, bytes) = ty.block_len().zip(ty.block_bytes()).ok_or(ShapeFault::UnknownType)?;
    let n = dims.n_elements().ok_or(ShapeFault::Overflow)?;
    if !dims.row_len().is_multiple_of(block) {
        return Err(ShapeFault::RowLength { block });
    }
    let n_bytes = (n / block).checked_mul(bytes).filter(|b| *b <= i64::MAX.cast_unsigned());
    Ok((n, n_bytes.ok_or(ShapeFault::Overflow)?))
}

/// One tensor of a file. All fields were checked against the file before this was handed out.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TensorInfo<'a> {
    /// Name, unique in the file.
    pub name: &'a str,
    /// Dimensions, innermost first.
    pub dims: Dims,
    /// Format of the data.
    pub ty: TensorType,
    /// Offset of the data from the start of the file.
    pub offset: u64,
    /// Size of the data in bytes, without padding.
    pub n_bytes: u64,
    /// Number of weights: the product of the dimensions.
    pub n_elements: u64,
    /// Where in the file the description stands.
    pub info_offset: u64,
}

impl TensorInfo<'_> {
    /// The number of rows: the product of all dimensions but the innermost.
    #[must_use]
    pub fn n_rows(&self) -> u64 {
        self.n_elements.checked_div(self.dims.row_len()).unwrap_or(0)
    }

    /// Absolute offset of the first byte after the data.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.offset.saturating_add(self.n_bytes)
    }

    fn item(&self) -> Item {
        Item::Tensor(self.name.to_owned())
    }
}

/// A description whose offset is still relative to the data section, and where that offset is stored.
pub(crate) struct Unplaced<'a> {
    info: TensorInfo<'a>,
    offset_at: u64,
}

/// Reads the tensor descriptions; the data section's place is only known after the last of them.
pub(crate) fn read_infos<'a>(
    cursor: &mut Cursor<'a>,
    count: u64,
    count_offset: u64,
) -> Result<Vec<Unplaced<'a>>, GgufError> {
    let available = cursor.remaining();
    if count > available / MIN_INFO_BYTES {
        return Err(GgufError::Count {
            item: Item::Header,
            what: "tensors",
            claimed: count,
            possible: available / MIN_INFO_BYTES,
            available,
            offset: count_offset,
        });
    }
    let mut infos = Vec::new();
    for i in 0..count {
        infos.push(read_info(cursor, i)?);
    }
    Ok(infos)
}

fn read_info<'a>(cursor: &mut Cursor<'a>, i: u64) -> Result<Unplaced<'a>, GgufError> {
    let info_offset = cursor.offset();
    let len = cursor.clone().u64(|| Item::TensorIndex(i))?;
    if len >= MAX_TENSOR_NAME as u64 {
        let item = Item::TensorIndex(i);
        return Err(GgufError::NameLength { item, len, allowed: "at most 63 bytes", offset: info_offset });
    }
    let name = cursor.string(|| Item::TensorIndex(i))?;
    let item = || Item::Tensor(name.to_owned());

    let n_dims_offset = cursor.offset();
    let n_dims = cursor.u32(item)?;
    let mut dims = [0; MAX_DIMS];
    let Some(used) = usize::try_from(n_dims).ok().and_then(|n| dims.get_mut(..n)) else {
        return Err(GgufError::DimCount { item: item(), offset: n_dims_offset, n_dims });
    };
    let dims_offset = cursor.offset();
    for d in used.iter_mut() {
        *d = cursor.u64(item)?;
    }
    let Some(dims) = Dims::new(used) else {
        return Err(GgufError::DimCount { item: item(), offset: n_dims_offset, n_dims });
    };

    let type_offset = cursor.offset();
    let ty = TensorType(cursor.u32(item)?);
    let (n_elements, n_bytes) = tensor_size(&dims, ty).map_err(|fault| match fault {
        ShapeFault::Overflow => GgufError::SizeOverflow { item: item(), offset: dims_offset, dims: dims.to_vec() },
        ShapeFault::UnknownType => GgufError::TensorType { item: item(), offset: type_offset, code: ty },
        ShapeFault::RowLength { block } => {
            GgufError::RowLength { item: item(), offset: dims_offset, row: dims.row_len(), ty, block }
        }
    })?;
    let offset_at = cursor.offset();
    let offset = cursor.u64(item)?;
    Ok(Unplaced { info: TensorInfo { name, dims, ty, offset, n_bytes, n_elements, info_offset }, offset_at })
}

/// Makes the offsets absolute and checks that all data lies inside the file, aligned and apart from each other.
pub(crate) fn place<'a>(
    infos: Vec<Unplaced<'a>>,
    data_start: u64,
    alignment: u64,
    file_len: u64,
) -> Result<Vec<TensorInfo<'a>>, GgufError> {
    let mut placed = Vec::with_capacity(infos.len());
    for Unplaced { mut info, offset_at } in infos {
        if !info.offset.is_multiple_of(alignment) {
            return Err(GgufError::Misaligned {
                item: info.item(),
                offset: offset_at,
                data_offset: info.offset,
                alignment,
            });
        }
        let start = data_start.checked_add(info.offset);
        let end = start.and_then(|s| s.checked_add(info.n_bytes));
        info.offset = start.unwrap_or(u64::MAX);
        if end.is_none_or(|e| e > file_len) {
            return Err(GgufError::DataOutside {
                item: info.item(),
                offset: info.offset,
                n_bytes: info.n_bytes,
                file_len,
            });
        }
        placed.push(info);
    }
    check_overlaps(&placed)?;
    Ok(placed)
}

fn check_overlaps(infos: &[TensorInfo<'_>]) -> Result<(), GgufError> {
    let mut order: Vec<&TensorInfo<'_>> = infos.iter().filter(|t| t.n_bytes > 0).collect();
    order.sort_by_key(|t| t.offset);
    for pair in order.windows(2) {
        if let [a, b] = pair
            && a.end() > b.offset
        {
            return Err(GgufError::Overlap {
                item: b.item(),
                offset: b.offset,
                other: a.name.to_owned(),
                other_end: a.end(),
            });
        }
    }
    Ok(())
}
