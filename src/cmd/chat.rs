//! `ocelli chat`: a conversation in the terminal, or line by line through a pipe.

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use anyhow::Context as _;
use ocelli_runtime::sampler::SamplerChain;
use ocelli_runtime::{Chat, Completion, RuntimeError, Session, Stop};
use rustyline::error::ReadlineError;

use super::common::{self, ModelArgs, SamplingArgs, Stream};

/// Options of `ocelli chat`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// [-sys] System prompt
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Longest answer in tokens; -1: as long as fits
    #[arg(short = 'n', long = "predict", alias = "n-predict", value_name = "N", default_value_t = -1,
          allow_negative_numbers = true)]
    predict: i64,
    /// Chat format: a known name, or a file with a Jinja template
    #[arg(long, value_name = "NAME|FILE")]
    chat_template: Option<String>,
    /// When the context is full, drop the oldest turns (the system prompt stays)
    #[arg(long)]
    context_shift: bool,
    /// Go on with the conversation in this file if it exists, and keep it there at the end
    #[arg(long, value_name = "FILE")]
    session: Option<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
}

const HELP: &str = "\
/help            this list
/clear           forget the conversation (the system prompt stays)
/regen           answer the last message again
/save FILE       save the conversation
/load FILE       go on with a saved conversation
/system [TEXT]   show or set the system prompt (`/system none` removes it)
/params          show how tokens are chosen
/image FILE      show a picture (not in this build)
/quit            leave (also Ctrl-D)
Ctrl-C stops an answer.";

/// Talks until the input ends.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let n_predict = common::n_predict(args.predict)?;
    let (context, assets) = common::open(&args.model, args.chat_template.as_deref())?;
    let sampler = args.sampling.chain(&assets)?;
    let session = Session::new(context);
    common::watch_ctrl_c(session.interrupt(), false)?;
    let mut chat = Chat::new(session, assets, args.context_shift);
    chat.set_system(args.system.as_deref());
    if let Some(path) = args.session.as_deref().filter(|p| p.exists()) {
        chat.load(path)?;
        eprintln!("going on with {}: {} messages", path.display(), chat.messages().len());
    }
    let mut talk = Talk { chat, sampler, n_predict };
    let mut input = Input::new()?;
    while let Some(line) = input.next()? {
        if !talk.line(line.trim())? {
            break;
        }
    }
    match &args.session {
        Some(path) => talk.save(path),
        None => Ok(()),
    }
}

/// Lines from an editor on a terminal, plain lines otherwise.
enum Input {
    Editor(Box<rustyline::DefaultEditor>),
    Pipe,
}

impl Input {
    fn new() -> anyhow::Result<Self> {
        if !std::io::stdin().is_terminal() {
            return Ok(Self::Pipe);
        }
        eprintln!("/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves");
        Ok(Self::Editor(Box::new(rustyline::DefaultEditor::new().context("cannot use the terminal")?)))
    }

    /// The next line; `None` at the end.
    fn next(&mut self) -> anyhow::Result<Option<String>> {
        let editor = match self {
            Self::Editor(editor) => editor,
            Self::Pipe => return read_pipe(),
        };
        loop {
            match editor.readline("> ") {
                Ok(line) => {
                    if !line.trim().is_empty() {
                        editor.add_history_entry(line.as_str()).context("cannot keep the line")?;
                    }
                    return Ok(Some(line));
                }
                // Ctrl-C at the prompt drops the line and nothing else.
                Err(ReadlineError::Interrupted) => {}
                Err(ReadlineError::Eof) => return Ok(None),
                Err(error) => return Err(error).context("cannot read the terminal"),
            }
        }
    }
}

fn read_pipe() -> anyhow::Result<Option<String>> {
    let mut line = Vec::new();
    if std::io::stdin().lock().read_until(b'\n', &mut line).context("cannot read standard input")? == 0 {
        return Ok(None);
    }
    let line = String::from_utf8(line).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        anyhow::anyhow!("standard input is not UTF-8 text (byte {at} of a line); convert it to UTF-8")
    })?;
    Ok(Some(line))
}

