//! Random numbers by counter: the value at any index is a function of (key, index) alone, so that threads and strips
//! can be cut anywhere without changing a byte.
//!
//! The mixing function is the finaliser of SplitMix64 (Steele, Lea, Flood 2014). Normal values are the sum of four
//! 16-bit uniform ones (Irwin–Hall): cheap, symmetric, exact in integers, and never beyond 3.47 deviations.

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
/// Mean of the sum of four uniform 16-bit numbers.
const MEAN: i32 = 2 * 65535;
/// One over its standard deviation, `sqrt(4 · (2^32 − 1) / 12)`.
const INV_STD: f32 = 1.0 / 37_837.227;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A stream of random numbers that can be read at any index.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stream {
    key: u64,
}

impl Stream {
    /// The stream of `seed` called `name`.
    pub(super) fn new(seed: u64, name: &str) -> Self {
        let mut key = mix(seed.wrapping_add(GOLDEN));
        for byte in name.bytes() {
            key = mix(key ^ u64::from(byte)).wrapping_add(GOLDEN);
        }
        Self { key }
    }

    /// 64 random bits.
    pub(super) fn bits(self, index: u64) -> u64 {
        mix(self.key.wrapping_add(index.wrapping_mul(GOLDEN)))
    }

    /// Uniform in [0, 1).
    pub(super) fn uniform(self, index: u64) -> f32 {
        (self.bits(index) >> 40) as f32 * (1.0 / (1_u64 << 24) as f32)
    }

    /// Nearly normal, mean 0, deviation 1.
    #[inline]
    pub(super) fn normal(self, index: u64) -> f32 {
        let bits = self.bits(index);
        let halves = (bits & 0x0000_ffff_0000_ffff) + ((bits >> 16) & 0x0000_ffff_0000_ffff);
        let sum = (halves & 0xffff_ffff) + (halves >> 32);
        (sum as i32 - MEAN) as f32 * INV_STD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_values_have_the_stated_moments() {
        let stream = Stream::new(1, "x");
        let n = 200_000_u32;
        let (mut sum, mut squares, mut max) = (0.0_f64, 0.0_f64, 0.0_f32);
        for i in 0..n {
            let v = stream.normal(u64::from(i));
            sum += f64::from(v);
            squares += f64::from(v) * f64::from(v);
            max = max.max(v.abs());
        }
        assert!((sum / f64::from(n)).abs() < 0.01, "mean {}", sum / f64::from(n));
        assert!((squares / f64::from(n) - 1.0).abs() < 0.02, "variance {}", squares / f64::from(n));
        assert!(max > 3.0 && max < 3.47, "largest {max}");
    }

    #[test]
    fn streams_differ_by_seed_and_name() {
        let values = [(1, "a"), (1, "b"), (2, "a"), (1, "ab")].map(|(seed, name)| Stream::new(seed, name).bits(0));
        for (i, a) in values.iter().enumerate() {
            assert!(values.iter().skip(i + 1).all(|b| a != b));
        }
    }
}
