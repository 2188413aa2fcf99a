//! `ocelli quantize`: a GGUF file in other tensor formats.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use ocelli_convert::imatrix::Imatrix;
use ocelli_convert::mixture::{FileType, TensorOverride, TypeOptions, parse_type};
use ocelli_convert::requantize::{Options, Plan, Source, Target, TensorPlan};
use ocelli_kernels::quantize::RowCodec;
use ocelli_quant::GgmlType;

use super::usage::usage;
use crate::isa;
use crate::progress::Bar;
use crate::sink::{self, OutputError, errln, outln};

/// Name of the target that only rewrites a file.
const COPY: &str = "COPY";

/// Options of `ocelli quantize`.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "ocelli quantize [OPTIONS] IN.gguf [OUT.gguf] TYPE [NTHREADS]",
    after_long_help = types_help()
)]
pub(crate) struct Args {
    /// Input, output (default: ggml-model-TYPE.gguf beside the input), type, number of threads.
    ///
    /// The input may be the first part of a split model; the parts are joined unless --keep-split is given. The type
    /// is a name in any case or a file-type number.
    #[arg(value_name = "IN.gguf [OUT.gguf] TYPE [NTHREADS]", num_args = 2..=4, required = true)]
    positional: Vec<OsString>,

    /// Importance matrix, in GGUF or legacy form.
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,

    /// Use importances only for tensors whose name contains NAME; repeatable.
    #[arg(long, value_name = "NAME", conflicts_with = "exclude_weights")]
    include_weights: Vec<String>,

    /// Do not use importances for tensors whose name contains NAME; repeatable.
    #[arg(long, value_name = "NAME")]
    exclude_weights: Vec<String>,

    /// Give every tensor the default format of the type, without its rules.
    #[arg(long)]
    pure: bool,

    /// Format of the tensors whose name matches a regular expression; repeatable, first match wins. Only for types that are
    /// quantised.
    #[arg(long, value_name = "PATTERN=TYPE")]
    tensor_type: Vec<String>,

    /// File with PATTERN=TYPE entries separated by white space.
    #[arg(long, value_name = "FILE")]
    tensor_type_file: Vec<PathBuf>,

    /// Format of output.weight.
    #[arg(long, value_name = "TYPE", value_parser = tensor_format)]
    output_tensor_type: Option<GgmlType>,

    /// Format of token_embd.weight.
    #[arg(long, value_name = "TYPE", value_parser = tensor_format)]
    token_embedding_type: Option<GgmlType>,

    /// Keep output.weight as it is.
    #[arg(long)]
    leave_output_tensor: bool,

    /// Allow a source that is quantised already; the quality suffers.
    #[arg(long)]
    allow_requantize: bool,

    /// Write as many parts as the input has, named OUT-00001-of-0000N.gguf.
    #[arg(long)]
    keep_split: bool,

    /// Print the type and size of every tensor and write nothing.
    #[arg(long)]
    dry_run: bool,

    /// Worker threads; default: all cores.
    #[arg(long, short, value_name = "N")]
    threads: Option<NonZeroUsize>,

    /// Replace the output file if it exists.
    #[arg(long)]
    overwrite: bool,

    /// Print one JSON object at the end instead of text.
    #[arg(long)]
    json: bool,
}

fn tensor_format(text: &str) -> Result<GgmlType, String> {
    parse_type(text).map_err(|e| e.to_string())
}

fn types_help() -> String {
    let mut text = "Types:\n".to_owned();
    for ty in FileType::ALL {
        let names = ty.names().join(", ");
        text += &format!("  {:>2}  {names:<14} {}\n", ty.code(), ty.about());
    }
    text + "      COPY           copy every tensor, only order and keys change"
}

/// The positional arguments, sorted out.
struct Request {
    input: PathBuf,
    output: Option<PathBuf>,
    target: Target,
    label: &'static str,
    threads: Option<NonZeroUsize>,
}

/// `IN [OUT] TYPE [NTHREADS]`: as the second argument, a type name is a type; anything else is the output.
fn sort_out(args: &[OsString]) -> anyhow::Result<Request> {
    let [input, rest @ ..] = args else { bail!("no input file was given") };
    let as_target = |arg: &OsString| parse_target(&arg.to_string_lossy());
    let (output, target, rest) = match rest {
        [first, rest @ ..] if as_target(first).is_ok() => (None, as_target(first), rest),
        [out, ty, rest @ ..] => (Some(PathBuf::from(out)), as_target(ty), rest),
        [only] => (None, as_target(only), &[][..]),
        [] => bail!("no type was given; valid are {}", FileType::list()),
    };
    let (target, label) = target?;
    let threads = match rest {
        [] => None,
        [n] => Some(n.to_string_lossy().parse().with_context(|| format!("{n:?} is no number of threads"))?),
        [_, extra, ..] => bail!("unexpected argument {extra:?} after the number of threads"),
    };
    Ok(Request { input: PathBuf::from(input), output, target, label, threads })
}

