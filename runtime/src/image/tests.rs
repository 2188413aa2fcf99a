//! Against Pillow's results and the published code's sizes, both recorded by `tests/parity/compare_images.py`.

use super::resize::resize;
use super::*;

/// The picture with bytes (37·i² + 11·i) mod 256.
fn pattern(width: usize, height: usize) -> Rgb8 {
    let byte = |i: usize| u8::try_from((37 * i * i + 11 * i) % 256).unwrap();
    Rgb8::new(width, height, (0..3 * width * height).map(byte).collect()).unwrap()
}

#[test]
fn one_row() {
    let grey = [3u8, 250, 17, 99, 180, 64, 128, 255, 0, 77];
    let image = Rgb8::new(10, 1, grey.iter().flat_map(|&v| [v; 3]).collect()).unwrap();
    let row = |n| resize(&image, n, 1).unwrap().data().iter().step_by(3).copied().collect::<Vec<_>>();
    assert_eq!(row(4), [107, 106, 143, 88]);
    assert_eq!(row(7), [91, 117, 101, 122, 136, 152, 40]);
    assert_eq!(row(14), [0, 157, 209, 17, 66, 144, 172, 73, 87, 171, 255, 60, 17, 81]);
    assert_eq!(row(10), grey);
    let _ = pattern(2, 2);
}
