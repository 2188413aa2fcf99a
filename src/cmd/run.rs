//! `ocelli run`: one answer on stdout, nothing else there.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use ocelli_image::Profile;
use ocelli_runtime::{
    Assets, Attachment, Chat, Completion, Context, Prompt, RuntimeError, SavedSession, Session, SessionKind, Stop,
    complete, compose, conversation_prompt, text_prompt, without_markers,
};
use ocelli_text::sampler::SamplerChain;
use ocelli_text::template::Message;

use super::common::{self, ModelArgs, SamplingArgs, Stream};
use super::session;
use super::usage::bail_usage;
use super::vision::{ShowArgs, Vision, VisionArgs};
use crate::sink::{self, errln};

/// Options of `ocelli run`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("text").required(true))]
pub(crate) struct Args {
    /// The prompt; `-` reads it from standard input
    #[arg(short, long, value_name = "TEXT", group = "text", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Read the prompt from a file (`-`: standard input)
    #[arg(short, long, value_name = "FILE", group = "text")]
    file: Option<PathBuf>,
    /// [-sys] System prompt
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,
    /// Continue the prompt as it is, without a chat template
    #[arg(long)]
    raw: bool,
    /// Longest answer in tokens; -1: as long as fits
    #[arg(short = 'n', long = "predict", alias = "n-predict", value_name = "N", default_value_t = -1,
          allow_negative_numbers = true)]
    predict: i64,
    /// Chat format: a known name, or a file with a Jinja template
    #[arg(long, value_name = "NAME|FILE", conflicts_with = "raw")]
    chat_template: Option<String>,
    /// Session file. One of `chat` is resumed: the prompt is its next message. Otherwise prompt and answer are kept there, so
    /// that a prompt with the same beginning need not be computed again
    #[arg(long, value_name = "FILE")]
    session: Option<PathBuf>,
    /// Print one JSON object: text, token counts, timings, reason for stopping
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    vision: VisionArgs,
    #[command(flatten)]
    show: ShowArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// Prints the answer to one prompt.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let n_predict = common::n_predict(args.predict)?;
    session::check_name(args.session.as_deref())?;
    let text = prompt_text(args)?;
    let (context, assets) = common::open(&args.model, args.chat_template.as_deref())?;
    let sampler = args.sampling.chain(&assets)?;
    let file = args.model.load_options()?.file;
    let mut vision = Vision::new(&args.vision, Some(&args.show), &args.model.file()?, file, &context)?;
    let session = Session::new(context);
    common::watch_signals(session.interrupt())?;
    let saved = args.session.as_deref().filter(|p| p.exists()).map(|path| session.open(path)).transpose()?;
    let shown = match vision.shown(&args.show, session.interrupt()) {
        Err(error) if matches!(error.downcast_ref(), Some(RuntimeError::Interrupted)) => {
            bail!("interrupted while taking the pictures in")
        }
        shown => shown?,
    };
    let asked = Asked { args, text, shown, n_predict };
    match saved {
        Some(saved) if saved.kind() == SessionKind::Conversation => {
            asked.in_conversation(session, assets, sampler, vision, saved)
        }
        saved => asked.alone(session, &assets, sampler, vision.profile(), saved),
    }
}

/// What was asked, ready to be answered.
struct Asked<'a> {
    args: &'a Args,
    text: String,
    shown: Vec<Attachment>,
    n_predict: usize,
}

