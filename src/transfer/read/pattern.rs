//! Patterns for names of columns and files, and their natural order, in which 2 comes before 10.

use std::cmp::Ordering;

/// Whether `name` matches `pattern`; `*` matches any characters, and `?` matches one.
pub(crate) fn glob(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            glob(rest, name)
                || name
                    .split_first()
                    .is_some_and(|(_, name)| glob(pattern, name))
        }
        (Some((b'?', pattern)), Some((_, name))) => glob(pattern, name),
        (Some((wanted, pattern)), Some((found, name))) => wanted == found && glob(pattern, name),
        _ => false,
    }
}

/// Compares names in natural order: `obs_2` comes before `obs_10`.
pub(crate) fn natural(a: &str, b: &str) -> Ordering {
    fn pieces(name: &str) -> Vec<(u128, &str)> {
        let digit = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
        let mut pieces = Vec::new();
        let mut rest = name;
        while !rest.is_empty() {
            let number = digit(rest);
            let end = rest
                .find(|c: char| c.is_ascii_digit() != number)
                .unwrap_or(rest.len());
            let (piece, left) = rest.split_at(end);
            pieces.push((
                if number {
                    piece.parse().unwrap_or(u128::MAX)
                } else {
                    0
                },
                if number { "" } else { piece },
            ));
            rest = left;
        }
        pieces
    }
    pieces(a).cmp(&pieces(b)).then_with(|| a.cmp(b))
}
