//! Which tests are run, in which settings: the cross product of the lists.

use anyhow::bail;
use ocelli_engine::bench::BatchTest;
use ocelli_quant::GgmlType;
use ocelli_runtime::bench::{Kernels, TextTest};
use ocelli_runtime::{ContextOptions, Precision, physical_cores};

use super::ModelsArgs;
use super::lists::{distinct, numbers, pairs, words};
use crate::cmd::common::kv_type;
use crate::isa;

/// Sequences that run together, at most.
const MOST_PARALLEL: usize = 1024;

/// How a model is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) isa: &'static str,
    pub(super) threads: usize,
    pub(super) ubatch: usize,
    pub(super) type_k: GgmlType,
    pub(super) type_v: GgmlType,
}

/// Everything that is run with each model.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) settings: Vec<Setting>,
    pub(super) tests: Vec<TextTest>,
    pub(super) image_sizes: Vec<usize>,
    /// Sequences that run together; the other tests are left out then.
    pub(super) parallel: Vec<BatchTest>,
    pub(super) precision: Precision,
    pub(super) batch: usize,
}

impl Plan {
    /// Everything that the options ask for. All of them are checked before anything runs.
    pub(super) fn new(args: &ModelsArgs) -> anyhow::Result<Self> {
        let types = |option: &str, values: &[String]| -> anyhow::Result<Vec<GgmlType>> {
            let parse = |name: &String| {
                kv_type(name).map_err(|why| anyhow::anyhow!("{option}: `{}`: {why}", name.escape_debug()))
            };
            let named = words(values);
            if named.is_empty() { Ok(vec![args.precision.kv_type()]) } else { named.iter().map(parse).collect() }
        };
        let positive = |option: &str, values: &[String]| -> anyhow::Result<Vec<usize>> {
            let all = numbers(option, values)?;
            if all.contains(&0) {
                bail!("{option}: must be at least 1");
            }
            Ok(all)
        };
        let isas = isas(&args.isa)?;
        let threads = threads(&args.threads)?;
        let ubatches = positive("-ub/--ubatch-size", &args.ubatch_size)?;
        let (ks, vs) = (types("-ctk", &args.cache_type_k)?, types("-ctv", &args.cache_type_v)?);
        if args.batch_size == 0 {
            bail!("-b/--batch-size: must be at least 1");
        }
        let mut settings = Vec::new();
        for &isa in &isas {
            for &ubatch in &ubatches {
                for &type_k in &ks {
                    for &type_v in &vs {
                        settings.extend(threads.iter().map(|&threads| Setting {
                            isa,
                            threads,
                            ubatch,
                            type_k,
                            type_v,
                        }));
                    }
                }
            }
        }
        let prompts = numbers("-p/--n-prompt", &args.n_prompt)?;
        let gens = numbers("-n/--n-gen", &args.n_gen)?;
        let both = pairs(&args.n_prompt_gen)?;
        let mut tests = Vec::new();
        for depth in numbers("-d/--n-depth", &args.n_depth)? {
            tests.extend(prompts.iter().map(|&n_prompt| TextTest { n_prompt, n_gen: 0, depth }));
            tests.extend(gens.iter().map(|&n_gen| TextTest { n_prompt: 0, n_gen, depth }));
            tests.extend(both.iter().map(|&(n_prompt, n_gen)| TextTest { n_prompt, n_gen, depth }));
        }
        tests.retain(|test| test.tokens() > 0);
        let image_sizes = positive("--image-size", &args.image_size)?;
        let parallel = parallel(args)?;
        if !parallel.is_empty() {
            tests.clear();
        }
        Ok(Self {
            settings: distinct(settings),
            tests: distinct(tests),
            image_sizes: distinct(image_sizes),
            parallel,
            precision: args.precision.precision(),
            batch: args.batch_size,
        })
    }

    /// Options of a context for `setting` and all sequences that run together.
    pub(super) fn parallel_context(&self, setting: &Setting) -> ContextOptions {
        let most = |of: fn(&BatchTest) -> usize| self.parallel.iter().map(of).max().unwrap_or(0);
        // A pass is no longer than a context.
        let n_ctx = most(BatchTest::n_ctx).max(setting.ubatch.min(self.batch));
        ContextOptions {
            n_positions: most(BatchTest::n_positions),
            n_parallel: most(|test| test.n_parallel).max(1),
            ..self.context(setting, n_ctx)
        }
    }

