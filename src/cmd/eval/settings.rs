//! What decides answers besides the questions: the model, the vision file, the options.

use ocelli_image::resize::PassOrder;
use ocelli_runtime::eval::Conversation;
use ocelli_runtime::{Assets, Session};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Args;
use crate::cmd::common::PrecisionArg;

/// What decides answers, as it stands beside each of them. Threads, the instruction set and the length of the context are
/// not among it: they change nothing but the rounding of a last digit, the time, and whether a question fits at all.
pub(super) struct Settings {
    text: Value,
    /// What else decides answers about pictures; its file is known once it is open.
    vision: Value,
}

/// What a key stands for, where its values tell nobody anything.
const FILES: [(&str, &str); 3] = [
    ("model", "was made by another model file, or with other rope settings"),
    ("chat_template", "was made with another chat template"),
    ("file", "was made with another vision file"),
];

impl Settings {
    pub(super) fn new(args: &Args, session: &Session, assets: &Assets) -> anyhow::Result<Self> {
        let (context, shape) = (session.context(), session.context().kv_shape());
        let precision = context.precision();
        let vision_precision = args.vision.vision_precision.map_or(precision, PrecisionArg::precision);
        let name = |precision| format!("{precision:?}").to_lowercase();
        let template: [u8; 32] = Sha256::digest(assets.template.source()).into();
        // Every byte of the model is read for this, which only a file of answers is worth.
        let model = args.answers.as_ref().map(|_| session.fingerprint()).transpose()?;
        let text = json!({
            "model": model.as_ref().map(hex),
            "chat_template": hex(&template),
            "predict": args.n_predict(),
            "precision": name(precision),
            "cache_type_k": shape.type_k.name().to_lowercase(),
            "cache_type_v": shape.type_v.name().to_lowercase(),
            "image_profile": args.vision.image_profile.name(),
        });
        let pillow = match args.vision.image_pillow {
            PassOrder::HorizontalFirst => "12",
            _ => "13",
        };
        let vision = json!({
            "file": null,
            "vision_precision": name(vision_precision),
            "image_max_slices": args.vision.image_max_slices,
            "video_max_slices": args.video_max_slices,
            "image_pillow": pillow,
        });
        Ok(Self { text, vision })
    }

    /// Names the vision file, by its digest.
    pub(super) fn set_vision(&mut self, digest: &[u8; 32]) {
        self.vision["file"] = hex(digest).into();
    }

    /// What decides the answers to `conversation`.
    pub(super) fn of(&self, conversation: &Conversation) -> Value {
        let mut all = self.text.clone();
        all["vision"] = if conversation.pictures.is_empty() { Value::Null } else { self.vision.clone() };
        all
    }

    /// What is different in `made_by`, in words; `None` if nothing is.
    pub(super) fn difference(&self, made_by: &Value) -> Option<String> {
        let vision = made_by.get("vision").unwrap_or(&Value::Null);
        different(&self.text, made_by).or_else(|| different(&self.vision, vision).filter(|_| !vision.is_null()))
    }
}

/// The first key of `here` that `there` has another value for, in words.
fn different(here: &Value, there: &Value) -> Option<String> {
    let (key, value) = here.as_object()?.iter().find(|(key, value)| there.get(key.as_str()) != Some(*value))?;
    if let Some((_, words)) = FILES.iter().find(|(name, _)| name == key) {
        return Some((*words).to_owned());
    }
    let plain = |value: &Value| match value {
        Value::Null => "not given".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let there = there.get(key.as_str()).map_or("not given".to_owned(), plain);
    Some(format!("was made with --{} {there}, this run has {}", key.replace('_', "-"), plain(value)))
}

pub(super) fn hex(digest: &[u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
