//! `ocelli bench`: what it prints, in every form; never how fast anything was.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ocelli_convert::mixture::FileType;
use ocelli_engine::bench::{BatchTest, batch, batch_work};
use ocelli_engine::{Scheduler, SchedulerOptions};
use ocelli_runtime::bench::{Repeat, TextTest, text as time_text, text_work};
use ocelli_runtime::{Context, ContextOptions, LoadOptions, Model, Precision, RuntimeError, find_beside};
use serde_json::Value;

use crate::cli::{misused, ocelli, refused, text};
use crate::fixture::{context, exec, mini};

fn model() -> String {
    mini(FileType::Q4_K_M).to_str().unwrap().to_owned()
}

const QUICK: [&str; 8] = ["-p", "8", "-n", "4", "-r", "1", "-t", "1"];

fn rows(args: &[&str]) -> Vec<Value> {
    let out = ocelli(args, b"");
    assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&out.stdout)))
}

fn positive(row: &Value, names: &[&str]) {
    for name in names {
        assert!(row[name].as_f64().is_some_and(|v| v > 0.0), "{name} is {}: {row}", row[name]);
    }
}

#[test]
fn models_give_rows_that_say_everything() {
    let model = model();
    let args =
        [&["bench", "-m", &model, "-d", "0,16", "-ctk", "f16,q8_0", "-pg", "4,2", "--json"], &QUICK[..]].concat();
    let rows = rows(&args);
    let names: Vec<_> = rows.iter().map(|r| (r["type_k"].as_str().unwrap(), r["test"].as_str().unwrap())).collect();
    let tests = ["pp8", "tg4", "pp4+tg2", "pp8 @ d16", "tg4 @ d16", "pp4+tg2 @ d16"];
    let want: Vec<_> = ["f16", "q8_0"].into_iter().flat_map(|k| tests.map(|t| (k, t))).collect();
    assert_eq!(names, want);
    for row in &rows {
        positive(row, &["avg_ns", "avg_ts", "model_size", "model_n_params", "roofline_pct", "peak_int8_gops"]);
        positive(row, &["peak_f32_gops", "peak_read_gbs", "int8_gops", "read_gbs", "joins"]);
        assert_eq!(row["samples_ns"].as_array().unwrap().len(), 1);
        assert_eq!(row["stddev_ns"], 0.0);
        assert_eq!((&row["n_threads"], &row["model_filename"]), (&Value::from(1), &Value::from(model.as_str())));
        assert!(["int8", "int16", "f32", "memory"].contains(&row["bound"].as_str().unwrap()));
        assert!(row["join_pct"].as_f64().is_some_and(|v| (0.0..=100.0).contains(&v)), "{row}");
        assert!(row["model_type"].as_str().unwrap().ends_with("Q4_K_M"));
    }
}

