//! How llama.cpp's programs spell their options, and what becomes of each here.
//!
//! A row is a set of names, the values that follow, and a meaning. Options that a command has under a name of its own need
//! no row. The tests give every row to the real parser of every command.

/// What follows a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Values {
    /// Nothing.
    None,
    /// One value, whatever it looks like.
    One,
    /// One of these, which may be left out.
    Maybe(&'static [&'static str]),
}

/// What becomes of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Another name of this option; a command without it refuses the name, with this remedy if there is one.
    Same(&'static str, &'static str),
    /// Another name of this option; commands that run a model without it pass it over, which is told in a line.
    SameOrNoEffect(&'static str),
    /// Accepted by commands that run a model, which do without it; told in a line.
    NoEffect,
    /// The flag beside the value; nothing where that is empty.
    Chooses(&'static [(&'static str, &'static str)]),
    /// Refused, with what to do instead.
    Refused(&'static str),
}

/// One option.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    pub(super) names: &'static [&'static str],
    pub(super) values: Values,
    pub(super) meaning: Meaning,
}

const fn same(names: &'static [&'static str], values: Values, long: &'static str) -> Row {
    Row { names, values, meaning: Meaning::Same(long, "") }
}

const fn no_effect(names: &'static [&'static str], values: Values) -> Row {
    Row { names, values, meaning: Meaning::NoEffect }
}

const fn refused(names: &'static [&'static str], values: Values, remedy: &'static str) -> Row {
    Row { names, values, meaning: Meaning::Refused(remedy) }
}

use Values::{Maybe, None as Nothing, One};

const SWITCH: Values = Maybe(&["on", "off", "auto", "true", "false", "enabled", "disabled", "0", "1"]);

const TOKEN: &str =
    "a token on the command line can be seen by others: put it into HF_TOKEN, or into a file that HF_TOKEN_PATH names";
const DOCKER: &str = "models come from the Hugging Face hub: -hf USER/REPO[:QUANT]";
const SOUND: &str = "sound is neither heard nor made here; leave it out";
const ADAPTER: &str =
    "adapters are not applied here: merge them into the checkpoint, convert it and give the result with -m";
const DRAFT: &str = "there is no speculative decoding here; leave it out";
const GRAMMAR: &str = "answers cannot be constrained here; ask for the form in the prompt";
const ROPE: &str =
    "rope settings are taken from the model file; --rope-factors supplies those that a MiniCPM-V 4.0 file lacks";
const CHAT: &str = "use `ocelli chat`, which is interactive";
const STOP: &str = "answers cannot be stopped by a text here; limit them with -n";
const TOKENS_OF_IMAGES: &str = "how many tokens a picture takes follows from its tiles: use --image-max-slices";
const SESSION: &str = "use --session FILE, which keeps the conversation and its cache";
const OVERRIDES: &str = "keys are taken from the model file; convert the model again to change them";