fn parse_target(text: &str) -> anyhow::Result<(Target, &'static str)> {
    if text.eq_ignore_ascii_case(COPY) {
        return Ok((Target::Copy, COPY));
    }
    let (ty, label) = FileType::parse_named(text)?;
    Ok((Target::Type(ty), label))
}

impl Request {
    fn output(&self) -> PathBuf {
        self.output.clone().unwrap_or_else(|| self.input.with_file_name(format!("ggml-model-{}.gguf", self.label)))
    }
}

/// Re-quantises, or says what would be done.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let codec = isa::codec()?;
    let request = sort_out(&args.positional).map_err(usage)?;
    let imatrix = args.imatrix.as_deref().map(|path| read_imatrix(path, args)).transpose()?;
    let options = Options {
        target: request.target,
        types: type_options(args)?,
        allow_requantize: args.allow_requantize,
        keep_split: args.keep_split,
        read_from: args.tensor_type_file.clone(),
        codec,
    };
    let source = Source::open(&request.input)?;
    let plan = Plan::new(&source, &options, imatrix.as_ref())?;
    let report = Report { plan: &plan, request: &request, imatrix: imatrix.as_ref(), codec };
    if args.dry_run {
        let obstacle = plan.check().err().map(|e| e.to_string());
        if args.json {
            sink::json(&report.json(&[], None, obstacle))?;
        } else {
            report.print_tensors()?;
            report.print_sizes()?;
            report.print_notes();
            if let Some(obstacle) = obstacle {
                errln!("ocelli: warning: this cannot be carried out: {obstacle}");
            }
        }
        return Ok(());
    }
    let all_cores = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let threads = args.threads.or(request.threads).unwrap_or_else(all_cores).get();
    let begun = Instant::now();
    let written = plan.write(&request.output(), threads, args.overwrite, &Bar::new(args.json)?)?;
    let seconds = begun.elapsed().as_secs_f64();
    if args.json {
        sink::json(&report.json(&written, Some(seconds), None))?;
    } else {
        report.print_sizes()?;
        report.print_notes();
        for path in written {
            outln!("wrote {}", path.display())?;
        }
        outln!("{seconds:.2} s with {threads} threads")?;
    }
    Ok(())
}

fn read_imatrix(path: &Path, args: &Args) -> anyhow::Result<Imatrix> {
    let mut imatrix = Imatrix::read(path)?;
    imatrix.select(&args.include_weights, &args.exclude_weights)?;
    Ok(imatrix)
}

fn type_options(args: &Args) -> anyhow::Result<TypeOptions> {
    let mut overrides = args.tensor_type.iter().map(|t| TensorOverride::parse(t)).collect::<Result<Vec<_>, _>>()?;
    for path in &args.tensor_type_file {
        let text = super::common::read_text(path)?;
        // A fault of the file, not of the arguments.
        let list = TensorOverride::parse_list(&text).map_err(|e| anyhow::anyhow!("in {}: {e}", path.display()))?;
        overrides.extend(list);
    }
    Ok(TypeOptions {
        pure: args.pure,
        leave_output_tensor: args.leave_output_tensor,
        output_tensor_type: args.output_tensor_type,
        token_embedding_type: args.token_embedding_type,
        overrides,
        has_imatrix: false,
    })
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / 1048576.0
}

/// What is said about a plan.
struct Report<'a> {
    plan: &'a Plan<'a>,
    request: &'a Request,
    imatrix: Option<&'a Imatrix>,
    codec: &'static RowCodec,
}

