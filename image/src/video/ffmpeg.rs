//! Frames of any other video, decoded by `ffmpeg` in a process of its own.
//!
//! `ffprobe` tells size, rate and number of frames (by counting packets, which decodes nothing); `ffmpeg` then writes
//! the wanted frames to a pipe as PPM, whose headers give each frame's size. No shell is involved. The path is made
//! absolute and given as `file:PATH`, so that it can be neither an option nor a network address; formats that lead to
//! other files (playlists, concatenations) are not allowed, and neither are protocols other than files.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;

use super::process::Running;
use super::{Frame, ImageError, Job, check_work, sample, video_error};
use crate::{Limits, Rgb8, byte_len, zeroed};

/// Demuxers that read one file and nothing else.
const FORMATS: &str = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,vvc,obu,ivf,flv,\
                       live_flv,ogg,asf,rm,nut,wtv,dv,mxf,gxf,swf,apng,mjpeg,yuv4mpegpipe,vc1,amv,nsv,roq,bink,smk,mpjpeg";

/// The most that `ffprobe` may write.
const MAX_PROBE_BYTES: u64 = 1 << 20;

/// What the slowest machine reads and decodes in a second.
const READ_BYTES: u64 = 10_000_000;
const DECODED_PIXELS: u64 = 1 << 22;

/// The longest that is waited for an answer, and for a frame.
const MAX_PROBE: Duration = Duration::from_mins(30);
const MAX_FRAME: Duration = Duration::from_mins(10);

