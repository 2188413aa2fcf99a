//! `ocelli chat`: a conversation in the terminal, or line by line through a pipe.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ocelli_runtime::{Attachment, Chat, Completion, RuntimeError, Session, Stop, Watch};
use ocelli_text::sampler::SamplerChain;

use super::common::{self, ModelArgs, SamplingArgs, Stream};
use super::line::{self, Input, Next};
use super::session::{self, Keeper};
use super::vision::{ShowArgs, Vision, VisionArgs};
use crate::signals::{self, CtrlC};
use crate::sink::{self, OutputError, errln};
use crate::told;

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
    /// Resume the conversation in this file if it exists, and save it there after every turn
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
/images [none]   say which pictures wait for the next message (`/images none` drops them)
/quit            leave (also Ctrl-D)
Ctrl-C stops an answer.";

/// Commands for completion; a blank at the end asks for a file.
const COMMANDS: &[&str] =
    &["/help", "/clear", "/regen", "/save ", "/load ", "/system ", "/params", "/image ", "/video ", "/images", "/quit"];

/// Talks until the input ends.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let n_predict = common::n_predict(args.predict)?;
    session::check_name(args.session.as_deref())?;
    let (context, assets) = common::open(&args.model, args.chat_template.as_deref())?;
    let sampler = args.sampling.chain(&assets)?;
    let file = args.model.load_options()?.file;
    let mut vision = Vision::new(&args.vision, Some(&args.show), &args.model.file()?, file, &context)?;
    let session = Session::new(context);
    let mut input = Input::new(COMMANDS)?;
    // Without a person at the prompt there is nobody who would go on after Ctrl-C.
    let ctrl_c = if input.is_terminal() { CtrlC::Stops } else { CtrlC::Ends };
    signals::watch(session.interrupt(), ctrl_c, input.on_signal())?;
    let mut chat = Chat::new(session, assets, args.context_shift, vision.profile());
    let saved = args.session.as_deref().filter(|p| p.exists());
    if let Some(path) = saved {
        let saved = chat.open(path)?;
        session::resume(&mut chat, saved, path, &mut vision)?;
        errln!("going on with {}: {}", path.display(), messages(&chat));
    }
    let mut keeper = Keeper::new(args.session.clone(), &chat);
    match args.system.as_deref() {
        None => {}
        Some(text) if saved.is_some() && chat.system() == Some(text) => {}
        Some(text) => chat.set_system(Some(text)),
    }
    if saved.is_none() {
        // A conversation in which nothing was said needs no file.
        keeper = Keeper::new(args.session.clone(), &chat);
    }
    let pending = vision.shown(&args.show, chat.session().interrupt())?;
    let interactive = input.is_terminal();
    let mut talk = Talk { chat, sampler, n_predict, vision, pending, keeper, interactive, failed: 0 };
    let done = talk.all(&mut input);
    let saved = match talk.keeper.finish(&talk.chat) {
        Ok(Some(path)) => {
            errln!("saved {} to {}", messages(&talk.chat), path.display());
            Ok(())
        }
        Ok(None) => Ok(()),
        // What ended the conversation is told by the caller, what became of it here.
        Err(error) if done.is_err() => {
            errln!("ocelli: error: {}", told::line(&error));
            Ok(())
        }
        Err(error) => Err(error),
    };
    done.and(saved)?;
    match talk.failed {
        0 => Ok(()),
        1 => anyhow::bail!("1 line of the input could not be used or answered; see above"),
        n => anyhow::bail!("{n} lines of the input could not be used or answered; see above"),
    }
}

/// `1 message`, `2 messages`.
fn messages(chat: &Chat) -> String {
    let n = chat.messages().len();
    format!("{n} message{}", if n == 1 { "" } else { "s" })
}

/// The conversation and how it is answered.
struct Talk {
    chat: Chat,
    sampler: SamplerChain,
    n_predict: usize,
    vision: Vision,
    /// Pictures for the next message.
    pending: Vec<Attachment>,
    keeper: Keeper,
    /// Whether a person reads what is told about a line.
    interactive: bool,
    /// Lines that could not be used or answered, where nobody is there to do something about it.
    failed: usize,
}

