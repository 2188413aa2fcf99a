//! Which orientation is found, by what Pillow 13 finds in the same files.

use std::io::Write;

use super::*;
use crate::decode::tests::png_chunk;

/// An EXIF block whose first directory has these entries: tag, type, count, value; `rest` follows it.
fn block(little: bool, entries: &[(u16, u16, u32, [u8; 4])], rest: &[u8]) -> Vec<u8> {
    let short = |n: u16| if little { n.to_le_bytes() } else { n.to_be_bytes() };
    let long = |n: u32| if little { n.to_le_bytes() } else { n.to_be_bytes() };
    let mut bytes = if little { b"II*\0".to_vec() } else { b"MM\0*".to_vec() };
    bytes.extend(long(8));
    bytes.extend(short(u16::try_from(entries.len()).unwrap()));
    for (tag, kind, count, value) in entries {
        bytes.extend([short(*tag), short(*kind)].as_flattened());
        bytes.extend(long(*count));
        bytes.extend(value);
    }
    bytes.extend([0; 4]);
    bytes.extend(rest);
    bytes
}

fn simple(value: u8) -> Vec<u8> {
    block(true, &[(0x112, 3, 1, [value, 0, 0, 0])], &[])
}

fn xmp(value: &str) -> Vec<u8> {
    format!("<x:xmpmeta><rdf:Description {value}/></x:xmpmeta>").into_bytes()
}

fn attribute(value: u8) -> Vec<u8> {
    xmp(&format!("tiff:Orientation=\"{value}\""))
}

fn profile(exif: &[u8]) -> Vec<u8> {
    let digits: String = exif.iter().map(|byte| format!("{byte:02x}")).collect();
    let (first, second) = digits.split_at(20);
    format!("\nexif\n      {}\n{first}\n{second}\n", exif.len()).into_bytes()
}

