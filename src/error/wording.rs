//! Numbers in sentences: digits in groups of three, and nouns that agree with their counts.

/// Returns `n` with its digits in groups of three: `14,464`.
pub(crate) fn number(n: impl TryInto<u64>) -> String {
    let digits = n.try_into().unwrap_or(u64::MAX).to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).unwrap_or_default())
        .collect();
    groups.join(",")
}

/// Returns `n` and `noun` in the number that agrees with it: `1 shard`, `2 shards`,
/// `1,200 trajectories`.
///
/// `noun` is a regular English noun in the singular, or a phrase that ends with one.
pub(crate) fn count(n: impl TryInto<u64>, noun: &str) -> String {
    let n = n.try_into().unwrap_or(u64::MAX);
    let number = number(n);
    match n {
        1 => format!("{number} {noun}"),
        _ => format!("{number} {}", plural(noun)),
    }
}

fn plural(noun: &str) -> String {
    let ends = |endings: &[&str]| endings.iter().any(|ending| noun.ends_with(ending));
    match noun.strip_suffix('y') {
        Some(stem) if !ends(&["ay", "ey", "oy", "uy"]) => format!("{stem}ies"),
        _ if ends(&["s", "x", "z", "ch", "sh"]) => format!("{noun}es"),
        _ => format!("{noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped_from_the_right() {
        let numbers = [0_u64, 12, 999, 1_000, 14_464, 1_234_567].map(number);
        assert_eq!(numbers, ["0", "12", "999", "1,000", "14,464", "1,234,567"]);
    }

    #[test]
    fn nouns_agree_with_their_counts() {
        assert_eq!(count(1_usize, "shard"), "1 shard");
        assert_eq!(count(0_u64, "step"), "0 steps");
        assert_eq!(count(1_200_u32, "trajectory"), "1,200 trajectories");
        assert_eq!(count(2_i64, "damaged batch"), "2 damaged batches");
        assert_eq!(count(3_u8, "day"), "3 days");
    }
}
