//! What programs do with a file system, as plain data, so that one sequence can be run against
//! the reference, the file system without a kernel, and a mounted directory.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::{Just, Strategy, any, prop_oneof};

/// A path: places in [`NAMES`], from the root.
pub type Path = Vec<u8>;
/// A place for an open file.
pub type Slot = u8;

/// One call.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    /// Makes and opens, which fails if it is there.
    Create {
        slot: Slot,
        path: Path,
    },
    /// Opens for reading and writing.
    Open {
        slot: Slot,
        path: Path,
        truncate: bool,
    },
    Close {
        slot: Slot,
    },
    Read {
        slot: Slot,
        offset: u64,
        len: usize,
    },
    Write {
        slot: Slot,
        offset: u64,
        len: usize,
        seed: u8,
    },
    SetSize {
        slot: Slot,
        size: u64,
    },
    Truncate {
        path: Path,
        size: u64,
    },
    Allocate {
        slot: Slot,
        offset: u64,
        len: u64,
        keep_size: bool,
    },
    Punch {
        slot: Slot,
        offset: u64,
        len: u64,
    },
    Zero {
        slot: Slot,
        offset: u64,
        len: u64,
        keep_size: bool,
    },
    Copy {
        from: Slot,
        from_offset: u64,
        to: Slot,
        to_offset: u64,
        len: u64,
    },
    /// Where the next data or the next hole is.
    Seek {
        slot: Slot,
        offset: u64,
        data: bool,
    },
    Sync {
        slot: Slot,
    },
    MakeDirectory {
        path: Path,
    },
    MakeSymlink {
        path: Path,
        target: u8,
    },
    ReadLink {
        path: Path,
    },
    Link {
        from: Path,
        to: Path,
    },
    Unlink {
        path: Path,
    },
    RemoveDirectory {
        path: Path,
    },
    Rename {
        from: Path,
        to: Path,
        how: RenameHow,
    },
    List {
        path: Path,
    },
    Stat {
        path: Path,
    },
    StatOpen {
        slot: Slot,
    },
    Chmod {
        path: Path,
        mode: u32,
    },
    SetTime {
        path: Path,
        secs: i64,
        nanos: u32,
    },
    SetXattr {
        path: Path,
        name: u8,
        value: Vec<u8>,
    },
    Xattr {
        path: Path,
        name: u8,
    },
    RemoveXattr {
        path: Path,
        name: u8,
    },
    ListXattrs {
        path: Path,
    },
    /// Unmounts, which closes all files, and mounts again.
    Remount,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RenameHow {
    Replace,
    NoReplace,
    Exchange,
}

/// What a call answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Done,
    Error(i32),
    Data(Vec<u8>),
    Count(u64),
    Position(u64),
    Text(Vec<u8>),
    /// Names and the type bits of their mode.
    Names(BTreeMap<String, u32>),
    Keys(BTreeSet<String>),
    Shown(Shown),
}

/// The attributes that all must agree on; `None` where the reference does not know.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    pub mode: u32,
    pub nlink: Option<u32>,
    pub size: Option<u64>,
    pub mtime: Option<(i64, u32)>,
}

/// What runs operations.
pub trait Subject {
    fn apply(&mut self, operation: &Operation) -> Outcome;
}

pub const NAMES: [&str; 4] = ["a", "b", "c", "a name of quite another length"];
/// Links lead nowhere, so that following one is always `ENOENT`.
pub const LINK_TARGETS: [&str; 2] = ["nowhere", "no/such/place"];
pub const XATTRS: [&str; 3] = ["user.one", "user.two", "user.ssef"];
pub const SLOTS: u8 = 4;

/// The bytes that a write puts at `offset`.
pub fn pattern(seed: u8, offset: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|at| ((offset + at) % 251) as u8 ^ seed | 1).collect()
}

/// Names of user attributes, of a list whose names end in zero bytes.
pub fn user_keys(names: &[u8]) -> BTreeSet<String> {
    let names =
        names.split(|byte| *byte == 0).map(|name| String::from_utf8(name.to_vec()).unwrap());
    names.filter(|name| name.starts_with("user.")).collect()
}

pub fn sequences(longest: usize) -> impl Strategy<Value = Vec<Operation>> {
    proptest::collection::vec(operation(), 1..longest)
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        12 => on_open_files(),
        8 => on_names(),
        4 => on_attributes(),
    ]
}

