//! From a checkpoint folder to GGUF files.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use ocelli_files::{Inputs, NewFolder, Output, Replace, WriteOptions, check_space, commit_all};
use ocelli_kernels::quantize::RowCodec;

use crate::checkpoint::Checkpoint;
use crate::compare::Compare;
use crate::error::ConvertError;
use crate::family::{self, Job};
use crate::general::{self, Name};
use crate::json::Section;
use crate::mixture::FileType;
use crate::pipeline::{self, Workers};
use crate::plan::FilePlan;
use crate::progress::Progress;
use crate::source;
use crate::types::{self, VisionType};
use crate::vocab::{self, VocabConfig};

/// Threads that quantise, at most: more than any machine has.
pub(crate) const MAX_THREADS: usize = 512;

/// What helps where the work does not fit into memory.
pub(crate) const FEWER_THREADS: &str = "use fewer threads (--threads), close other programs, or raise the limit";

/// What to make of a checkpoint.
#[derive(Debug, Clone)]
pub struct ConvertOptions {
    /// Type of the text file.
    pub file_type: FileType,
    /// Type of the vision file.
    pub vision_type: VisionType,
    /// Folder of the output files; made if it does not exist.
    pub outdir: PathBuf,
    /// Beginning of the output files' names and `general.name`; the folder's name when `None`.
    pub name: Option<String>,
    /// Whether existing files may be replaced.
    pub overwrite: bool,
    /// Whether longrope factors are stored as tensors. Old loaders refuse files that have them; without them every
    /// loader computes wrong rotations.
    pub rope_factors: bool,
    /// `tokenizer.ggml.pre` of a byte-level tokenizer; recognised from its definition when `None`.
    pub pre: Option<String>,
    /// Worker threads; as many as there are cores when `None`.
    pub threads: Option<NonZeroUsize>,
    /// What quantises rows; all codecs give the same bytes.
    pub codec: &'static RowCodec,
    /// The only part to write; every part that the model has when `None`.
    pub only: Option<Part>,
}

impl Default for ConvertOptions {
    fn default() -> Self {
        Self {
            file_type: FileType::Q4_K_M,
            vision_type: VisionType::F16,
            outdir: PathBuf::from("."),
            name: None,
            overwrite: false,
            rope_factors: true,
            pre: None,
            threads: None,
            codec: RowCodec::best(),
            only: None,
        }
    }
}

/// Which half of a model a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The language model with its tokenizer.
    Text,
    /// Vision tower and projector.
    Vision,
}

/// A file of the result.
#[derive(Debug, Clone)]
pub struct WrittenFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it holds.
    pub part: Part,
    /// Its size.
    pub bytes: u64,
    /// Number of tensors.
    pub tensors: usize,
    /// Whether it was there already, equal to what would have been written, and was left as it is.
    pub kept: bool,
}

/// What a conversion did.
#[derive(Debug, Clone)]
pub struct ConvertReport {
    /// The kind of model found.
    pub family: &'static str,
    /// The files, text first.
    pub files: Vec<WrittenFile>,
    /// What the user should know: fall-backs, parts of the tokenizer that could not be carried over.
    pub remarks: Vec<String>,
    /// Where files of the checkpoint disagree, and which was taken; what was left out.
    pub warnings: Vec<String>,
}

/// Converts the checkpoint in `dir`. Nothing is written before the whole checkpoint has been checked against its
/// configuration, and files appear under their names only when all of them are complete. A vision file that is there
/// already and would be written again byte for byte is kept.
///
/// # Errors
/// Every failure is a [`ConvertError`]; temporary files are gone when it is returned.
pub fn convert(dir: &Path, options: &ConvertOptions, progress: &dyn Progress) -> Result<ConvertReport, ConvertError> {
    source::check(dir)?;
    let name = match &options.name {
        Some(name) => Name::given(name),
        None => Name::of_folder(dir)?,
    };
    convert_checkpoint(dir, || Checkpoint::open(dir), &name, options, progress)
}

/// As [`convert`], with the weights of another source than the folder. `open` is called once the name and the
/// configuration have been read.
pub(crate) fn convert_checkpoint(
    dir: &Path,
    open: impl FnOnce() -> Result<Checkpoint, ConvertError>,
    name: &Name,
    options: &ConvertOptions,
    progress: &dyn Progress,
) -> Result<ConvertReport, ConvertError> {
    general::check_name(&name.file)?;
    let config = Section::read(dir, "config.json", "a checkpoint folder has one; download it from the model's page")?;
    let family = family::detect(dir, &config)?;
    source::check_unquantised(&config)?;
    let checkpoint = open()?;
    let mut warnings = checkpoint.notes().to_vec();
    let mut remarks = Vec::new();
    let (sampling, left_out) = general::sampling(dir)?;
    let vocab = if options.only == Some(Part::Vision) {
        None
    } else {
        let rows = vocabulary_rows(&checkpoint, &config, family.embedding)?;
        let mut vocab_config = VocabConfig::from_section(&config)?;
        vocab_config.vocab_size = Some(rows);
        vocab_config.pre.clone_from(&options.pre);
        let vocab = vocab::load(dir, &vocab_config)?;
        warnings.extend_from_slice(&vocab.warnings);
        warnings.extend(left_out);
        remarks.extend_from_slice(&vocab.notes);
        Some(vocab)
    };
    let job = Job {
        checkpoint: &checkpoint,
        config: &config,
        vocab: vocab.as_ref(),
        name,
        sampling: &sampling,
        rope_factors: options.rope_factors,
    };
    let plan = (family.plan)(&job)?;
    warnings.extend(plan.warnings);
    // What the plan needs of it has been copied.
    drop(vocab);
    let mut parts = Vec::new();
    if let Some(mut text) = plan.text {
        remarks.extend(types::apply_text(&mut text, &plan.facts, options.file_type)?);
        parts.push((Part::Text, format!("{}-{}.gguf", name.file, options.file_type), text));
    }
    match plan.vision {
        Some(mut vision) if options.only != Some(Part::Text) => {
            remarks.extend(types::apply_vision(&mut vision, options.vision_type)?);
            parts.push((Part::Vision, format!("mmproj-{}-{}.gguf", name.file, options.vision_type), vision));
        }
        None if options.only == Some(Part::Vision) => {
            return Err(ConvertError::NoVision { path: dir.to_owned(), model: family.name });
        }
        _ => {}
    }
    let files = write(dir, &checkpoint, parts, options, progress)?;
    Ok(ConvertReport { family: family.name, files, remarks, warnings })
}

