//! Made-up GGUF pairs, without writing the checkpoint first.

use std::collections::HashMap;

use ocelli_files::{NewFolder, TemporaryFolder};

use super::weights::{SynthTensor, SynthWeights};
use super::write::{SynthOptions, check_memory, encode_strip, small_files, split};
use crate::checkpoint::{Checkpoint, Generate, SourceType};
use crate::convert::convert_checkpoint;
use crate::general::Name;
use crate::progress::Progress;
use crate::{ConvertError, ConvertOptions, ConvertReport};

/// The weights of a made-up checkpoint, computed when they are asked for.
#[derive(Debug)]
struct Generator {
    weights: SynthWeights,
    index: HashMap<String, usize>,
    dtype: SourceType,
}

impl Generate for Generator {
    fn read_at(&self, name: &str, offset: u64, out: &mut [u8]) {
        let Some(tensor) = self.index.get(name).and_then(|i| self.weights.tensors().get(*i)) else { return };
        let size = self.dtype.size();
        let Ok(offset) = usize::try_from(offset) else { return };
        let (start, end) = (offset / size, (offset + out.len()).div_ceil(size));
        let mut bytes = Vec::new();
        encode_strip(&self.weights, tensor, start, end - start, self.dtype, &mut bytes);
        let skip = offset - start * size;
        if let Some(part) = bytes.get(skip..skip + out.len()) {
            out.copy_from_slice(part);
        }
    }
}

/// Converts the checkpoint that [`super::write_checkpoint`] would write: the same files as if it had been written and
/// then converted, but for the names. `convert.name` defaults to the preset's.
///
/// # Errors
/// As [`crate::convert()`].
pub fn write_gguf(
    options: &SynthOptions,
    convert: &ConvertOptions,
    progress: &dyn Progress,
) -> Result<ConvertReport, ConvertError> {
    // The weights are made in strips, whose memory the conversion counts.
    check_memory(options, Some(0))?;
    let outdir = &convert.outdir;
    let folder = NewFolder::make(outdir).map_err(ConvertError::io("create", outdir))?;
    // The converter reads configuration and tokenizer from a folder; it is gone afterwards, whatever happens.
    let temp = TemporaryFolder::new(outdir).map_err(ConvertError::io("create a folder in", outdir))?;
    for (name, bytes) in small_files(options) {
        let path = temp.path().join(name);
        std::fs::write(&path, bytes).map_err(ConvertError::io("write", &path))?;
    }
    let weights = SynthWeights::new(options.preset, options.seed);
    let shards = split(weights.tensors(), options.shards.unwrap_or(options.preset.shards()));
    let entry = |(shard, tensor): (usize, &SynthTensor)| {
        (tensor.name.clone(), tensor.shape.iter().map(|d| *d as u64).collect(), shard)
    };
    let tensors: Vec<_> =
        shards.iter().enumerate().flat_map(|(i, run)| run.iter().map(move |t| (i, t))).map(entry).collect();
    let index = weights.tensors().iter().enumerate().map(|(i, tensor)| (tensor.name.clone(), i)).collect();
    let generator = Generator { weights, index, dtype: options.dtype };
    let name = convert.name.clone().unwrap_or_else(|| options.preset.name().to_owned());
    let open = || Ok(Checkpoint::generated(temp.path(), options.dtype, tensors, Box::new(generator)));
    let report = convert_checkpoint(temp.path(), open, &Name::given(&name), convert, progress)?;
    folder.keep();
    Ok(report)
}
