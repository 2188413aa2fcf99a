//! The same tokens give the same logits, however they reach the model.

use std::sync::Arc;

use ocelli_convert::mixture::FileType;
use ocelli_engine::Session;
use ocelli_eval::perplexity::{Evaluation, LogitsReader, compare, evaluate};
use ocelli_eval::probe::{Probe, Stages};
use ocelli_files::{Inputs, Output, Replace, WriteOptions};
use ocelli_quant::GgmlType;
use ocelli_runtime::{
    BuiltinFactors, Context, ContextOptions, Exec, Kernels, LoadOptions, Model, Precision, Prompt, RuntimeError,
};

use crate::fixture::{context, distance, grouped, load, mini, new_context, options, read, some_ids};

fn last_logits(context: &mut Context, ids: &[u32], at_once: usize) -> Vec<f32> {
    let mut seq = context.new_sequence();
    for chunk in ids.chunks(at_once) {
        context.decode(&mut seq, chunk).unwrap();
    }
    context.logits().unwrap().to_vec()
}

#[test]
fn a_prompt_at_once_is_a_prompt_token_by_token() {
    let ids = some_ids(150, 1);
    for (file_type, precision, bound) in [
        (FileType::F32, Precision::Exact, 1e-3),
        (FileType::Q8_0, Precision::Exact, 1e-3),
        (FileType::Q4_K_M, Precision::Fast, 0.05),
    ] {
        let mut context = context(file_type, 256, precision);
        let one_by_one = last_logits(&mut context, &ids, 1);
        let spread = one_by_one.iter().fold(0f32, |m, v| m.max(v.abs()));
        assert!(spread > 0.1, "the model says something: {spread}");
        for at_once in [7, 64, 150] {
            let d = distance(&last_logits(&mut context, &ids, at_once), &one_by_one);
            assert!(d < bound * spread, "{file_type:?} {at_once} tokens at once: {d} of {spread}");
        }
    }
}

/// With more than a few tokens, products and attention add up in an order that does not depend on how many there are.
#[test]
fn bits_do_not_depend_on_how_a_prompt_is_cut_into_parts() {
    let ids = some_ids(150, 1);
    for file_type in [FileType::Q4_K_M, FileType::Q8_0, FileType::F16] {
        let (model, _) = load(&grouped(file_type));
        for kernels in Kernels::available().iter().filter(|kernels| kernels.name() != Kernels::scalar().name()) {
            let options = ContextOptions { n_ubatch: 150, ..options(256, Precision::Fast) };
            let mut context = Context::new(model.clone(), Arc::new(Exec::new(*kernels, 1)), &options).unwrap();
            let whole = last_logits(&mut context, &ids, 150);
            for part in [75, 50, 30, 25] {
                let cut = last_logits(&mut context, &ids, part);
                assert!(cut == whole, "{file_type:?} {}: parts of {part} tokens", kernels.name());
            }
        }
    }
}

#[test]
fn every_wanted_position_has_its_logits() {
    let ids = some_ids(70, 2);
    let mut context = context(FileType::F32, 128, Precision::Exact);
    let mut rows = Vec::new();
    let mut seq = context.new_sequence();
    context
        .decode_each(&mut seq, &ids, 20, &mut |i, logits| {
            rows.push((i, logits.to_vec()));
            Ok(())
        })
        .unwrap();
    drop(seq);
    assert_eq!(rows.iter().map(|r| r.0).collect::<Vec<_>>(), (20..70).collect::<Vec<_>>());
    for (i, row) in rows.iter().step_by(17) {
        assert!(distance(row, &last_logits(&mut context, &ids[..=*i], 64)) < 1e-3, "position {i}");
    }
}

#[test]
fn cache_formats_agree() {
    let ids = some_ids(100, 3);
    let (model, _) = load(&mini(FileType::F32));
    let run = |ty| {
        let options = ContextOptions { type_k: ty, type_v: ty, ..options(128, Precision::Exact) };
        last_logits(&mut new_context(model.clone(), &options).unwrap(), &ids, 32)
    };
    let exact = run(GgmlType::F32);
    let spread = exact.iter().fold(0f32, |m, v| m.max(v.abs()));
    assert!(distance(&run(GgmlType::F16), &exact) < 0.01 * spread);
    let q8 = distance(&run(GgmlType::Q8_0), &exact);
    assert!(q8 > 0.0 && q8 < 0.05 * spread, "{q8} of {spread}");
}

#[test]
fn threads_and_instruction_sets_agree() {
    let ids = some_ids(40, 4);
    let (model, _) = load(&mini(FileType::Q4_K_M));
    let run = |n_threads, kernels, precision| {
        let options = ContextOptions { n_threads, ..options(64, precision) };
        let exec = Arc::new(Exec::new(kernels, n_threads));
        last_logits(&mut Context::new(model.clone(), exec, &options).unwrap(), &ids, 32)
    };
    let one = run(1, Kernels::best(), Precision::Fast);
    assert_eq!(run(3, Kernels::best(), Precision::Fast), one, "the number of threads changes nothing");
    let spread = one.iter().fold(0f32, |m, v| m.max(v.abs()));
    // A code of an activation that is rounded the other way moves all logits a little: in the mean, not one by one.
    let scalar = run(2, Kernels::scalar(), Precision::Fast);
    let squares: f32 = scalar.iter().zip(&one).map(|(a, b)| (a - b).powi(2)).sum();
    let rms = (squares / one.len() as f32).sqrt();
    assert!(rms < 0.01 * spread, "{rms} of {spread}");
    let [exact, plain] = [Kernels::best(), Kernels::scalar()].map(|kernels| run(1, kernels, Precision::Exact));
    assert!(distance(&exact, &plain) < 1e-4 * spread, "{} of {spread}", distance(&exact, &plain));
}