impl Talk {
    /// Handles lines until there is none, `/quit`, a signal, or nowhere to write answers to.
    fn all(&mut self, input: &mut Input) -> anyhow::Result<()> {
        while !signals::ending() {
            let goes_on = match input.next()? {
                Next::Line(line) => self.line(line.trim()),
                Next::Unusable(why) => {
                    self.tell(&anyhow::anyhow!(why));
                    Ok(true)
                }
                Next::End | Next::Signal => Ok(false),
            };
            self.keeper.after_turn(&self.chat);
            if !goes_on? {
                break;
            }
        }
        Ok(())
    }

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
            "/images" => self.images(rest),
            unknown if unknown.starts_with('/') => Err(anyhow::anyhow!("no command {unknown}; /help lists them")),
            _ => self.ask(line),
        };
        if let Err(error) = done {
            if error.downcast_ref::<OutputError>().is_some() {
                return Err(error);
            }
            self.tell(&error);
        }
        Ok(true)
    }

    /// Tells what went wrong with a line.
    fn tell(&mut self, error: &anyhow::Error) {
        errln!("ocelli: error: {}", told::line(error));
        self.failed += usize::from(!self.interactive);
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
        session::save(&self.chat, path, u64::MAX)?;
        self.say(&format!("saved {} to {}", messages(&self.chat), path.display()))
    }

    /// Goes on with another conversation. The one so far stays in its file.
    fn load(&mut self, path: &Path) -> anyhow::Result<()> {
        let saved = self.chat.open(path)?;
        session::resume(&mut self.chat, saved, path, &mut self.vision)?;
        self.sampler.reset();
        let kept = if self.keeper.move_to(path, &self.chat) { "; it is kept there from now on" } else { "" };
        self.say(&format!("{} from {}{kept}", messages(&self.chat), path.display()))
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
        signals::clear(&interrupt);
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

    /// Says which pictures wait for the next message, or drops them.
    fn images(&mut self, text: &str) -> anyhow::Result<()> {
        match text {
            "" => {}
            "none" => self.pending.clear(),
            other => anyhow::bail!("/images takes nothing or `none`, not `{other}`; /image FILE shows a picture"),
        }
        match self.waiting() {
            Some(waiting) => self.say(&format!("{waiting} with the next message; /images none drops them")),
            None => self.say("no pictures wait for the next message"),
        }
    }

    /// `2 pictures (128 tokens)`, if any wait for the next message.
    fn waiting(&self) -> Option<String> {
        let tokens: usize = self.pending.iter().map(|attachment| attachment.image.n_rows()).sum();
        match self.pending.len() {
            0 => None,
            1 => Some(format!("1 picture ({tokens} tokens)")),
            n => Some(format!("{n} pictures ({tokens} tokens)")),
        }
    }

    /// Says `text`, with the pictures that wait for it. They wait on when that is stopped; when it fails, they would only make
    /// the next message fail as well.
    fn ask(&mut self, text: &str) -> anyhow::Result<()> {
        let waiting = self.waiting();
        let pending = std::mem::take(&mut self.pending);
        let done = self.answer(|chat, sampler, n, stream| chat.say(text, &pending, sampler, n, stream).map(Some));
        match (done, waiting) {
            (Err(error), waiting) if is_interrupted(&error) => {
                self.pending = pending;
                Err(match waiting {
                    Some(waiting) => error.context(format!("{STOPPED}; {waiting} wait on")),
                    None => error.context(STOPPED),
                })
            }
            (Err(error), Some(waiting)) if error.downcast_ref::<OutputError>().is_none() => {
                let remedy = match error.downcast_ref() {
                    Some(RuntimeError::ContextFull { .. }) => {
                        ": show fewer, cut them into fewer tiles (--image-max-slices), or /clear first"
                    }
                    _ => "",
                };
                Err(anyhow::anyhow!("{error:#}; the message and its {waiting} were dropped{remedy}"))
            }
            (done, _) => done,
        }
    }

    fn regenerate(&mut self) -> anyhow::Result<()> {
        match self.answer(Chat::regenerate) {
            Err(error) if is_interrupted(&error) => Err(error.context("stopped; the old answer stays")),
            done => done,
        }
    }

    fn answer(
        &mut self,
        ask: impl FnOnce(&mut Chat, &mut SamplerChain, usize, &mut dyn Watch) -> Result<Option<Completion>, RuntimeError>,
    ) -> anyhow::Result<()> {
        signals::clear(self.chat.session().interrupt());
        let mut stream = Stream::new(self.chat.session().interrupt(), true);
        let Some(done) = ask(&mut self.chat, &mut self.sampler, self.n_predict, &mut stream)? else {
            anyhow::bail!("there is no answer yet");
        };
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

const STOPPED: &str = "stopped while reading the message, which is not part of the conversation";

fn is_interrupted(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(RuntimeError::Interrupted))
}
