//! Asks a model a question: `generate MODEL.gguf [QUESTION]`.

use std::io::Write as _;
use std::{error::Error, path::PathBuf, sync::Arc};

use ocelli_engine::{Assets, Engine, Event, Request, Scheduler, SchedulerOptions, conversation_prompt};
use ocelli_image::Profile;
use ocelli_runtime::{Context, ContextOptions, LoadOptions, Model};
use ocelli_text::sampler::SamplerChain;
use ocelli_text::template::{Message, run_if_asked};

fn main() -> Result<(), Box<dyn Error>> {
    // Renders a model's own chat template in a process of its own.
    let worker = run_if_asked();
    let mut args = std::env::args().skip(1);
    let path = PathBuf::from(args.next().ok_or("give a model file")?);
    let question = args.next().unwrap_or_else(|| "What is the capital of France?".to_owned());
    let (model, assets) = Model::load(&path, &LoadOptions::default(), |meta| Assets::read(meta, None, Some(&worker)))?;
    let context = Context::new(Arc::new(model), &ContextOptions { n_ctx: 1024, ..ContextOptions::default() })?;
    let sampler = SamplerChain::new(assets.sampling.clone(), &assets.tokenizer)?;
    let prompt = conversation_prompt(&assets, &[Message::new("user", question)], &[], Profile::Reference)?;
    let engine = Engine::start(Scheduler::new(context, SchedulerOptions::default()), Arc::new(assets))?;
    for event in engine.ask(Request { prompt, n_predict: 64, sampler, stop: Vec::new() }) {
        match event {
            Event::Prompt { .. } => {}
            Event::Token { text, .. } => write!(std::io::stdout(), "{text}")?,
            Event::End { text, how, .. } => writeln!(std::io::stdout(), "{text}\n{:?}", how?.stop)?,
        }
    }
    Ok(())
}
