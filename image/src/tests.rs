//! Against what Pillow and the published rules give, recorded by `tests/parity/compare_images.py --golden`.

use super::resize::{PassOrder, resize};
use super::*;

/// A picture whose byte i is the top byte of i * 2654435761 mod 2^32.
pub(super) fn pattern(width: usize, height: usize) -> Rgb8 {
    let byte = |i: usize| u32::try_from(i).unwrap().wrapping_mul(2_654_435_761).to_be_bytes()[0];
    Rgb8::new(width, height, (0..3 * width * height).map(byte).collect()).unwrap()
}

fn fnv(values: impl Iterator<Item = u64>) -> u64 {
    values.fold(0xcbf2_9ce4_8422_2325, |hash, value| (hash ^ value).wrapping_mul(0x100_0000_01b3))
}

fn hash(images: &[Rgb8]) -> u64 {
    fnv(images.iter().flat_map(|image| image.data().iter().map(|&b| u64::from(b))))
}

/// Knuth's MMIX generator.
struct Lcg(u64);

impl Lcg {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % n
    }
}

/// Width, height, new width, new height, hash of the result in either order of passes.
const RESIZES: &[(usize, usize, usize, usize, u64, u64)] = &[
    (4, 4, 56, 63, 0x309d_8ae0_db81_31ac, 0x309d_8ae0_db81_31ac),
    (27, 203, 4, 3, 0xc35b_fe2e_756c_6fce, 0xbcec_8119_717d_1a96),
    (66, 7, 158, 111, 0x7c71_358c_fba6_ef22, 0x7c71_358c_fba6_ef22),
    (9, 3, 9, 239, 0x4407_3a56_cb95_3e2e, 0x4407_3a56_cb95_3e2e),
    (9, 33, 129, 8, 0x820e_892e_34c3_1241, 0x8c06_7dc3_9870_6cd9),
    (173, 31, 15, 7, 0x5719_aac5_0cb7_f291, 0x5719_aac5_0cb7_f291),
    (95, 35, 8, 1, 0x78fb_a145_7f1f_2c0c, 0x78fb_a145_7f1f_2c0c),
    (106, 131, 23, 6, 0x1345_2e41_9a4b_2e29, 0x1345_2e41_9a4b_2e29),
    (156, 157, 60, 157, 0xc924_2600_44b2_83cc, 0xc924_2600_44b2_83cc),
    (29, 189, 29, 126, 0x5454_0324_7fc0_add9, 0x5454_0324_7fc0_add9),
    (28, 279, 38, 4, 0x4bca_60f7_7f83_e413, 0x8cf3_31f5_5676_e3e6),
    (5, 39, 135, 19, 0x3633_9cc8_c90d_4d7b, 0x63ae_1a34_88ce_34e2),
    (5, 241, 25, 107, 0x030d_77fc_43d3_20da, 0xc1d3_c412_1430_b603),
    (44, 4, 33, 19, 0x1450_4582_e299_ad1c, 0x1450_4582_e299_ad1c),
    (150, 10, 85, 1, 0x2f05_019d_dc4d_8825, 0x2f05_019d_dc4d_8825),
    (125, 98, 70, 9, 0x2649_9414_3b5f_8ca3, 0x2649_9414_3b5f_8ca3),
    (45, 5, 7, 61, 0xb00e_04d7_6e49_f35e, 0xb00e_04d7_6e49_f35e),
    (120, 220, 29, 34, 0x668f_34f6_7252_85d4, 0xd918_aa33_4eb8_3314),
    (22, 3, 83, 3, 0xf246_93ef_369b_d0e8, 0xf246_93ef_369b_d0e8),
    (26, 66, 26, 38, 0x1d15_0ec2_386d_4819, 0x1d15_0ec2_386d_4819),
    (9, 59, 40, 80, 0xb35a_a7eb_03f2_d5df, 0xb35a_a7eb_03f2_d5df),
    (38, 108, 3, 23, 0xf42a_6828_e75c_73fe, 0xcb3f_ab3b_e392_e6c0),
    (3, 4, 13, 10, 0xff1a_a6cd_b708_f34a, 0xff1a_a6cd_b708_f34a),
    (113, 12, 7, 6, 0x86d1_3e59_4a89_40c4, 0x86d1_3e59_4a89_40c4),
    (7, 2, 9, 7, 0x64ba_6dde_51c7_6acb, 0x64ba_6dde_51c7_6acb),
    (25, 19, 118, 124, 0x642d_70fc_cb33_50b3, 0x642d_70fc_cb33_50b3),
    (197, 6, 18, 22, 0x4e65_e2b9_05e4_c4eb, 0x4e65_e2b9_05e4_c4eb),
    (7, 119, 1, 89, 0x5261_211d_0cd3_f3a5, 0x07c7_c23c_af59_265a),
    (30, 17, 204, 17, 0xe99c_2391_8cbc_a0d1, 0xe99c_2391_8cbc_a0d1),
    (17, 59, 17, 30, 0x7d1e_d3ed_ae1f_4a77, 0x7d1e_d3ed_ae1f_4a77),
    (95, 4, 36, 44, 0xad43_125b_bdd4_1844, 0xad43_125b_bdd4_1844),
    (18, 213, 28, 50, 0x19a0_6e5c_365b_a4ae, 0x2fce_f844_6af6_3b98),
    (46, 75, 4, 173, 0x6ba9_bcec_6a66_8887, 0x6ba9_bcec_6a66_8887),
    (58, 17, 38, 1, 0x16aa_e3d7_c466_118c, 0x16aa_e3d7_c466_118c),
    (33, 123, 9, 6, 0x7cca_0786_9ad6_04e7, 0xb318_1535_7299_23b7),
    (112, 52, 5, 260, 0x5d01_7400_7ba3_91c9, 0x5d01_7400_7ba3_91c9),
    (3, 5, 3, 31, 0x545d_4e3f_2965_0d0d, 0x545d_4e3f_2965_0d0d),
    (36, 104, 72, 33, 0x37a7_5ffa_c78b_5030, 0x6fe2_9583_2fa4_32b7),
    (8, 3, 3, 3, 0x1199_ed34_6655_c8f7, 0x1199_ed34_6655_c8f7),
    (154, 234, 154, 100, 0x2f3e_e75d_c9ad_7e08, 0x2f3e_e75d_c9ad_7e08),
];