#[test]
fn pictures_are_timed_with_a_vision_file() {
    let model = model();
    let vision = find_beside(Path::new(&model), 256).unwrap();
    let args =
        ["bench", "-m", &model, "--mmproj", vision.to_str().unwrap(), "-p", "0", "-n", "0", "-r", "1", "-t", "1"];
    let rows = rows(&[&args[..], &["--image-size", "56,672", "-o", "json"]].concat());
    let names: Vec<_> = rows.iter().map(|r| r["test"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        ["encode 56×56", "first token 56×56+24", "encode 672×672", "first token 672×672+24"],
        "the context has room for the larger picture"
    );
    for row in &rows {
        positive(row, &["avg_ns", "roofline_pct", "slices", "joins"]);
        // Tables differ in what they make the weights into.
        assert!(row["int8_gops"].as_f64().unwrap() + row["int16_gops"].as_f64().unwrap() > 0.0, "{row}");
    }
    assert!(rows[1]["positions"].as_u64() > Some(24));
    assert!(rows[3]["positions"].as_u64() > rows[1]["positions"].as_u64());
}

#[test]
fn forms_of_output_hold_the_same_rows() {
    let model = model();
    let of = |form: &str| {
        let out = ocelli(&[&["bench", "-m", &model, "--no-warmup", "-o", form], &QUICK[..]].concat(), b"");
        assert!(out.status.success(), "{}", text(&out.stderr));
        assert!(text(&out.stderr).contains("limits: "), "{}", text(&out.stderr));
        text(&out.stdout).to_owned()
    };
    let lines: Vec<Value> = of("jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let tests = |rows: &[Value]| rows.iter().map(|r| r["test"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(tests(&lines), ["pp8", "tg4"]);
    let comma = of("csv");
    let header = comma.lines().next().unwrap();
    assert!(header.starts_with("build_commit,cpu_info,backends,model_filename,") && !header.contains("samples"));
    let column = header.split(',').position(|name| name == "n_prompt").unwrap();
    // No field before this one holds a comma: the fixture's path and the processor's name do not.
    let values: Vec<_> = comma.lines().skip(1).map(|line| line.split(',').nth(column).unwrap()).collect();
    assert_eq!(values, ["8", "0"]);
    let table = of("md");
    let cells = |line: &str| line.split('|').map(|c| c.trim().to_owned()).collect::<Vec<_>>();
    let at = table.lines().position(|line| line.starts_with("| model")).expect("a table of tests");
    let lines: Vec<_> = table.lines().collect();
    let test = cells(lines[at]).iter().position(|c| c == "test").unwrap();
    assert_eq!((cells(lines[at + 2])[test].as_str(), cells(lines[at + 3])[test].as_str()), ("pp8", "tg4"));
    assert!(cells(lines[at + 2])[test + 1].contains(" ± "), "{table}");
    assert!(table.contains("| isa") && table.contains("GB/s"), "{table}");
}

#[test]
fn two_files_are_compared() {
    let (model, dir) = (model(), tempfile::tempdir().unwrap());
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let json = ocelli(&[&["bench", "-m", &model, "--json"], &QUICK[..]].concat(), b"").stdout;
    std::fs::write(at("a.json"), &json).unwrap();
    let mut twice: Vec<Value> = serde_json::from_slice(&json).unwrap();
    for row in &mut twice {
        row["avg_ns"] = (row["avg_ns"].as_f64().unwrap() / 2.0).into();
    }
    std::fs::write(at("b.json"), serde_json::to_vec(&twice).unwrap()).unwrap();
    let rows = rows(&["bench", "--compare", &at("a.json"), &at("b.json"), "--json"]);
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|r| (r["ratio"].as_f64().unwrap() - 2.0).abs() < 1e-9), "{rows:?}");
    let table = ocelli(&["bench", "--compare", &at("a.json"), &at("b.json")], b"");
    assert!(text(&table.stdout).contains("| 2.000 |"), "{}", text(&table.stdout));
    let shown = ocelli(&["bench", "--show", &at("a.json")], b"");
    let shown = text(&shown.stdout);
    assert!(shown.contains("| isa") && shown.contains(" pp8 |") && shown.contains(" tg4 |"), "{shown}");
    twice.iter_mut().for_each(|row| row["n_threads"] = 7.into());
    std::fs::write(at("c.json"), serde_json::to_vec(&twice).unwrap()).unwrap();
    refused(&["bench", "--compare", &at("a.json"), &at("c.json")], b"", &["no row", "7 threads"]);
    std::fs::write(at("d.json"), b"{}").unwrap();
    refused(&["bench", "--compare", &at("a.json"), &at("d.json")], b"", &["d.json", "-o json"]);
}

