//! Asking: one conversation, greedily, turn by turn.

use super::Conversation;
use crate::prompt::Prompt;
use crate::{
    Assets, Attachment, Completion, RuntimeError, Session, Stop, Watch, complete, compose, conversation_prompt,
    without_markers,
};
use ocelli_image::Profile;
use ocelli_text::sampler::{SamplerChain, SamplerParams};
use ocelli_text::template::Message;
use ocelli_text::tokenizer::Tokenizer;

/// A chain that always takes the most likely token, whatever the model file recommends.
///
/// # Errors
/// When the vocabulary cannot be used for sampling.
pub fn greedy(tokenizer: &Tokenizer) -> Result<SamplerChain, RuntimeError> {
    let mut params = SamplerParams::default();
    params.temperature = 0.0;
    Ok(SamplerChain::new(params, tokenizer)?)
}

/// The first message: what is said before the pictures, `images` pictures, the question.
#[must_use]
pub fn content(profile: Profile, before: &str, images: usize, question: &str) -> String {
    let shown = compose(profile, 0..images, question);
    let gap = if before.is_empty() || profile == Profile::LlamaCpp { "" } else { "\n" };
    format!("{}{gap}{shown}", without_markers(before))
}

struct Silent;

impl Watch for Silent {
    fn text(&mut self, _: &str) {}
}

/// The answers to all turns of `conversation`, which shows `shown`; each turn comes behind the answers to those before,
/// without blanks around them. What the session holds of a prompt is not computed again.
///
/// # Errors
/// [`RuntimeError::Interrupted`] when the session was told to stop; when the conversation does not fit the context or
/// the template refuses it.
pub fn converse(
    session: &mut Session,
    assets: &Assets,
    sampler: &mut SamplerChain,
    profile: Profile,
    conversation: &Conversation,
    shown: &[Attachment],
    n_predict: usize,
) -> Result<Vec<Completion>, RuntimeError> {
    let mut messages: Vec<Message> = Vec::new();
    let mut answers = Vec::new();
    for turn in &conversation.turns {
        let images = if messages.is_empty() { shown.len() } else { 0 };
        messages.push(Message::new("user", content(profile, &turn.before, images, &turn.question)));
        let prompt: Prompt = conversation_prompt(assets, &messages, shown, profile)?;
        let answer = complete(session, assets, sampler, &prompt, n_predict, &mut Silent)?;
        match answer.stop {
            Stop::Interrupted => return Err(RuntimeError::Interrupted),
            Stop::ContextFull => {
                let n_ctx = session.context().n_ctx();
                return Err(RuntimeError::ContextFull { wanted: n_ctx + 1, n_ctx, shift: true });
            }
            Stop::EndOfGeneration | Stop::Length => {}
        }
        messages.push(Message::new("assistant", without_markers(answer.text.trim())));
        answers.push(answer);
    }
    Ok(answers)
}
