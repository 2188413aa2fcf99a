//! What the commands tell the writer of files: what they read, and what a user can do about a refusal.

use std::path::{Path, PathBuf};

use ocelli_convert::ConvertError;
use ocelli_files::{FileError, Inputs, folder_of};
use ocelli_gguf::split::SplitName;
use ocelli_runtime::RuntimeError;

/// The files of the model whose file is `model`: all parts, and whatever may be taken for its vision file.
pub(crate) fn model_files(model: &Path) -> Vec<PathBuf> {
    let mut files = match SplitName::parse(model) {
        Some(name) => (1..=name.count).map(|no| name.path(no)).collect(),
        None => vec![model.to_owned()],
    };
    for entry in std::fs::read_dir(folder_of(model)).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().to_lowercase().contains("mmproj") {
            files.push(entry.path());
        }
    }
    files
}

/// `files` as inputs.
pub(crate) fn inputs<'p>(files: impl IntoIterator<Item = &'p PathBuf>) -> Inputs {
    Inputs::of(files)
}

/// What to do about `error`, where an option helps.
pub(crate) fn remedy(error: &anyhow::Error) -> Option<&'static str> {
    let refused = error.chain().any(|cause| {
        matches!(cause.downcast_ref(), Some(FileError::Exists { .. }))
            || matches!(cause.downcast_ref(), Some(ConvertError::Output(FileError::Exists { .. })))
            || matches!(cause.downcast_ref(), Some(RuntimeError::Output(FileError::Exists { .. })))
    });
    refused.then_some("use --overwrite to replace it, or choose another name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parts_and_vision_files_belong_to_a_model() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "mmproj-m.gguf", "other.gguf"] {
            std::fs::write(at(name), b"x").unwrap();
        }
        let mut files = model_files(&at("m-00002-of-00002.gguf"));
        files.sort();
        assert_eq!(files, [at("m-00001-of-00002.gguf"), at("m-00002-of-00002.gguf"), at("mmproj-m.gguf")]);
        assert_eq!(model_files(&at("other.gguf")), [at("other.gguf"), at("mmproj-m.gguf")]);
    }

    #[test]
    fn a_refusal_comes_with_its_remedy() {
        let refused = || FileError::Exists { path: "a".into() };
        assert!(remedy(&refused().into()).is_some());
        let wrapped = ConvertError::from(refused());
        assert!(remedy(&anyhow::Error::new(wrapped).context("converting")).is_some());
        assert!(remedy(&RuntimeError::from(refused()).into()).is_some());
        assert!(remedy(&FileError::Folder { path: "a".into() }.into()).is_none());
    }
}