#[test]
fn kernels_are_listed_and_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let plot = dir.path().join("roofline.svg");
    let args =
        ["bench", "kernels", "--formats", "Q4_K,F16", "--shapes", "attn_k,v.attn", "--tokens", "1,17", "-r", "1"];
    let more = ["--isa", "all", "-t", "1", "--max-run-ms", "1", "--json", "--plot", plot.to_str().unwrap()];
    let rows = rows(&[&args[..], &more[..]].concat());
    let of = |kernel: &str| rows.iter().filter(|r| r["kernel"] == kernel).count();
    let isas = ocelli_runtime::bench::Kernels::available().len();
    // 1152 columns are no whole super-blocks: Q4_K has one shape, F16 two.
    assert_eq!((of("gemv"), of("gemm")), (3 * isas, 3 * isas));
    for kernel in ["attention", "attention_spans", "rmsnorm", "quantize_row", "dequantize_row", "quantize_act"] {
        assert!(of(kernel) >= isas, "{kernel}");
    }
    for row in &rows {
        positive(row, &["avg_ns", "median_ns", "gops", "gbs", "ops_per_byte", "peak_read_gbs"]);
        assert!(row["cached"] == true || row["roofline_pct"].as_f64() > Some(0.0), "{row}");
    }
    let drawn = std::fs::read_to_string(&plot).unwrap();
    assert_eq!(drawn.matches("<circle").count(), rows.len());
    assert!(drawn.contains("gemm Q4_K attn_k ×17"));
}

/// A stand-in that prints what llama-bench would print, and keeps what it was asked.
#[cfg(unix)]
fn stand_in(dir: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let (path, asked) = (dir.join("llama-bench"), dir.join("asked"));
    let row = r#"{"build_commit":"abc","model_filename":"'"$2"'","n_prompt":8,"n_gen":0,"n_depth":0,"n_threads":1,
        "type_k":"f16","type_v":"f16","avg_ns":8000000000,"avg_ts":1.0,"stddev_ts":0.25}"#;
    let script = format!("#!/bin/sh\necho \"$@\" > '{}'\nprintf '%s' '[{row}]'\n", asked.display());
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[cfg(unix)]
#[test]
fn another_program_runs_the_same_tests() {
    let (model, dir) = (model(), tempfile::tempdir().unwrap());
    let other = stand_in(dir.path());
    let rows = rows(&[&["bench", "-m", &model, "--json", "--against", other.to_str().unwrap()], &QUICK[..]].concat());
    let ratio = 8e9 / rows[0]["avg_ns"].as_f64().unwrap();
    assert!((rows[0]["against_ratio"].as_f64().unwrap() - ratio).abs() < 1e-9 * ratio);
    assert_eq!((&rows[0]["against_build"], &rows[0]["against_avg_ts"]), (&"abc".into(), &1.0.into()));
    assert!(rows[1].get("against_ratio").is_none(), "it has no such row");
    let asked = std::fs::read_to_string(dir.path().join("asked")).unwrap();
    assert_eq!(asked.trim(), format!("-m {model} -p 8 -n 4 -d 0 -t 1 -b 2048 -ub 512 -ctk f16 -ctv f16 -r 1 -o json"));
    let failing = [&["bench", "-m", &model, "--json", "--against", "/bin/false"], &QUICK[..]].concat();
    let out = ocelli(&failing, b"");
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("--against: /bin/false failed"), "{}", text(&out.stderr));
    assert_eq!(serde_json::from_slice::<Vec<Value>>(&out.stdout).unwrap().len(), 2, "our own rows are not lost");
}

#[test]
fn made_up_models_are_made_once() {
    let dir = tempfile::tempdir().unwrap();
    let run = || {
        let args = [&["bench", "--synthetic", "mini:Q8_0", "--image-size", "56", "-o", "jsonl"], &QUICK[..]].concat();
        let out = Command::new(env!("CARGO_BIN_EXE_ocelli"))
            .args(args)
            .env("XDG_CACHE_HOME", dir.path())
            .env_remove("OCELLI_ISA")
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", text(&out.stderr));
        (text(&out.stdout).lines().count(), text(&out.stderr).contains("making mini"))
    };
    assert_eq!((run(), run()), ((4, true), (4, false)));
}

const TOGETHER: [&str; 10] = ["-np", "1,3", "-npp", "70", "-ntg", "4", "-r", "2", "-t", "1"];

