//! Pictures in conversations: what is placed where, computed once, kept, restored, refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ocelli_convert::mixture::FileType;
use ocelli_engine::{Chat, Session, Watch, compose, conversation_prompt};
use ocelli_image::Profile;
use ocelli_quant::GgmlType;
use ocelli_runtime::media::{Media, MediaOptions, Origin, Shown};
use ocelli_runtime::vision::VisionModel;
use ocelli_runtime::{Attachment, Context, Exec, FileOptions, ImageCache, Kernels, Precision, Prompt, find_beside};

use ocelli_text::sampler::{SamplerChain, SamplerOverrides};
use ocelli_text::template::Message;

use crate::cli::{misused, ocelli, refused, text};
use crate::fixture::{distance, load, mini, new_context, options, read};

struct Silent;
impl Watch for Silent {
    fn text(&mut self, _: &str) {}
}

/// Writes a picture of some pattern as BMP.
pub(crate) fn bmp(path: &Path, width: usize, height: usize, seed: usize) {
    let stride = (3 * width).next_multiple_of(4);
    let mut bytes = b"BM".to_vec();
    let word = |n: usize| u32::try_from(n).unwrap().to_le_bytes();
    bytes.extend_from_slice(&word(54 + stride * height));
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend([54, 40, width, height].iter().flat_map(|n| word(*n)));
    bytes.extend_from_slice(&[1, 0, 24, 0]);
    bytes.extend([0, stride * height, 2835, 2835, 0, 0].iter().flat_map(|n| word(*n)));
    for y in 0..height {
        let mut row: Vec<u8> = (0..3 * width)
            .map(|x| ((x * (seed + 3) / 7) ^ (y * (seed + 5) / 3)).wrapping_mul(31 + seed) as u8)
            .collect();
        row.resize(stride, 0);
        bytes.extend_from_slice(&row);
    }
    std::fs::write(path, bytes).unwrap();
}

fn picture(dir: &tempfile::TempDir, name: &str, width: usize, height: usize, seed: usize) -> PathBuf {
    let path = dir.path().join(name);
    bmp(&path, width, height, seed);
    path
}

/// The best kernels on one thread.
fn one_thread() -> Arc<Exec> {
    Arc::new(Exec::new(Kernels::best(), 1))
}

fn media_with(options: MediaOptions) -> Media {
    let path = find_beside(&mini(FileType::F16), 256).unwrap();
    let model = VisionModel::load(&path, FileOptions::default()).unwrap();
    Media::new(Arc::new(model), one_thread(), MediaOptions { n_threads: 1, ..options }).unwrap()
}

fn media() -> Media {
    media_with(MediaOptions { precision: Precision::Exact, ..MediaOptions::new(Profile::Reference) })
}

fn show(media: &mut Media, paths: &[&PathBuf]) -> Vec<Shown> {
    media.images(paths, &mut (), &AtomicBool::new(false)).unwrap()
}

fn chat(n_ctx: usize, shift: bool) -> (Chat, SamplerChain) {
    let (model, assets) = load(&mini(FileType::F16));
    let mut params = assets.sampling.clone();
    let overrides = SamplerOverrides { temperature: Some(0.0), ignore_eos: Some(true), ..SamplerOverrides::default() };
    overrides.apply(&mut params);
    let chain = SamplerChain::new(params, &assets.tokenizer).unwrap();
    let context = new_context(model, &options(n_ctx, Precision::Exact)).unwrap();
    (Chat::new(Session::new(context), assets, shift, Profile::Reference), chain)
}

/// Text and pictures are computed by the same threads, so that a process has one population of them.
#[test]
fn text_and_pictures_share_threads() {
    let dir = tempfile::tempdir().unwrap();
    let paths = [picture(&dir, "a.bmp", 60, 50, 1), picture(&dir, "b.bmp", 60, 50, 2)];
    let exec = Arc::new(Exec::new(Kernels::best(), 2));
    let context =
        Context::new(load(&mini(FileType::F16)).0, Arc::clone(&exec), &options(64, Precision::Exact)).unwrap();
    assert_eq!((exec.n_threads(), context.threads()), (2, (1, 1)));
    let model = Arc::clone(media().model());
    let jobs = |exec, path| {
        let options =
            MediaOptions { n_threads: 2, precision: Precision::Exact, ..MediaOptions::new(Profile::Reference) };
        let mut media = Media::new(Arc::clone(&model), exec, options).unwrap();
        context.measure_joins(true);
        let shown = show(&mut media, &[path]);
        assert!(matches!(shown[0].origin, Origin::Encoded(_)));
        context.join_times().jobs
    };
    assert!(jobs(exec, &paths[0]) > 0, "the picture was encoded by other threads");
    assert_eq!(jobs(one_thread(), &paths[1]), 0, "these are others");
}