#[test]
fn resizing_equals_pillow() {
    for &(width, height, to_width, to_height, horizontal_first, pillow13) in RESIZES {
        for (order, expected) in [(PassOrder::HorizontalFirst, horizontal_first), (PassOrder::Pillow13, pillow13)] {
            let image = resize(&pattern(width, height), to_width, to_height, order).unwrap();
            assert_eq!((image.width(), image.height()), (to_width, to_height));
            assert_eq!(hash(&[image]), expected, "{width}x{height} -> {to_width}x{to_height}, {order:?}");
        }
    }
}

#[test]
fn one_row() {
    let grey = [3u8, 250, 17, 99, 180, 64, 128, 255, 0, 77];
    let image = Rgb8::new(10, 1, grey.iter().flat_map(|&v| [v; 3]).collect()).unwrap();
    let row =
        |n| resize(&image, n, 1, PassOrder::default()).unwrap().data().iter().step_by(3).copied().collect::<Vec<_>>();
    assert_eq!(row(4), [107, 106, 143, 88]);
    assert_eq!(row(7), [91, 117, 101, 122, 136, 152, 40]);
    assert_eq!(row(14), [0, 157, 209, 17, 66, 144, 172, 73, 87, 171, 255, 60, 17, 81]);
    assert_eq!(row(10), grey);
}

#[test]
fn a_small_picture() {
    let grey = (0..35u32).map(|i| u8::try_from((37 * i * i + 11 * i) % 256).unwrap());
    let image = Rgb8::new(7, 5, grey.flat_map(|v| [v; 3]).collect()).unwrap();
    let small: Vec<_> = resize(&image, 4, 3, PassOrder::Pillow13).unwrap().data().iter().step_by(3).copied().collect();
    assert_eq!(small, [59, 121, 172, 168, 157, 123, 168, 196, 182, 110, 103, 171]);
}

#[test]
fn constant_pictures_stay_constant_at_any_size() {
    for value in [0, 1, 127, 255] {
        for (from, to) in [((1, 1), (448, 448)), ((1, 5000), (14, 100)), ((5000, 1), (3, 7)), ((13, 17), (1, 1))] {
            let image = Rgb8::new(from.0, from.1, vec![value; 3 * from.0 * from.1]).unwrap();
            assert!(
                resize(&image, to.0, to.1, PassOrder::default()).unwrap().data().iter().all(|&v| v == value),
                "{from:?} -> {to:?}"
            );
        }
    }
}

fn numbers(plan: &Plan) -> [usize; 10] {
    let mut all = [plan.overview.0, plan.overview.1, 0, 0, 0, 0, 0, 0, 0, 0];
    if let Some(Tiles { grid, tile, content: c }) = plan.tiles {
        all[2..].copy_from_slice(&[grid.0, grid.1, tile.0, tile.1, c.width, c.height, c.x, c.y]);
    }
    all
}