#[test]
fn sequences_together_give_the_fields_of_llama_batched_bench_and_ours() {
    let model = model();
    for shared in [false, true] {
        let more: &[&str] = if shared { &["-pps"] } else { &[] };
        let rows = rows(&[&["bench", "-m", &model, "--json"], &TOGETHER[..], more].concat());
        let of = |name: &str| rows.iter().map(|r| r[name].as_u64().unwrap()).collect::<Vec<_>>();
        assert_eq!((of("pp"), of("tg"), of("pl")), (vec![70, 70], vec![4, 4], vec![1, 3]));
        let prompts = if shared { 70 } else { 3 * 70 };
        assert_eq!((of("n_kv"), of("n_evaluated")), (vec![74, prompts + 12], vec![70, prompts]));
        assert_eq!(of("is_pp_shared"), [u64::from(shared); 2]);
        for row in &rows {
            positive(row, &["t_pp", "speed_pp", "t_tg", "speed_tg", "t", "speed", "avg_ns", "avg_ts"]);
            positive(row, &["pp_roofline_pct", "tg_roofline_pct", "pp_joins", "tg_joins", "tg_pass_joins"]);
            positive(row, &["tg_pass_ms", "pp_ratio", "peak_int8_gops", "peak_read_gbs"]);
            let number = |name: &str| row[name].as_f64().unwrap();
            assert!((number("t") - number("t_pp") - number("t_tg")).abs() < 1e-9, "{row}");
            assert_eq!(row["samples_t_tg"].as_array().unwrap().len(), 2);
            assert!((number("tg_ratio") - number("speed_tg") / rows[0]["speed_tg"].as_f64().unwrap()).abs() < 1e-9);
            assert!((0.0..=100.0).contains(&number("tg_join_pct")), "{row}");
        }
        assert_eq!(rows[0]["tg_ratio"], 1.0);
    }
}

#[test]
fn sequences_together_are_a_table() {
    let (model, dir) = (model(), tempfile::tempdir().unwrap());
    let out = ocelli(&[&["bench", "-m", &model, "-o", "jsonl"], &TOGETHER[..]].concat(), b"");
    assert!(text(&out.stderr).contains("pp70+tg4 ×3: prompt "), "{}", text(&out.stderr));
    let path = dir.path().join("rows.json");
    std::fs::write(&path, &out.stdout).unwrap();
    let table = ocelli(&["bench", "--show", path.to_str().unwrap()], b"");
    let direct = ocelli(&[&["bench", "-m", &model], &TOGETHER[..]].concat(), b"");
    for table in [text(&table.stdout), text(&direct.stdout)] {
        let lines: Vec<Vec<&str>> = table
            .lines()
            .skip_while(|line| !line.starts_with("| model"))
            .map(|line| line.split('|').map(str::trim).collect())
            .collect();
        let want = ["PP", "TG", "B", "N_KV", "T_PP s", "S_PP t/s", "T_TG s", "S_TG t/s", "T s", "S t/s", "S_TG ratio"];
        assert_eq!(lines[0][3..14], want, "{table}");
        assert_eq!((&lines[2][3..7], &lines[3][3..7]), (&["70", "4", "1", "74"][..], &["70", "4", "3", "222"][..]));
        assert_eq!(lines[2][13], "1.00", "{table}");
        assert!(table.contains("GB/s"), "{table}");
    }
    let compared = rows(&["bench", "--compare", path.to_str().unwrap(), path.to_str().unwrap(), "--json"]);
    assert_eq!(compared.len(), 2);
    assert!(compared.iter().all(|row| row["ratio"] == 1.0), "{compared:?}");
}

fn scheduler(n_parallel: usize, test: &BatchTest) -> Scheduler {
    let (model, ()) = Model::load(Path::new(&model()), &LoadOptions::default(), |_| Ok(())).unwrap();
    let (n_ctx, n_positions) = (test.n_ctx(), test.n_positions());
    let options =
        ContextOptions { n_ctx, n_positions, n_parallel, n_ubatch: 16, n_threads: 1, ..ContextOptions::default() };
    let context = Context::new(Arc::new(model), exec(&options), &options).unwrap();
    Scheduler::new(context, SchedulerOptions { n_parallel, ..SchedulerOptions::default() })
}