/// The frames of the file at `path`, which has that many bytes.
pub(super) fn frames(path: &Path, bytes: u64, job: &mut Job<'_>) -> Result<(), ImageError> {
    let absolute = std::path::absolute(path).map_err(|source| ImageError::Open { path: path.to_owned(), source })?;
    let mut input = std::ffi::OsString::from("file:");
    input.push(&absolute);
    let input =
        ["-protocol_whitelist".into(), "file".into(), "-format_whitelist".into(), FORMATS.into(), "-i".into(), input];

    let video = probe(&input, bytes, job)?;
    let chosen = sample(video.frames, video.avg_fps, job.options.fps, job.options.max_frames);
    let most = job.options.max_work_pixels.saturating_mul(2);
    check_work(video.pixels.saturating_mul(chosen.len() as u64), chosen.len(), most)?;
    let mut command = Command::new(&job.options.ffmpeg);
    command.args(["-nostdin", "-v", "error"]).args(&input).args(["-map", "0:V:0", "-an", "-sn", "-dn"]);
    // One second per frame at one frame per second: whatever the frames' times, none is repeated and none left out.
    command.arg("-vf").arg(format!("select='{}',setpts=N/TB", any_of(&chosen))).args(["-r", "1"]);
    command.arg("-frames:v").arg(chosen.len().to_string());
    command.args(["-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "pipe:1"]);

    let limits = job.options.limits;
    let mut running = Running::start(command, move |out, send| {
        let mut out = BufReader::with_capacity(1 << 16, out);
        loop {
            let next = read_ppm(&mut out, &limits).transpose();
            let Some(next) = next else { break };
            let last = next.is_err();
            if send(next).is_err() || last {
                break;
            }
        }
    })?;
    let (mut delivered, mut next, mut pixels) = (0, 0, 0);
    for &index in &chosen {
        // All frames between are decoded too.
        let passed = Duration::from_secs((index - next + 1) as u64 * video.pixels / DECODED_PIXELS);
        next = index + 1;
        let Some(image) = running.next(job, job.options.patience.saturating_add(passed).min(MAX_FRAME))? else { break };
        let image = image?;
        pixels += image.width() as u64 * image.height() as u64;
        check_work(pixels, chosen.len(), most)?;
        #[allow(clippy::cast_precision_loss)]
        let seconds = Some(index as f64 / video.avg_fps);
        job.deliver(Frame { index, seconds, image, note: None }, chosen.len())?;
        delivered += 1;
    }
    // Packets that could not be decoded make the video shorter than counted, which is no failure by itself.
    running.finish(job, delivered == chosen.len())?;
    if delivered == 0 {
        return Err(video_error("no frame of the video could be decoded; convert it to MP4 with H.264".into()));
    }
    Ok(())
}

/// An expression of ffmpeg that is true for these frames. Halves are put in parentheses, since a plain sum counts as one
/// level of nesting per term, of which ffmpeg takes fewer than 100.
fn any_of(frames: &[usize]) -> String {
    match frames {
        [] => "0".into(),
        [frame] => format!("eq(n,{frame})"),
        _ => {
            let (first, second) = frames.split_at(frames.len() / 2);
            format!("({}+{})", any_of(first), any_of(second))
        }
    }
}

/// What is known of a video beforehand.
struct Video {
    frames: usize,
    /// Of a frame.
    pixels: u64,
    avg_fps: f64,
}

#[derive(Deserialize)]
struct Probe {
    #[serde(default)]
    streams: Vec<Stream>,
    format: Option<Container>,
}

#[derive(Deserialize)]
struct Stream {
    width: Option<u64>,
    height: Option<u64>,
    avg_frame_rate: Option<String>,
    nb_read_packets: Option<String>,
    duration: Option<String>,
}

#[derive(Deserialize)]
struct Container {
    duration: Option<String>,
}

fn probe(input: &[std::ffi::OsString], bytes: u64, job: &mut Job<'_>) -> Result<Video, ImageError> {
    let mut command = Command::new(&job.options.ffprobe);
    command.args(["-v", "error", "-select_streams", "V:0", "-count_packets", "-of", "json", "-show_entries"]);
    command.arg("stream=width,height,avg_frame_rate,nb_read_packets,duration:format=duration").args(input);
    let mut running = Running::start(command, |out, send| {
        let mut text = Vec::new();
        let result = out.take(MAX_PROBE_BYTES).read_to_end(&mut text).map(|_| text);
        let _ = send(result.map_err(|e| video_error(format!("cannot read from ffprobe: {e}"))));
    })?;
    // Counting reads the whole file.
    let patience = job.options.patience.saturating_add(Duration::from_secs(bytes / READ_BYTES)).min(MAX_PROBE);
    let text = running.next(job, patience)?.unwrap_or(Ok(Vec::new()));
    running.finish(job, false)?;
    let probe: Probe = serde_json::from_slice(&text?)
        .map_err(|e| video_error(format!("ffprobe gave an answer that cannot be read: {e}")))?;
    let Some(stream) = probe.streams.into_iter().next() else {
        return Err(video_error("the file has no video in it".into()));
    };
    let (width, height) = (stream.width.unwrap_or(0), stream.height.unwrap_or(0));
    job.options.limits.check_size(width, height)?;
    let frames = stream.nb_read_packets.and_then(|n| n.parse::<usize>().ok()).unwrap_or(0);
    if frames == 0 {
        return Err(video_error("the video has no frames".into()));
    }
    let duration = [stream.duration, probe.format.and_then(|f| f.duration)].into_iter().flatten();
    let duration = duration.filter_map(|d| d.parse::<f64>().ok()).find(|d| *d > 0.0);
    #[allow(clippy::cast_precision_loss)]
    let avg_fps = stream.avg_frame_rate.as_deref().and_then(rate).or_else(|| duration.map(|d| frames as f64 / d));
    match avg_fps {
        Some(avg_fps) => Ok(Video { frames, pixels: width * height, avg_fps }),
        None => Err(video_error("the video gives no frame rate; convert it to MP4".into())),
    }
}

/// `30000/1001` as a number, if it is a positive one.
fn rate(text: &str) -> Option<f64> {
    let (numerator, denominator) = text.split_once('/')?;
    let rate = numerator.parse::<f64>().ok()? / denominator.parse::<f64>().ok()?;
    (rate.is_finite() && rate > 0.0).then_some(rate)
}

/// Reads one binary PPM as `ffmpeg` writes it; nothing at the end of the stream.
pub(super) fn read_ppm(from: &mut impl BufRead, limits: &Limits) -> Result<Option<Rgb8>, ImageError> {
    let broken = |e: std::io::Error| video_error(format!("ffmpeg's output ends within a frame ({e})"));
    if from.fill_buf().map_err(broken)?.is_empty() {
        return Ok(None);
    }
    let foreign = || video_error("ffmpeg wrote something that is no PPM picture".into());
    let mut words: Vec<u64> = Vec::new();
    let mut magic = [0; 2];
    from.read_exact(&mut magic).map_err(broken)?;
    if magic != *b"P6" {
        return Err(foreign());
    }
    let mut digits = String::new();
    while words.len() < 3 {
        let mut byte = [0];
        from.read_exact(&mut byte).map_err(broken)?;
        match byte {
            [c] if c.is_ascii_digit() && digits.len() < 9 => digits.push(char::from(c)),
            [c] if c.is_ascii_whitespace() => {
                if !digits.is_empty() {
                    words.push(digits.parse().map_err(|_| foreign())?);
                    digits.clear();
                }
            }
            _ => return Err(foreign()),
        }
    }
    let [width, height, 255] = words[..] else { return Err(foreign()) };
    limits.check_size(width, height)?;
    let side = |n| usize::try_from(n).map_err(|_| foreign());
    let (width, height) = (side(width)?, side(height)?);
    let mut data = zeroed(width, height, byte_len(width, height)?)?;
    from.read_exact(&mut data).map_err(broken)?;
    Rgb8::new(width, height, data).map(Some)
}
