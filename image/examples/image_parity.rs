//! Answers jobs about pictures on the standard streams, for `tests/parity/compare_images.py`. Not a tool for people.
//!
//! A job is a letter and its operands, numbers being 32-bit little-endian:
//!
//! ```text
//! R  width height to_width to_height order pixels -> picture
//! P  options width height                      -> overview(2) grid(2) tile(2) content(4), zeroes where there are none
//! S  options width height pixels               -> count, pictures
//! D  apply_orientation length bytes            -> 0 picture | 1 length message
//! V  fps*1000 max_frames length path           -> 0 count (index, picture)... | 1 length message
//! options = profile (0 reference, 1 llama.cpp) max_slice_nums scale_resolution patch_size order
//! order = 0 horizontal first | 1 as Pillow 13
//! picture = width height pixels
//! ```

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use ocelli_image::video::{VideoOptions, frames};
use ocelli_image::{
    DecodeOptions, ImageError, Orientation, Profile, Rgb8, SliceOptions, decode, plan,
    resize::{PassOrder, resize},
    slice,
};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Fallible<()> {
    let mut input = io::BufReader::new(io::stdin().lock());
    let mut output = io::BufWriter::new(io::stdout().lock());
    loop {
        let mut job = [0];
        if input.read(&mut job)? == 0 {
            return Ok(());
        }
        match job {
            [b'R'] => {
                let [width, height, to_width, to_height, order] = numbers(&mut input)?;
                let image = pixels(&mut input, width, height)?;
                picture(&mut output, &resize(&image, to_width, to_height, pass_order(order))?)?;
            }
            [b'P'] => {
                let options = options(&mut input)?;
                let [width, height] = numbers(&mut input)?;
                let plan = plan(width, height, &options)?;
                let mut all = [plan.overview.0, plan.overview.1, 0, 0, 0, 0, 0, 0, 0, 0];
                if let Some(t) = plan.tiles {
                    let c = t.content;
                    all[2..].copy_from_slice(&[t.grid.0, t.grid.1, t.tile.0, t.tile.1, c.width, c.height, c.x, c.y]);
                }
                write(&mut output, &all)?;
            }
            [b'S'] => {
                let options = options(&mut input)?;
                let [width, height] = numbers(&mut input)?;
                let sliced = slice(&pixels(&mut input, width, height)?, &options)?;
                write(&mut output, &[sliced.slices.len()])?;
                for image in &sliced.slices {
                    picture(&mut output, image)?;
                }
            }
            [b'D'] => {
                let [apply, length] = numbers(&mut input)?;
                let mut bytes = vec![0; length];
                input.read_exact(&mut bytes)?;
                let orientation = if apply == 1 { Orientation::Apply } else { Orientation::Ignore };
                match decode(&bytes, &DecodeOptions { orientation, ..DecodeOptions::default() }) {
                    Ok(image) => {
                        write(&mut output, &[0])?;
                        picture(&mut output, &image)?;
                    }
                    Err(e) => refuse(&mut output, &e)?,
                }
            }
            [b'V'] => {
                let [fps, max_frames, length] = numbers(&mut input)?;
                let mut path = vec![0; length];
                input.read_exact(&mut path)?;
                let options = VideoOptions {
                    fps: f64::from(u32::try_from(fps)?) / 1000.0,
                    max_frames,
                    ..VideoOptions::default()
                };
                let path = PathBuf::from(String::from_utf8(path)?);
                match frames(&path, &options, &mut |_, _| {}, &AtomicBool::new(false)) {
                    Ok(frames) => {
                        write(&mut output, &[0, frames.len()])?;
                        for frame in &frames {
                            write(&mut output, &[frame.index])?;
                            picture(&mut output, &frame.image)?;
                        }
                    }
                    Err(e) => refuse(&mut output, &e)?,
                }
            }
            [other] => return Err(format!("unknown job {other}").into()),
        }
        output.flush()?;
    }
}

fn refuse(output: &mut impl Write, error: &ImageError) -> Fallible<()> {
    let message = error.to_string();
    write(output, &[1, message.len()])?;
    Ok(output.write_all(message.as_bytes())?)
}

fn numbers<const N: usize>(input: &mut impl Read) -> Fallible<[usize; N]> {
    let mut all = [0; N];
    for number in &mut all {
        let mut bytes = [0; 4];
        input.read_exact(&mut bytes)?;
        *number = u32::from_le_bytes(bytes).try_into()?;
    }
    Ok(all)
}

fn options(input: &mut impl Read) -> Fallible<SliceOptions> {
    let [profile, max_slice_nums, scale_resolution, patch_size, order] = numbers(input)?;
    let profile = if profile == 0 { Profile::Reference } else { Profile::LlamaCpp };
    Ok(SliceOptions { profile, max_slice_nums, scale_resolution, patch_size, pass_order: pass_order(order) })
}

fn pass_order(number: usize) -> PassOrder {
    if number == 0 { PassOrder::HorizontalFirst } else { PassOrder::Pillow13 }
}

fn pixels(input: &mut impl Read, width: usize, height: usize) -> Fallible<Rgb8> {
    let mut data = vec![0; 3 * width * height];
    input.read_exact(&mut data)?;
    Ok(Rgb8::new(width, height, data)?)
}

fn write(output: &mut impl Write, numbers: &[usize]) -> Fallible<()> {
    for &number in numbers {
        output.write_all(&u32::try_from(number)?.to_le_bytes())?;
    }
    Ok(())
}

fn picture(output: &mut impl Write, image: &Rgb8) -> Fallible<()> {
    write(output, &[image.width(), image.height()])?;
    output.write_all(image.data())?;
    Ok(())
}
