//! Resizing of RGB pictures.
//!
//! The arithmetic is that of Pillow's `Image.resize`: each axis in turn, columns first, weights in
//! fixed point with 22 bits, and pixels rounded to 8 bits after each axis. A triangle is stretched by
//! the factor that a picture shrinks by, so no pixel is left out.

use super::Filter;
use crate::dataset::frames::Picture;

/// The number of bits behind the point of a weight.
const BITS: u32 = 22;

/// The pixels of one axis that a resized pixel is made from.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// Returns the taps of each of `to` pixels over an axis of `from` pixels.
fn taps(from: usize, to: usize, filter: Filter) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let tap = |index: usize| {
        let (first, weights) = match filter {
            Filter::Bilinear => triangle(index, from, scale),
            Filter::Area => covered(index, from, scale),
        };
        let sum: f64 = weights.iter().sum();
        let fixed = |weight: &f64| (weight / sum * f64::from(1_u32 << BITS) + 0.5) as i32;
        Taps {
            first,
            weights: weights.iter().map(fixed).collect(),
        }
    };
    (0..to).map(tap).collect()
}

/// Returns the first pixel and the weights of a triangle around the middle of pixel `index`.
fn triangle(index: usize, from: usize, scale: f64) -> (usize, Vec<f64>) {
    let support = scale.max(1.0);
    let middle = (index as f64 + 0.5) * scale;
    let first = ((middle - support + 0.5) as i64).max(0) as usize;
    let end = ((middle + support + 0.5) as i64).max(0) as usize;
    let weight = |at: usize| {
        let distance = (at as f64 - middle + 0.5) * (1.0 / support);
        (1.0 - distance.abs()).max(0.0)
    };
    (first, (first..end.min(from)).map(weight).collect())
}

/// Returns the first pixel that pixel `index` covers, and how much of each it covers.
fn covered(index: usize, from: usize, scale: f64) -> (usize, Vec<f64>) {
    let (start, end) = (index as f64 * scale, (index + 1) as f64 * scale);
    // Ends that are whole numbers but for rounding cover no pixel more.
    let first = (start + 1e-9) as usize;
    let last = ((end - 1e-9).ceil() as usize).clamp(first + 1, from.max(first + 1));
    let weight = |at: usize| (end.min((at + 1) as f64) - start.max(at as f64)).max(0.0);
    (first, (first..last).map(weight).collect())
}

/// Rounds a sum of weighted pixels to a pixel.
fn pixel(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

/// Resizes pictures of one size to another.
pub(crate) struct Resize {
    from: [usize; 2],
    to: [usize; 2],
    rows: Vec<Taps>,
    columns: Vec<Taps>,
}

impl Resize {
    /// Returns what resizes pictures of `from` to `to`, each a height and a width.
    pub(crate) fn new(from: [usize; 2], to: [usize; 2], filter: Filter) -> Resize {
        Resize {
            from,
            to,
            rows: taps(from[0], to[0], filter),
            columns: taps(from[1], to[1], filter),
        }
    }

    /// Returns the resized picture, row by row.
    pub(crate) fn apply(&self, picture: Picture) -> Vec<u8> {
        let width = self.to[1];
        let mut wide: Vec<u8> = Vec::with_capacity(3 * width * picture.height);
        for row in picture.rows() {
            if self.from[1] == width {
                wide.extend_from_slice(row);
                continue;
            }
            for taps in &self.columns {
                let mut sums = [1 << (BITS - 1); 3];
                let pixels = row[3 * taps.first..].chunks_exact(3);
                for (pixel, weight) in pixels.zip(&taps.weights) {
                    for (sum, value) in sums.iter_mut().zip(pixel) {
                        *sum += i32::from(*value) * weight;
                    }
                }
                wide.extend(sums.map(pixel));
            }
        }
        if self.from[0] == self.to[0] {
            return wide;
        }
        let stride = 3 * width;
        let mut out = Vec::with_capacity(stride * self.to[0]);
        let mut sums = vec![0; stride];
        for taps in &self.rows {
            sums.fill(1 << (BITS - 1));
            let rows = wide[stride * taps.first..].chunks_exact(stride.max(1));
            for (row, weight) in rows.zip(&taps.weights) {
                for (sum, value) in sums.iter_mut().zip(row) {
                    *sum += i32::from(*value) * weight;
                }
            }
            out.extend(sums.iter().map(|sum| pixel(*sum)));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Pillow 11 makes of the same pictures: `Image.fromarray(a).resize((w, h), filter)`.
    #[test]
    fn pictures_are_resized_as_pillow_does() {
        let value = |row: usize, column: usize, channel: usize| {
            ((row * 37 + column * 101 + channel * 59 + row * column * 13) % 256) as u8
        };
        let mut rgb = Vec::new();
        for row in 0..5 {
            for column in 0..7 {
                rgb.extend((0..3).map(|channel| value(row, column, channel)));
            }
        }
        let resized =
            |to, filter| Resize::new([5, 7], to, filter).apply(Picture::packed([5, 7], &rgb));
        assert_eq!(resized([5, 7], Filter::Bilinear), rgb);
        assert_eq!(resized([2, 3], Filter::Bilinear), BILINEAR_SMALLER);
        assert_eq!(resized([6, 8], Filter::Bilinear)[..24], BILINEAR_LARGER);
        let area = resized([2, 3], Filter::Area);
        let apart = area
            .iter()
            .zip(AREA_SMALLER)
            .map(|(one, other)| one.abs_diff(other));
        assert!(apart.max() <= Some(1), "{area:?}");
    }
    const BILINEAR_SMALLER: [u8; 18] = [
        97, 109, 123, 125, 104, 135, 156, 95, 130, 141, 113, 138, 125, 106, 135, 125, 135, 100,
    ];

    const BILINEAR_LARGER: [u8; 24] = [
        0, 59, 118, 82, 141, 200, 170, 53, 112, 115, 62, 121, 91, 150, 97, 180, 159, 42, 220, 71,
        130, 94, 153, 212,
    ];

    /// What OpenCV makes of it with `INTER_AREA`.
    const AREA_SMALLER: [u8; 18] = [
        87, 110, 125, 122, 101, 131, 158, 92, 137, 140, 118, 133, 129, 108, 138, 119, 141, 98,
    ];
}