#[test]
fn a_second_prompt_computes_only_what_is_new() {
    let mut session = Session::new(context(FileType::F32, 128, Precision::Exact));
    let ids = some_ids(60, 5);
    let first = read(&mut session, ids[..40].to_vec());
    assert_eq!((first.reused, first.evaluated), (0, 40));
    let mut longer = ids[..30].to_vec();
    longer.extend(some_ids(25, 6));
    let second = read(&mut session, longer.clone());
    assert_eq!((second.reused, second.evaluated), (30, 25));
    let again = read(&mut session, longer.clone());
    assert_eq!((again.reused, again.evaluated), (54, 1), "the last token always runs");
    let reused = session.context().logits().unwrap().to_vec();
    let fresh = last_logits(&mut context(FileType::F32, 128, Precision::Exact), &longer, 32);
    assert!(distance(&reused, &fresh) < 1e-3);
}

#[test]
fn sequences_share_a_prefix_and_part_ways() {
    let mut context = context(FileType::F32, 256, Precision::Exact);
    let ids = some_ids(90, 7);
    let mut first = context.new_sequence();
    context.decode(&mut first, &ids[..70]).unwrap();
    let mut second = context.fork(&first, 66);
    context.decode(&mut second, &some_ids(10, 8)).unwrap();
    let forked = context.logits().unwrap().to_vec();
    context.decode(&mut first, &ids[70..]).unwrap();
    let original = context.logits().unwrap().to_vec();
    drop((first, second));
    let mut other = ids[..66].to_vec();
    other.extend(some_ids(10, 8));
    assert!(distance(&forked, &last_logits(&mut context, &other, 32)) < 1e-3);
    assert!(distance(&original, &last_logits(&mut context, &ids, 32)) < 1e-3);
}

#[test]
fn too_many_tokens_and_foreign_tokens_leave_the_sequence_as_it_was() {
    let mut context = context(FileType::F32, 64, Precision::Exact);
    let mut seq = context.new_sequence();
    context.decode(&mut seq, &some_ids(60, 9)).unwrap();
    let full = context.decode(&mut seq, &some_ids(5, 9)).unwrap_err();
    assert!(matches!(full, RuntimeError::ContextFull { wanted: 65, n_ctx: 64, .. }), "{full}");
    let foreign = context.decode(&mut seq, &[2048]).unwrap_err();
    assert!(matches!(foreign, RuntimeError::Token { id: 2048, n_vocab: 2048 }), "{foreign}");
    assert_eq!(seq.tokens().len(), 60);
    context.decode(&mut seq, &some_ids(4, 9)).unwrap();
}

#[test]
fn probes_hold_every_layer() {
    let ids = some_ids(40, 10);
    let mut context = context(FileType::F32, 64, Precision::Exact);
    let prompt = Prompt::from(ids.clone());
    let plain = Probe::run(&mut context, &prompt, Stages::default(), 3, false).unwrap();
    let layered = Probe::run(&mut context, &prompt, Stages::default(), 3, true).unwrap();
    assert_eq!((plain.tokens.len(), plain.logits.len()), (3, 3 * 2048));
    assert_eq!(layered.layers.len(), 4);
    assert!(layered.layers.iter().all(|l| l.len() == 40 * 256));
    assert_eq!(plain.tokens, layered.tokens);
    assert!(distance(&plain.logits, &layered.logits) < 1e-3);
    assert!(Probe::run(&mut context, &prompt, Stages::default(), 26, false).is_err(), "40 + 25 tokens do not fit 64");
}

#[test]
fn longrope_factors_change_the_answer() {
    let path = mini(FileType::F32);
    let ids = some_ids(60, 11);
    let run = |options: &LoadOptions| {
        let (model, ()) = Model::load(&path, options, |_| Ok(())).unwrap();
        let mut context = new_context(model.into(), &self::options(64, Precision::Exact)).unwrap();
        (context.rope().factors(), last_logits(&mut context, &ids, 32))
    };
    let (name, own) = run(&LoadOptions::default());
    assert_eq!(name, "short", "the file carries its factors");
    let builtin = LoadOptions { rope_factors: Some(BuiltinFactors::MiniCpmV4), ..LoadOptions::default() };
    assert!(distance(&run(&builtin).1, &own) < 1e-3, "they are those of the real model");
}

#[test]
fn perplexity_compares_with_itself() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("base.logits");
    let tokens = some_ids(200, 12);
    let mut context = context(FileType::F32, 64, Precision::Exact);
    let what = Evaluation { n_ctx: 64, chunks: None, bos: Some(1) };
    let options = WriteOptions::new(Inputs::none(), Replace::Never);
    let save = Some(Output::create(&path, &options).unwrap());
    let mut seen = Vec::new();
    let report = evaluate(&mut context, &tokens, &what, save, &mut |done, all, _| seen.push((done, all))).unwrap();
    assert_eq!((report.chunks, report.nll.count), (3, 3 * 31));
    assert_eq!(seen, [(1, 3), (2, 3), (3, 3)]);
    assert!(report.nll.perplexity() > 100.0, "random weights know nothing: {}", report.nll.perplexity());
    let mut base = LogitsReader::open(&path, 2048).unwrap();
    let same = compare(&mut context, &mut base, &what, &mut |_, _, _| {}).unwrap();
    let d = same.divergence.unwrap();
    assert!(d.mean.abs() < 1e-5 && d.same_top > 0.98, "{d:?}");
    assert!((d.base_perplexity / report.nll.perplexity() - 1.0).abs() < 1e-3);
    let short = evaluate(&mut context, &tokens[..100], &what, None, &mut |_, _, _| {}).unwrap_err().to_string();
    assert!(short.contains("100 tokens"), "{short}");
}
