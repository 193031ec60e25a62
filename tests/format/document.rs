//! The worked tables of FORMAT.md, held to the code and to the vectors.

use ssefs::format::{BlockIndex, CipherOffset, PlainSize, cipher_size, entry_place, plain_size};

use super::fixture::{JOURNAL, frozen, frozen_v1};

const PAGE: &str = include_str!("../../src/format/FORMAT.md");

#[test]
fn worked_sizes() {
    let rows = table("| plaintext size | backing size |");
    assert!(rows.len() >= 12);
    for [plain, backing] in numbers::<2>(&rows) {
        assert_eq!(cipher_size(PlainSize(plain)).0, backing, "{plain}");
        assert_eq!(plain_size(CipherOffset(backing)).0, plain, "{backing}");
    }
}

#[test]
fn worked_places() {
    let rows = table("| block | its bytes start at | its entry starts at |");
    assert!(rows.len() >= 10);
    for [block, data, entry] in numbers::<3>(&rows) {
        let block = BlockIndex(block);
        assert_eq!(block.cipher_start().0, data, "{block:?}");
        let (page, index) = entry_place(block);
        let first_in_page = if page.0 == 0 { 3072 } else { 0 };
        assert_eq!(page.start().0 + first_in_page + 64 * index as u64, entry, "{block:?}");
    }
}

#[test]
fn the_worked_example_quotes_the_vectors() {
    let text = std::fs::read(frozen_v1().join("vectors.json")).unwrap();
    let vectors: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let rows = table("| what | bytes |");
    assert!(rows.len() >= 13);
    for row in rows {
        let [name, bytes] = row[..] else { panic!("two columns: {row:?}") };
        assert_eq!(vectors[name], bytes, "{name}");
    }
    let text = std::fs::read(frozen(JOURNAL).join("vectors.json")).unwrap();
    let journal: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let rows = table("| journal | bytes |");
    assert_eq!(rows.len(), 4);
    for row in rows {
        let [name, bytes] = row[..] else { panic!("two columns: {row:?}") };
        assert_eq!(journal[name], bytes, "{name}");
    }
    let (_, apart) = PAGE.split_once("The envelope, taken apart:").unwrap();
    let (apart, _) = apart.split_once("\n## ").unwrap();
    let leading: String = apart
        .lines()
        .filter(|line| line.starts_with(|first: char| first.is_ascii_hexdigit()))
        .map(|line| line[..24].replace(' ', ""))
        .collect();
    let mut rest = vectors["envelope"].as_str().unwrap();
    // After each of these lengths come that many bytes, which the page writes as text.
    for (index, field) in split_fields(&leading).into_iter().enumerate() {
        rest = rest.strip_prefix(field).unwrap_or_else(|| panic!("field {index}: {field}"));
        let text_len = match index {
            4 => 8,
            5 => 41,
            7 => 10,
            8 => 7,
            9 => 60,
            _ => 0,
        };
        rest = &rest[2 * text_len..];
    }
    assert!(rest.is_empty());
}

/// Mode, algorithm, version, date; then six numbers of 8 bytes.
fn split_fields(leading: &str) -> Vec<&str> {
    let mut rest = leading;
    [2, 2, 8, 16, 16, 16, 16, 16, 16, 16]
        .map(|len| {
            let (field, after) = rest.split_at(len);
            rest = after;
            field
        })
        .to_vec()
}

/// The cells of the table with this head.
fn table(head: &str) -> Vec<Vec<&'static str>> {
    let (_, after) = PAGE.split_once(head).expect(head);
    after
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

fn numbers<const N: usize>(rows: &[Vec<&str>]) -> Vec<[u64; N]> {
    let parse = |row: &Vec<&str>| {
        let cells: Vec<u64> = row.iter().map(|cell| cell.parse().unwrap()).collect();
        cells.try_into().unwrap()
    };
    rows.iter().map(parse).collect()
}