impl Asked<'_> {
    /// Answers a prompt that stands by itself. A session file saves computing what it holds of it.
    fn alone(
        &self,
        mut session: Session,
        assets: &Assets,
        mut sampler: SamplerChain,
        profile: Profile,
        saved: Option<SavedSession>,
    ) -> anyhow::Result<()> {
        let args = self.args;
        let ids = prompt(args.raw, args.system.as_deref(), assets, &self.text, &self.shown, profile)?;
        check_fits(session.context(), &ids)?;
        if let Some(saved) = saved {
            session.restore(saved)?;
        }
        let mut stream = Stream::new(session.interrupt(), !args.json);
        let done = read(complete(&mut session, assets, &mut sampler, &ids, self.n_predict, &mut stream))?;
        let save = || match &args.session {
            Some(path) => Ok(session.save(path, b"")?),
            None => Ok(()),
        };
        self.tell(&done, stream, sampler.seed(), session.context().n_ctx(), save)
    }

    /// Answers the prompt as the next message of a saved conversation, and saves it with both.
    fn in_conversation(
        self,
        session: Session,
        assets: Assets,
        mut sampler: SamplerChain,
        mut vision: Vision,
        saved: SavedSession,
    ) -> anyhow::Result<()> {
        let path = self.args.session.as_deref().context("a saved conversation without its file")?;
        if self.args.raw {
            bail!(
                "session {}: holds a conversation, which --raw has no part in; leave one of them out",
                path.display()
            );
        }
        let mut chat = Chat::new(session, assets, false, vision.profile());
        let saved = chat.check(saved)?;
        session::resume(&mut chat, saved, path, &mut vision)?;
        errln!("going on with the conversation in {}: {} messages", path.display(), chat.messages().len());
        if let Some(system) = &self.args.system {
            chat.set_system(Some(system));
        }
        let mut stream = Stream::new(chat.session().interrupt(), !self.args.json);
        let done = read(chat.say(&self.text, &self.shown, &mut sampler, self.n_predict, &mut stream))?;
        let n_ctx = chat.session().context().n_ctx();
        let save = || Ok(session::save(&chat, path, u64::MAX)?);
        self.tell(&done, stream, sampler.seed(), n_ctx, save)
    }

    /// Says what was answered, and saves it even where it cannot be said.
    fn tell(
        &self,
        done: &Completion,
        stream: Stream,
        seed: u64,
        n_ctx: usize,
        save: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut said = stream.finish();
        if self.args.json {
            said = sink::json(&json(done, seed));
        }
        let saved = save();
        said?;
        report(done, n_ctx);
        saved
    }
}

/// The answer, unless Ctrl-C came before its first token.
fn read(done: Result<Completion, RuntimeError>) -> anyhow::Result<Completion> {
    match done {
        Err(RuntimeError::Interrupted) => bail!("interrupted while reading the prompt"),
        done => Ok(done?),
    }
}

fn prompt_text(args: &Args) -> anyhow::Result<String> {
    match (&args.prompt, &args.file) {
        (Some(text), _) if text == "-" => common::read_text("-".as_ref()),
        (Some(text), _) => Ok(text.clone()),
        (None, Some(path)) => common::read_text(path),
        (None, None) => bail_usage!("no prompt; give -p TEXT or -f FILE"),
    }
}

/// The prompt of one turn that shows `images` before its text.
pub(crate) fn prompt(
    raw: bool,
    system: Option<&str>,
    assets: &Assets,
    text: &str,
    images: &[Attachment],
    profile: Profile,
) -> anyhow::Result<Prompt> {
    let content = compose(profile, 0..images.len(), text);
    if raw {
        return Ok(text_prompt(assets, &content, images, profile)?);
    }
    let system = system.map(|text| Message::new("system", without_markers(text)));
    let messages: Vec<_> = system.into_iter().chain([Message::new("user", content)]).collect();
    Ok(conversation_prompt(assets, &messages, images, profile)?)
}

fn check_fits(context: &Context, ids: &Prompt) -> anyhow::Result<()> {
    if ids.len() > context.n_ctx() {
        bail!(
            "the prompt has {} tokens, the context only {}; use a larger context (-c) or a shorter prompt",
            ids.len(),
            context.n_ctx()
        );
    }
    Ok(())
}

fn json(done: &Completion, seed: u64) -> serde_json::Value {
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    serde_json::json!({
        "text": done.text,
        "stop": done.stop,
        "prompt_tokens": done.n_prompt,
        "image_tokens": done.n_image,
        "cached_tokens": done.prefill.reused,
        "completion_tokens": done.tokens.len(),
        "tokens": done.tokens,
        "seed": seed,
        "timings": {
            "prompt_ms": ms(done.prompt_time),
            "prompt_per_second": done.prompt_rate(),
            "completion_ms": ms(done.answer_time),
            "completion_per_second": done.answer_rate(),
        },
    })
}

/// The closing lines on stderr.
fn report(done: &Completion, n_ctx: usize) {
    errln!("{}", common::rates(done));
    if done.stop == Stop::ContextFull {
        errln!("ocelli: the answer ends here because the context of {n_ctx} tokens is full; use a larger one (-c)");
    }
}