fn prompt(images: &[Attachment], profile: Profile) -> Prompt {
    let (_, assets) = load(&mini(FileType::F16));
    let message = Message::new("user", compose(profile, 0..images.len(), "What?"));
    conversation_prompt(&assets, &[message], images, profile).unwrap()
}

#[test]
fn pictures_stand_where_the_profiles_put_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut media = media();
    let side = media.model().config().image_size;
    let (small, large) = (picture(&dir, "s.bmp", 40, 30, 1), picture(&dir, "l.bmp", 2 * side, 2 * side, 2));
    let shown = show(&mut media, &[&small, &large]);
    let images: Vec<_> = shown.iter().map(Shown::numbered).collect();
    let (_, assets) = load(&mini(FileType::F16));
    let tokenizer = &assets.tokenizer;
    let rows = "<unk>".repeat(shown[0].image.queries);
    let (cols, lines) = shown[1].image.grid.unwrap();
    assert_eq!((shown[0].image.grid, cols, lines), (None, 2, 2));
    let line = format!("<slice>{rows}</slice>").repeat(cols);

    let reference = format!(
        "<|im_start|>user\n<image_id>0</image_id><image>{rows}</image>\n<image_id>1</image_id><image>{rows}</image>\
         {line}\n{line}\nWhat?<|im_end|>\n<|im_start|>assistant\n"
    );
    let found = prompt(&images, Profile::Reference);
    assert_eq!(found.tokens(), tokenizer.encode(&reference, true, true).unwrap());
    assert_eq!(found.image_rows(), 6 * shown[0].image.queries);

    // The line feed is one token here, not a fragment with a blank in front.
    let found = prompt(&images, Profile::LlamaCpp);
    let feed = (0..4096).find(|id| &*tokenizer.piece(*id, true) == b"\n").unwrap();
    let part = |text: &str| tokenizer.encode(text, false, true).unwrap();
    let mut wanted = tokenizer.encode("<|im_start|>user\n", true, true).unwrap();
    wanted.extend(part(&format!("<image>{rows}</image><image>{rows}</image>{line}")));
    wanted.push(feed);
    wanted.extend(part(&line));
    wanted.extend(part("What?<|im_end|>\n<|im_start|>assistant\n"));
    assert_eq!(found.tokens(), wanted);

    // Frames have no number, and numbers go on over them.
    let mixed = [shown[0].frame(), shown[0].numbered(), shown[1].frame(), shown[1].numbered()];
    let decoded = tokenizer.decode(prompt(&mixed, Profile::Reference).tokens(), true);
    let ids: Vec<_> = decoded.match_indices("<image_id>").map(|(at, _)| &decoded[at..at + 22]).collect();
    assert_eq!(ids.len(), 2, "{decoded}");
    assert!(ids[0].contains('0') && ids[1].contains('1'), "{ids:?}");
}

#[test]
fn one_batch_gives_what_single_pictures_give() {
    let dir = tempfile::tempdir().unwrap();
    let paths = [picture(&dir, "a.bmp", 300, 120, 1), picture(&dir, "b.bmp", 64, 64, 2)];
    let together = show(&mut media(), &[&paths[0], &paths[1], &paths[0]]);
    for (path, shown) in paths.iter().zip(&together) {
        assert!(matches!(shown.origin, Origin::Encoded(_)));
        let alone = show(&mut media(), &[path]);
        assert_eq!(alone[0].image, shown.image);
    }
    assert_eq!(together[2].origin, Origin::Memory);
    assert!(Arc::ptr_eq(&together[0].image, &together[2].image));
}

