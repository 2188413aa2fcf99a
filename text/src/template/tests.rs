//! Templates against the strings that Jinja2 makes of them as transformers configures it, and hostile ones.

use serde_json::Value as Json;

use super::*;

fn options(json: &Json) -> RenderOptions<'static> {
    RenderOptions {
        bos_token: "<s>",
        eos_token: "</s>",
        add_generation_prompt: json["add_generation_prompt"].as_bool().unwrap(),
        variables: json["vars"].as_object().unwrap().iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
    }
}

#[test]
fn renders_as_jinja2_does() {
    let cases: Json = serde_json::from_str(include_str!("cases.json")).unwrap();
    let mut wrong = Vec::new();
    for case in cases.as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let found = ChatTemplate::trusted(case["template"].as_str().unwrap())
            .and_then(|t| t.render_json(&case["messages"], &options(case)));
        let expected = case["expected"].as_str().unwrap();
        match found {
            Ok(found) if found == expected => {}
            other => wrong.push(format!("{name}\n  found    {other:?}\n  expected {expected:?}")),
        }
    }
    assert!(cases.as_array().unwrap().len() > 15);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn turns() -> Vec<Message> {
    vec![
        Message::new("system", "Be brief."),
        Message::new("user", " Hi <b>&amp; "),
        Message::new("assistant", "Yes."),
        Message::new("user", "And?"),
    ]
}

fn started() -> RenderOptions<'static> {
    RenderOptions { bos_token: "<s>", eos_token: "</s>", add_generation_prompt: true, ..RenderOptions::default() }
}

/// What the interpreter makes of `source`; tests/template.rs has it rendered in a worker.
fn prompt(source: &str) -> Result<String, TemplateError> {
    ChatTemplate::trusted(source)?.render(&turns(), &started())
}

fn known(name: &str) -> Result<String, TemplateError> {
    ChatTemplate::from_choice(name, None)?.render(&turns(), &started())
}

#[test]
fn known_formats_render() {
    let chatml = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Hi <b>&amp; <|im_end|>\n\
                  <|im_start|>assistant\nYes.<|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n";
    for name in ["chatml", "minicpm", "smollm", "qwen2", "ChatML"] {
        assert_eq!(known(name).unwrap(), chatml, "{name}");
    }
    assert_eq!(
        known("llama3").unwrap(),
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\
         \n\nHi <b>&amp;<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nYes.<|eot_id|>\
         <|start_header_id|>user<|end_header_id|>\n\nAnd?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    );
    assert_eq!(
        known("llama2").unwrap(),
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi <b>&amp; [/INST] Yes. </s><s>[INST] And? [/INST]"
    );
    assert_eq!(
        known("phi3").unwrap(),
        "<|system|>\nBe brief.<|end|>\n<|user|>\n Hi <b>&amp; <|end|>\n<|assistant|>\nYes.<|end|>\n<|user|>\nAnd?<|end|>\n\
         <|assistant|>\n"
    );
    assert_eq!(
        known("zephyr").unwrap(),
        "<|system|>\nBe brief.</s>\n<|user|>\n Hi <b>&amp; </s>\n<|assistant|>\nYes.</s>\n<|user|>\nAnd?</s>\n<|assistant|>\n"
    );
    assert_eq!(
        known("gemma").unwrap(),
        "<s><start_of_turn>user\nBe brief.<end_of_turn>\n<start_of_turn>user\nHi <b>&amp;<end_of_turn>\n\
         <start_of_turn>model\nYes.<end_of_turn>\n<start_of_turn>user\nAnd?<end_of_turn>\n<start_of_turn>model\n"
    );
    for name in known_formats().split(", ") {
        let parts = Message {
            role: "user".into(),
            content: Content::Parts(vec![Part::Image, Part::Text("What ".into()), Part::Text("now?".into())]),
        };
        let template = ChatTemplate::from_choice(name, None).unwrap();
        let text = template.render(&[parts], &RenderOptions::default()).unwrap();
        assert!(text.contains("What now?"), "{name}: {text}");
    }
}

