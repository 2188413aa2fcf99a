//! Renders a conversation with any text as the chat template.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ocelli_runtime::template::{ChatTemplate, Message, RenderOptions};

fuzz_target!(|source: &str| {
    // The tag keeps the text from being taken for the name of a file.
    let Ok(template) = ChatTemplate::from_choice(&format!("{{{{ bos_token }}}}{source}")) else { return };
    let options =
        RenderOptions { bos_token: "<s>", eos_token: "</s>", add_generation_prompt: true, ..Default::default() };
    let messages = [Message::new("system", "a"), Message::new("user", "b c"), Message::new("assistant", "d\ne")];
    let _ = template.render(&messages, &options);
});
