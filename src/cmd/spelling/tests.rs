use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use super::*;
use crate::Cli;

fn parser() -> Command {
    let mut parser = Cli::command();
    parser.build();
    parser
}

fn words(line: &str) -> Vec<OsString> {
    std::iter::once("ocelli").chain(line.split_whitespace()).map(OsString::from).collect()
}

fn spelled(line: &str) -> Result<Spelled, String> {
    spell(words(line).into_iter(), &parser())
}

#[track_caller]
fn becomes(line: &str, right: &str) {
    assert_eq!(spelled(line).unwrap().args, words(right), "{line}");
}

/// All commands that have options of their own, as they are typed.
fn commands(parser: &Command) -> Vec<(Vec<OsString>, &Command)> {
    fn below<'c>(path: &[OsString], command: &'c Command, all: &mut Vec<(Vec<OsString>, &'c Command)>) {
        for command in command.get_subcommands().filter(|c| c.get_name() != "help") {
            let path = [path, &[command.get_name().into()]].concat();
            all.push((path.clone(), command));
            below(&path, command, all);
        }
    }
    let mut all = Vec::new();
    below(&["ocelli".into()], parser, &mut all);
    assert!(all.len() > 14, "{}", all.len());
    all
}

/// What the real parser says to a line; a line that lacks what the command requires is as good as one that does not.
fn knows(args: &[OsString]) -> bool {
    match Cli::try_parse_from(args) {
        Ok(_) => true,
        Err(error) => !matches!(error.kind(), ErrorKind::UnknownArgument | ErrorKind::DisplayHelp),
    }
}

#[test]
fn every_row_means_the_same_to_every_command() {
    let parser = parser();
    for (path, command) in commands(&parser) {
        for row in TABLE {
            for &name in row.names {
                let value = match row.values {
                    Values::None => None,
                    Values::One if matches!(row.meaning, Meaning::Chooses(_)) => Some("auto"),
                    Values::One => Some("1"),
                    Values::Maybe(words) => words.last().copied(),
                };
                let own = has_long(command, name).is_some()
                    || name.len() == 2 && has_short(command, name.chars().nth(1).unwrap()).is_some();
                if own {
                    continue;
                }
                let line =
                    [&path[..], &[name.into()], &value.map(OsString::from).into_iter().collect::<Vec<_>>()].concat();
                let shown = format!("{line:?}");
                let result = spell(line.into_iter(), &parser);
                let with = |more: &[&str]| [&path[..], &more.iter().map(OsString::from).collect::<Vec<_>>()].concat();
                match row.meaning {
                    Meaning::Same(long, _) | Meaning::SameOrNoEffect(long) if has_long(command, long).is_some() => {
                        let args = result.unwrap().args;
                        assert_eq!(args, with(&[&[long], value.as_slice()].concat()), "{shown}");
                        assert!(knows(&args), "{shown}");
                    }
                    Meaning::NoEffect | Meaning::SameOrNoEffect(_) if runs_models(command) => {
                        let right = Spelled { args: path.clone(), without_effect: vec![name.to_owned()] };
                        assert_eq!(result.unwrap(), right, "{shown}");
                    }
                    Meaning::Chooses(all) if runs_models(command) => {
                        for (word, flag) in all {
                            let line = [&path[..], &[name.into(), word.into()]].concat();
                            let result = spell(line.iter().cloned(), &parser).map(|spelled| spelled.args);
                            match *flag {
                                "" => assert_eq!(result.unwrap(), path, "{line:?}"),
                                flag if has_long(command, flag).is_some() => {
                                    assert_eq!(result.unwrap(), with(&[flag]), "{line:?}");
                                }
                                flag => assert!(result.unwrap_err().contains(flag), "{line:?}"),
                            }
                        }
                    }
                    Meaning::Refused(remedy) | Meaning::Same(_, remedy)
                        if runs_models(command) && !remedy.is_empty() =>
                    {
                        assert_eq!(result.unwrap_err(), format!("{name}: {remedy}"), "{shown}");
                    }
                    _ => {
                        let problem = result.unwrap_err();
                        let known = problem.contains(&format!("`{name}` is not an option of"));
                        assert!(known && !problem.contains('\n'), "{shown}: {problem}");
                    }
                }
            }
        }
    }
}

#[test]
fn names_are_in_the_table_once() {
    let mut names: Vec<_> = TABLE.iter().flat_map(|row| row.names).collect();
    names.sort();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all);
    assert!(names.iter().all(|name| name.starts_with('-') && !name.contains('=')));
}

/// Of every option of every command that takes a value: what follows is the value, though it looks like an option.
#[test]
fn a_value_is_never_an_option() {
    let parser = parser();
    let mut tried = 0;
    for (path, command) in commands(&parser) {
        for arg in command.get_arguments().filter(|arg| takes_value(arg) && !arg.is_positional()) {
            if arg.get_num_args().unwrap().min_values() != 1 {
                continue;
            }
            let long = arg.get_long().map(|long| format!("--{long}"));
            for name in long.into_iter().chain(arg.get_short().map(|short| format!("-{short}"))) {
                for value in ["-sys", "-ub", "--help", "-h", "--", "-x"] {
                    let line = [&path[..], &[name.clone().into(), value.into()]].concat();
                    let args = spell(line.iter().cloned(), &parser).unwrap().args;
                    assert_eq!(args.last().unwrap(), &*format!("{name}={value}"), "{line:?}");
                    assert!(knows(&args), "{line:?}");
                    tried += 1;
                }
            }
        }
    }
    assert!(tried > 1000, "{tried}");
    let prompt = |line: &str| {
        let Cli { command } = Cli::try_parse_from(spelled(line).unwrap().args).unwrap();
        format!("{command:?}")
    };
    for line in ["run -p -sys -n 0", "run -p=-sys -n 0", "run --prompt=-sys", "run --prompt -sys", "run -n 0 -p -sys"] {
        assert!(prompt(line).contains("prompt: Some(\"-sys\")"), "{line}");
    }
    assert!(prompt("run -f -ub -sys --json -n -1").contains("file: Some(\"-ub\")"));
    assert!(prompt("run -f -ub -sys --json -n -1").contains("system: Some(\"--json\")"));
    assert!(prompt("run -p - -ngl -sys").contains("system: None"), "the value of an option without effect");
}