impl Report<'_> {
    fn bits_per_weight(&self, bytes: u64) -> f64 {
        bytes as f64 * 8.0 / self.plan.n_elements().max(1) as f64
    }

    fn print_tensors(&self) -> Result<(), OutputError> {
        let tensors = self.plan.tensors();
        for (i, t) in tensors.iter().enumerate() {
            let mut dims = t.dims.clone();
            dims.resize(4.max(dims.len()), 1);
            let dims: Vec<_> = dims.iter().map(|d| format!("{d:6}")).collect();
            let size = if t.is_converted() {
                format!("{:8.2} MiB -> {:8.2} MiB ({})", mib(t.source_bytes), mib(t.target_bytes), t.target_type)
            } else {
                format!("{:8.3} MiB", mib(t.source_bytes))
            };
            let fallback = t.instead_of.map_or_else(String::new, |ty| format!(", instead of {ty}"));
            outln!(
                "[{:4}/{:4}] {:<36} - [{}], type = {:>6}, size = {size}{fallback}",
                i + 1,
                tensors.len(),
                t.name,
                dims.join(", "),
                t.source_type,
            )?;
        }
        Ok(())
    }

    fn print_sizes(&self) -> Result<(), OutputError> {
        for (what, bytes) in [("model size", self.plan.source_bytes()), ("quant size", self.plan.target_bytes())] {
            outln!("{what}  = {:8.2} MiB ({:.2} BPW)", mib(bytes), self.bits_per_weight(bytes))?;
        }
        Ok(())
    }

    /// Warnings: tensors in another format than the rules say, importances not found or not used.
    fn print_notes(&self) {
        let tensors = self.plan.tensors();
        let fallbacks = tensors.iter().filter(|t| t.instead_of.is_some()).count();
        if fallbacks > 0 {
            errln!(
                "ocelli: warning: {fallbacks} of {} tensors got another type because of their row length",
                tensors.len()
            );
        }
        if let Some(imatrix) = self.imatrix {
            let coverage = Coverage {
                entries: imatrix.len(),
                converted: tensors.iter().filter(|t| t.is_converted()).count(),
                without: self.without_importance(),
                unused: self.unused(),
            };
            let file = imatrix.path().display();
            match coverage.useless() {
                Some(why) => errln!("ocelli: warning: {file} was not used: {why}"),
                None => {
                    errln!("{file}: {} entries, {} not used", coverage.entries, coverage.unused.len());
                    for (what, names) in
                        [("without importances", coverage.without), ("unused entries", coverage.unused)]
                    {
                        if !names.is_empty() {
                            errln!("ocelli: warning: {what}: {}", shorten(&names));
                        }
                    }
                }
            }
        }
    }

    fn unused(&self) -> Vec<&str> {
        self.plan.unused_importances().iter().map(String::as_str).collect()
    }

    /// Converted tensors that an importance matrix was given for, but does not cover.
    fn without_importance(&self) -> Vec<&str> {
        let lacking = |t: &&TensorPlan<'_>| t.is_converted() && t.importance.is_none() && self.imatrix.is_some();
        self.plan.tensors().iter().filter(lacking).map(|t| t.name.as_str()).collect()
    }

    fn json(&self, written: &[PathBuf], seconds: Option<f64>, obstacle: Option<String>) -> serde_json::Value {
        let tensors: Vec<_> = self
            .plan
            .tensors()
            .iter()
            .map(|t| {
                serde_json::json!({
                    "name": t.name, "dims": t.dims, "source_type": t.source_type.to_string(),
                    "type": t.target_type.to_string(), "source_bytes": t.source_bytes, "bytes": t.target_bytes,
                    "instead_of": t.instead_of.map(GgmlType::name), "importance": t.importance.is_some(),
                })
            })
            .collect();
        serde_json::json!({
            "input": self.request.input.display().to_string(),
            "file_type": match self.request.target {
                Target::Type(ty) => ty.name(),
                Target::Copy => COPY,
            },
            "written": written.iter().map(|p| p.display().to_string()).collect::<Vec<_>>(),
            "seconds": seconds,
            "obstacle": obstacle,
            "codec": self.codec.name(),
            "n_weights": self.plan.n_elements(),
            "source_bytes": self.plan.source_bytes(),
            "bytes": self.plan.target_bytes(),
            "source_bits_per_weight": self.bits_per_weight(self.plan.source_bytes()),
            "bits_per_weight": self.bits_per_weight(self.plan.target_bytes()),
            "imatrix": self.imatrix.map(|m| serde_json::json!({
                "file": m.path().display().to_string(), "entries": m.len(), "chunks": m.chunks(),
                "datasets": m.datasets(), "unused": self.unused(), "without_importance": self.without_importance(),
            })),
            "tensors": tensors,
        })
    }
}

/// How far an importance matrix and the converted tensors of a model go together.
struct Coverage<'a> {
    /// Entries of the matrix.
    entries: usize,
    /// Tensors that get another format.
    converted: usize,
    /// Those of them that the matrix has no entry for.
    without: Vec<&'a str>,
    /// Entries that no converted tensor uses.
    unused: Vec<&'a str>,
}

impl Coverage<'_> {
    /// Why the matrix made no difference, if it made none.
    fn useless(&self) -> Option<String> {
        if self.entries == 0 {
            Some("it has no entries".to_owned())
        } else if self.converted == 0 {
            Some("no tensor changes its format".to_owned())
        } else if self.without.len() == self.converted {
            let n = self.converted;
            Some(format!("it has no entry for any of the {n} converted tensors; give the one made for this model"))
        } else {
            None
        }
    }
}

/// The first few of a list of names.
fn shorten(names: &[&str]) -> String {
    const SHOWN: usize = 5;
    let first = names.get(..SHOWN.min(names.len())).unwrap_or_default().join(", ");
    if names.len() > SHOWN { format!("{first} and {} more", names.len() - SHOWN) } else { first }
}