#[test]
fn a_file_or_nothing_at_all() {
    let prompt = |path: &str| ChatTemplate::from_choice(path, None);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "{{ messages[0].content }}\n").unwrap();
    let path = file.path().to_str().unwrap();
    let template = prompt(path).unwrap();
    assert_eq!((template.source(), template.origin()), ("{{ messages[0].content }}\n", &Origin::File(path.into())));
    std::fs::write(file.path(), [0xff, 0xfe]).unwrap();
    assert!(matches!(prompt(path), Err(TemplateError::NotText { .. })));
    std::fs::write(file.path(), vec![b' '; MAX_SOURCE + 1]).unwrap();
    assert!(matches!(prompt(path), Err(TemplateError::TooLong { .. })));
    let message = prompt("no-such-format").unwrap_err().to_string();
    assert!(message.contains("no-such-format") && message.contains("chatml, "), "{message}");
}

#[test]
fn metadata_or_chatml() {
    let load = |key: Option<&str>| {
        let mut writer = ocelli_gguf::GgufWriter::new();
        if let Some(source) = key {
            writer.kv("tokenizer.chat_template", source.to_owned()).unwrap();
        }
        let bytes = writer.start(Vec::new()).unwrap().finish().unwrap();
        ChatTemplate::from_metadata(ocelli_gguf::Gguf::parse(&bytes).unwrap().metadata(), None).unwrap()
    };
    assert_eq!(load(None).origin(), &Origin::Builtin("chatml"));
    let own = load(Some("{{ 1 + 1 }}"));
    assert_eq!((own.origin(), own.source()), (&Origin::Model, "{{ 1 + 1 }}"));
}

#[test]
fn a_template_may_refuse_in_one_line() {
    let error = prompt("{{ raise_exception('Roles must\\nalternate\\u001b[31m') }}").unwrap_err();
    assert!(matches!(error, TemplateError::Raised { .. }));
    let message = error.to_string();
    assert!(message.contains("Roles must alternate") && message.contains("another chat format"), "{message}");
    assert!(!message.contains(char::is_control), "{message:?}");
}

#[test]
fn hostile_templates_end_within_their_limits() {
    let loops = "{% for a in range(99999) %}{% for b in range(99999) %}{{ b }}{% endfor %}{% endfor %}";
    let doubling =
        "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}";
    let recursion = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
    for source in [loops, doubling, recursion, "{{ 'x' * 4000000000 }}", "{{ range(100000000) | list }}"] {
        let error = prompt(source).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("another chat format") && !message.contains('\n'), "{source}: {message}");
    }
    assert!(matches!(prompt(loops), Err(TemplateError::TooExpensive { .. })));
    assert!(matches!(prompt(recursion), Err(TemplateError::TooExpensive { .. })), "{:?}", prompt(recursion));
    let deep = format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000));
    assert!(matches!(prompt(&deep), Err(TemplateError::Syntax { .. })));
}

#[test]
fn nothing_outside_the_conversation_can_be_reached() {
    for source in [
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os.system('id') }}",
        "{% extends 'base' %}",
        "{{ open('/etc/passwd').read() }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ messages.append(1) }}",
    ] {
        let error = prompt(source).expect_err(source);
        assert!(matches!(error, TemplateError::Failed { .. } | TemplateError::Syntax { .. }), "{source}: {error}");
        assert!(error.to_string().contains("another chat format"), "{source}: {error}");
    }
    assert!(matches!(prompt("{% for %}"), Err(TemplateError::Syntax { line: 1, .. })));
    assert!(matches!(prompt("a\n{{ messages[0].nope.deeper }}"), Err(TemplateError::Failed { line: 2, .. })));
}

#[test]
fn what_is_said_is_never_a_template() {
    let options = RenderOptions { bos_token: "<s>", eos_token: "</s>", ..RenderOptions::default() };
    for text in [
        "{{ 7 * 7 }}",
        "{% for m in messages %}x{% endfor %}",
        "{# gone #}",
        "{% raw %}",
        "}}{{",
        "{{ raise_exception('x') }}",
    ] {
        let messages = [Message::new("user", text), Message::new(text, "answer")];
        let plain = ChatTemplate::trusted("{% for m in messages %}{{ m.role }}: {{ m.content }};{% endfor %}");
        let rendered = plain.unwrap().render(&messages, &options).unwrap();
        assert_eq!(rendered, format!("user: {text};{text}: answer;"));
        let rendered = ChatTemplate::from_choice("chatml", None).unwrap().render(&messages[..1], &options).unwrap();
        assert!(rendered.contains(&format!("user\n{text}<|im_end|>")), "{rendered}");
    }
}