/// The conversation and how it is answered.
struct Talk {
    chat: Chat,
    sampler: SamplerChain,
    n_predict: usize,
}

impl Talk {
    /// Handles one line; `false` to leave. What goes wrong with one line is told, and the conversation goes on.
    fn line(&mut self, line: &str) -> anyhow::Result<bool> {
        let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        let done = match command {
            "" => Ok(()),
            "/quit" | "/exit" => return Ok(false),
            "/help" => self.say(HELP),
            "/clear" => {
                self.chat.clear();
                self.sampler.reset();
                self.say("forgotten")
            }
            "/regen" => self.regenerate(),
            "/save" => self.with_file(rest, Self::save),
            "/load" => self.with_file(rest, Self::load),
            "/system" => self.system(rest),
            "/params" => self.say(&format!("{:#?}", self.sampler.params())),
            "/image" => {
                Err(anyhow::anyhow!("this build answers text only; pictures need a build that runs mmproj files"))
            }
            unknown if unknown.starts_with('/') => Err(anyhow::anyhow!("no command {unknown}; /help lists them")),
            _ => self.answer(|chat, sampler, n, stream| chat.say(line, sampler, n, stream)),
        };
        if let Err(error) = done {
            if error.downcast_ref::<std::io::Error>().is_some() {
                return Err(error);
            }
            eprintln!("ocelli: error: {error:#}");
        }
        Ok(true)
    }

    fn say(&self, text: &str) -> anyhow::Result<()> {
        eprintln!("{text}");
        Ok(())
    }

    fn with_file(&mut self, name: &str, act: fn(&mut Self, &Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
        if name.is_empty() {
            anyhow::bail!("give a file name");
        }
        act(self, Path::new(name))
    }

    fn save(&mut self, path: &Path) -> anyhow::Result<()> {
        self.chat.save(path)?;
        self.say(&format!("saved {} messages to {}", self.chat.messages().len(), path.display()))
    }

    fn load(&mut self, path: &Path) -> anyhow::Result<()> {
        self.chat.load(path)?;
        self.sampler.reset();
        self.say(&format!("{} messages from {}", self.chat.messages().len(), path.display()))
    }

    fn system(&mut self, text: &str) -> anyhow::Result<()> {
        match text {
            "" => self.say(self.chat.system().unwrap_or("no system prompt")),
            "none" => {
                self.chat.set_system(None);
                self.say("no system prompt any more")
            }
            text => {
                self.chat.set_system(Some(text));
                self.say("set, from the next message on")
            }
        }
    }

    fn regenerate(&mut self) -> anyhow::Result<()> {
        if !self.chat.forget_answer() {
            anyhow::bail!("there is no answer yet");
        }
        self.answer(|chat, sampler, n, stream| chat.answer(sampler, n, stream))
    }

    fn answer(
        &mut self,
        ask: impl FnOnce(&mut Chat, &mut SamplerChain, usize, &mut Stream) -> Result<Completion, RuntimeError>,
    ) -> anyhow::Result<()> {
        self.chat.session().interrupt().store(false, Ordering::Relaxed);
        let mut stream = Stream::new(self.chat.session().interrupt(), true);
        let done = ask(&mut self.chat, &mut self.sampler, self.n_predict, &mut stream);
        if let Err(RuntimeError::Interrupted) = done {
            anyhow::bail!("stopped while reading the message; it is not part of the conversation");
        }
        let done = done?;
        stream.finish()?;
        std::io::stdout().flush()?;
        if done.dropped_turns > 0 {
            eprintln!("[the context was full: the oldest {} turns were dropped]", done.dropped_turns);
        }
        match done.stop {
            Stop::ContextFull => eprintln!(
                "[the context of {} tokens is full: /clear, a larger -c, or --context-shift]",
                self.chat.session().context().n_ctx()
            ),
            Stop::Interrupted => eprintln!("[stopped]"),
            _ => {}
        }
        eprintln!("[{}]", common::rates(&done));
        Ok(())
    }
}
