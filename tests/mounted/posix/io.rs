//! Reads and writes: the edges of blocks and of tag-page groups, random patterns against a
//! model in memory, many writers, coherence between processes.

use std::fs::{self, File, OpenOptions};
use std::io::{IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::fs::{FallocateFlags, fallocate};

use crate::harness::child::say;
use crate::harness::{Mount, Peer, Random, Setup, assert_same, open_or_create, pattern};

crate::matrix! { Setup::new() =>
    sizes_at_every_edge_read_back,
    reads_straddle_every_edge,
    overwrites_straddle_every_edge,
    gaps_read_as_zeros,
    reads_at_and_past_the_end,
    vectored_and_positioned,
    random_operations_match_a_model,
    parallel_writers_of_one_file,
    parallel_writers_within_one_block,
    another_process_reads_at_once,
    large_file_reads_back,
    inode_size_and_blocks,
}

/// Plain sizes and offsets where something changes in the format: block ends, the end of the
/// sixteen blocks of the first page, the ends of groups of 64.
const EDGES: &[u64] = &[
    0,
    1,
    4095,
    4096,
    4097,
    8192,
    16 * 4096 - 1,
    16 * 4096,
    16 * 4096 + 1,
    17 * 4096,
    (16 + 64) * 4096 - 1,
    (16 + 64) * 4096,
    (16 + 64) * 4096 + 1,
    (16 + 128) * 4096 - 1,
    (16 + 128) * 4096 + 1,
];

const SPAN: u64 = (16 + 128) * 4096 + 9000;

fn sizes_at_every_edge_read_back(m: &mut Mount) {
    for &len in EDGES {
        fs::write(m.path(format!("f{len}")), pattern(len, len as usize)).unwrap();
    }
    for round in ["cached", "remounted"] {
        for &len in EDGES {
            let path = m.path(format!("f{len}"));
            assert_eq!(fs::metadata(&path).unwrap().len(), len, "{round}");
            assert_same(&fs::read(path).unwrap(), &pattern(len, len as usize), round);
        }
        m.remount();
    }
}

fn reads_straddle_every_edge(m: &mut Mount) {
    let data = pattern(1, SPAN as usize);
    fs::write(m.path("f"), &data).unwrap();
    m.remount();
    let file = File::open(m.path("f")).unwrap();
    for &edge in EDGES {
        for (before, len) in
            [(1u64, 2usize), (0, 1), (1, 1), (100, 4096), (4096, 8192), (5000, 9999)]
        {
            let start = edge.saturating_sub(before);
            let mut back = vec![0xee; len];
            file.read_exact_at(&mut back, start).unwrap();
            let start = start as usize;
            assert_same(&back, &data[start..start + len], &format!("{len} bytes at {start}"));
        }
    }
}

fn overwrites_straddle_every_edge(m: &mut Mount) {
    let mut expected = pattern(2, SPAN as usize);
    fs::write(m.path("f"), &expected).unwrap();
    m.remount();
    let file = OpenOptions::new().read(true).write(true).open(m.path("f")).unwrap();
    for (round, &edge) in EDGES.iter().enumerate() {
        for (before, len) in [(1u64, 2usize), (0, 1), (4096, 4096), (3000, 6000)] {
            let start = edge.saturating_sub(before);
            let piece = pattern(1000 + round as u64 + start, len);
            file.write_all_at(&piece, start).unwrap();
            let start = start as usize;
            expected[start..start + len].copy_from_slice(&piece);
        }
        let mut back = vec![0; expected.len()];
        file.read_exact_at(&mut back, 0).unwrap();
        assert_same(&back, &expected, &format!("after the edge at {edge}"));
    }
    drop(file);
    m.remount();
    assert_same(&fs::read(m.path("f")).unwrap(), &expected, "remounted");
}

fn gaps_read_as_zeros(m: &mut Mount) {
    for (index, &gap) in EDGES.iter().enumerate() {
        let path = m.path(format!("f{index}"));
        let file = File::create(&path).unwrap();
        file.write_all_at(b"tail", gap).unwrap();
        file.write_all_at(b"t", gap + 20_000).unwrap();
    }
    m.remount();
    for (index, &gap) in EDGES.iter().enumerate() {
        let mut expected = vec![0; gap as usize + 20_001];
        expected[gap as usize..gap as usize + 4].copy_from_slice(b"tail");
        expected[gap as usize + 20_000] = b't';
        let back = fs::read(m.path(format!("f{index}"))).unwrap();
        assert_same(&back, &expected, &format!("gap of {gap}"));
    }
}

fn reads_at_and_past_the_end(m: &mut Mount) {
    for len in [0u64, 1, 4096, 5000, 16 * 4096] {
        fs::write(m.path("f"), pattern(len, len as usize)).unwrap();
        let file = File::open(m.path("f")).unwrap();
        let mut buffer = [0; 8192];
        for past in [0, 1, 4096, 1 << 30] {
            assert_eq!(file.read_at(&mut buffer, len + past).unwrap(), 0, "{len} + {past}");
        }
        let before = len.min(10);
        let short = file.read_at(&mut buffer, len - before).unwrap();
        assert_eq!(short as u64, before, "a read over the end is short");
    }
}

fn vectored_and_positioned(m: &mut Mount) {
    let mut file = open_or_create(m.path("f"));
    let (one, two, three) = (pattern(1, 4000), pattern(2, 5000), pattern(3, 1));
    let slices = [IoSlice::new(&one), IoSlice::new(&two), IoSlice::new(&three)];
    assert_eq!(file.write_vectored(&slices).unwrap(), 9001);
    assert_eq!(file.stream_position().unwrap(), 9001);
    file.seek(SeekFrom::Start(0)).unwrap();
    let (mut first, mut rest) = (vec![0; 10], vec![0; 10_000]);
    let mut into = [IoSliceMut::new(&mut first), IoSliceMut::new(&mut rest)];
    assert_eq!(file.read_vectored(&mut into).unwrap(), 9001);
    assert_same(&[&first[..], &rest[..8991]].concat(), &[one, two, three].concat(), "vectored");
}

/// One random operation of the model test.
fn random_operation(random: &mut Random, file: &File, model: &mut Vec<u8>) -> String {
    let mut below = |bound| random.below(bound);
    let offset = match below(3) {
        0 => EDGES[below(EDGES.len() as u64) as usize].saturating_sub(below(3)),
        1 => below(SPAN),
        _ => below(SPAN) / 4096 * 4096,
    };
    let len = match below(3) {
        0 => below(20),
        1 => 4096,
        _ => below(40_000),
    };
    let (start, end) = (offset as usize, (offset + len) as usize);
    match below(10) {
        0..=4 => {
            let data = pattern(below(u64::MAX), len as usize);
            file.write_all_at(&data, offset).unwrap();
            if len > 0 && model.len() < end {
                model.resize(end, 0);
            }
            if len > 0 {
                model[start..end].copy_from_slice(&data);
            }
            format!("write {len} at {offset}")
        }
        5..=7 => {
            let mut back = vec![0; len as usize];
            let read = file.read_at(&mut back, offset).unwrap();
            let end = end.min(model.len()).max(start.min(model.len()));
            let expected = &model[start.min(end)..end];
            assert_same(&back[..read], expected, &format!("read {len} at {offset}"));
            format!("read {len} at {offset}")
        }
        8 => {
            file.set_len(offset).unwrap();
            model.resize(start, 0);
            format!("set_len {offset}")
        }
        _ => {
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(file, punch, offset, len + 1).unwrap();
            let end = (end + 1).min(model.len());
            if start < end {
                model[start..end].fill(0);
            }
            format!("punch {} at {offset}", len + 1)
        }
    }
}

fn random_operations_match_a_model(m: &mut Mount) {
    for seed in 0..4 {
        let mut random = Random::new(seed);
        let path = m.path(format!("f{seed}"));
        let (mut file, mut model) = (open_or_create(&path), Vec::new());
        let mut history = Vec::new();
        for step in 0..400 {
            history.push(random_operation(&mut random, &file, &mut model));
            if step % 40 == 39 {
                if step % 160 == 159 {
                    drop(file);
                    m.remount();
                    file = open_or_create(&path);
                }
                let recent = &history[history.len() - 40..];
                let context = format!("seed {seed}, step {step}, the last 40: {recent:?}");
                assert_eq!(file.metadata().unwrap().len(), model.len() as u64, "{context}");
                assert_same(&fs::read(&path).unwrap(), &model, &context);
            }
        }
    }
}

fn parallel_writers_of_one_file(m: &mut Mount) {
    let file = File::create(m.path("f")).unwrap();
    const PIECE: usize = 10_007;
    std::thread::scope(|scope| {
        for writer in 0..8usize {
            let file = &file;
            scope.spawn(move || {
                for index in (writer..96).step_by(8) {
                    let data = pattern(index as u64, PIECE);
                    file.write_all_at(&data, (index * PIECE) as u64).unwrap();
                }
            });
        }
    });
    let expected: Vec<u8> = (0..96).flat_map(|index| pattern(index, PIECE)).collect();
    assert_same(&fs::read(m.path("f")).unwrap(), &expected, "cached");
    drop(file);
    m.remount();
    assert_same(&fs::read(m.path("f")).unwrap(), &expected, "remounted");
}

fn parallel_writers_within_one_block(m: &mut Mount) {
    let path = m.path("f");
    fs::write(&path, vec![0; 8192]).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..8u64 {
            let path = &path;
            scope.spawn(move || {
                let file = OpenOptions::new().write(true).open(path).unwrap();
                for position in (writer..8192).step_by(8).filter(|position| position % 5 == 0) {
                    file.write_all_at(&[position as u8 | 1], position).unwrap();
                }
            });
        }
    });
    m.remount();
    for (position, &byte) in fs::read(&path).unwrap().iter().enumerate() {
        let expected = if position % 5 == 0 { position as u8 | 1 } else { 0 };
        assert_eq!(byte, expected, "a neighbour's write was lost at {position}");
    }
}

