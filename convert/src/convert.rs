//! From a checkpoint folder to GGUF files.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use ocelli_files::{Inputs, NewFolder, Output, Replace, WriteOptions, check_space, commit_all};

use crate::checkpoint::Checkpoint;
use crate::error::ConvertError;
use crate::family::{self, Job};
use crate::general;
use crate::json::Section;
use crate::mixture::FileType;
use crate::pipeline;
use crate::plan::FilePlan;
use crate::progress::Progress;
use crate::types::{self, VisionType};
use crate::vocab::{self, VocabConfig};

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

/// A file that was written.
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
}

/// Converts the checkpoint in `dir`. Nothing is written before the whole checkpoint has been checked against its
/// configuration, and files appear under their names only when all of them are complete.
///
/// # Errors
/// Every failure is a [`ConvertError`]; temporary files are gone when it is returned.
pub fn convert(dir: &Path, options: &ConvertOptions, progress: &dyn Progress) -> Result<ConvertReport, ConvertError> {
    let name = match &options.name {
        Some(name) => name.clone(),
        None => general::folder_name(dir).unwrap_or_default(),
    };
    let title = if options.name.is_some() { name.clone() } else { general::title(&name) };
    let checkpoint = || Checkpoint::open(dir);
    convert_checkpoint(dir, checkpoint, (&name, &title), options, progress)
}

/// As [`convert`], with the weights of another source than the folder. `open` is called once the name and the
/// configuration have been read.
pub(crate) fn convert_checkpoint(
    dir: &Path,
    open: impl FnOnce() -> Result<Checkpoint, ConvertError>,
    (name, title): (&str, &str),
    options: &ConvertOptions,
    progress: &dyn Progress,
) -> Result<ConvertReport, ConvertError> {
    general::check_name(name)?;
    let config = Section::read(dir, "config.json", "a checkpoint folder has one; download it from the model's page")?;
    let checkpoint = open()?;
    let family = family::detect(&checkpoint, &config)?;
    let mut vocab_config = VocabConfig::from_json(&config.to_value())?;
    vocab_config.pre.clone_from(&options.pre);
    let vocab = vocab::load(dir, &vocab_config)?;
    let job =
        Job { checkpoint: &checkpoint, config: &config, vocab: &vocab, title, rope_factors: options.rope_factors };
    let mut plan = (family.plan)(&job)?;
    let mut remarks = vocab.notes.clone();
    remarks.extend(types::apply_text(&mut plan.text, &plan.facts, options.file_type)?);
    let mut parts = vec![(Part::Text, format!("{name}-{}.gguf", options.file_type), plan.text)];
    if let Some(mut vision) = plan.vision {
        remarks.extend(types::apply_vision(&mut vision, options.vision_type)?);
        parts.push((Part::Vision, format!("mmproj-{name}-{}.gguf", options.vision_type), vision));
    }
    let files = write(dir, &checkpoint, parts, options, progress)?;
    Ok(ConvertReport { family: family.name, files, remarks })
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
    let mut sizes = Vec::with_capacity(parts.len());
    for (_, _, plan) in &parts {
        sizes.push(pipeline::header(plan)?.total_size()?);
    }
    let paths: Vec<_> = parts.iter().map(|(_, file_name, _)| outdir.join(file_name)).collect();
    let write = WriteOptions::new(inputs(dir), Replace::if_told(options.overwrite));
    let mut outputs = Output::create_all(&paths, &write)?;
    check_space(outputs.iter().zip(sizes))?;
    let threads = options.threads.map_or(0, NonZeroUsize::get);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|e| ConvertError::Threads(e.to_string()))?;
    let mut written = Vec::with_capacity(parts.len());
    for ((part, file_name, plan), output) in parts.into_iter().zip(&mut outputs) {
        progress.begin(&file_name, pipeline::source_bytes(&plan));
        let bytes = pipeline::write_file(&plan, checkpoint, output, &pool, progress)?;
        progress.end();
        written.push(WrittenFile { path: output.path().to_owned(), part, bytes, tensors: plan.tensors.len() });
    }
    if progress.cancelled() {
        return Err(ConvertError::Cancelled);
    }
    commit_all(outputs)?;
    folder.keep();
    Ok(written)
}

/// What may be read from the checkpoint in `dir`. GGUF files that were made there before are none of it.
fn inputs(dir: &Path) -> Inputs {
    let mut inputs = Inputs::default();
    inputs.add_where(dir, &|path| path.extension().is_none_or(|ending| ending != "gguf"));
    inputs
}
