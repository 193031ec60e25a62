//! Many findings in few lines: those that differ in numbers alone are of one kind.

use std::collections::BTreeMap;

/// How many there are of each kind, and the shortest of them.
pub fn by_kind<T>(
    findings: &[T],
    what: impl Fn(&T) -> &str,
    length: impl Fn(&T) -> usize,
) -> Vec<(usize, &T)> {
    let mut kinds: BTreeMap<String, (usize, &T)> = BTreeMap::new();
    for finding in findings {
        let (count, shortest) = kinds.entry(kind(what(finding))).or_insert((0, finding));
        *count += 1;
        if length(finding) < length(shortest) {
            *shortest = finding;
        }
    }
    kinds.into_values().collect()
}

/// A finding without its numbers.
pub fn kind(what: &str) -> String {
    let mut kind: String = what.chars().filter(|c| !c.is_ascii_digit()).collect();
    // A file's id is hexadecimal.
    if let Some(at) = kind.find("file ") {
        let end = kind[at + 5..].find(':').map_or(kind.len(), |end| at + 5 + end);
        kind.replace_range(at + 5..end, "ID");
    }
    kind
}
