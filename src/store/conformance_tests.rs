//! What every [`BackingFile`] must do, run over each implementation by its own tests.

use std::io::IoSlice;

use super::{BackingFile, SyncScope};

/// Runs the whole suite; `make` gives a new empty file at each call.
pub fn check<F: BackingFile>(make: impl Fn() -> F) {
    reads_end_at_the_end_of_the_file(&make());
    writes_gather_any_number_of_buffers(&make());
    sizes_cut_and_extend_with_zeros(&make());
    allocation_grows_unless_told_not_to(&make());
    punched_ranges_read_as_zeros(&make());
    data_is_found_behind_holes(&make());
    large_offsets_work_or_fail_cleanly(&make());
    random_operations_match_a_plain_vector(&make());
}

fn reads_end_at_the_end_of_the_file(file: &impl BackingFile) {
    assert_eq!(file.size().unwrap(), 0);
    assert_eq!(file.read_at(&mut [0; 10], 0).unwrap(), 0);
    write(file, 0, b"0123456789");
    assert_eq!(read(file, 4, 100), b"456789");
    assert_eq!(read(file, 10, 1), b"");
    assert_eq!(read(file, 1 << 40, 1), b"");
    assert_eq!(read(file, 3, 0), b"");
    assert_eq!(file.size().unwrap(), 10);
    for scope in [SyncScope::Data, SyncScope::All] {
        file.sync(scope).unwrap();
    }
}

fn writes_gather_any_number_of_buffers(file: &impl BackingFile) {
    let parts: Vec<Vec<u8>> = (0..5000_usize).map(|n| vec![n as u8; n % 7]).collect();
    let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    file.write_at(&slices, 3).unwrap();
    assert_eq!(read(file, 0, 3), [0; 3]);
    assert_eq!(read(file, 3, 1 << 20), parts.concat());

    let size = file.size().unwrap();
    file.write_at(&[], 1 << 20).unwrap();
    file.write_at(&[IoSlice::new(b""), IoSlice::new(b"")], 1 << 20).unwrap();
    assert_eq!(file.size().unwrap(), size);
}

fn sizes_cut_and_extend_with_zeros(file: &impl BackingFile) {
    write(file, 0, &[9; 10_000]);
    file.set_size(5000).unwrap();
    assert_eq!(read(file, 0, 20_000), [9; 5000]);
    file.set_size(9000).unwrap();
    assert_eq!(read(file, 0, 20_000), [&[9; 5000][..], &[0; 4000]].concat());
    file.set_size(0).unwrap();
    file.set_size(100).unwrap();
    assert_eq!(read(file, 0, 200), [0; 100]);
}

fn allocation_grows_unless_told_not_to(file: &impl BackingFile) {
    write(file, 0, b"abc");
    file.allocate(0, 10_000, true).unwrap();
    assert_eq!(file.size().unwrap(), 3);
    file.allocate(1, 10_000, false).unwrap();
    assert_eq!(read(file, 0, 20_000), [&b"abc"[..], &[0; 9998]].concat());
    file.allocate(0, 50, false).unwrap();
    assert_eq!(file.size().unwrap(), 10_001);
    file.allocate(0, 0, false).unwrap_err();
}

fn punched_ranges_read_as_zeros(file: &impl BackingFile) {
    for (offset, len) in
        [(0, 1), (5, 100), (4096, 4096), (4000, 8500), (0, 1 << 40), (19_999, 1), (1 << 30, 5)]
    {
        let mut expected = vec![3; 20_000];
        file.set_size(0).unwrap();
        write(file, 0, &expected);
        file.punch(offset, len).unwrap();
        let end = 20_000.min((offset + len) as usize);
        expected[end.min(offset as usize)..end].fill(0);
        assert_eq!(read(file, 0, 30_000), expected, "punching {len} bytes at {offset}");
    }
    file.punch(0, 0).unwrap_err();
}

fn data_is_found_behind_holes(file: &impl BackingFile) {
    assert_eq!(file.next_data(0).unwrap(), None);
    file.set_size(1 << 20).unwrap();
    write(file, 300_000, b"data");
    for start in [0, 100_000, 299_999, 300_000] {
        let data = file.next_data(start).unwrap().expect("there is data");
        assert!((start..=300_000).contains(&data), "{data} from {start}");
    }
    assert_eq!(file.next_data(1 << 20).unwrap(), None);
    assert_eq!(file.next_data(1 << 50).unwrap(), None);
}

fn large_offsets_work_or_fail_cleanly(file: &impl BackingFile) {
    let far = 5 << 40;
    write(file, far, b"far");
    assert_eq!(read(file, far, 10), b"far");
    assert_eq!(read(file, far - 2, 10), b"\0\0far");
    assert_eq!(file.size().unwrap(), far + 3);
    file.write_at(&[IoSlice::new(b"x")], u64::MAX - 10).unwrap_err();
    file.set_size(u64::MAX).unwrap_err();
    file.allocate(u64::MAX - 10, 5, false).unwrap_err();
    assert_eq!(file.size().unwrap(), far + 3);
}

fn random_operations_match_a_plain_vector(file: &impl BackingFile) {
    let mut model: Vec<u8> = Vec::new();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    for step in 0..2000_u64 {
        let (offset, len) = (random(40_000), random(9000) + 1);
        let (start, end) = (offset as usize, (offset + len) as usize);
        match random(6) {
            0..3 => {
                let bytes = vec![step as u8 | 1; len as usize];
                write(file, offset, &bytes);
                model.resize(model.len().max(end), 0);
                model[start..end].copy_from_slice(&bytes);
            }
            3 => {
                file.set_size(offset).unwrap();
                model.resize(start, 0);
            }
            4 => {
                file.punch(offset, len).unwrap();
                let end = end.min(model.len());
                model[start.min(end)..end].fill(0);
            }
            _ => {
                let end = end.min(model.len());
                assert_eq!(read(file, offset, len as usize), &model[start.min(end)..end]);
            }
        }
        assert_eq!(file.size().unwrap(), model.len() as u64);
        if let Some(first) = model.iter().skip(start).position(|&byte| byte != 0) {
            let data = file.next_data(offset).unwrap().expect("there is data");
            assert!(data >= offset && data <= offset + first as u64);
        }
    }
    assert_eq!(read(file, 0, 100_000), model);
}

fn write(file: &impl BackingFile, offset: u64, bytes: &[u8]) {
    file.write_at(&[IoSlice::new(bytes)], offset).unwrap();
}

fn read(file: &impl BackingFile, offset: u64, len: usize) -> Vec<u8> {
    let mut buf = vec![0xee; len];
    let read = file.read_at(&mut buf, offset).unwrap();
    buf.truncate(read);
    buf
}