/// `vocab_size`, checked against the rows of the embedding: every table of tokens is made that long.
fn vocabulary_rows(checkpoint: &Checkpoint, config: &Section, embedding: &str) -> Result<usize, ConvertError> {
    let size = config.need_size("vocab_size")?;
    let wrong = |found: String| Err(config.error("vocab_size", found, "the number of rows of the embedding"));
    match checkpoint.tensors().get(embedding).map(|tensor| (tensor, tensor.shape.first().copied().unwrap_or(0))) {
        Some((_, rows)) if rows != u64::from(size) => {
            return wrong(format!("{size}, but tensor {embedding} has {rows} rows"));
        }
        // No data, no bound; and a missing embedding is reported with all that is missing.
        Some((tensor, _)) if tensor.n_bytes() > 0 => {}
        _ if u64::from(size) > checkpoint.largest_dimension() => {
            return wrong(format!("{size}, but no tensor of the checkpoint has as many rows"));
        }
        _ => {}
    }
    Ok(size as usize)
}

/// Writes all parts of the checkpoint in `dir` to temporary files and moves them to their places.
fn write(
    dir: &Path,
    checkpoint: &Checkpoint,
    parts: Vec<(Part, String, FilePlan)>,
    options: &ConvertOptions,
    progress: &dyn Progress,
) -> Result<Vec<WrittenFile>, ConvertError> {
    let outdir = &options.outdir;
    let folder = NewFolder::make(outdir).map_err(ConvertError::io("create", outdir))?;
    let threads = options.threads.or_else(|| std::thread::available_parallelism().ok());
    let threads = threads.map_or(1, NonZeroUsize::get).min(MAX_THREADS);
    for (_, file_name, plan) in &parts {
        let what = format!("making {file_name} with {threads} threads");
        ocelli_memory::check(what, pipeline::memory(plan, threads), FEWER_THREADS)?;
    }
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|e| ConvertError::Threads(e.to_string()))?;
    let workers = Workers { pool, codec: options.codec };
    // A vision file that is there and differs is refused below, before anything is written.
    let (mut kept, mut paths, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
    for (part, file_name, plan) in &parts {
        let path = outdir.join(file_name);
        let may_be_kept = *part == Part::Vision && !options.overwrite && path.is_file();
        kept.push(may_be_kept && is_already_there(&path, plan, checkpoint, &workers, progress)?);
        if kept.last() == Some(&false) {
            paths.push(path);
            sizes.push(pipeline::header(plan)?.total_size()?);
        }
    }
    let write = WriteOptions::new(inputs(dir), Replace::if_told(options.overwrite));
    let mut outputs = Output::create_all(&paths, &write)?;
    check_space(outputs.iter().zip(sizes))?;
    let mut written = Vec::with_capacity(parts.len());
    let mut next = outputs.iter_mut();
    for ((part, file_name, plan), kept) in parts.into_iter().zip(kept) {
        let (path, tensors) = (outdir.join(&file_name), plan.tensors.len());
        // One output was made for every part that is not kept.
        let output = if kept { None } else { next.next() };
        let bytes = match output {
            None => pipeline::header(&plan)?.total_size()?,
            Some(output) => {
                progress.begin(&file_name, pipeline::source_bytes(&plan));
                let bytes = pipeline::write_file(&plan, checkpoint, output, &workers, progress)?;
                progress.end();
                bytes
            }
        };
        written.push(WrittenFile { path, part, bytes, tensors, kept });
    }
    if progress.cancelled() {
        return Err(ConvertError::Cancelled);
    }
    commit_all(outputs)?;
    folder.keep();
    Ok(written)
}

/// Whether the file at `path` is, byte for byte, the one that would be written. Stops at the first difference.
fn is_already_there(
    path: &Path,
    plan: &FilePlan,
    checkpoint: &Checkpoint,
    workers: &Workers,
    progress: &dyn Progress,
) -> Result<bool, ConvertError> {
    let mut compare = Compare::open(path).map_err(ConvertError::io("read", path))?;
    if compare.left() != pipeline::header(plan)?.total_size()? {
        return Ok(false);
    }
    progress.begin(
        &format!("{} (comparing)", path.file_name().unwrap_or_default().display()),
        pipeline::source_bytes(plan),
    );
    let compared = pipeline::write_file(plan, checkpoint, &mut compare, workers, progress);
    progress.end();
    match compared {
        Ok(_) => Ok(compare.left() == 0),
        Err(_) if compare.different() => Ok(false),
        Err(error) => Err(error),
    }
}

/// What may be read from the checkpoint in `dir`. GGUF files that were made there before are none of it.
fn inputs(dir: &Path) -> Inputs {
    let mut inputs = Inputs::default();
    inputs.add_where(dir, &|path| path.extension().is_none_or(|ending| ending != "gguf"));
    inputs
}