/// All rows.
pub(super) const TABLE: &[Row] = &[
    // Names for options that commands have.
    same(&["-tb"], One, "--threads-batch"),
    same(&["-ub"], One, "--ubatch-size"),
    same(&["-ctk"], One, "--cache-type-k"),
    same(&["-ctv"], One, "--cache-type-v"),
    same(&["-mm", "-mmu", "--mmproj-url"], One, "--mmproj"),
    same(&["-mu", "--model-url"], One, "--model"),
    same(&["-hf", "-hfr"], One, "--hf-repo"),
    same(&["-hff"], One, "--hf-file"),
    same(&["-pg"], One, "--n-prompt-gen"),
    same(&["-npp"], One, "--parallel-prompt"),
    same(&["-ntg"], One, "--parallel-gen"),
    same(&["-pps"], Nothing, "--prompt-shared"),
    same(&["-sys", "--system-prompt"], One, "--system"),
    Row {
        names: &["-sysf", "--system-prompt-file", "--system-file"],
        values: One,
        meaning: Meaning::Same("--system-file", "give the text itself with -sys"),
    },
    Row {
        names: &["-no-cnv", "--no-conversation"],
        values: Nothing,
        meaning: Meaning::Same("--raw", "`ocelli run --raw` continues a text without a chat format"),
    },
    same(&["--temperature"], One, "--temp"),
    same(&["--chat-template-file"], One, "--chat-template"),
    same(&["-fps"], One, "--video-fps"),
    Row {
        names: &["-mmp", "--mmap"],
        values: SWITCH,
        meaning: Meaning::Chooses(&[
            ("0", "--no-mmap"),
            ("off", "--no-mmap"),
            ("false", "--no-mmap"),
            ("disabled", "--no-mmap"),
            ("1", ""),
            ("on", ""),
            ("true", ""),
            ("enabled", ""),
            ("auto", ""),
        ]),
    },
    Row {
        names: &["-lm", "--load-mode"],
        values: One,
        meaning: Meaning::Chooses(&[
            ("auto", ""),
            ("mmap", ""),
            ("dio", ""),
            ("none", "--no-mmap"),
            ("mlock", "--mlock"),
            ("mmap+mlock", "--mlock"),
        ]),
    },
    // For accelerators, of which this program uses none.
    no_effect(&["-ngl", "--gpu-layers", "--n-gpu-layers"], One),
    no_effect(&["-sm", "--split-mode"], One),
    no_effect(&["-mg", "--main-gpu"], One),
    no_effect(&["-ts", "--tensor-split"], One),
    no_effect(&["-dev", "--device"], One),
    no_effect(&["-ot", "--override-tensor"], One),
    no_effect(&["-cmoe", "--cpu-moe"], Nothing),
    no_effect(&["-ncmoe", "--n-cpu-moe"], One),
    no_effect(&["-nkvo", "--no-kv-offload"], Nothing),
    no_effect(&["-kvo", "--kv-offload"], Nothing),
    no_effect(&["-nopo", "--no-op-offload"], SWITCH),
    no_effect(&["--op-offload"], Nothing),
    no_effect(&["--mmproj-offload", "--no-mmproj-offload"], Nothing),
    no_effect(&["--no-host"], SWITCH),
    no_effect(&["-fit", "--fit"], SWITCH),
    no_effect(&["-fitt", "--fit-target", "-fitc", "--fit-ctx"], One),
    // What is done here anyway, or makes no difference.
    no_effect(&["-fa", "--flash-attn"], SWITCH),
    no_effect(&["-nr", "--no-repack", "--repack"], Nothing),
    no_effect(&["-cnv", "--conversation"], Nothing),
    no_effect(&["-st", "--single-turn"], Nothing),
    no_effect(&["--jinja", "--no-jinja"], Nothing),
    no_effect(&["--no-mmproj", "--mmproj-auto", "--no-mmproj-auto"], Nothing),
    no_effect(&["--no-context-shift"], Nothing),
    no_effect(&["--keep"], One),
    no_effect(&["-cb", "--cont-batching", "-nocb", "--no-cont-batching"], Nothing),
    Row { names: &["-np", "-npl", "--parallel"], values: One, meaning: Meaning::SameOrNoEffect("--parallel") },
    no_effect(&["-ns", "--sequences"], One),
    no_effect(&["-kvu", "--kv-unified", "-no-kvu", "--no-kv-unified"], Nothing),
    no_effect(&["-dt", "--defrag-thold"], One),
    no_effect(&["--swa-full", "--cache-prompt", "--no-cache-prompt"], Nothing),
    no_effect(&["--cache-reuse", "-cram", "--cache-ram", "-ctxcp", "--ctx-checkpoints"], One),
    no_effect(&["--warmup", "--no-warmup", "--check-tensors"], Nothing),
    no_effect(&["-dio", "--direct-io", "-ndio", "--no-direct-io"], Nothing),
    no_effect(&["--perf", "--no-perf", "--show-timings", "--no-show-timings"], Nothing),
    no_effect(&["--numa", "--prio", "--prio-batch", "--poll", "--poll-batch"], One),
    no_effect(&["-C", "--cpu-mask", "-Cr", "--cpu-range", "--cpu-strict"], One),
    no_effect(&["-Cb", "--cpu-mask-batch", "-Crb", "--cpu-range-batch", "--cpu-strict-batch"], One),
    no_effect(&["-co", "--color"], SWITCH),
    no_effect(&["--simple-io", "--display-prompt", "--no-display-prompt"], Nothing),
    no_effect(&["-v", "--verbose", "--log-verbose", "--verbose-prompt", "--log-disable"], Nothing),
    no_effect(&["-lv", "--verbosity", "--log-verbosity", "--log-file", "-ld", "--logdir"], One),
    no_effect(&["--log-colors"], SWITCH),
    no_effect(&["--log-prefix", "--no-log-prefix", "--log-timestamps", "--no-log-timestamps"], Nothing),
    no_effect(&["--offline"], Nothing),
    no_effect(&["--reasoning-format", "--reasoning-budget"], One),
    // What is not done here.
    refused(&["-hfv", "-hfrv", "--hf-repo-v", "-hffv", "--hf-file-v"], One, SOUND),
    refused(&["-hfd", "-hfrd", "--hf-repo-draft"], One, DRAFT),
    refused(&["-hft", "--hf-token"], One, TOKEN),
    refused(&["-dr", "--docker-repo"], One, DOCKER),
    refused(&["--lora", "--lora-scaled", "--control-vector", "--control-vector-scaled"], One, ADAPTER),
    refused(&["-md", "--model-draft", "-devd", "--device-draft", "-ngld", "--gpu-layers-draft"], One, DRAFT),
    refused(
        &["-cd", "--ctx-size-draft", "-td", "--threads-draft", "--draft", "--draft-max", "--draft-min"],
        One,
        DRAFT,
    ),
    refused(&["-lcs", "--lookup-cache-static", "-lcd", "--lookup-cache-dynamic", "--draft-p-min"], One, DRAFT),
    refused(&["--grammar", "--grammar-file", "-j", "--json-schema", "-jf", "--json-schema-file"], One, GRAMMAR),
    refused(&["-bf", "--binary-file"], One, "a prompt is UTF-8 text: give it with -f FILE"),
    refused(
        &["-e", "--escape"],
        Nothing,
        "prompts are taken as they are: write a line feed as $'\\n' in the shell, or use -f FILE",
    ),
    no_effect(&["--no-escape"], Nothing),
    refused(&["-i", "--interactive", "-if", "--interactive-first", "-ins", "--instruct"], Nothing, CHAT),
    refused(
        &["-mli", "--multiline-input"],
        Nothing,
        "a message is a line here; give longer text to `ocelli run` with -f FILE",
    ),
    refused(&["-r", "--reverse-prompt"], One, STOP),
    refused(&["-sp", "--special"], Nothing, "`ocelli run --json` lists the tokens of an answer, special ones too"),
    refused(&["--in-prefix", "--in-suffix"], One, "use a chat template (--chat-template FILE)"),
    refused(&["--in-prefix-bos"], Nothing, "use a chat template (--chat-template FILE)"),
    refused(&["--chat-template-kwargs"], One, "use a chat template that has the values in it (--chat-template FILE)"),
    refused(&["--prompt-cache"], One, SESSION),
    refused(&["--prompt-cache-all", "--prompt-cache-ro"], Nothing, SESSION),
    refused(&["--sampling-seq", "--sampler-seq"], One, "name the samplers with --samplers, separated by `;`"),
    refused(&["--audio", "-mv", "--model-vocoder"], One, SOUND),
    refused(&["--image-min-tokens", "--image-max-tokens"], One, TOKENS_OF_IMAGES),
    refused(&["--override-kv"], One, OVERRIDES),
    refused(&["--rope-scaling", "--rope-scale", "--rope-freq-base", "--rope-freq-scale"], One, ROPE),
    refused(
        &["--yarn-orig-ctx", "--yarn-ext-factor", "--yarn-attn-factor", "--yarn-beta-slow", "--yarn-beta-fast"],
        One,
        ROPE,
    ),
    refused(&["--rpc"], One, "this program runs on one machine; leave it out"),
    refused(&["-gan", "--grp-attn-n", "-gaw", "--grp-attn-w"], One, "use a context that is long enough (-c)"),
    refused(&["--list-devices"], Nothing, "this program uses the CPU only; `ocelli bench kernels` says what it can do"),
];