/// Half of the sizes with the model's numbers, half with those of small models.
fn plans(profile: Profile) -> u64 {
    let mut random = Lcg(1);
    let mut all = Vec::new();
    for case in 0..20_000 {
        let most = 1 + random.below(6000);
        let (width, height) = (1 + random.below(most), 1 + random.below(most));
        let mut options = SliceOptions { profile, ..SliceOptions::default() };
        if case % 2 == 1 {
            options.max_slice_nums = 1 + random.below(12);
            options.scale_resolution = 16 * (1 + random.below(12));
            options.patch_size = 16;
        }
        all.extend(numbers(&plan(width, height, &options).unwrap()).map(|n| n as u64));
    }
    fnv(all.into_iter())
}

#[test]
fn twenty_thousand_plans_equal_the_published_rules() {
    assert_eq!(plans(Profile::Reference), 0xc3e4_f892_62f6_cdca);
    assert_eq!(plans(Profile::LlamaCpp), 0x00c6_4210_80b3_ddb5);
}

#[test]
fn whole_slices_equal_pillow() {
    let cases = [
        (Profile::Reference, 200, 150, 10, [0x80aa_e770_4964_42bb, 0x04cb_9b0d_5837_f041]),
        (Profile::Reference, 150, 40, 4, [0xe775_4980_ba5e_ff9a, 0xe775_4980_ba5e_ff9a]),
        (Profile::Reference, 333, 71, 8, [0x4001_14ce_aaf2_5416, 0x4001_14ce_aaf2_5416]),
        (Profile::Reference, 61, 320, 7, [0x6f57_237c_000f_d775, 0x8ba6_68b6_94f1_a8c2]),
        (Profile::LlamaCpp, 200, 150, 10, [0xf58a_04fa_3c37_3ab1, 0xf58a_04fa_3c37_3ab1]),
        (Profile::LlamaCpp, 150, 40, 4, [0x92dc_8353_ba72_216d, 0x92dc_8353_ba72_216d]),
        (Profile::LlamaCpp, 333, 71, 8, [0x7ff5_af0b_0d68_a77e, 0x7ff5_af0b_0d68_a77e]),
        (Profile::LlamaCpp, 61, 320, 7, [0xbb7c_5b31_ebfa_8a57, 0xbb7c_5b31_ebfa_8a57]),
    ];
    for (profile, width, height, count, expected) in cases {
        for (pass_order, expected) in [PassOrder::HorizontalFirst, PassOrder::Pillow13].into_iter().zip(expected) {
            let options = SliceOptions { profile, scale_resolution: 56, pass_order, ..SliceOptions::default() };
            let sliced = slice(&pattern(width, height), &options).unwrap();
            assert_eq!(sliced.slices.len(), count, "{profile} {width}x{height}");
            assert_eq!(plan(width, height, &options).unwrap().slices(), count);
            assert_eq!(hash(&sliced.slices), expected, "{profile} {width}x{height} {pass_order:?}");
        }
    }
}

/// Size, then per profile: overview, grid, tile, content.
#[test]
fn worked_examples() {
    type Side = (usize, usize);
    let none = (0, 0);
    let cases: [(Side, [Side; 3], [Side; 4]); 16] = [
        ((224, 224), [(448, 448), none, none], [(448, 448), none, none, none]),
        ((300, 200), [(546, 364), none, none], [(448, 448), none, none, none]),
        ((500, 120), [(910, 224), none, none], [(504, 126), (2, 1), (644, 308), (1284, 308)]),
        ((449, 448), [(448, 448), (2, 1), (322, 630)], [(448, 448), (2, 1), (322, 630), (632, 630)]),
        ((640, 400), [(560, 350), (2, 1), (406, 504)], [(560, 350), (2, 1), (406, 504), (807, 504)]),
        ((640, 480), [(518, 392), (2, 1), (364, 546)], [(518, 392), (2, 1), (364, 546), (728, 546)]),
        ((800, 600), [(518, 392), (2, 2), (518, 392)], [(518, 392), (2, 2), (518, 392), (1036, 777)]),
        ((1024, 768), [(518, 392), (2, 2), (518, 392)], [(518, 392), (2, 2), (518, 392), (1036, 777)]),
        ((1280, 720), [(602, 336), (3, 2), (490, 406)], [(602, 336), (3, 2), (490, 406), (1444, 812)]),
        ((1920, 1080), [(602, 336), (4, 2), (420, 476)], [(602, 336), (4, 2), (420, 476), (1680, 945)]),
        ((1344, 1344), [(448, 448), (3, 3), (448, 448)], [(448, 448), (3, 3), (448, 448), (1344, 1344)]),
        ((3000, 400), [(1218, 168), (7, 1), (462, 434)], [(1218, 168), (7, 1), (462, 434), (3234, 432)]),
        ((400, 3000), [(168, 1232), (1, 7), (434, 462)], [(168, 1232), (1, 7), (434, 462), (432, 3234)]),
        ((4032, 3024), [(518, 392), (3, 3), (518, 392)], [(518, 392), (3, 3), (518, 392), (1554, 1166)]),
        ((1509, 2194), [(364, 546), (2, 4), (518, 378)], [(378, 546), (2, 4), (532, 378), (1040, 1512)]),
        ((1050, 1370), [(392, 504), (3, 3), (392, 504)], [(392, 518), (3, 3), (392, 518), (1176, 1535)]),
    ];
    for ((width, height), reference, llama_cpp) in cases {
        for (profile, expected) in [(Profile::Reference, &reference[..]), (Profile::LlamaCpp, &llama_cpp[..])] {
            let options = SliceOptions { profile, ..SliceOptions::default() };
            let plan = plan(width, height, &options).unwrap();
            let tiles = plan.tiles.map_or([none; 3], |t| [t.grid, t.tile, (t.content.width, t.content.height)]);
            assert_eq!(plan.overview, expected[0], "{profile} {width}x{height}");
            assert_eq!(tiles[..expected.len() - 1], expected[1..], "{profile} {width}x{height}");
        }
    }
}