#[test]
fn a_picture_changes_the_answer_and_is_computed_once() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (picture(&dir, "a.bmp", 60, 50, 1), picture(&dir, "b.bmp", 60, 50, 9));
    let mut media = media();
    let (a, b) = (show(&mut media, &[&first])[0].numbered(), show(&mut media, &[&second])[0].numbered());
    let answer = |images: &[Attachment]| {
        let (mut chat, mut chain) = chat(512, false);
        let done = chat.say("What is it?", images, &mut chain, 24, &mut Silent).unwrap();
        (done.tokens, done.n_image)
    };
    let (with_a, n_image) = answer(std::slice::from_ref(&a));
    assert_eq!(n_image, a.image.n_rows());
    assert_eq!(answer(std::slice::from_ref(&a)).0, with_a);
    assert_ne!(answer(std::slice::from_ref(&b)).0, with_a);
    assert_ne!(answer(&[]).0, with_a);

    let (mut chat, mut chain) = chat(512, false);
    let one = chat.say("What is it?", &[a], &mut chain, 8, &mut Silent).unwrap();
    let two = chat.say("And this?", &[b], &mut chain, 8, &mut Silent).unwrap();
    // The answer's last token was never computed: it is with what follows.
    assert_eq!(two.prefill.reused, one.n_prompt + 7, "the first picture is not computed again");
    let text = chat.assets().tokenizer.decode(chat.session().tokens(), true);
    assert!(text.contains("<image_id> 1</image_id>") || text.contains("<image_id>1</image_id>"), "{text}");
}

#[test]
fn rows_replace_embeddings_in_one_prefill() {
    // A prompt cut at every place gives the same logits, so no cut falls between rows and their picture.
    let dir = tempfile::tempdir().unwrap();
    let path = picture(&dir, "a.bmp", 60, 50, 1);
    let images = [show(&mut media(), &[&path])[0].numbered()];
    let prompt = prompt(&images, Profile::Reference);
    let logits = |n_ubatch: usize| {
        let (model, _) = load(&mini(FileType::F16));
        // A cache of half precision rounds sums in another order to other numbers.
        let (type_k, type_v) = (GgmlType::F32, GgmlType::F32);
        let options = ocelli_runtime::ContextOptions { n_ubatch, type_k, type_v, ..options(256, Precision::Exact) };
        let mut session = Session::new(new_context(model, &options).unwrap());
        read(&mut session, prompt.clone());
        session.context().logits().unwrap().to_vec()
    };
    let whole = logits(256);
    for n_ubatch in [5, 17] {
        assert!(distance(&whole, &logits(n_ubatch)) < 1e-4);
    }
}

#[test]
fn conversations_with_pictures_are_saved_and_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut media = media();
    let image = show(&mut media, &[&picture(&dir, "a.bmp", 60, 50, 1)])[0].numbered();
    let file = dir.path().join("session");
    let (mut first, mut chain) = chat(1024, false);
    first.say("What is it?", &[image], &mut chain, 12, &mut Silent).unwrap();
    first.save(&file).unwrap();
    let went_on = first.say("Which colour?", &[], &mut chain, 12, &mut Silent).unwrap();

    let (mut second, mut chain) = chat(1024, false);
    let saved = second.open(&file).unwrap();
    assert!(saved.has_images() && saved.images_are_of(&media.identity().unwrap()));
    // Rows of another vision file, or of one that somebody changed, are not gone on with.
    assert!(!saved.images_are_of(&[7; 32]));
    second.resume(saved).unwrap();
    assert_eq!(second.images(), 1);
    let restored = second.say("Which colour?", &[], &mut chain, 12, &mut Silent).unwrap();
    assert_eq!((restored.tokens, restored.prefill), (went_on.tokens, went_on.prefill));
    // The rows are there for an answer from scratch too.
    assert!(second.forget_answer());
    second.set_system(Some("Be brief."));
    let anew = second.answer(&mut chain, 4, &mut Silent).unwrap();
    assert!(anew.prefill.evaluated > second.images() * 8);
}

#[test]
fn dropping_turns_drops_their_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let mut media = media();
    let (mut chat, mut chain) = chat(400, true);
    let mut dropped = 0;
    for turn in 0..6 {
        let image = show(&mut media, &[&picture(&dir, &format!("{turn}.bmp"), 60, 50, turn)])[0].numbered();
        dropped += chat.say("Look at this picture", &[image], &mut chain, 30, &mut Silent).unwrap().dropped_turns;
    }
    assert!(dropped > 0);
    assert_eq!(chat.images(), 6 - dropped);
    // The cache holds what a fresh conversation of the remaining turns would hold.
    let text = chat.assets().tokenizer.decode(chat.session().tokens(), true);
    assert_eq!(text.matches("<image>").count(), 6 - dropped);
    chat.clear();
    assert_eq!(chat.images(), 0);
}