fn on_open_files() -> impl Strategy<Value = Operation> {
    use Operation::{
        Allocate, Close, Copy, Create, Open, Punch, Read, Seek, SetSize, Sync, Write, Zero,
    };
    prop_oneof![
        4 => (slot(), path()).prop_map(|(slot, path)| Create { slot, path }),
        4 => (slot(), path(), any::<bool>())
            .prop_map(|(slot, path, truncate)| Open { slot, path, truncate }),
        2 => slot().prop_map(|slot| Close { slot }),
        5 => (slot(), offset(), length())
            .prop_map(|(slot, offset, len)| Read { slot, offset, len: len as usize }),
        9 => (slot(), offset(), length(), any::<u8>())
            .prop_map(|(slot, offset, len, seed)| Write { slot, offset, len: len as usize, seed }),
        3 => (slot(), offset()).prop_map(|(slot, size)| SetSize { slot, size }),
        2 => (slot(), offset(), 1..200_000_u64, any::<bool>())
            .prop_map(|(slot, offset, len, keep_size)| Allocate { slot, offset, len, keep_size }),
        3 => (slot(), offset(), 1..200_000_u64)
            .prop_map(|(slot, offset, len)| Punch { slot, offset, len }),
        2 => (slot(), offset(), 1..200_000_u64, any::<bool>())
            .prop_map(|(slot, offset, len, keep_size)| Zero { slot, offset, len, keep_size }),
        2 => (slot(), offset(), slot(), offset(), length()).prop_map(
            |(from, from_offset, to, to_offset, len)| Copy { from, from_offset, to, to_offset, len }
        ),
        2 => (slot(), offset(), any::<bool>())
            .prop_map(|(slot, offset, data)| Seek { slot, offset, data }),
        1 => slot().prop_map(|slot| Sync { slot }),
    ]
}

fn on_names() -> impl Strategy<Value = Operation> {
    use Operation::{
        Link, List, MakeDirectory, MakeSymlink, ReadLink, Remount, RemoveDirectory, Rename, Unlink,
    };
    let how = prop_oneof![
        3 => Just(RenameHow::Replace),
        1 => Just(RenameHow::NoReplace),
        1 => Just(RenameHow::Exchange),
    ];
    prop_oneof![
        4 => path().prop_map(|path| MakeDirectory { path }),
        1 => (path(), 0..2_u8).prop_map(|(path, target)| MakeSymlink { path, target }),
        1 => path().prop_map(|path| ReadLink { path }),
        2 => (path(), path()).prop_map(|(from, to)| Link { from, to }),
        3 => path().prop_map(|path| Unlink { path }),
        1 => path().prop_map(|path| RemoveDirectory { path }),
        5 => (path(), path(), how).prop_map(|(from, to, how)| Rename { from, to, how }),
        2 => path_or_root().prop_map(|path| List { path }),
        1 => Just(Remount),
    ]
}

fn on_attributes() -> impl Strategy<Value = Operation> {
    use Operation::{
        Chmod, ListXattrs, RemoveXattr, SetTime, SetXattr, Stat, StatOpen, Truncate, Xattr,
    };
    let value = proptest::collection::vec(any::<u8>(), 0..40);
    prop_oneof![
        3 => path_or_root().prop_map(|path| Stat { path }),
        2 => slot().prop_map(|slot| StatOpen { slot }),
        2 => (path(), offset()).prop_map(|(path, size)| Truncate { path, size }),
        1 => (path(), 0..0o100_u32).prop_map(|(path, mode)| Chmod { path, mode: 0o700 | mode }),
        2 => (path(), -10..5_000_000_000_i64, 0..1_000_000_000_u32)
            .prop_map(|(path, secs, nanos)| SetTime { path, secs, nanos }),
        2 => (path(), 0..3_u8, value)
            .prop_map(|(path, name, value)| SetXattr { path, name, value }),
        1 => (path(), 0..3_u8).prop_map(|(path, name)| Xattr { path, name }),
        1 => (path(), 0..3_u8).prop_map(|(path, name)| RemoveXattr { path, name }),
        1 => path().prop_map(|path| ListXattrs { path }),
    ]
}

fn slot() -> impl Strategy<Value = Slot> {
    0..SLOTS
}

fn path() -> impl Strategy<Value = Path> {
    let name = 0..NAMES.len() as u8;
    prop_oneof![
        3 => proptest::collection::vec(name.clone(), 1..=1),
        2 => proptest::collection::vec(name.clone(), 2..=2),
        1 => proptest::collection::vec(name, 3..=3),
    ]
}

fn path_or_root() -> impl Strategy<Value = Path> {
    prop_oneof![4 => path(), 1 => Just(Vec::new())]
}

/// The edges of blocks, and of the places where the layout underneath changes.
fn offset() -> impl Strategy<Value = u64> {
    let edge = proptest::sample::select(vec![0_u64, 4096, 8192, 65_536, 69_632, 327_680, 589_824]);
    prop_oneof![
        4 => (edge, 0..3_u64).prop_map(|(edge, off)| (edge + off).saturating_sub(1)),
        2 => 0..20_000_u64,
        1 => 0..700_000_u64,
    ]
}

fn length() -> impl Strategy<Value = u64> {
    prop_oneof![
        3 => 0..100_u64,
        2 => proptest::sample::select(vec![4095_u64, 4096, 4097, 65_536, 131_072]),
        2 => 0..150_000_u64,
    ]
}
