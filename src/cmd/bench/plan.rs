//! Which tests are run, in which settings: the cross product of the lists.

use anyhow::bail;
use ocelli_quant::GgmlType;
use ocelli_runtime::bench::{Kernels, TextTest};
use ocelli_runtime::{ContextOptions, Precision, physical_cores};

use super::ModelsArgs;
use super::lists::{distinct, numbers, pairs, words};
use crate::cmd::common::kv_type;
use crate::isa;

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
        Ok(Self {
            settings: distinct(settings),
            tests: distinct(tests),
            image_sizes: distinct(image_sizes),
            precision: args.precision.precision(),
            batch: args.batch_size,
        })
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
            (vec!["--image-size", "0"], ["--image-size", "at least 1"]),
        ] {
            let error = format!("{:#}", plan(&options).unwrap_err());
            assert!(words.iter().all(|w| error.contains(w)), "{options:?}: {error}");
        }
    }
}