#[test]
fn the_disk_cache_serves_another_program() {
    let dir = tempfile::tempdir().unwrap();
    let path = picture(&dir, "a.bmp", 300, 120, 4);
    let cached = || {
        let cache = Some(ImageCache::open(&dir.path().join("cache"), 1 << 24).unwrap());
        media_with(MediaOptions { cache, precision: Precision::Exact, ..MediaOptions::new(Profile::Reference) })
    };
    let first = show(&mut cached(), &[&path]);
    let second = show(&mut cached(), &[&path]);
    assert_eq!((second[0].origin, &second[0].image), (Origin::Disk, &first[0].image));
    // Other rules make other rows.
    let fast = MediaOptions { precision: Precision::Fast, ..cached().options().clone() };
    assert!(matches!(show(&mut media_with(fast), &[&path])[0].origin, Origin::Encoded(_)));
    for entry in std::fs::read_dir(dir.path().join("cache")).unwrap() {
        std::fs::write(entry.unwrap().path(), b"damaged").unwrap();
    }
    let mut media = cached();
    let third = show(&mut media, &[&path]);
    assert!(matches!(third[0].origin, Origin::Encoded(_)));
    assert!(media.warnings()[0].contains("encoded anew"), "{:?}", media.warnings());
    assert_eq!(third[0].image, first[0].image);
}

/// A vision file with one bit changed in the middle of a tensor shares neither kept pictures nor prompts with the right one.
#[test]
fn a_vision_file_that_was_tampered_with_has_its_own_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let path = picture(&dir, "a.bmp", 60, 50, 4);
    let right = std::fs::read(find_beside(&mini(FileType::F16), 256).unwrap()).unwrap();
    let gguf = ocelli_gguf::Gguf::parse(&right).unwrap();
    let tensor = gguf.tensors().iter().find(|t| t.name == "v.blk.0.ffn_up.weight").unwrap();
    let mut wrong = right.clone();
    wrong[usize::try_from(tensor.offset + tensor.n_bytes / 2).unwrap()] ^= 1;
    let shown = |bytes: &[u8], name: &str| {
        let file = dir.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        let cache = Some(ImageCache::open(&dir.path().join("cache"), 1 << 24).unwrap());
        let model = Arc::new(VisionModel::load(&file, FileOptions::default()).unwrap());
        let mut media = Media::new(
            model,
            one_thread(),
            MediaOptions { cache, n_threads: 1, ..MediaOptions::new(Profile::Reference) },
        )
        .unwrap();
        show(&mut media, &[&path]).remove(0)
    };
    let tampered = shown(&wrong, "wrong.gguf");
    let first = shown(&right, "right.gguf");
    assert!(matches!(first.origin, Origin::Encoded(_)), "{:?}", first.origin);
    assert_eq!(shown(&right, "again.gguf").origin, Origin::Disk);
    assert_eq!(shown(&wrong, "wrong.gguf").origin, Origin::Disk);
    assert!(first.image.key != tampered.image.key && first.image.model != tampered.image.model);
    let marks = |shown: &Shown| {
        let mut session =
            Session::new(new_context(load(&mini(FileType::F16)).0, &options(256, Precision::Exact)).unwrap());
        let right = prompt(&[first.numbered()], Profile::Reference);
        read(&mut session, right);
        let again = read(&mut session, prompt(&[shown.numbered()], Profile::Reference));
        again.evaluated
    };
    assert_eq!(marks(&first), 1, "the same prompt is reused");
    assert!(marks(&tampered) > first.image.n_rows(), "rows of the other file are computed");
}

