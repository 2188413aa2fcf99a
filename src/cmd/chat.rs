//! `ocelli chat`: a conversation in the terminal, or line by line through a pipe.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ocelli_runtime::sampler::SamplerChain;
use ocelli_runtime::{Attachment, Chat, Completion, RuntimeError, Session, Stop};

use super::common::{self, ModelArgs, SamplingArgs, Stream};
use super::line::{self, Input};
use super::vision::{ShowArgs, Vision, VisionArgs};
use crate::sink::{self, OutputError, errln};

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
    vision: VisionArgs,
    #[command(flatten)]
    show: ShowArgs,
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
/image FILE…     show pictures with the next message (quote names with blanks; Tab completes)
/video FILE      show a video with the next message
/quit            leave (also Ctrl-D)
Ctrl-C stops an answer.";

/// Commands for completion; a blank at the end asks for a file.
const COMMANDS: &[&str] =
    &["/help", "/clear", "/regen", "/save ", "/load ", "/system ", "/params", "/image ", "/video ", "/quit"];

/// Talks until the input ends.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let n_predict = common::n_predict(args.predict)?;
    let (context, assets) = common::open(&args.model, args.chat_template.as_deref())?;
    let sampler = args.sampling.chain(&assets)?;
    let file = args.model.load_options()?.file;
    let mut vision = Vision::new(&args.vision, Some(&args.show), &args.model.file()?, file, &context)?;
    let session = Session::new(context);
    common::watch_ctrl_c(session.interrupt(), false)?;
    let mut chat = Chat::new(session, assets, args.context_shift, vision.profile());
    chat.set_system(args.system.as_deref());
    if let Some(path) = args.session.as_deref().filter(|p| p.exists()) {
        chat.load(path, || vision.identity())?;
        errln!("going on with {}: {} messages", path.display(), chat.messages().len());
    }
    let pending = vision.shown(&args.show, chat.session().interrupt())?;
    let mut talk = Talk { chat, sampler, n_predict, vision, pending };
    let mut input = Input::new(COMMANDS)?;
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

/// The conversation and how it is answered.
struct Talk {
    chat: Chat,
    sampler: SamplerChain,
    n_predict: usize,
    vision: Vision,
    /// Pictures for the next message.
    pending: Vec<Attachment>,
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
                self.pending.clear();
                self.say("forgotten")
            }
            "/regen" => self.regenerate(),
            "/save" => self.with_file(rest, Self::save),
            "/load" => self.with_file(rest, Self::load),
            "/system" => self.system(rest),
            "/params" => self.say(&format!("{:#?}", self.sampler.params())),
            "/image" | "/video" => self.show(command, rest),
            unknown if unknown.starts_with('/') => Err(anyhow::anyhow!("no command {unknown}; /help lists them")),
            _ => self.ask(line),
        };
        if let Err(error) = done {
            if error.downcast_ref::<OutputError>().is_some() {
                return Err(error);
            }
            errln!("ocelli: error: {error:#}");
        }
        Ok(true)
    }

    fn say(&self, text: &str) -> anyhow::Result<()> {
        sink::err_page(text);
        Ok(())
    }

    fn with_file(&mut self, name: &str, act: fn(&mut Self, &Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
        match line::paths(name)?.as_slice() {
            [path] => act(self, path),
            _ => anyhow::bail!("give one file name; put it in quotes if it has blanks"),
        }
    }

    fn save(&mut self, path: &Path) -> anyhow::Result<()> {
        self.chat.save(path)?;
        self.say(&format!("saved {} messages to {}", self.chat.messages().len(), path.display()))
    }

    fn load(&mut self, path: &Path) -> anyhow::Result<()> {
        self.chat.load(path, || self.vision.identity())?;
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

    /// Takes pictures or videos in; they belong to the next message.
    fn show(&mut self, command: &str, text: &str) -> anyhow::Result<()> {
        let interrupt = Arc::clone(self.chat.session().interrupt());
        interrupt.store(false, Ordering::Relaxed);
        let paths = line::paths(text)?;
        let shown = if command == "/image" {
            self.vision.images(&paths, &interrupt)
        } else {
            paths.iter().try_fold(Vec::new(), |mut all, path| {
                all.extend(self.vision.video(path, &interrupt)?);
                Ok(all)
            })
        };
        match shown {
            Err(error) if matches!(error.downcast_ref(), Some(RuntimeError::Interrupted)) => {
                anyhow::bail!("stopped; nothing is shown")
            }
            shown => self.pending.extend(shown?),
        }
        Ok(())
    }

    /// Says `text`, with the pictures that wait for it. They wait on when that fails.
    fn ask(&mut self, text: &str) -> anyhow::Result<()> {
        let pending = std::mem::take(&mut self.pending);
        let done = self.answer(|chat, sampler, n, stream| chat.say(text, &pending, sampler, n, stream));
        if done.is_err() {
            self.pending = pending;
        }
        done
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
        if done.dropped_turns > 0 {
            errln!("[the context was full: the oldest {} turns were dropped]", done.dropped_turns);
        }
        match done.stop {
            Stop::ContextFull => errln!(
                "[the context of {} tokens is full: /clear, a larger -c, or --context-shift]",
                self.chat.session().context().n_ctx()
            ),
            Stop::Interrupted => errln!("[stopped]"),
            _ => {}
        }
        errln!("[{}]", common::rates(&done));
        Ok(())
    }
}