    /// Options of a context for `setting` with room for `n_ctx` positions.
    pub(super) fn context(&self, setting: &Setting, n_ctx: usize) -> ContextOptions {
        ContextOptions {
            n_ctx,
            n_batch: self.batch,
            n_ubatch: setting.ubatch,
            n_threads: setting.threads,
            n_threads_batch: setting.threads,
            type_k: setting.type_k,
            type_v: setting.type_v,
            precision: self.precision,
            ..ContextOptions::default()
        }
    }
}

/// Sequences that run together, fewer before more: rates are compared with those of one.
fn parallel(args: &ModelsArgs) -> anyhow::Result<Vec<BatchTest>> {
    let within = |option: &str, values: &[String], most: usize| -> anyhow::Result<Vec<usize>> {
        let all = numbers(option, values)?;
        if let Some(value) = all.iter().find(|n| !(1..=most).contains(*n)) {
            let limit = if most == usize::MAX { "at least 1".to_owned() } else { format!("between 1 and {most}") };
            bail!("{option}: must be {limit}, not {value}");
        }
        Ok(distinct(all))
    };
    let mut together = within("-np/--parallel", &args.parallel, MOST_PARALLEL)?;
    together.sort_unstable();
    let prompts = within("-npp/--parallel-prompt", &args.parallel_prompt, usize::MAX)?;
    let gens = within("-ntg/--parallel-gen", &args.parallel_gen, usize::MAX)?;
    let mut tests = Vec::new();
    for &n_prompt in &prompts {
        for &n_gen in &gens {
            let shared = args.prompt_shared;
            tests.extend(together.iter().map(|&n_parallel| BatchTest { n_prompt, n_gen, n_parallel, shared }));
        }
    }
    Ok(tests)
}

/// Numbers of threads; 0 stands for the physical cores.
pub(super) fn threads(values: &[String]) -> anyhow::Result<Vec<usize>> {
    let all = numbers("-t/--threads", values)?;
    Ok(distinct(all.into_iter().map(|t| if t == 0 { physical_cores() } else { t }).collect()))
}