#[test]
fn commands_show_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let image = picture(&dir, "my picture.bmp", 60, 50, 1);
    let image = image.to_str().unwrap();
    let model = mini(FileType::F16);
    let model = model.to_str().unwrap();
    let common = ["-m", model, "-c", "512", "-t", "1", "--temp", "0", "--ignore-eos", "-n", "4"];
    let out = ocelli(&[&["run", "-p", "What?", "--json", "--image", image], &common[..]].concat(), b"");
    let told = text(&out.stderr);
    assert!(out.status.success(), "{told}");
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(json["image_tokens"].as_u64().unwrap() > 0);
    assert!(told.contains("60×50, 1 slice") && told.contains("vision: "), "{told}");

    let input = format!("/image '{image}'\nWhat?\n/image {image}\n/image nowhere.png\n/quit\n");
    let out = ocelli(&[&["chat"], &common[..]].concat(), input.as_bytes());
    let told = text(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "one line fails: {told}");
    assert!(told.contains("seen before") && told.contains("nowhere.png"), "{told}");

    let file = dir.path().join("out.safetensors");
    let mmproj = find_beside(Path::new(model), 256).unwrap();
    let mmproj = mmproj.to_str().unwrap();
    let out = ocelli(&["embed", "--mmproj", mmproj, image, "-o", file.to_str().unwrap(), "--pooled", "--json"], b"");
    assert!(out.status.success(), "{}", text(&out.stderr));
    let bytes = std::fs::read(&file).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let rows = usize::try_from(report["images"][0]["rows"].as_u64().unwrap()).unwrap();
    assert_eq!(tensors.tensor("images.0.emb").unwrap().shape(), [rows, 256]);
    assert_eq!(tensors.tensor("images.0.pooled").unwrap().shape(), [256]);
    // The file beside the model is the same one.
    let beside = dir.path().join("beside.safetensors");
    let out = ocelli(&["embed", "-m", model, image, "-o", beside.to_str().unwrap(), "--pooled"], b"");
    assert!(out.status.success() && std::fs::read(&beside).unwrap() == bytes, "{}", text(&out.stderr));
    let out = ocelli(&["embed", image, "-o", beside.to_str().unwrap(), "--overwrite"], b"");
    let told = text(&out.stderr);
    assert!(out.status.code() == Some(2) && told.contains("--mmproj") && told.contains("-m FILE"), "{told}");

    let probe = dir.path().join("probe.safetensors");
    let args = ["probe", "-m", model, "-c", "512", "-t", "1", "-p", "What?", "--image", image, "-o"];
    let out = ocelli(&[&args[..], &[probe.to_str().unwrap()]].concat(), b"");
    assert!(out.status.success(), "{}", text(&out.stderr));
    let bytes = std::fs::read(&probe).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let pixels = tensors.tensor("slices.0.pixels").unwrap();
    let grid = tensors.tensor("slices.0.grid").unwrap();
    let grid: Vec<_> = grid.data().as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b) as usize).collect();
    assert_eq!(pixels.shape(), [grid[0] * 14, grid[1] * 14, 3]);
    assert_eq!(tensors.tensor("slices.0.vit").unwrap().shape()[0], grid[0] * grid[1]);
    assert_eq!(tensors.tensor("slices.0.emb").unwrap().shape(), [rows, 256]);
}

/// A PNG of 2x1 pixels of 16-bit grey, 17 and 256, in a stored stream.
fn grey16() -> Vec<u8> {
    let crc = |bytes: &[u8]| {
        !bytes.iter().fold(u32::MAX, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |c, _| if c & 1 == 1 { 0xedb8_8320 ^ (c >> 1) } else { c >> 1 })
        })
    };
    let chunk = |name: &[u8], content: &[u8]| {
        let named = [name, content].concat();
        [&u32::try_from(content.len()).unwrap().to_be_bytes(), &named[..], &crc(&named).to_be_bytes()].concat()
    };
    let header = [0, 0, 0, 2, 0, 0, 0, 1, 16, 0, 0, 0, 0];
    // Filter 0, then two values.
    let row = [0, 0, 17, 1, 0];
    let (a, b) = row.iter().fold((1u32, 0u32), |(a, b), &byte| (a + u32::from(byte), b + a + u32::from(byte)));
    let stream = [&[0x78, 1, 1, 5, 0, 0xfa, 0xff][..], &row, &(b << 16 | a).to_be_bytes()].concat();
    [&b"\x89PNG\r\n\x1a\n"[..], &chunk(b"IHDR", &header), &chunk(b"IDAT", &stream), &chunk(b"IEND", &[])].concat()
}

