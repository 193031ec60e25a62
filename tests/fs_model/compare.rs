//! Whether a subject answers as the reference does.

use super::operation::{Operation, Outcome, Shown, Subject};
use super::reference::Reference;

/// Runs the sequence against both; panics at the first difference, and at any in what is left
/// at the end.
pub fn run(subject: &mut dyn Subject, sequence: &[Operation]) {
    let mut reference = Reference::default();
    for (index, operation) in sequence.iter().enumerate() {
        check(&mut reference, subject, operation, index);
    }
    // Closed and mounted again, everything must still be there.
    for round in 0..2 {
        for path in reference.paths() {
            let end = sequence.len() + round;
            for operation in everything_about(&reference, &path) {
                check(&mut reference, subject, &operation, end);
            }
        }
        check(&mut reference, subject, &Operation::Remount, sequence.len());
    }
}

fn everything_about(reference: &Reference, path: &[u8]) -> Vec<Operation> {
    let path = path.to_vec();
    let mut operations =
        vec![Operation::Stat { path: path.clone() }, Operation::List { path: path.clone() }];
    if !path.is_empty() {
        operations.push(Operation::ReadLink { path: path.clone() });
        operations.push(Operation::ListXattrs { path: path.clone() });
        operations.push(Operation::Open { slot: 0, path, truncate: false });
        operations.push(Operation::Read { slot: 0, offset: 0, len: 1 << 20 });
        operations.push(Operation::Close { slot: 0 });
    }
    assert!(reference.paths().len() < 1000);
    operations
}

fn check(
    reference: &mut Reference,
    subject: &mut dyn Subject,
    operation: &Operation,
    index: usize,
) {
    let expected = reference.apply(operation);
    let found = subject.apply(operation);
    let agree = match (operation, &expected, &found) {
        (Operation::Seek { slot, offset, data }, Outcome::Position(_), found) => {
            let content = reference.open_content(*slot).expect("open, or it were an error");
            is_right_position(content, *offset, *data, found)
        }
        (_, Outcome::Shown(expected), Outcome::Shown(found)) => is_shown(expected, found),
        _ => expected == found,
    };
    assert!(agree, "operation {index}, {operation:?}: {}", difference(&expected, &found));
}

/// Data may be reported where there are zeros; a hole never where there is anything else.
fn is_right_position(content: &[u8], offset: u64, data: bool, found: &Outcome) -> bool {
    let (from, size) = (offset as usize, content.len());
    match found {
        Outcome::Error(errno) if *errno == libc::ENXIO => {
            from >= size || data && content[from..].iter().all(|byte| *byte == 0)
        }
        Outcome::Position(at) if from < size => {
            let at = *at as usize;
            if data {
                (from..size).contains(&at) && content[from..at].iter().all(|byte| *byte == 0)
            } else {
                (from..=size).contains(&at) && (at == size || content[at] == 0)
            }
        }
        _ => false,
    }
}

fn is_shown(expected: &Shown, found: &Shown) -> bool {
    expected.mode == found.mode
        && expected.size == found.size
        && (expected.nlink.is_none() || expected.nlink == found.nlink)
        && (expected.mtime.is_none() || expected.mtime == found.mtime)
}

/// Content is too long to print: where it differs is what matters.
fn difference(expected: &Outcome, found: &Outcome) -> String {
    match (expected, found) {
        (Outcome::Data(expected), Outcome::Data(found)) => {
            let place = expected.iter().zip(found).position(|(a, b)| a != b);
            format!(
                "{} bytes expected, {} found, the first difference at {place:?}",
                expected.len(),
                found.len()
            )
        }
        _ => format!("expected {expected:?}, found {found:?}"),
    }
}
