//! Random operations against a plain vector of bytes.

use std::sync::Arc;

use proptest::prelude::{
    Just, ProptestConfig, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest,
};
use ssefs::store::SyncScope;
use ssefs::store::memory::MemoryFile;
use ssefs::volume::EncryptedFile;

use super::faults::faulty;
use super::harness::{TestVolume, pattern};

/// What may be done to a file.
#[derive(Debug, Clone)]
pub enum Step {
    Write { at: u64, len: usize, seed: u64 },
    SetSize(u64),
    Punch { at: u64, len: u64 },
    Zero { at: u64, len: u64, keep_size: bool },
    Allocate { at: u64, len: u64, keep_size: bool },
    Sync,
    Settle,
}

impl Step {
    /// Does it to a file.
    pub fn apply(&self, file: &EncryptedFile) -> Result<(), ssefs::volume::VolumeError> {
        match *self {
            Self::Write { at, len, seed } => file.write(at, &pattern(seed, len)),
            Self::SetSize(size) => file.set_size(size),
            Self::Punch { at, len } => file.punch_hole(at, len),
            Self::Zero { at, len, keep_size } => file.zero_range(at, len, keep_size),
            Self::Allocate { at, len, keep_size } => file.allocate(at, len, keep_size),
            Self::Sync => file.sync(SyncScope::Data),
            Self::Settle => file.settle(),
        }
    }

    /// Does it to the model.
    pub fn apply_to(&self, model: &mut Vec<u8>) {
        match *self {
            Self::Write { at, len, seed } => {
                let end = at as usize + len;
                if len > 0 {
                    model.resize(model.len().max(end), 0);
                    model[at as usize..end].copy_from_slice(&pattern(seed, len));
                }
            }
            Self::SetSize(size) => model.resize(size as usize, 0),
            Self::Punch { at, len } => zero(model, at, len),
            Self::Zero { at, len, keep_size } => {
                zero(model, at, len);
                grow(model, at, len, keep_size);
            }
            Self::Allocate { at, len, keep_size } => grow(model, at, len, keep_size),
            Self::Sync | Self::Settle => {}
        }
    }
}

fn zero(model: &mut [u8], at: u64, len: u64) {
    let end = model.len().min((at + len) as usize);
    if (at as usize) < end {
        model[at as usize..end].fill(0);
    }
}

fn grow(model: &mut Vec<u8>, at: u64, len: u64, keep_size: bool) {
    if !keep_size && len > 0 {
        model.resize(model.len().max((at + len) as usize), 0);
    }
}

/// Offsets that like the edges of blocks, of page 0's blocks and of groups.
fn offset() -> impl Strategy<Value = u64> {
    let edges = prop::sample::select(vec![0_u64, 1, 2, 15, 16, 17, 79, 80, 81, 144, 160]);
    (edges, prop_oneof![Just(0_i64), -2_i64..3, -4096_i64..4096])
        .prop_map(|(block, delta)| (block as i64 * 4096 + delta).max(0) as u64)
}

fn length() -> impl Strategy<Value = u64> {
    prop_oneof![
        1 => Just(0_u64),
        4 => 1_u64..5000,
        4 => prop::sample::select(vec![4095_u64, 4096, 4097, 8192, 65536, 65537]),
        2 => 5000_u64..300_000,
    ]
}

pub fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (offset(), length(), any::<u64>())
            .prop_map(|(at, len, seed)| Step::Write { at, len: len as usize, seed }),
        2 => offset().prop_map(Step::SetSize),
        2 => (offset(), length()).prop_map(|(at, len)| Step::Punch { at, len }),
        1 => (offset(), length(), any::<bool>())
            .prop_map(|(at, len, keep_size)| Step::Zero { at, len, keep_size }),
        1 => (offset(), length(), any::<bool>())
            .prop_map(|(at, len, keep_size)| Step::Allocate { at, len, keep_size }),
        1 => Just(Step::Sync),
        1 => Just(Step::Settle),
    ]
}

/// The whole content.
pub fn content(file: &EncryptedFile) -> Result<Vec<u8>, ssefs::volume::VolumeError> {
    let mut bytes = vec![0xee; file.size() as usize];
    let read = file.read(0, &mut bytes)?;
    assert_eq!(read, bytes.len());
    Ok(bytes)
}

