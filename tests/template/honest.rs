//! Templates as models have them, and programs that are no worker.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use ocelli_text::template::{ChatTemplate, Content, Message, Origin, Part, RenderOptions, TemplateError, Worker};
use serde_json::Value;

use crate::{TURN, render, turns, worker};

/// The features that public templates use, with what Jinja2 makes of them.
#[test]
fn a_worker_renders_as_jinja2_does() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let cases: Value = serde_json::from_str(include_str!("../../text/src/template/cases.json")).unwrap();
    let cases = cases.as_array().unwrap();
    assert!(cases.len() > 15);
    let mut shortest = Duration::MAX;
    for case in cases {
        let source = case["template"].as_str().unwrap();
        let template = ChatTemplate::from_choice(source, Some(&worker())).unwrap();
        let variables = case["vars"].as_object().unwrap();
        let options = RenderOptions {
            bos_token: "<s>",
            eos_token: "</s>",
            add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap(),
            variables: variables.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        };
        let started = Instant::now();
        let found = template.render_json(&case["messages"], &options).unwrap();
        shortest = shortest.min(started.elapsed());
        assert_eq!(found, case["expected"].as_str().unwrap(), "{}", case["name"]);
        let here = ChatTemplate::trusted(source).unwrap().render_json(&case["messages"], &options).unwrap();
        assert_eq!(found, here, "{}", case["name"]);
    }
    // Two to three milliseconds on an idle machine.
    assert!(shortest < Duration::from_millis(25), "{shortest:?}");
}

#[test]
fn a_model_file_may_bring_its_template() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let source =
        "{% for m in messages %}{{ m.role }}:{% for p in m.content %}{{ p.type }}{{ p.text }}{% endfor %}{% endfor %}";
    let file = |source: &str| {
        let mut writer = ocelli_gguf::GgufWriter::new();
        writer.kv("tokenizer.chat_template", source.to_owned()).unwrap();
        writer.start(Vec::new()).unwrap().finish().unwrap()
    };
    let load = |bytes: &[u8]| {
        ChatTemplate::from_metadata(ocelli_gguf::Gguf::parse(bytes).unwrap().metadata(), Some(&worker()))
    };
    let template = load(&file(source)).unwrap();
    assert_eq!(template.origin(), &Origin::Model);
    let parts = Content::Parts(vec![Part::Image, Part::Text("ä?".to_owned())]);
    let messages = [Message { role: "user".to_owned(), content: parts }];
    assert_eq!(template.render(&messages, &RenderOptions::default()).unwrap(), "user:imagetextä?");
    // What is wrong with it is known when it is loaded, and where.
    let error = load(&file("a\n{% for %}")).unwrap_err();
    assert!(matches!(error, TemplateError::Syntax { line: 2, .. }), "{error}");
    let raised = render(&worker(), "{{ raise_exception('Roles must\\nalternate') }}").unwrap_err();
    assert!(matches!(&raised, TemplateError::Raised { message } if message == "Roles must alternate"), "{raised}");
}

/// Both pipes are full at times, and many callers ask at once.
#[test]
fn long_conversations_and_many_callers() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let source = "{% for m in messages %}{{ m.content }}{% endfor %}";
    let template = ChatTemplate::from_choice(source, Some(&worker().with_deadline(Duration::from_secs(60)))).unwrap();
    let text = "Long. ".repeat(1 << 19);
    let rendered =
        template.render(&[Message::new("user", &text), Message::new("user", "ß")], &RenderOptions::default());
    assert_eq!(rendered.unwrap(), text + "ß");
    std::thread::scope(|scope| {
        for caller in 0..8 {
            let template = &template;
            scope.spawn(move || {
                for turn in 0..4 {
                    let text = format!("{caller}, {turn}");
                    let rendered = template.render(&[Message::new("user", &text)], &RenderOptions::default());
                    assert_eq!(rendered.unwrap(), text);
                }
            });
        }
    });
}

#[test]
fn programs_that_are_no_worker() {
    let missing = render(&Worker::at("/no/such/program"), "{{ 1 }}").unwrap_err();
    assert!(matches!(missing, TemplateError::Worker { .. }), "{missing}");
    assert!(missing.to_string().contains("/no/such/program"), "{missing}");
    #[cfg(unix)]
    for program in ["/bin/true", "/bin/echo", "/bin/cat", "/bin/sh"] {
        let error = render(&Worker::at(program), "{{ 1 }}").unwrap_err();
        assert!(matches!(error, TemplateError::Worker { .. }), "{program}: {error}");
        assert!(error.to_string().contains(program) && !error.is_about_the_template(), "{error}");
    }
}

/// A worker without a proper request ends at once.
#[test]
fn a_worker_that_is_sent_nonsense() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for request in [&b""[..], b"ocelli-request01", b"ocelli-request01\0\xff\xff\xff\xff", &[b'x'; 100_000]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ocelli"));
        command.arg("--ocelli-template-worker").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(request).unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
        assert!(out.stdout.ends_with(b"it was sent no request"), "{out:?}");
    }
    assert!(render(&worker(), "{{ messages|length }}").is_ok_and(|text| text == turns().len().to_string()));
}
