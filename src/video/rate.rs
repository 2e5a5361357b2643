//! Frame rates as fractions.

use ffmpeg_next::Rational;

/// Returns the simplest fraction that is as good as equal to `number`, such as 30000/1001.
pub(super) fn rational(number: f64) -> Rational {
    let (mut before, mut last) = ((0_i64, 1_i64), (1_i64, 0_i64));
    let mut rest = number;
    for _ in 0..24 {
        let whole = rest.floor();
        let next = (
            whole as i64 * last.0 + before.0,
            whole as i64 * last.1 + before.1,
        );
        if next.0 > i64::from(i32::MAX) || next.1 > 1_000_000 {
            break;
        }
        (before, last) = (last, next);
        let found = last.0 as f64 / last.1 as f64;
        if (found - number).abs() <= 1e-12 * number || rest == whole {
            break;
        }
        rest = 1.0 / (rest - whole);
    }
    Rational::new(last.0.max(1) as i32, last.1.max(1) as i32)
}
