//! A program that is its own template worker, with nothing of the `ocelli` command in it.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test, not the command")]

use std::process::{Command, ExitCode};

use ocelli_text::template::{ChatTemplate, Message, RenderOptions, TemplateError, Worker, run_if_asked};

fn main() -> ExitCode {
    let worker = run_if_asked();
    if std::env::args().nth(1).as_deref() == Some("replaced") {
        return replaced(&worker);
    }
    type Test = fn(&Worker);
    let tests: [(&str, Test); 3] = [
        ("templates_of_strangers_render", templates_of_strangers_render),
        ("hostile_templates_are_refused", hostile_templates_are_refused),
        ("a_program_whose_file_is_gone_still_renders", a_program_whose_file_is_gone_still_renders),
    ];
    println!("\nrunning {} tests", tests.len());
    for (name, test) in tests {
        // A panic ends the program, and with it the test, as a failure.
        test(&worker);
        println!("test {name} ... ok");
    }
    ExitCode::SUCCESS
}

fn render(worker: &Worker, source: &str) -> Result<String, TemplateError> {
    let template = ChatTemplate::from_choice(source, Some(worker))?;
    template.render(&[Message::new("user", "Hi")], &RenderOptions::default())
}

fn templates_of_strangers_render(worker: &Worker) {
    assert_eq!(render(worker, "{{ messages[0].role ~ ': ' ~ messages[0].content }}").unwrap(), "user: Hi");
    assert_eq!(render(worker, "{{ strftime_now('%Y')|length }}").unwrap(), "4");
    let broken = ChatTemplate::from_choice("\n{{ (1 }}", Some(worker)).unwrap_err();
    assert!(matches!(broken, TemplateError::Syntax { line: 2, .. }), "{broken}");
}

fn hostile_templates_are_refused(worker: &Worker) {
    let shared = format!("{{% set x = [0] %}}{}{{{{ {{x: 1}} }}}}", "{% set x = [x, x] %}".repeat(99));
    for source in [shared, format!("{{{{ {}1 }}}}", "-".repeat(300_000)), "{{ '{:>999999999}'.format(1) }}".to_owned()]
    {
        let error = render(worker, &source).unwrap_err();
        let is_limit = matches!(error, TemplateError::TooSlow | TemplateError::TooMuchMemory);
        assert!(is_limit || cfg!(not(target_os = "linux")), "{error}");
    }
}

/// As when the program is updated while it runs.
fn a_program_whose_file_is_gone_still_renders(_: &Worker) {
    if cfg!(not(target_os = "linux")) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("program");
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    assert!(Command::new(&copy).arg("replaced").status().unwrap().success());
    assert!(!copy.exists());
}

fn replaced(worker: &Worker) -> ExitCode {
    std::fs::remove_file(std::env::current_exe().unwrap()).unwrap();
    assert_eq!(render(worker, "{{ 1 + 1 }}").unwrap(), "2");
    ExitCode::SUCCESS
}
