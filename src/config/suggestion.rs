//! The name that somebody probably meant.

/// Says that a name is unknown, and which known one is nearest, or all of them if none is near.
pub(super) fn unknown(name: &str, kind: &str, known: &[&str]) -> String {
    match nearest(name, known) {
        Some(near) => format!("{name} is not a {kind}; did you mean {near}?"),
        None => format!("{name} is not a {kind}; allowed: {}", known.join(", ")),
    }
}

/// The known name with the fewest edits away, if a third of the name or less must change.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let near = known.iter().map(|other| (distance(name, other), *other)).min()?;
    (near.0 * 3 <= name.len().max(3)).then_some(near.1)
}

/// Insertions, deletions and replacements between two words (Levenshtein, 1966), with one row of
/// the table at a time.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (above, letter) in one.chars().enumerate() {
        let mut diagonal = above;
        let mut left = above + 1;
        let mut next = vec![left];
        for (place, (same, up)) in other.iter().zip(row.iter().skip(1)).enumerate() {
            let replaced = diagonal + usize::from(*same != letter);
            left = replaced.min(left + 1).min(up + 1);
            diagonal = row.get(place + 1).copied().unwrap_or(left);
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted() {
        let cases = [("", "", 0), ("abc", "abc", 0), ("abc", "", 3), ("", "abc", 3)];
        let words = [("kitten", "sitting", 3), ("prot", "port", 2), ("listn", "listen", 1)];
        for (one, other, edits) in cases.into_iter().chain(words) {
            assert_eq!(distance(one, other), edits, "{one} {other}");
        }
    }

    #[test]
    fn the_nearest_is_suggested_and_nothing_that_is_far() {
        let known = ["port", "listen"];
        assert_eq!(unknown("prt", "key", &known), "prt is not a key; did you mean port?");
        assert_eq!(unknown("zzzz", "key", &known), "zzzz is not a key; allowed: port, listen");
    }
}
