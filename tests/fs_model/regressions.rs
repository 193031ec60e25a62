//! Sequences that failed once, shrunken, by what was wrong.

use super::compare::run;
use super::direct::Direct;
use super::operation::{Operation, RenameHow};

/// The reading of an exchange of a directory with what lies in itself.
#[test]
fn a_directory_is_not_exchanged_with_its_own_content() {
    let exchange = |from: &[u8], to: &[u8]| Operation::Rename {
        from: from.to_vec(),
        to: to.to_vec(),
        how: RenameHow::Exchange,
    };
    let sequence = [
        Operation::MakeDirectory { path: vec![0] },
        Operation::MakeDirectory { path: vec![0, 1] },
        exchange(&[0], &[0, 1]),
        exchange(&[0, 1], &[0]),
    ];
    run(&mut Direct::new(), &sequence);
}