/// Answers each line `offset len` with the sum of the bytes it reads there.
pub fn reader_role(path: PathBuf, lines: &mut dyn Iterator<Item = String>) {
    let mut file = File::open(path).unwrap();
    for line in lines {
        let (offset, len) = line.split_once(' ').unwrap();
        file.seek(SeekFrom::Start(offset.parse().unwrap())).unwrap();
        let mut data = Vec::new();
        (&mut file).take(len.parse().unwrap()).read_to_end(&mut data).unwrap();
        say(format!("{} {}", data.len(), checksum(&data)));
    }
}

fn checksum(data: &[u8]) -> u64 {
    data.iter().fold(14_695_981_039_346_656_037, |sum, &byte| {
        (sum ^ u64::from(byte)).wrapping_mul(1_099_511_628_211)
    })
}

fn another_process_reads_at_once(m: &mut Mount) {
    let file = File::create(m.path("f")).unwrap();
    let mut peer = Peer::start("reader", m.path("f"));
    let mut expected = Vec::new();
    for round in 0..50u64 {
        let data = pattern(round, 1 + (round as usize * 1237) % 9000);
        let offset = (round * 3001) % 50_000;
        file.write_all_at(&data, offset).unwrap();
        let end = offset as usize + data.len();
        expected.resize(expected.len().max(end), 0);
        expected[offset as usize..end].copy_from_slice(&data);
        let answer = peer.ask("0 1000000");
        assert_eq!(answer, format!("{} {}", expected.len(), checksum(&expected)), "{round}");
    }
}

fn large_file_reads_back(m: &mut Mount) {
    const CHUNK: usize = 1 << 20;
    let mut file = File::create(m.path("f")).unwrap();
    for index in 0..64 {
        file.write_all(&pattern(index, CHUNK)).unwrap();
    }
    drop(file);
    m.remount();
    let mut file = File::open(m.path("f")).unwrap();
    let mut back = vec![0; CHUNK];
    for index in 0..64 {
        file.read_exact(&mut back).unwrap();
        assert_same(&back, &pattern(index, CHUNK), &format!("MiB {index}"));
    }
    assert_eq!(file.read(&mut back).unwrap(), 0);
}

fn inode_size_and_blocks(m: &mut Mount) {
    use std::os::unix::fs::MetadataExt;
    let data = pattern(1, 1 << 20);
    fs::write(m.path("f"), &data).unwrap();
    File::open(m.path("f")).unwrap().sync_all().unwrap();
    let meta = fs::metadata(m.path("f")).unwrap();
    assert_eq!(meta.len(), 1 << 20);
    // du must neither show nothing nor much more than the data.
    assert!((2048..2048 + 256).contains(&meta.blocks()), "{} sectors", meta.blocks());
    assert_eq!(meta.blksize() % 4096, 0);
}