#[test]
fn names_of_several_letters() {
    becomes(
        "run -p x -ctk q8_0 -ctv=f32 -ub 64 -tb 4",
        "run -p x --cache-type-k q8_0 --cache-type-v f32 --ubatch-size 64 --threads-batch 4",
    );
    becomes("run -p x -ub512 -tb4", "run -p x --ubatch-size 512 --threads-batch 4");
    becomes("bench -pg 16,2 -mm v.gguf", "bench --n-prompt-gen 16,2 --mmproj v.gguf");
    becomes(
        "bench -np 1,8 -npp 128 -ntg64 -pps",
        "bench --parallel 1,8 --parallel-prompt 128 --parallel-gen 64 --prompt-shared",
    );
    becomes("bench -npl 4 -m x", "bench --parallel 4 -m x");
    becomes("bench -mmp 0 -m x", "bench --no-mmap -m x");
    becomes("bench -mmp 1 -m x", "bench -m x");
    becomes("run -lm none -p x --load-mode=mlock", "run --no-mmap -p x --mlock");
    assert!(spelled("run -lm fast -p x").unwrap_err().contains("mmap+mlock"));
    becomes("run -no-cnv -p x", "run --raw -p x");
    // What was attached to one letter still is; a dash alone is a value.
    for same in [
        "run -t4 -n-1 -c256 -p=-x",
        "run -m./x.gguf -p -",
        "run -mx.gguf -s-1",
        "quantize -t4 in.gguf -",
        "--version",
        "run --help",
    ] {
        becomes(same, same);
    }
    // Behind `--` nothing is an option.
    becomes("tokenize -m x -- -sys -hf", "tokenize -m x -- -sys -hf");
    becomes("bench kernels -t 1", "bench kernels -t 1");
}

#[test]
fn what_makes_no_difference_is_told() {
    let line = "run -ngl 99 -fa -cnv --no-mmproj-offload -p hi -fa on -dev none --n-gpu-layers=5 -sm none -t 2";
    let Spelled { args, without_effect } = spelled(line).unwrap();
    assert_eq!(args, words("run -p hi -t 2"));
    assert_eq!(without_effect, ["-ngl", "-fa", "-cnv", "--no-mmproj-offload", "-dev", "--n-gpu-layers", "-sm"]);
    assert_eq!(spelled("run -ngl99 -p hi").unwrap().args, words("run -p hi"));
    // A bare switch leaves alone what is not its value.
    assert_eq!(spelled("run -fa -p on").unwrap().args, words("run -p on"));
    for auto in ["on", "off", "auto", "1"] {
        assert_eq!(spelled(&format!("run -fa {auto} -p x")).unwrap().args, words("run -p x"), "{auto}");
    }
    assert!(spelled("run -p x -ngl").unwrap_err().contains("-ngl needs a value"));
}

/// Nothing of several letters is read as a bundle of one-letter options.
#[test]
fn what_is_no_option_is_named() {
    for (line, words) in [
        ("run -hft secret -p hi", ["-hft", "HF_TOKEN"]),
        ("run --hf-repo-draft=x/y", ["--hf-repo-draft", "leave it out"]),
        ("chat --lora x", ["--lora", "merge"]),
        ("run -dr x", ["-dr", "-hf"]),
        ("run -sysf f -p hi", ["-sysf", "-sys"]),
        ("chat -no-cnv", ["-no-cnv", "ocelli run --raw"]),
        ("run -hV", ["`-hV`", "ocelli run"]),
        ("run -nop", ["`-nop`", "ocelli run"]),
        ("run -mmproj x", ["`-mmproj`", "ocelli run"]),
        ("run -prompt x", ["`-prompt`", "ocelli run"]),
        ("run -\u{1b}[2J", [r"`-\u{1b}[2J`", "ocelli run"]),
        ("bench kernels -ctk f16", ["`-ctk`", "ocelli bench kernels"]),
        ("convert -ngl 99", ["`-ngl`", "ocelli convert"]),
        ("quantize -hf x", ["`-hf`", "ocelli quantize"]),
    ] {
        let problem = spelled(line).unwrap_err();
        assert!(words.iter().all(|word| problem.contains(word)), "{line}: {problem}");
        assert!(!problem.contains(['\n', '\u{1b}']), "{line}: {problem}");
    }
    assert!(spelled("run -Z -p x").unwrap_err().contains("`-Z`"));
    // What two dashes introduce is the parser's to name.
    assert!(!knows(&spelled("run --no-such -p x").unwrap().args));
}

#[cfg(unix)]
#[test]
fn arguments_that_are_not_text() {
    use std::os::unix::ffi::OsStringExt;
    let odd = OsString::from_vec(b"-\xff.txt".to_vec());
    let line = [words("run -f"), vec![odd.clone()]].concat();
    let args = spell(line.into_iter(), &parser()).unwrap().args;
    let mut joined = OsString::from("-f=");
    joined.push(&odd);
    assert_eq!(args[2], joined);
}