#[test]
fn prompts_of_sequences_together_are_computed_once_per_repetition() {
    // Around the length of a block, with passes that hold parts of several prompts.
    for n_prompt in [1, 63, 64, 65, 130] {
        for (shared, n_prompts) in [(false, 5), (true, 1)] {
            let test = BatchTest { n_prompt, n_gen: 3, n_parallel: 5, shared };
            let mut scheduler = scheduler(5, &test);
            let mut pauses = 0;
            let repeat = Repeat { times: 2, warm_up: true };
            let measured = batch(&mut scheduler, &test, repeat, &mut || pauses += 1).unwrap();
            assert_eq!((measured.evaluated, measured.evaluated_again), (n_prompts * n_prompt, 5), "{}", test.name());
            assert_eq!(pauses, 2);
            for part in [&measured.prompt, &measured.generation] {
                assert_eq!(part.times.seconds().len(), 2);
                assert!(part.joins.jobs > 0 && part.joins.threads == 1);
            }
        }
    }
}

#[test]
fn sequences_together_need_room_and_can_be_interrupted() {
    let test = BatchTest { n_prompt: 20, n_gen: 3, n_parallel: 4, shared: false };
    let repeat = Repeat { times: 1, warm_up: false };
    let mut scheduler = scheduler(4, &test);
    let long = BatchTest { n_prompt: 21, ..test };
    let failed = batch(&mut scheduler, &long, repeat, &mut || {});
    assert!(matches!(failed, Err(RuntimeError::ContextFull { wanted: 26, n_ctx: 25 })), "{failed:?}");
    let many = BatchTest { n_parallel: 5, ..test };
    let failed = batch(&mut scheduler, &many, repeat, &mut || {});
    assert!(matches!(failed, Err(RuntimeError::Option { .. })), "{failed:?}");
    scheduler.context().interrupt_flag().store(true, Ordering::Relaxed);
    let failed = batch(&mut scheduler, &test, repeat, &mut || {});
    assert!(matches!(failed, Err(RuntimeError::Interrupted)), "{failed:?}");
    scheduler.context().interrupt_flag().store(false, Ordering::Relaxed);
    assert!(batch(&mut scheduler, &test, repeat, &mut || {}).is_ok(), "nothing is left behind");
    assert_eq!(scheduler.context().kv().n_available_blocks(), scheduler.context().kv().n_blocks());
}

#[test]
fn the_least_work_together_reads_weights_once() {
    let test = |n_parallel, shared| BatchTest { n_prompt: 16, n_gen: 2, n_parallel, shared };
    let scheduler = scheduler(4, &test(4, false));
    let context = scheduler.context();
    let (prompt, generation) = batch_work(context, &test(1, false)).unwrap();
    assert_eq!(prompt, text_work(context, &TextTest { n_prompt: 16, n_gen: 0, depth: 0 }).unwrap());
    assert_eq!(generation, text_work(context, &TextTest { n_prompt: 0, n_gen: 2, depth: 16 }).unwrap());
    let (prompts, together) = batch_work(context, &test(4, false)).unwrap();
    let ops = |work: &ocelli_runtime::bench::measure::Work| work.int8 + work.int16 + work.f32;
    assert!((ops(&together) / ops(&generation) - 4.0).abs() < 1e-9);
    let kv = context.kv_shape().bytes_per_position().unwrap() as f64;
    assert_eq!(together.bytes - generation.bytes, 3.0 * kv * f64::from(17 + 18), "keys and values of three more");
    assert!((prompts.bytes / prompt.bytes - 4.0).abs() < 1e-9, "four passes of 16 rows");
    let (shared_prompt, shared) = batch_work(context, &test(4, true)).unwrap();
    assert_eq!(shared_prompt, prompt);
    assert_eq!(together.bytes - shared.bytes, 3.0 * kv * f64::from(2 * 16), "the prompt's are read once");
}