fn deflated(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// A PNG of these chunks; only its chunks are looked at.
fn png(chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
    let chunks: Vec<u8> = chunks.iter().flat_map(|(name, content)| png_chunk(name, content)).collect();
    [&b"\x89PNG\r\n\x1a\n"[..], &chunks].concat()
}

fn jpeg(segments: &[&[u8]]) -> Vec<u8> {
    let mut bytes = b"\xff\xd8".to_vec();
    for segment in segments {
        bytes.extend([0xff, 0xe1]);
        bytes.extend(u16::try_from(segment.len() + 2).unwrap().to_be_bytes());
        bytes.extend(*segment);
    }
    [&bytes[..], b"\xff\xda\0\x02\xff\xd9"].concat()
}

fn webp(flags: u8, chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
    let mut bytes = [&b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0"[..], &[flags], &[0; 9]].concat();
    for (name, content) in chunks {
        bytes.extend(*name);
        bytes.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
        bytes.extend(*content);
        bytes.extend(&[0][..content.len() % 2]);
    }
    bytes
}

#[test]
fn any_number_will_do_in_either_byte_order() {
    for little in [true, false] {
        let long = |n: u32| if little { n.to_le_bytes() } else { n.to_be_bytes() };
        let short = |n: u16| if little { n.to_le_bytes() } else { n.to_be_bytes() };
        let [a, b] = short(6);
        let of =
            |kind, count, value, rest: &[u8]| exif_orientation(&block(little, &[(0x112, kind, count, value)], rest));
        for (kind, value) in
            [(3, [a, b, 0, 0]), (4, long(6)), (6, [6, 0, 0, 0]), (8, [a, b, 0, 0]), (9, long(6)), (13, long(6))]
        {
            assert_eq!(of(kind, 1, value, &[]), Some(6), "type {kind}");
        }
        assert_eq!(of(11, 1, long(6f32.to_bits()), &[]), Some(6));
        let order = |mut bytes: [u8; 8]| {
            if !little {
                bytes.reverse();
            }
            bytes
        };
        assert_eq!(of(12, 1, long(26), &order(6f64.to_le_bytes())), Some(6));
        assert_eq!(of(16, 1, long(26), &order(6u64.to_le_bytes())), Some(6));
        assert_eq!(of(5, 1, long(26), [long(12), long(2)].as_flattened()), Some(6));
        // Of several values the first; of several entries too.
        assert_eq!(of(3, 2, [short(6), short(3)].concat().try_into().unwrap(), &[]), Some(6));
        let twice = [(0x112, 4, 1, long(3)), (0x112, 4, 1, long(6))];
        assert_eq!(exif_orientation(&block(little, &twice, &[])), Some(3));
        // A byte, a text and bytes of no type are no numbers; none of them gives way to another block.
        for kind in [1, 2, 7] {
            assert_eq!(of(kind, 1, [6, 0, 0, 0], &[]), Some(0), "type {kind}");
        }
        assert_eq!(of(4, 1, long(0x1_0006), &[]), Some(0));
        assert_eq!(of(5, 1, long(26), [long(0), long(0)].as_flattened()), Some(0));
        // What lies outside says nothing.
        assert_eq!(of(12, 1, long(u32::MAX), &[]), None);
        assert_eq!(of(3, u32::MAX, long(u32::MAX), &[]), None);
        assert_eq!(exif_orientation(&block(little, &[(0x111, 4, 1, long(6))], &[])), None);
    }
    let whole = simple(6);
    for end in 0..whole.len() {
        assert!(exif_orientation(&whole[..end]).is_none_or(|number| number == 6), "{end}");
    }
    // Only the first directory counts: the second is the thumbnail's.
    let mut second = block(true, &[], &block(true, &[(0x112, 3, 1, [6, 0, 0, 0])], &[])[8..]);
    second[10] = 14;
    assert_eq!(exif_orientation(&second), None);
}

#[test]
fn png_blocks_and_their_precedence() {
    let itxt = |key: &str, text: &[u8]| [key.as_bytes(), &[0, 0, 0, 0, 0], text].concat();
    let itxt_deflated = |key: &str, text: &[u8]| [key.as_bytes(), &[0, 1, 0, 0, 0], &deflated(text)].concat();
    let ztxt = |key: &str, text: &[u8]| [key.as_bytes(), &[0, 0], &deflated(text)].concat();
    let text = |key: &str, text: &[u8]| [key.as_bytes(), &[0], text].concat();
    const RAW: &str = "Raw profile type exif";
    const XMP: &str = "XML:com.adobe.xmp";
    let end: (&[u8; 4], &[u8]) = (b"IDAT", b"x");
    let found = |chunks: &[(&[u8; 4], &[u8])]| orientation(&png(chunks), Format::Png);
    let raw = profile(&simple(6));
    for (name, content) in [
        (b"eXIf", simple(6)),
        (b"eXIf", [b"Exif\0\0", &simple(6)[..]].concat()),
        (b"tEXt", text(RAW, &raw)),
        (b"zTXt", ztxt(RAW, &raw)),
        (b"iTXt", itxt(RAW, &raw)),
        (b"iTXt", itxt_deflated(RAW, &raw)),
        (b"zTXt", ztxt(RAW, &profile(&[b"Exif\0\0", &simple(6)[..]].concat()))),
        (b"iTXt", itxt(XMP, &attribute(6))),
        (b"iTXt", itxt_deflated(XMP, &attribute(6))),
        (b"zTXt", ztxt(XMP, &attribute(6))),
        (b"tEXt", text(XMP, &attribute(6))),
        (b"iTXt", itxt(XMP, &xmp("><tiff:Orientation>6</tiff:Orientation>"))),
    ] {
        assert_eq!(found(&[(name, &content), end]), Some(6), "{content:?}");
        assert_eq!(found(&[end, (name, &content)]), Some(6), "behind the pixels: {content:?}");
    }
    assert_eq!(found(&[(b"zTXt", &ztxt("Raw profile type APP1", &raw)), end]), None);
    assert_eq!(found(&[(b"iTXt", &itxt(XMP, &xmp("tiff:Orientation='6'"))), end]), None);
    // EXIF before XMP, the chunk before the text, the last text; XMP only where EXIF says nothing.
    let other = itxt(XMP, &attribute(6));
    let with = |exif: &[u8]| found(&[(b"eXIf", exif), (b"iTXt", &other), end]);
    assert_eq!(with(&simple(3)), Some(3));
    assert_eq!((with(&simple(1)), with(&simple(9)), with(&simple(0))), (None, None, None));
    assert_eq!(with(&block(true, &[(0x111, 3, 1, [3, 0, 0, 0])], &[])), Some(6));
    assert_eq!(with(b"no TIFF"), Some(6));
    assert_eq!(found(&[(b"tEXt", &text(RAW, &raw)), end, (b"eXIf", &simple(3))]), Some(3));
    assert_eq!(found(&[(b"tEXt", &text(RAW, &profile(&simple(3)))), (b"zTXt", &ztxt(RAW, &raw)), end]), Some(6));
    // A text that unfolds without end is not read; neither is one with other digits.
    let bomb = deflated(&[&raw[..], &vec![b' '; 2 << 20]].concat());
    assert_eq!(found(&[(b"zTXt", &[RAW.as_bytes(), &[0, 0], &bomb].concat()), end]), None);
    assert_eq!(found(&[(b"tEXt", &text(RAW, b"\nexif\n 2\nzz\n")), end]), None);
}

#[test]
fn jpeg_and_webp_blocks() {
    const NAME: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
    let exif = |block: &[u8]| [b"Exif\0\0", block].concat();
    let packet = |value: u8| [NAME, &attribute(value)].concat();
    let found = |segments: &[&[u8]]| orientation(&jpeg(segments), Format::Jpeg);
    assert_eq!(found(&[&exif(&simple(6))]), Some(6));
    assert_eq!(found(&[&packet(6)]), Some(6));
    assert_eq!(found(&[&packet(3), &packet(6)]), Some(6));
    assert_eq!(found(&[&packet(6), &exif(&simple(3))]), Some(3));
    let (start, end) = (&simple(6)[..15], &simple(6)[15..]);
    assert_eq!(found(&[&exif(start), &exif(end)]), Some(6));
    assert_eq!(found(&[&exif(&block(true, &[], &[])), &packet(8)]), Some(8));
    for (digit, expected) in [(0, None), (1, None), (2, Some(2)), (8, Some(8)), (9, None)] {
        assert_eq!(found(&[&packet(digit)]), expected);
    }

    let found = |flags: u8, chunks: &[(&[u8; 4], &[u8])]| orientation(&webp(flags, chunks), Format::WebP);
    let (six, three) = (simple(6), attribute(3));
    assert_eq!(found(8, &[(b"EXIF", &six)]), Some(6));
    assert_eq!(found(8, &[(b"EXIF", &exif(&six))]), Some(6));
    assert_eq!(found(4, &[(b"XMP ", &three)]), Some(3));
    assert_eq!(found(12, &[(b"XMP ", &three), (b"EXIF", &six)]), Some(6));
    assert_eq!(found(4, &[(b"XMP ", &three), (b"EXIF", &six)]), Some(3));
    assert_eq!(found(0, &[(b"XMP ", &three), (b"EXIF", &six)]), None);
}