/// Marks that share a character or lie about their ends, found by fuzzing.
#[test]
fn crossed_marks_are_syntax_errors() {
    for source in ["{%}", "{%}{{ messages }", "{%{for m in messages %}{{ m.role ~ }{%}{{ m }"] {
        let error = prompt(source).expect_err(source);
        assert!(matches!(error, TemplateError::Syntax { .. }), "{source}: {error}");
    }
    assert_eq!(prompt("{%- generation -%} x {%- endgeneration %}").unwrap(), "x");
}

#[test]
fn dates() {
    let year = prompt("{{ strftime_now('%Y-%m-%d') }}").unwrap();
    let parts: Vec<&str> = year.split('-').collect();
    assert_eq!(parts.iter().map(|p| p.len()).collect::<Vec<_>>(), [4, 2, 2]);
    assert!(parts[0].parse::<u32>().is_ok_and(|y| y >= 2024));
    assert!(matches!(prompt("{{ strftime_now('%') }}"), Err(TemplateError::Failed { .. })));
}

#[test]
fn bos_is_taken_away_once() {
    assert_eq!(without_bos("<s><s>x", "<s>"), "<s>x");
    assert_eq!(without_bos("x", "<s>"), "x");
    assert_eq!(without_bos("x", ""), "x");
}

/// What a stranger wrote is rendered nowhere rather than here.
#[test]
fn without_a_worker_only_known_formats_render() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "{{ 1 + 1 }}").unwrap();
    let mut writer = ocelli_gguf::GgufWriter::new();
    writer.kv("tokenizer.chat_template", "{{ 1 + 1 }}".to_owned()).unwrap();
    let bytes = writer.start(Vec::new()).unwrap().finish().unwrap();
    let gguf = ocelli_gguf::Gguf::parse(&bytes).unwrap();
    for template in [
        ChatTemplate::from_choice(file.path().to_str().unwrap(), None),
        ChatTemplate::from_choice("{{ 1 + 1 }}", None),
        ChatTemplate::from_metadata(gguf.metadata(), None),
    ] {
        let error = template.unwrap().render(&turns(), &started()).unwrap_err();
        assert!(matches!(error, TemplateError::NoWorker { .. }), "{error}");
        assert!(error.to_string().contains("run_if_asked") && error.to_string().contains("chatml"), "{error}");
    }
}

/// Known formats run in the caller's process: whatever a conversation holds must not harm it.
#[test]
fn known_formats_bear_hostile_conversations() {
    use serde_json::json;
    let deep = |depth| (1..depth).fold(json!("x"), |inner, _| Json::Array(vec![inner]));
    let wide = json!(vec!["x"; 200_000]);
    let long = "x".repeat(15 << 20);
    let mut most = std::time::Duration::ZERO;
    for name in ["chatml", "llama2", "llama3", "phi3", "gemma", "zephyr"] {
        let template = ChatTemplate::from_choice(name, None).unwrap();
        for odd in [json!(null), json!(1e308), json!(u64::MAX), json!({"a": {}}), deep(60), wide.clone(), json!(long)] {
            for messages in [
                json!([{"role": odd, "content": "x"}]),
                json!([{"role": "user", "content": odd}]),
                json!([{"role": "user", "content": [{"type": "text", "text": odd}, {"type": odd}, odd]}]),
                json!([odd]),
                odd.clone(),
            ] {
                let options = RenderOptions { variables: vec![("tools".to_owned(), deep(60))], ..started() };
                let begun = std::time::Instant::now();
                let outcome = template.render_json(&messages, &options);
                most = most.max(begun.elapsed());
                assert!(outcome.as_ref().map_or(true, |text| text.len() <= engine::MAX_OUTPUT));
                assert!(outcome.map_or_else(|e| e.to_string().len() < 1000, |_| true));
            }
        }
        let too_deep = template.render_json(&deep(2_000), &started());
        assert!(matches!(too_deep, Err(TemplateError::InputTooLarge { .. })));
        let variables = vec![("tools".to_owned(), deep(2_000))];
        let too_deep = template.render(&turns(), &RenderOptions { variables, ..started() });
        assert!(matches!(too_deep, Err(TemplateError::InputTooLarge { .. })));
        let too_long = template.render(&[Message::new("user", "x".repeat(64 << 20))], &started());
        assert!(matches!(too_long, Err(TemplateError::InputTooLarge { .. })));
    }
    assert!(most.as_secs() < 10, "{most:?}");
}