#[test]
fn mistakes_are_named() {
    let model = model();
    misused(&["bench"], &["-m FILE", "--synthetic"]);
    refused(&["bench", "-m", "none.gguf"], b"", &["none.gguf"]);
    misused(&["bench", "-m", &model, "-o", "xml"], &["xml", "jsonl"]);
    misused(&["bench", "-m", &model, "-p", "x"], &["-p/--n-prompt", "FIRST-LAST"]);
    misused(&["bench", "-m", &model, "-ctk", "q9"], &["-ctk", "q8_0"]);
    misused(&["bench", "-m", &model, "-r", "0"], &["--repetitions", "1"]);
    misused(&["bench", "-m", &model, "--isa", "mmx"], &["mmx", "scalar"]);
    misused(&["bench", "--synthetic", "maxi"], &["maxi", "minicpm-v-4"]);
    refused(&["bench", "--compare", "a.json", "b.json"], b"", &["a.json"]);
    for (options, words) in [
        (&["-np", "0"][..], &["-np/--parallel", "between 1 and"][..]),
        (&["-np", "1,x"], &["-np/--parallel", "FIRST-LAST"]),
        (&["-np", "2", "-npp", "0"], &["-npp/--parallel-prompt", "at least 1"]),
        (&["-np", "2", "-ntg", "0"], &["-ntg/--parallel-gen", "at least 1"]),
        (&["-np", "2", "-p", "8"], &["--parallel", "--n-prompt"]),
        (&["-pps"], &["--parallel"]),
        (&["-npp", "4"], &["--parallel"]),
    ] {
        misused(&[&["bench", "-m", &model], options].concat(), words);
    }
    let huge = ["bench", "-m", &model, "-np", "1024", "-npp", "99999999999999"];
    refused(&huge, b"", &["memory"]);
    misused(&["bench", "kernels", "--formats", "Q9"], &["Q9", "Q4_K"]);
    misused(&["bench", "kernels", "--shapes", "door"], &["door", "ffn_gate"]);
}

#[test]
fn the_least_work_is_counted_once() {
    let mut context = context(FileType::Q4_K_M, 64, Precision::Fast);
    let config = context.model().config().clone();
    let test = |n_prompt, n_gen, depth| TextTest { n_prompt, n_gen, depth };
    let one = text_work(&context, &test(0, 1, 0)).unwrap();
    let weights: f64 = context
        .model()
        .weights()
        .matrices()
        .iter()
        .filter(|(name, _)| {
            name != "token_embd.weight" || context.model().weights().matrices().iter().all(|m| m.0 != "output.weight")
        })
        .map(|(_, m)| (m.rows() * m.cols()) as f64)
        .sum();
    // Attention, too, whatever it is multiplied with.
    assert_eq!(
        one.int8 + one.int16 + one.f32,
        2.0 * weights + 4.0 * (config.n_layer * config.n_head * config.head_dim) as f64
    );
    let deeper = text_work(&context, &test(0, 1, 10)).unwrap();
    let kv = context.kv_shape().bytes_per_position().unwrap() as f64;
    assert_eq!(deeper.bytes - one.bytes, 10.0 * kv, "what is cached is read");
    let prompt = text_work(&context, &test(32, 0, 0)).unwrap();
    assert!(prompt.int8 < 32.0 * one.int8, "logits of the last token only");
    assert!(prompt.bytes < 2.0 * one.bytes, "weights are read once for a micro-batch");
    let two = text_work(&context, &test(40, 0, 0)).unwrap();
    assert!(two.bytes > 1.5 * prompt.bytes, "and again for the next one");

    let repeat = Repeat { times: 2, warm_up: true };
    let measured = time_text(&mut context, &test(8, 2, 4), repeat, &mut || {}).unwrap();
    assert_eq!(measured.times.seconds().len(), 2);
    assert!(measured.joins.jobs > 0 && measured.joins.threads == 1);
    assert!(matches!(
        time_text(&mut context, &test(60, 8, 0), repeat, &mut || {}),
        Err(RuntimeError::ContextFull { .. })
    ));
}