/// Whoever sees such a picture anew is told, even if its rows are remembered; nobody is told twice of one picture.
#[test]
fn sixteen_bit_grey_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x-ray.png");
    std::fs::write(&path, grey16()).unwrap();
    let told = |media: &Media| media.warnings().to_vec();
    let mut media = media();
    show(&mut media, &[&path, &path]);
    let [warning] = &told(&media)[..] else { panic!("{:?}", told(&media)) };
    assert!(warning.contains("x-ray.png: the picture is 16-bit grey, and 50 % of its pixels turn white"), "{warning}");
    assert_eq!(show(&mut media, &[&path])[0].origin, Origin::Memory);
    assert_eq!(told(&media).len(), 1);
    // As frames of a video once for all; llama.cpp's rules keep the high byte.
    std::fs::copy(&path, dir.path().join("y-ray.png")).unwrap();
    media.video(dir.path(), &mut (), &AtomicBool::new(false)).unwrap();
    assert_eq!(told(&media).len(), 1);
    let mut other = media_with(MediaOptions::new(Profile::LlamaCpp));
    show(&mut other, &[&path]);
    assert_eq!(told(&other).len(), 0);
}

#[test]
fn what_cannot_be_shown_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let image = picture(&dir, "a.bmp", 60, 50, 1);
    let image = image.to_str().unwrap();
    let model = mini(FileType::F16);
    let lonely = dir.path().join("lonely.gguf");
    std::fs::copy(&model, &lonely).unwrap();
    let (model, lonely) = (model.to_str().unwrap(), lonely.to_str().unwrap());
    let run =
        |model: &'static str, more: &[&'static str]| [&["run", "-m", model, "-p", "x", "-c", "256"], more].concat();
    let leak = |s: &str| -> &'static str { Box::leak(s.to_owned().into_boxed_str()) };
    let (image, model, lonely) = (leak(image), leak(model), leak(lonely));
    refused(&run(lonely, &["--image", image]), b"", &["lonely.gguf", "text only", "--mmproj"]);
    refused(&run(model, &["--image", image, "--mmproj", model]), b"", &["gguf", "vision"]);
    refused(&run(model, &["--image", model]), b"", &["gguf", "PNG"]);
    misused(&run(model, &["--image", image, "--image-profile", "x"]), &["reference", "llama.cpp"]);
    misused(&run(model, &["--image", image, "--image-max-slices", "0"]), &["max_slice_nums"]);
    refused(
        &run(model, &["--image", image, "--image-max-pixels", "2999"]),
        b"",
        &["3000 pixels", "--image-max-pixels"],
    );
    refused(&run(model, &["--video", image]), b"", &["a.bmp", "not a video"]);
    // Half a minute of work in 4,620 bytes; a picture that made a decoder panic; a pipe among the frames of a folder.
    let hostile = dir.path().join("frames");
    std::fs::create_dir(&hostile).unwrap();
    let (bomb, panic) = (hostile.join("bomb.gif"), hostile.join("panic.png"));
    let frame = *b"\x21\xf9\x04\0\x64\0\0\0\x2c\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x05\0";
    let screen = *b"GIF89a\x40\x1f\x40\x1f\x80\0\0\0\0\0\xff\xff\xff";
    std::fs::write(&bomb, [&screen[..], &frame.repeat(200)].concat()).unwrap();
    let bomb = leak(bomb.to_str().unwrap());
    refused(&run(model, &["--video", bomb]), b"", &["bomb.gif", "64 frames take", "max_work_pixels"]);
    let mut png = grey16();
    png[24..26].copy_from_slice(&[8, 3]);
    png.splice(33..33, *b"\0\0\0\x04PLTE\x01\x02\x03\x04\0\0\0\0");
    std::fs::write(&panic, png).unwrap();
    refused(&run(model, &["--image", leak(panic.to_str().unwrap())]), b"", &["panic.png", "palette has 4 bytes"]);
    #[cfg(unix)]
    {
        let status = std::process::Command::new("mkfifo").arg(hostile.join("pipe.png")).status().unwrap();
        assert!(status.success());
        std::fs::remove_file(bomb).unwrap();
        std::fs::write(hostile.join("panic.png"), grey16()).unwrap();
        refused(&run(model, &["--video", leak(hostile.to_str().unwrap())]), b"", &["pipe.png", "named pipe"]);
    }
    let truncated = dir.path().join("short.bmp");
    let bytes = std::fs::read(image).unwrap();
    std::fs::write(&truncated, &bytes[..bytes.len() / 2]).unwrap();
    refused(&run(model, &["--image", leak(truncated.to_str().unwrap())]), b"", &["short.bmp"]);
    let mmproj = find_beside(Path::new(model), 256).unwrap();
    refused(&run(leak(mmproj.to_str().unwrap()), &[]), b"", &["clip", "--mmproj"]);
}