#[test]
fn one_slice_per_frame_of_a_video() {
    let options = SliceOptions { max_slice_nums: 1, ..SliceOptions::default() };
    assert_eq!(plan(1920, 1080, &options).unwrap(), Plan { overview: (602, 336), tiles: None });
}

#[test]
fn extreme_shapes() {
    // The published rules give these a finite answer, so that they get it here.
    let reference = SliceOptions::default();
    assert_eq!(plan(1, 1, &reference).unwrap().overview, (448, 448));
    assert_eq!(plan(1, 5000, &reference).unwrap().overview, (14, 31_682));
    assert_eq!(plan(5000, 1, &reference).unwrap().overview, (30_002, 14));
    let llama_cpp = SliceOptions { profile: Profile::LlamaCpp, ..reference };
    assert_eq!(plan(1, 1, &llama_cpp).unwrap().overview, (448, 448));
    assert_eq!(numbers(&plan(1, 5000, &llama_cpp).unwrap()), [14, 4998, 1, 2, 14, 22_400, 9, 44_800, 2, 0]);
    for options in [reference, llama_cpp] {
        let sliced = slice(&pattern(1, 700), &options).unwrap();
        assert!(sliced.slices.iter().all(|s| s.width() % 14 == 0 && s.height() % 14 == 0));
        assert!(plan(MAX_SIDE, MAX_SIDE, &options).is_ok());
        assert!(matches!(plan(0, 5, &options), Err(ImageError::Size { .. })));
        assert!(matches!(plan(MAX_SIDE + 1, 5, &options), Err(ImageError::Size { .. })));
    }
}

#[test]
fn options_are_checked() {
    let good = SliceOptions::default();
    for bad in [
        SliceOptions { max_slice_nums: 0, ..good },
        SliceOptions { max_slice_nums: MAX_SLICE_NUMS + 1, ..good },
        SliceOptions { scale_resolution: 0, ..good },
        SliceOptions { scale_resolution: 5000, ..good },
        SliceOptions { patch_size: 0, ..good },
        SliceOptions { patch_size: 449, ..good },
    ] {
        assert!(matches!(plan(10, 10, &bad), Err(ImageError::Option { .. })), "{bad:?}");
    }
    for name in Profile::NAMES {
        assert_eq!(Profile::from_name(name).unwrap().name(), name);
    }
    let message = Profile::from_name("llava").unwrap_err().to_string();
    assert!(message.contains("`llava`") && message.contains("reference or llama.cpp"), "{message}");
}

#[test]
fn pictures_are_checked() {
    assert!(Rgb8::new(2, 2, vec![0; 12]).is_ok());
    for (width, height, bytes) in [(2, 2, 11), (2, 2, 13), (0, 2, 0), (MAX_SIDE + 1, 1, 0), (usize::MAX, 3, 0)] {
        assert!(Rgb8::new(width, height, vec![0; bytes]).is_err(), "{width}x{height}");
    }
    let image = pattern(5, 4);
    assert_eq!(image.crop(0, 0, 5, 4).unwrap(), image);
    assert_eq!(image.crop(4, 3, 1, 1).unwrap().data(), &image.data()[57..]);
    assert!(image.crop(4, 3, 2, 1).is_err());
    assert!(image.crop(usize::MAX, 0, 1, 1).is_err());
}
