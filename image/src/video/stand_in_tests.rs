//! Programs that stand in for `ffprobe` and `ffmpeg`: that work, fail, hang, flood and outlive.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use super::tests::run;
use super::*;

/// A folder with programs and a file that is no picture.
struct Programs {
    dir: tempfile::TempDir,
    options: VideoOptions,
}

impl Programs {
    fn new(ffprobe: &str, ffmpeg: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| -> PathBuf {
            let path = dir.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let options = VideoOptions {
            ffprobe: write("ffprobe", ffprobe),
            ffmpeg: write("ffmpeg", ffmpeg),
            ..VideoOptions::default()
        };
        std::fs::write(dir.path().join("-y video.mp4"), b"no picture").unwrap();
        Self { dir, options }
    }

    fn run(&self) -> Result<Vec<Frame>, ImageError> {
        // A program that was written a moment ago may still be open for writing in a process that another test is
        // starting; the system then refuses to run it.
        loop {
            match run(&self.dir.path().join("-y video.mp4"), &self.options) {
                Err(e) if e.to_string().contains("Text file busy") => std::thread::yield_now(),
                result => return result,
            }
        }
    }
}

const PROBE: &str = r#"printf '%s\n' "$@" > "$0.args"
echo '{"streams":[{"width":2,"height":1,"avg_frame_rate":"25/1","nb_read_packets":"60"}],"format":{"duration":"2.4"}}'"#;
const THREE: &str = r#"printf '%s\n' "$@" > "$0.args"
printf 'P6\n2 1\n255\naaaaaaP6\n2 1\n255\nbbbbbbP6\n2 1\n255\ncccccc'"#;

#[test]
fn frames_and_arguments() {
    let programs = Programs::new(PROBE, THREE);
    let frames = programs.run().unwrap();
    assert_eq!(
        frames.iter().map(|f| (f.index, f.seconds)).collect::<Vec<_>>(),
        [(0, Some(0.0)), (25, Some(1.0)), (50, Some(2.0))]
    );
    assert_eq!(frames[2].image.data(), b"cccccc");
    for program in ["ffprobe", "ffmpeg"] {
        let args = std::fs::read_to_string(programs.dir.path().join(format!("{program}.args"))).unwrap();
        let args: Vec<_> = args.lines().collect();
        let input = args.iter().position(|&a| a == "-i").unwrap();
        assert_eq!(args[input + 1], format!("file:{}/-y video.mp4", programs.dir.path().display()));
        assert_eq!(args[input - 4..input - 1], ["-protocol_whitelist", "file", "-format_whitelist"]);
        if program == "ffmpeg" {
            assert!(args.contains(&"-nostdin"));
            assert!(args.contains(&"select='(eq(n,0)+(eq(n,25)+eq(n,50)))',setpts=N/TB"), "{args:?}");
        }
    }
}

#[test]
fn failures_say_what_the_program_said() {
    let failing = "echo first >&2; printf 'moov atom not \\033[1mfound\\n\\n' >&2; exit 3";
    for (ffprobe, ffmpeg, name) in [(failing, THREE, "ffprobe"), (PROBE, failing, "ffmpeg")] {
        let message = Programs::new(ffprobe, ffmpeg).run().unwrap_err().to_string();
        assert!(
            message.contains(&format!("{name} failed (exit status: 3): moov atom not \\u{{1b}}[1mfound")),
            "{message}"
        );
        assert!(message.contains("-y video.mp4: "), "{message}");
    }
    let half = "printf 'P6\\n2 1\\n255\\naaaaaaP6\\n2 1\\n255\\nb'";
    assert!(Programs::new(PROBE, half).run().unwrap_err().to_string().contains("ends within a frame"));
    assert!(Programs::new(PROBE, "true").run().unwrap_err().to_string().contains("no frame"));
    assert!(Programs::new("echo nonsense", THREE).run().unwrap_err().to_string().contains("cannot be read"));
    assert!(Programs::new("echo '{}'", THREE).run().unwrap_err().to_string().contains("no video in it"));
    let huge = r#"echo '{"streams":[{"width":60000,"height":60000,"avg_frame_rate":"25/1","nb_read_packets":"60"}]}'"#;
    assert!(Programs::new(huge, THREE).run().unwrap_err().to_string().contains("max_pixels"));
    let rateless = r#"echo '{"streams":[{"width":6,"height":6,"avg_frame_rate":"0/0","nb_read_packets":"60"}]}'"#;
    assert!(Programs::new(rateless, THREE).run().unwrap_err().to_string().contains("no frame rate"));
}

#[test]
fn a_missing_program_is_named_with_the_way_to_get_it() {
    let mut programs = Programs::new(PROBE, THREE);
    programs.options.ffprobe = programs.dir.path().join("nowhere");
    let message = programs.run().unwrap_err().to_string();
    assert!(message.contains("nowhere") && message.contains("install") && message.contains("ffmpeg"), "{message}");
}

#[test]
fn an_interrupt_ends_the_program() {
    let slow = r#"echo $$ > "$0.pid"; printf 'P6\n2 1\n255\naaaaaa'; exec sleep 1000"#;
    let programs = Programs::new(PROBE, slow);
    let interrupt = AtomicBool::new(false);
    let path = programs.dir.path().join("-y video.mp4");
    let error = loop {
        let mut progress = |_, _| interrupt.store(true, Ordering::Relaxed);
        match frames(&path, &programs.options, &mut progress, &interrupt).unwrap_err() {
            e if e.to_string().contains("Text file busy") => {}
            e => break e,
        }
    };
    assert!(matches!(error, ImageError::Interrupted), "{error}");
    let pid = std::fs::read_to_string(programs.dir.path().join("ffmpeg.pid")).unwrap();
    let alive = Command::new("kill").args(["-0", pid.trim()]).stderr(std::process::Stdio::null()).status().unwrap();
    assert!(!alive.success(), "the program still runs");
}

/// A program of this name in the folder, by the process numbers it noted, is gone within seconds.
fn assert_gone(dir: &Path, note: &str) {
    let text = std::fs::read_to_string(dir.join(note)).unwrap();
    let alive = |pid: &str| {
        let status = Command::new("kill").args(["-0", pid]).stderr(std::process::Stdio::null()).status().unwrap();
        // One that has ended and is not waited for, because its parent is gone too, still has a number.
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        status.success() && !state.contains(") Z ")
    };
    let pids: Vec<_> = text.split_whitespace().collect();
    assert!(!pids.is_empty());
    let started = Instant::now();
    while pids.iter().any(|pid| alive(pid)) {
        assert!(started.elapsed() < Duration::from_secs(5), "{text} still run");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Notes the numbers of a shell and of a program that it starts, and waits for that.
const HANG: &str = r#"sleep 1000 & echo $$ $! > "$0.pids"; wait"#;

#[test]
fn programs_that_hang_are_ended_with_all_they_started() {
    let one_frame = format!("printf 'P6\n2 1\n255\naaaaaa'; {HANG}");
    let stubborn = format!("trap '' PIPE TERM INT HUP; {one_frame}; wait; wait");
    for (ffprobe, ffmpeg, name) in
        [(HANG, THREE, "ffprobe"), (PROBE, HANG, "ffmpeg"), (PROBE, &one_frame, "ffmpeg"), (PROBE, &stubborn, "ffmpeg")]
    {
        let mut programs = Programs::new(ffprobe, ffmpeg);
        programs.options.patience = Duration::from_millis(300);
        let started = Instant::now();
        let message = programs.run().unwrap_err().to_string();
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        assert!(message.contains(&format!("{name} gave nothing for 300ms and was ended")), "{message}");
        assert_gone(programs.dir.path(), &format!("{name}.pids"));
    }
}

#[test]
fn floods_are_cut_off() {
    let started = Instant::now();
    // More frames than were asked for, from a program that does not mind a closed pipe.
    let frames = "trap '' PIPE; while :; do printf 'P6\n2 1\n255\naaaaaa' 2>/dev/null; done";
    assert_eq!(Programs::new(PROBE, frames).run().unwrap().len(), 3);
    // Messages without end, then a failure; an answer without end.
    let noise = "yes noise | head -c 3000000 >&2; echo the reason >&2; exit 1";
    assert!(Programs::new(PROBE, noise).run().unwrap_err().to_string().contains("): the reason"));
    let message = Programs::new("yes '['", THREE).run().unwrap_err().to_string();
    assert!(message.contains("ffprobe"), "{message}");
    // Frames of another size than promised, and more in all than there may be.
    let large = "printf 'P6\n3000 3000\n255\n'; head -c 27000000 /dev/zero";
    let mut programs = Programs::new(PROBE, large);
    programs.options.max_work_pixels = 1 << 20;
    assert!(programs.run().unwrap_err().to_string().contains("max_work_pixels = 2097152"));
    programs.options.max_work_pixels = 2;
    let message = programs.run().unwrap_err().to_string();
    assert!(message.contains("3 frames take 6 pixels to decode, more than the limit max_work_pixels = 4"), "{message}");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

/// A frame that is far into the film may take longer than one that is near.
#[test]
fn patience_grows_with_what_has_to_be_done() {
    let probe = r#"echo '{"streams":[{"width":2000,"height":2000,"avg_frame_rate":"1/1","nb_read_packets":"9"}]}'"#;
    let slow = "sleep 1.2; printf 'P6\n1 1\n255\naaa'";
    let mut programs = Programs::new(probe, slow);
    programs.options.patience = Duration::from_millis(300);
    programs.options.max_frames = 1;
    // Five frames of four megapixels: four seconds more.
    assert_eq!(programs.run().unwrap()[0].index, 4);
}

/// Not a test of its own: the program that `a_killed_program_leaves_nothing_behind` kills.
#[test]
#[ignore = "waits for ever; started by another test"]
fn a_program_that_is_killed() {
    let Ok(dir) = std::env::var("OCELLI_TEST_STAND_INS") else { return };
    let dir = PathBuf::from(dir);
    let options = VideoOptions {
        ffprobe: dir.join("ffprobe"),
        ffmpeg: dir.join("ffmpeg"),
        patience: Duration::from_secs(1000),
        ..VideoOptions::default()
    };
    drop(run(&dir.join("-y video.mp4"), &options));
}

#[test]
fn a_killed_program_leaves_nothing_behind() {
    for (ffprobe, ffmpeg, name) in [(HANG, THREE, "ffprobe"), (PROBE, HANG, "ffmpeg")] {
        let programs = Programs::new(ffprobe, ffmpeg);
        let note = programs.dir.path().join(format!("{name}.pids"));
        let started = Instant::now();
        let start = || {
            Command::new(std::env::current_exe().unwrap())
                .args(["--ignored", "--exact", "--test-threads=1"])
                .arg(format!("{}::a_program_that_is_killed", module_path!().split_once("::").unwrap().1))
                .env("OCELLI_TEST_STAND_INS", programs.dir.path())
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap()
        };
        let mut killed = start();
        while std::fs::read_to_string(&note).map_or(0, |text| text.split_whitespace().count()) < 2 {
            assert!(started.elapsed() < Duration::from_secs(20), "{name} was not started");
            if killed.try_wait().unwrap().is_some() {
                // The stand-in was still open for writing in another test's child.
                killed = start();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        killed.kill().unwrap();
        killed.wait().unwrap();
        assert_gone(programs.dir.path(), &format!("{name}.pids"));
    }
}

/// An animated PNG is a video like any other.
#[test]
fn an_animated_png_goes_to_ffmpeg() {
    let programs = Programs::new(PROBE, THREE);
    let path = programs.dir.path().join("a.png");
    let chunks = [b"\x89PNG\r\n\x1a\n".to_vec(), vec![0, 0, 0, 13], b"IHDR".to_vec(), vec![0; 17]];
    let still = chunks.concat();
    let animated = [&still[..], &[0, 0, 0, 8], b"acTL", &[0; 12]].concat();
    std::fs::write(&path, &animated).unwrap();
    let frames = loop {
        match run(&path, &programs.options) {
            Err(e) if e.to_string().contains("Text file busy") => std::thread::yield_now(),
            result => break result.unwrap(),
        }
    };
    assert_eq!(frames.len(), 3);
    std::fs::write(&path, &still).unwrap();
    assert!(run(&path, &programs.options).unwrap_err().to_string().contains("a PNG picture is not a video"));
}
