//! Renders conversations of any shape and text with the known chat formats, which run in the caller's process, and any text
//! as the chat template of a trusted source, to find panics of the interpreter.
//!
//! A template that merely takes long or makes much is no finding: those of strangers run in a process that is limited.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ocelli_text::template::{ChatTemplate, Message, RenderOptions, known_formats};

fuzz_target!(|input: &str| {
    // A template and a message; alone, a text is both.
    let (source, text) = input.split_once('\0').unwrap_or((input, input));
    let options =
        RenderOptions { bos_token: "<s>", eos_token: "</s>", add_generation_prompt: true, ..Default::default() };
    let messages = [Message::new("system", text), Message::new("user", "b c"), Message::new(text, "d\ne")];
    for name in known_formats().split(", ") {
        let template = ChatTemplate::from_choice(name, None).expect("a known format");
        let prompt = template.render(&messages, &options).expect("known formats take any text");
        // Some cut blanks off the ends of a text, and one knows a system prompt only before a question.
        assert!(prompt.contains(text.trim()) || name == "llama2");
    }
    if let Ok(template) = ChatTemplate::trusted(source) {
        let _ = template.render(&messages, &options);
    }
});
