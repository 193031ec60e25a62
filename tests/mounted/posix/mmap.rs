//! Memory maps, shared and private.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::harness::sys::Map;
use crate::harness::{Mount, Setup, assert_same, open_or_create, pattern};

crate::matrix! { Setup::new() =>
    shared_map_shows_the_file,
    shared_map_writes_reach_readers_and_the_store,
    shared_map_sees_later_writes,
    shared_map_outlives_its_descriptor,
    shared_map_outlives_the_name,
    private_map_keeps_its_writes,
    map_past_the_end_reads_zeros_and_stores_none,
    map_of_a_sparse_file,
    two_maps_are_one,
    truncate_below_a_map,
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

const LEN: usize = 90 * 4096 + 123;

fn shared_map_shows_the_file(m: &mut Mount) {
    let data = pattern(1, LEN);
    fs::write(m.path("f"), &data).unwrap();
    m.remount();
    let map = Map::shared_read_only(&File::open(m.path("f")).unwrap(), LEN).unwrap();
    assert_same(&map.read(0, LEN), &data, "mapped");
}

fn shared_map_writes_reach_readers_and_the_store(m: &mut Mount) {
    let mut expected = pattern(1, LEN);
    fs::write(m.path("f"), &expected).unwrap();
    m.remount();
    let file = open(&m.path("f"));
    let mut map = Map::shared(&file, LEN).unwrap();
    for (offset, len) in
        [(0, 1), (4095, 2), (15 * 4096, 2 * 4096), (79 * 4096 + 5, 5000), (LEN - 1, 1)]
    {
        let data = pattern(offset as u64, len);
        map.write(offset, &data);
        expected[offset..offset + len].copy_from_slice(&data);
        let mut back = vec![0; LEN];
        file.read_exact_at(&mut back, 0).unwrap();
        assert_same(&back, &expected, "read beside the map");
    }
    map.sync().unwrap();
    drop((map, file));
    m.kill_daemon();
    m.mount();
    assert_same(&fs::read(m.path("f")).unwrap(), &expected, "synced, then killed");
}

fn shared_map_sees_later_writes(m: &mut Mount) {
    fs::write(m.path("f"), pattern(1, LEN)).unwrap();
    let file = open(&m.path("f"));
    let map = Map::shared(&file, LEN).unwrap();
    map.read(0, LEN);
    let data = pattern(2, 10_000);
    file.write_all_at(&data, 60_000).unwrap();
    assert_same(&map.read(60_000, 10_000), &data, "mapped");
}

fn shared_map_outlives_its_descriptor(m: &mut Mount) {
    fs::write(m.path("f"), vec![0; 20_000]).unwrap();
    let mut map = Map::shared(&open(&m.path("f")), 20_000).unwrap();
    let data = pattern(1, 20_000);
    map.write(0, &data);
    drop(map);
    assert_same(&fs::read(m.path("f")).unwrap(), &data, "cached");
    m.remount();
    assert_same(&fs::read(m.path("f")).unwrap(), &data, "remounted");
}

fn shared_map_outlives_the_name(m: &mut Mount) {
    let data = pattern(1, 20_000);
    fs::write(m.path("f"), &data).unwrap();
    let mut map = Map::shared(&open(&m.path("f")), 20_000).unwrap();
    fs::remove_file(m.path("f")).unwrap();
    assert_same(&map.read(0, 20_000), &data, "unlinked");
    map.write(100, b"still writable");
    map.sync().unwrap();
    assert_eq!(map.read(100, 14), b"still writable");
}

fn private_map_keeps_its_writes(m: &mut Mount) {
    let data = pattern(1, 20_000);
    fs::write(m.path("f"), &data).unwrap();
    let mut map = Map::private(&File::open(m.path("f")).unwrap(), 20_000).unwrap();
    map.write(5000, b"mine alone");
    assert_eq!(map.read(5000, 10), b"mine alone");
    drop(map);
    assert_same(&fs::read(m.path("f")).unwrap(), &data, "untouched");
}

fn map_past_the_end_reads_zeros_and_stores_none(m: &mut Mount) {
    let data = pattern(1, 5000);
    fs::write(m.path("f"), &data).unwrap();
    m.remount();
    let file = open(&m.path("f"));
    let mut map = Map::shared(&file, 8192).unwrap();
    assert_eq!(map.read(5000, 3192), vec![0; 3192]);
    map.write(5000, b"beyond the end");
    map.write(0, b"within");
    map.sync().unwrap();
    drop(map);
    assert_eq!(file.metadata().unwrap().len(), 5000);
    drop(file);
    m.remount();
    let file = open(&m.path("f"));
    file.set_len(8192).unwrap();
    let mut back = vec![1; 8192];
    file.read_exact_at(&mut back, 0).unwrap();
    assert_eq!(&back[..6], b"within");
    assert_same(&back[6..5000], &data[6..], "within the file");
    assert_same(&back[5000..], &[0; 3192], "what was written past the end came back");
}

fn map_of_a_sparse_file(m: &mut Mount) {
    let file = open_or_create(m.path("f"));
    let len = 200 * 4096;
    file.set_len(len as u64).unwrap();
    let mut map = Map::shared(&file, len).unwrap();
    assert_eq!(map.read(100 * 4096, 4096), vec![0; 4096]);
    map.write(150 * 4096 + 7, b"island");
    map.sync().unwrap();
    drop((map, file));
    m.remount();
    let mut expected = vec![0; len];
    expected[150 * 4096 + 7..150 * 4096 + 13].copy_from_slice(b"island");
    assert_same(&fs::read(m.path("f")).unwrap(), &expected, "remounted");
}

fn two_maps_are_one(m: &mut Mount) {
    fs::write(m.path("f"), vec![0; 8192]).unwrap();
    fs::hard_link(m.path("f"), m.path("g")).unwrap();
    let mut one = Map::shared(&open(&m.path("f")), 8192).unwrap();
    let two = Map::shared(&open(&m.path("g")), 8192).unwrap();
    one.write(4090, b"across pages");
    assert_eq!(two.read(4090, 12), b"across pages");
}

fn truncate_below_a_map(m: &mut Mount) {
    let data = pattern(1, 16_384);
    fs::write(m.path("f"), &data).unwrap();
    let file = open(&m.path("f"));
    let mut map = Map::shared(&file, 16_384).unwrap();
    map.write(0, &pattern(2, 16_384));
    file.set_len(6000).unwrap();
    file.set_len(16_384).unwrap();
    assert_same(&map.read(0, 6000), &pattern(2, 16_384)[..6000], "kept");
    assert_same(&map.read(6000, 10_384), &[0; 10_384], "cut and extended");
}