/// The instruction sets called so; the default one when there is no name, all for `all`, the best for `best`.
pub(super) fn isas(names: &[String]) -> anyhow::Result<Vec<&'static str>> {
    let names = words(names);
    if names.iter().any(|name| name == "all") {
        return Ok(Kernels::available().iter().map(Kernels::name).collect());
    }
    if names.is_empty() {
        return Ok(vec![isa::kernels(None)?.name()]);
    }
    let select = |name: &String| match name.as_str() {
        "best" => Ok(Kernels::best().name()),
        name => Ok(isa::kernels(Some(name))?.name()),
    };
    Ok(distinct(names.iter().map(select).collect::<anyhow::Result<_>>()?))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: super::super::Args,
    }

    fn plan(options: &[&str]) -> anyhow::Result<Plan> {
        let words = ["bench", "-m", "x"].iter().chain(options).copied();
        let mut parser = Line::command();
        parser.build();
        let spelled = crate::cmd::spelling::spell(words.map(Into::into), &parser).map_err(anyhow::Error::msg)?;
        let line = Line::try_parse_from(spelled.args)?;
        Plan::new(&line.args.models)
    }

    #[test]
    fn lists_make_the_cross_product() {
        let plan =
            plan(&["-p", "512,8", "-n", "4", "-pg", "16,2", "-d", "0", "-d", "64", "-t", "1,2", "-ctk", "f16,Q8_0"]);
        let plan = plan.unwrap();
        let names: Vec<String> = plan.tests.iter().map(TextTest::name).collect();
        let want = ["pp512", "pp8", "tg4", "pp16+tg2", "pp512 @ d64", "pp8 @ d64", "tg4 @ d64", "pp16+tg2 @ d64"];
        assert_eq!(names, want);
        let settings: Vec<_> = plan.settings.iter().map(|s| (s.type_k, s.threads)).collect();
        use GgmlType::{F16, Q8_0};
        assert_eq!(settings, [(F16, 1), (F16, 2), (Q8_0, 1), (Q8_0, 2)]);
    }

    #[test]
    fn sequences_together_are_planned_with_room_for_all() {
        let plan = plan(&["-npl", "8,1-2", "-npp", "128,16", "-ntg", "4", "-pps", "-ub", "64"]).unwrap();
        let names: Vec<String> = plan.parallel.iter().map(BatchTest::name).collect();
        let at = |pp: usize| [1, 2, 8].map(|np| format!("pp{pp}+tg4 ×{np} shared"));
        assert_eq!(names, [at(128), at(16)].concat());
        assert!(plan.tests.is_empty(), "the tests of one sequence are left out");
        let options = plan.parallel_context(&plan.settings[0]);
        assert_eq!(options.n_parallel, 8);
        assert!(options.n_ctx > 132 && options.n_positions > 8 * 132, "{options:?}");
        let short = super::tests::plan(&["-np", "2", "-npp", "4", "-ntg", "4"]).unwrap();
        assert!(
            short.parallel_context(&short.settings[0]).n_ctx >= 512,
            "a context shorter than a pass would shorten it"
        );
    }

    #[test]
    fn the_defaults_are_those_of_llama_bench() {
        let plan = plan(&[]).unwrap();
        let names: Vec<String> = plan.tests.iter().map(TextTest::name).collect();
        assert_eq!(names, ["pp512", "tg128"]);
        let [setting] = plan.settings.as_slice() else { panic!("one setting: {:?}", plan.settings) };
        assert_eq!((setting.ubatch, setting.threads), (512, physical_cores()));
        assert_eq!((plan.batch, plan.precision, plan.image_sizes), (2048, Precision::Fast, vec![448]));
        assert_eq!((setting.type_k, setting.type_v), (GgmlType::F16, GgmlType::F16));
    }

    #[test]
    fn exact_work_keeps_keys_and_values_exactly_unless_told_otherwise() {
        let types = |options: &[&str]| {
            let plan = plan(options).unwrap();
            plan.settings.iter().map(|s| (s.type_k, s.type_v)).collect::<Vec<_>>()
        };
        assert_eq!(types(&["--precision", "exact"]), [(GgmlType::F32, GgmlType::F32)]);
        assert_eq!(types(&["--precision", "exact", "-ctv", "q8_0"]), [(GgmlType::F32, GgmlType::Q8_0)]);
    }

    #[test]
    fn zero_leaves_a_test_out_and_twice_is_once() {
        let plan = plan(&["-p", "0", "-n", "4,4", "-t", "1,1", "--isa", "scalar,all"]).unwrap();
        assert_eq!(plan.tests.len(), 1);
        assert_eq!(plan.settings.len(), Kernels::available().len());
    }

    #[test]
    fn bad_values_name_the_option_and_the_choices() {
        for (options, words) in [
            (vec!["-p", "many"], ["-p/--n-prompt", "FIRST-LAST"]),
            (vec!["-ctk", "q4_0"], ["-ctk", "f16, f32, q8_0"]),
            (vec!["-ub", "0"], ["-ub/--ubatch-size", "at least 1"]),
            (vec!["-pg", "512"], ["-pg", "512,128"]),
            (vec!["--isa", "best,mmx"], ["mmx", "scalar"]),
            (vec!["-t", "2-1"], ["-t/--threads", "FIRST-LAST"]),
            (vec!["-np", "0"], ["-np/--parallel", "between 1 and 1024, not 0"]),
            (vec!["-np", "2,99999"], ["-np/--parallel", "between 1 and 1024, not 99999"]),
            (vec!["-np", "two"], ["-np/--parallel", "FIRST-LAST"]),
            (vec!["-np", "2", "-npp", "0"], ["-npp/--parallel-prompt", "at least 1"]),
            (vec!["-np", "2", "-ntg", "0"], ["-ntg/--parallel-gen", "at least 1"]),
            (vec!["--image-size", "0"], ["--image-size", "at least 1"]),
        ] {
            let error = format!("{:#}", plan(&options).unwrap_err());
            assert!(words.iter().all(|w| error.contains(w)), "{options:?}: {error}");
        }
    }
}
