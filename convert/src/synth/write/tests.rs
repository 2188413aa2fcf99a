//! Made-up checkpoints are readable, complete and the same every time.

use super::*;
use crate::checkpoint::Checkpoint;
use crate::mixture::FileType;
use crate::progress::Silent;
use crate::synth::write_gguf;
use crate::vocab::{self, SpecialKind, TokenType, VocabConfig};
use crate::{ConvertOptions, convert};

fn options(dtype: SourceType, shards: usize) -> SynthOptions {
    SynthOptions { preset: Preset::Mini, seed: 42, dtype, shards: Some(shards), overwrite: false }
}

#[test]
fn sharding_changes_no_weight() {
    let dirs = [1, 3].map(|shards| {
        let dir = tempfile::tempdir().unwrap();
        let report = write_checkpoint(dir.path(), &options(SourceType::Bf16, shards), &Silent).unwrap();
        assert_eq!(report.files.len(), 7 + shards + usize::from(shards > 1));
        dir
    });
    let [one, three] = dirs.each_ref().map(|dir| Checkpoint::open(dir.path()).unwrap());
    assert_eq!(one.tensors().len(), SynthWeights::new(Preset::Mini, 42).tensors().len());
    for ((name, a), (other, b)) in one.tensors().iter().zip(three.tensors()) {
        assert_eq!((name, &a.shape), (other, &b.shape));
        let read = |checkpoint: &Checkpoint, tensor| {
            let mut bytes = vec![0; a.n_bytes() as usize];
            checkpoint.read_at(tensor, 0, &mut bytes).unwrap();
            bytes
        };
        assert_eq!(read(&one, a), read(&three, b), "{name}");
    }
}

#[test]
fn bytes_do_not_depend_on_the_number_of_threads() {
    let read = |threads| {
        let dir = tempfile::tempdir().unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| write_checkpoint(dir.path(), &options(SourceType::F16, 1), &Silent)).unwrap();
        std::fs::read(dir.path().join("model.safetensors")).unwrap()
    };
    assert!(read(1) == read(3));
}

#[test]
fn existing_checkpoints_are_kept_unless_told_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    write_checkpoint(dir.path(), &options(SourceType::Bf16, 2), &Silent).unwrap();
    let again = write_checkpoint(dir.path(), &options(SourceType::Bf16, 2), &Silent);
    assert!(matches!(again, Err(ConvertError::Output(FileError::Exists { .. }))));
    let single = SynthOptions { overwrite: true, ..options(SourceType::Bf16, 1) };
    write_checkpoint(dir.path(), &single, &Silent).unwrap();
    assert!(!dir.path().join("model.safetensors.index.json").exists());
    assert!(!dir.path().join("model-00001-of-00002.safetensors").exists());
    Checkpoint::open(dir.path()).unwrap();
}

#[test]
fn cancelling_leaves_nothing() {
    struct Stop;
    impl Progress for Stop {
        fn cancelled(&self) -> bool {
            true
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let done = write_checkpoint(dir.path(), &options(SourceType::Bf16, 2), &Stop);
    assert!(matches!(done, Err(ConvertError::Cancelled)));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn runs_cover_all_tensors_in_order() {
    let weights = SynthWeights::new(Preset::Mini, 0);
    for n in [1, 2, 5, 1000] {
        let runs = split(weights.tensors(), n);
        assert_eq!(runs.len(), n.min(weights.tensors().len()));
        assert!(runs.iter().all(|run| !run.is_empty()));
        assert_eq!(runs.concat(), weights.tensors());
    }
}

/// The vocabulary is the same from either file, but for the scores that only one of them states.
#[test]
fn both_tokenizer_files_give_the_same_vocabulary() {
    let dir = tempfile::tempdir().unwrap();
    write_checkpoint(dir.path(), &options(SourceType::Bf16, 1), &Silent).unwrap();
    let config = std::fs::read_to_string(dir.path().join("config.json")).unwrap();
    let config = VocabConfig::from_json(&serde_json::from_str(&config).unwrap()).unwrap();
    let from_model = vocab::load(dir.path(), &config).unwrap();
    std::fs::remove_file(dir.path().join("tokenizer.model")).unwrap();
    let from_json = vocab::load(dir.path(), &config).unwrap();

    assert_eq!(from_model.tokens.len(), 2048);
    assert_eq!(from_model.tokens, from_json.tokens);
    assert_eq!(from_model.types, from_json.types);
    assert_eq!(from_model.special, from_json.special);
    assert_eq!(from_model.templates, from_json.templates);
    assert_eq!((from_model.add_space_prefix, from_json.add_space_prefix), (None, None));
    let id = |kind| from_model.special.id(kind);
    assert_eq!((id(SpecialKind::Bos), id(SpecialKind::Eos), id(SpecialKind::Eot)), (Some(1), Some(2), Some(2040)));
    assert_eq!(from_model.tokens[2040], "<|im_end|>");
    assert_eq!(from_model.types[2040], TokenType::Control);

    // Merging goes by the order of scores, which must be the same.
    let order = |vocab: &vocab::Vocab| {
        let merged = |id: &usize| vocab.types[*id] == TokenType::Normal && vocab.tokens[*id].chars().count() > 1;
        let mut ids: Vec<usize> = (0..vocab.tokens.len()).filter(merged).collect();
        ids.sort_by(|a, b| vocab.scores[*b].total_cmp(&vocab.scores[*a]));
        ids
    };
    assert_eq!(order(&from_model), order(&from_json));
}

/// Computing the weights on the fly gives the files that the detour by a checkpoint gives.
#[test]
fn direct_gguf_is_the_converted_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let [checkpoint, one, two] = ["checkpoint", "one", "two"].map(|name| dir.path().join(name));
    let options = options(SourceType::Bf16, 2);
    let to = |outdir: &Path| ConvertOptions {
        file_type: FileType::Q8_0,
        outdir: outdir.to_owned(),
        name: Some("mini".into()),
        ..ConvertOptions::default()
    };
    write_checkpoint(&checkpoint, &options, &Silent).unwrap();
    let detour = convert(&checkpoint, &to(&one), &Silent).unwrap();
    let direct = write_gguf(&options, &to(&two), &Silent).unwrap();
    assert_eq!(detour.files.len(), 2);
    for (a, b) in detour.files.iter().zip(&direct.files) {
        assert_eq!(a.path.file_name(), b.path.file_name());
        assert!(std::fs::read(&a.path).unwrap() == std::fs::read(&b.path).unwrap(), "{}", a.path.display());
    }
    assert_eq!(std::fs::read_dir(&two).unwrap().count(), 2, "the temporary folder is gone");
}
