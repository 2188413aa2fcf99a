//! Animated GIF and WebP, decoded natively.
//!
//! How many frames there are, how large each is and how long it is shown is read from the file's structure, without
//! decoding; from that follow the frames to take and the work they are, which is held against its limit first. Frames
//! build on one another, so that all up to the last one wanted are then drawn in turn; the others are not handed on.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{Frame, ImageError, Job, VideoOptions, check_work, sample, video_error};
use crate::decode::{Limits, decode, read_as};
use crate::guard::guarded_stream;
use crate::open::Pipes;
use crate::{Rgb8, gif, webp};

/// The most time that decoding may take. The limit on work ends at a fraction of it what any machine can do.
const MAX_TIME: Duration = Duration::from_secs(300);

/// An animation whose frames can be drawn one after the other.
trait Player {
    /// Draws the next frame; whether there was one.
    fn next(&mut self, limits: &Limits) -> Result<bool, ImageError>;
    fn picture(&self) -> Result<Rgb8, ImageError>;
}

impl Player for gif::Player<'_> {
    fn next(&mut self, _: &Limits) -> Result<bool, ImageError> {
        self.next()
    }

    fn picture(&self) -> Result<Rgb8, ImageError> {
        self.picture()
    }
}

impl Player for webp::Player<'_> {
    fn next(&mut self, limits: &Limits) -> Result<bool, ImageError> {
        self.next(limits)
    }

    fn picture(&self) -> Result<Rgb8, ImageError> {
        self.picture()
    }
}

pub(super) fn gif(path: &Path, job: &mut Job<'_>) -> Result<(), ImageError> {
    let bytes = read_as(path, &job.options.limits, Pipes::Refuse)?;
    deliver(job, |options, play| {
        let gif = gif::Gif::parse(&bytes, usize::MAX)?;
        let plan = Plan::new(&gif.delays(), options);
        check_work(gif.work(&plan.chosen, &options.limits)?, plan.chosen.len(), options.max_work_pixels)?;
        play(&plan, &mut gif::Player::new(&gif))
    })
}

pub(super) fn webp(path: &Path, job: &mut Job<'_>) -> Result<(), ImageError> {
    let bytes = read_as(path, &job.options.limits, Pipes::Refuse)?;
    if !webp::is_animated(&bytes) {
        let image = decode(&bytes, &job.decode_options())?;
        return job.deliver(Frame { index: 0, seconds: Some(0.0), image, note: None }, 1);
    }
    deliver(job, |options, play| {
        let animation = webp::Animation::parse(&bytes, usize::MAX, &options.limits)?;
        let plan = Plan::new(&animation.delays(), options);
        check_work(animation.work(&plan.chosen), plan.chosen.len(), options.max_work_pixels)?;
        play(&plan, &mut webp::Player::new(&animation)?)
    })
}

/// The frames to take, and how many there are in a second.
struct Plan {
    chosen: Vec<usize>,
    avg_fps: f64,
}

impl Plan {
    #[allow(clippy::cast_precision_loss)]
    fn new(delays: &[u32], options: &VideoOptions) -> Self {
        // Programs that write no delay expect the tenth of a second that browsers make of it.
        let total_ms: u64 = delays.iter().map(|&ms| if ms <= 10 { 100 } else { u64::from(ms) }).sum();
        let avg_fps = delays.len() as f64 * 1000.0 / total_ms.max(1) as f64;
        Self { chosen: sample(delays.len(), avg_fps, options.fps, options.max_frames), avg_fps }
    }
}

/// Runs `decode` on a thread of its own; what it plays is delivered here.
fn deliver(
    job: &mut Job<'_>,
    decode: impl FnOnce(
        &VideoOptions,
        &mut dyn FnMut(&Plan, &mut dyn Player) -> Result<(), ImageError>,
    ) -> Result<(), ImageError>
    + Send,
) -> Result<(), ImageError> {
    let (options, interrupt) = (job.options, job.interrupt);
    let check = || if interrupt.load(Ordering::Relaxed) { Err(ImageError::Interrupted) } else { Ok(()) };
    guarded_stream(
        |send| decode(options, &mut |plan, player| play(plan, player, options, interrupt, send)),
        check,
        |(frame, of)| job.deliver(frame, of),
    )
}

#[allow(clippy::cast_precision_loss)]
fn play(
    plan: &Plan,
    player: &mut dyn Player,
    options: &VideoOptions,
    interrupt: &AtomicBool,
    send: &mut dyn FnMut((Frame, usize)) -> bool,
) -> Result<(), ImageError> {
    let mut wanted = plan.chosen.iter().copied().peekable();
    let mut time = Duration::ZERO;
    for index in 0.. {
        let Some(&next) = wanted.peek() else { break };
        if interrupt.load(Ordering::Relaxed) {
            return Err(ImageError::Interrupted);
        }
        let started = Instant::now();
        if !player.next(&options.limits)? {
            break;
        }
        let image = if index == next { Some(player.picture()?) } else { None };
        time += started.elapsed();
        if time > MAX_TIME {
            let seconds = MAX_TIME.as_secs();
            return Err(video_error(format!(
                "decoding the animation takes more than {seconds} s; take fewer frames or scale it down"
            )));
        }
        if let Some(image) = image {
            wanted.next();
            let seconds = Some(index as f64 / plan.avg_fps);
            if !send((Frame { index, seconds, image, note: None }, plan.chosen.len())) {
                break;
            }
        }
    }
    Ok(())
}
