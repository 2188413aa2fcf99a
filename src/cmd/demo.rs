//! `ocelli demo`: the model that Ocelli brings answers questions about a picture.
//!
//! Each question is an ordinary command line, printed and then run as a process of its own, so that a newcomer sees what
//! to type and gets exactly that.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, ensure};
use ocelli_image::resize::{PassOrder, resize};
use ocelli_image::{DecodeOptions, Rgb8, read};

use crate::bundled::{Bundled, NAME};
use crate::sink::{self, outln};

/// Options of `ocelli demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A picture of yours in place of the bundled one
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// What to ask; may be given several times
    #[arg(short, long, value_name = "TEXT")]
    prompt: Vec<String>,
}

/// The bundled picture and questions that go with it.
const PICTURE: &str = "shapes.png";
const QUESTIONS: [&str; 3] = ["What colour is the star?", "How many objects are there?", "Describe the picture."];

/// Columns that a picture takes on a terminal; a character shows two pixels, one above the other.
const COLUMNS: usize = 44;

/// Shows the picture where the terminal can, and asks.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot find the running program")?;
    let bundled = Bundled::open()?;
    let picture = args.image.unwrap_or_else(|| bundled.picture(PICTURE));
    let path = picture.to_str().with_context(|| format!("{}: not UTF-8, rename it", picture.display()))?;
    let shown = read(&picture, &DecodeOptions::default())?;
    if sink::out_is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) {
        sink::drawing(&format!("\n{}", drawn(&shown)?))?;
    }
    let questions = if args.prompt.is_empty() { QUESTIONS.map(str::to_owned).to_vec() } else { args.prompt };
    for question in &questions {
        let step = ["run", "--temp", "0", "--image", path, "-p", question];
        outln!("\n$ ocelli {}", step.map(quoted).join(" "))?;
        let status = Command::new(&program).args(step).status().context("cannot start the next step")?;
        ensure!(status.success(), "the step above failed");
    }
    outln!(
        "\n{NAME} has 7 million parameters and knows drawn shapes only: it is MiniCPM-V 4.0 in small, and the real one runs \
         with the same commands. Next: `ocelli chat --temp 0 --image {}`",
        quoted(path)
    )?;
    Ok(())
}

/// The picture in half blocks of 24-bit colour.
fn drawn(picture: &Rgb8) -> anyhow::Result<String> {
    let rows = (COLUMNS * picture.height() / picture.width().max(1)).clamp(2, 2 * COLUMNS) / 2 * 2;
    let small = resize(picture, COLUMNS, rows, PassOrder::default())?;
    let mut out = String::new();
    for pair in small.data().chunks_exact(2 * 3 * COLUMNS) {
        let (above, below) = pair.split_at(3 * COLUMNS);
        for (a, b) in above.as_chunks::<3>().0.iter().zip(below.as_chunks::<3>().0) {
            out += &format!("\x1b[38;2;{};{};{}m\x1b[48;2;{};{};{}m▀", a[0], a[1], a[2], b[0], b[1], b[2]);
        }
        out += "\x1b[0m\n";
    }
    Ok(out)
}

/// `word` as it would have to be typed.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=+,@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_needs_it() {
        assert_eq!(quoted("a-b/c.gguf"), "a-b/c.gguf");
        assert_eq!(quoted("two words"), "'two words'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn a_picture_is_drawn_two_pixels_to_a_character() {
        let red_over_blue: Vec<u8> =
            [[255, 0, 0]; 44 * 22].iter().chain(&[[0, 0, 255]; 44 * 22]).flatten().copied().collect();
        let text = drawn(&Rgb8::new(44, 44, red_over_blue).unwrap()).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 22);
        assert!(lines[0].starts_with("\x1b[38;2;255;0;0m\x1b[48;2;255;0;0m▀"), "{:?}", lines[0]);
        assert!(lines[21].starts_with("\x1b[38;2;0;0;255m\x1b[48;2;0;0;255m▀"), "{:?}", lines[21]);
        assert_eq!(lines[0].matches('▀').count(), COLUMNS);
    }
}