/// Holes and data as `lseek` tells them, checked against the content: a hole is zeros.
fn check_seeks(file: &EncryptedFile, model: &[u8]) {
    let mut at = 0;
    while let Some(data) = file.next_data(at).unwrap() {
        assert!(
            model[at as usize..data as usize].iter().all(|byte| *byte == 0),
            "data before {data}, the next after {at}"
        );
        let hole = file.next_hole(data).unwrap().unwrap();
        assert!(hole > data && hole <= model.len() as u64);
        at = hole;
    }
    assert!(model[(at as usize).min(model.len())..].iter().all(|byte| *byte == 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn behaves_as_a_vector_of_bytes(
        steps in prop::collection::vec((step(), any::<bool>()), 1..14),
    ) {
        let mut volume = TestVolume::new();
        let backing = Arc::new(MemoryFile::new());
        let mut model = Vec::new();
        let mut file = volume.open(&backing).unwrap();
        for (step, reopen) in &steps {
            step.apply(&file).unwrap();
            step.apply_to(&mut model);
            prop_assert_eq!(file.size(), model.len() as u64);
            prop_assert!(content(&file).unwrap() == model, "after {:?}", step);
            if *reopen {
                file.settle().unwrap();
                drop(file);
                volume.remount();
                file = volume.open(&backing).unwrap();
                prop_assert!(content(&file).unwrap() == model, "reopened after {:?}", step);
            }
        }
        check_seeks(&file, &model);
    }
}

/// What waits for a commit is not in the backing file, which tells where the holes are.
#[test]
fn a_block_that_waits_in_a_hole_is_data() {
    let volume = TestVolume::new();
    let file = volume.open(&Arc::new(MemoryFile::new())).unwrap();
    let mut model = Vec::new();
    let steps = [
        Step::Write { at: 327_680, len: 1, seed: 0 },
        Step::Zero { at: 0, len: 73_728, keep_size: false },
        Step::Sync,
        Step::Write { at: 65_536, len: 1, seed: 0 },
    ];
    for step in steps {
        step.apply(&file).unwrap();
        step.apply_to(&mut model);
    }
    check_seeks(&file, &model);
}

#[test]
fn reads_of_any_range_agree() {
    let volume = TestVolume::new();
    let backing = Arc::new(MemoryFile::new());
    let file = volume.open(&backing).unwrap();
    let model = pattern(5, 90 * 4096 + 123);
    file.write(0, &model).unwrap();
    let edges = [0, 1, 4095, 4096, 4097, 65535, 65536, 65537, 327_679, 327_680, 368_763, 400_000];
    for from in edges {
        for to in edges.into_iter().filter(|to| *to >= from) {
            let mut buf = vec![0; to - from];
            let read = file.read(from as u64, &mut buf).unwrap();
            let expected = &model[from.min(model.len())..to.min(model.len())];
            assert!(buf[..read] == *expected, "{from}..{to}");
        }
    }
}

#[test]
fn pages_of_one_write_may_come_in_any_order() {
    let mut volume = TestVolume::new();
    let backing = Arc::new(MemoryFile::new());
    let model = pattern(9, 200 * 4096);
    let file = volume.open(&backing).unwrap();
    for chunk in [3_usize, 1, 0, 2, 4] {
        let at = chunk * 40 * 4096;
        file.write(at as u64, &model[at..at + 40 * 4096]).unwrap();
    }
    file.settle().unwrap();
    assert!(content(&file).unwrap() == model);
    assert!(!file.description().unwrap().may_have_holes, "every gap was filled");
    drop(file);
    volume.remount();
    assert!(content(&volume.open(&backing).unwrap()).unwrap() == model);
}

#[test]
fn skipped_blocks_use_no_seals_up() {
    let volume = TestVolume::new();
    let file = volume.open(&Arc::new(MemoryFile::new())).unwrap();
    file.write(0, b"start").unwrap();
    file.write(17 << 40, b"end").unwrap();
    file.settle().unwrap();
    assert!(file.description().unwrap().seal_count < 200);
}

#[test]
fn a_sparse_file_past_4_tib_costs_little() {
    let mut volume = TestVolume::new();
    let backing = Arc::new(MemoryFile::new());
    let file = volume.open(&backing).unwrap();
    let far = 5 << 40;
    file.write(far, b"end").unwrap();
    file.settle().unwrap();
    drop(file);
    volume.remount();
    let file = volume.open(&backing).unwrap();
    assert_eq!(file.size(), far + 3);
    assert_eq!(file.next_data(0).unwrap(), Some(far));
    let mut buf = [1; 7];
    assert_eq!(file.read(far - 4, &mut buf).unwrap(), 7);
    assert_eq!(&buf, b"\0\0\0\0end");
    assert!(backing.data_pages() <= 4, "{} pages", backing.data_pages());
}

#[test]
fn a_small_new_file_takes_one_write_and_none_at_close() {
    use ssefs::store::faulty::CallKind;
    let (volume, plan, backing) = faulty();
    let file = volume.open(&backing).unwrap();
    plan.take_calls();
    file.write(0, &pattern(1, 4000)).unwrap();
    file.settle().unwrap();
    let kinds: Vec<_> = plan.take_calls().iter().map(|call| call.kind).collect();
    assert_eq!(kinds, [CallKind::Write]);
}

#[test]
fn opening_and_appending_often_does_not_use_the_seals_up() {
    let volume = TestVolume::new();
    let backing = Arc::new(MemoryFile::new());
    for round in 0..200 {
        let file = volume.open(&backing).unwrap();
        file.write(round * 10, &pattern(round, 10)).unwrap();
        file.settle().unwrap();
    }
    let sealed = volume.open(&backing).unwrap().description().unwrap().seal_count;
    assert!((200..200 * 70).contains(&sealed), "{sealed}");
}

/// Whatever the file becomes between the sealing and the write that it is for.
#[test]
fn what_is_sealed_ahead_fits_whatever_the_file_became() {
    let meanwhile = [
        vec![],
        vec![Step::SetSize(0)],
        vec![Step::SetSize(0), Step::Settle, Step::Write { at: 0, len: 100, seed: 2 }],
        vec![Step::SetSize(40 * 4096 + 1)],
        vec![Step::SetSize(900_000)],
        vec![Step::Write { at: 20 * 4096 + 5, len: 300_000, seed: 3 }],
        vec![Step::Write { at: 20 * 4096 + 5, len: 300_000, seed: 3 }, Step::Sync],
        vec![Step::Punch { at: 30 * 4096, len: 50_000 }],
    ];
    for (steps, at, len) in meanwhile.iter().flat_map(|steps| {
        [(0, 65_536), (20 * 4096, 65_536), (80 * 4096, 65_537), (10 * 4096, 100 * 4096)]
            .map(|(at, len)| (steps, at, len))
    }) {
        let mut volume = TestVolume::new();
        let backing = Arc::new(MemoryFile::new());
        let file = volume.open(&backing).unwrap();
        let mut model = Vec::new();
        let first = Step::Write { at: 0, len: 50 * 4096, seed: 1 };
        first.apply(&file).unwrap();
        first.apply_to(&mut model);
        let data = pattern(7, len);
        let written = file.preseal(at, &data, |presealed| {
            for step in steps {
                step.apply(&file).unwrap();
                step.apply_to(&mut model);
            }
            file.write_presealed(at, &data, presealed)
        });
        written.unwrap().unwrap();
        Step::Write { at, len, seed: 7 }.apply_to(&mut model);
        assert!(content(&file).unwrap() == model, "{steps:?}, {len} at {at}");
        file.settle().unwrap();
        drop(file);
        volume.remount();
        let file = volume.open(&backing).unwrap();
        assert!(content(&file).unwrap() == model, "{steps:?}, {len} at {at}, reopened");
    }
}

/// Each thread writes a piece of its own, over and over, while another one syncs, and adds and cuts
/// off what lies behind them.
#[test]
fn several_threads_write_one_file_while_it_is_synced_and_cut() {
    const PIECE: usize = 70 * 4096;
    const ROUNDS: u64 = 12;
    let mut volume = TestVolume::new();
    let backing = Arc::new(MemoryFile::new());
    let file = volume.open(&backing).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let file = &file;
            scope.spawn(move || {
                for round in 0..=ROUNDS {
                    let at = thread * PIECE as u64;
                    file.write(at, &pattern(thread * 100 + round, PIECE)).unwrap();
                }
            });
        }
        for round in 0..ROUNDS {
            file.sync(SyncScope::Data).unwrap();
            let end = 4 * PIECE as u64;
            file.write(end + round * 4096, &pattern(7, 20 * 4096)).unwrap();
            file.set_size(end + 10).unwrap();
            file.punch_hole(end, 10).unwrap();
            file.settle_while(true).unwrap();
        }
    });
    let check = |file: &EncryptedFile| {
        let found = content(file).unwrap();
        assert_eq!(found.len(), 4 * PIECE + 10);
        for (thread, piece) in found[..4 * PIECE].chunks(PIECE).enumerate() {
            assert!(piece == pattern(thread as u64 * 100 + ROUNDS, PIECE), "piece {thread}");
        }
    };
    check(&file);
    file.settle().unwrap();
    drop(file);
    volume.remount();
    check(&volume.open(&backing).unwrap());
}

#[test]
fn several_threads_write_one_file_at_once() {
    const PIECE: usize = 100 * 4096;
    let mut volume = TestVolume::new();
    let backing = Arc::new(MemoryFile::new());
    let model = pattern(11, 24 * PIECE + 77);
    let file = volume.open(&backing).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (file, model) = (&file, &model);
            scope.spawn(move || {
                for (number, piece) in model.chunks(PIECE).enumerate().skip(thread).step_by(4) {
                    file.write((number * PIECE) as u64, piece).unwrap();
                }
            });
        }
    });
    assert!(content(&file).unwrap() == model);
    file.settle().unwrap();
    assert!(!file.description().unwrap().may_have_holes, "every gap was filled");
    drop(file);
    volume.remount();
    assert!(content(&volume.open(&backing).unwrap()).unwrap() == model);
}
