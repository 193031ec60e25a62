//! Flags of open(2).

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, symlink};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::harness::{Mount, Setup, assert_errno, assert_same, pattern};

crate::matrix! { Setup::new() =>
    create_new_refuses_an_existing_name,
    create_new_refuses_a_dangling_symlink,
    truncate_flag_empties,
    truncate_flag_keeps_inode_and_mode,
    append_writes_at_the_end_whatever_the_offset,
    append_descriptors_interleave,
    append_survives_a_concurrent_extension,
    write_only_file_is_not_readable,
    read_only_file_is_not_writable,
    write_only_overwrite_of_part_of_a_block,
    sync_flags_write_through,
    no_follow_refuses_a_symlink,
    directory_flag_refuses_a_file,
    directory_is_not_opened_for_writing,
    trailing_slash_on_a_file,
    temporary_file_without_a_name,
    path_descriptor_reaches_the_file,
    missing_and_not_a_directory,
}

fn create_new_refuses_an_existing_name(m: &mut Mount) {
    fs::write(m.path("f"), b"first").unwrap();
    let again = OpenOptions::new().write(true).create_new(true).open(m.path("f"));
    assert_errno(again, Errno::EXIST);
    assert_eq!(fs::read(m.path("f")).unwrap(), b"first");
    fs::create_dir(m.path("d")).unwrap();
    let over_directory = OpenOptions::new().write(true).create_new(true).open(m.path("d"));
    assert_errno(over_directory, Errno::EXIST);
}

fn create_new_refuses_a_dangling_symlink(m: &mut Mount) {
    symlink("nowhere", m.path("l")).unwrap();
    let created = OpenOptions::new().write(true).create_new(true).open(m.path("l"));
    assert_errno(created, Errno::EXIST);
    assert!(!m.path("nowhere").exists());
    fs::write(m.path("l"), b"through").unwrap();
    assert_eq!(fs::read(m.path("nowhere")).unwrap(), b"through");
}

fn truncate_flag_empties(m: &mut Mount) {
    for len in [1, 4096, 100_000] {
        fs::write(m.path("f"), pattern(1, len)).unwrap();
        let file = OpenOptions::new().write(true).truncate(true).open(m.path("f")).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 0);
        assert_eq!(fs::read(m.path("f")).unwrap(), b"");
        file.write_all_at(b"x", 10).unwrap();
        assert_eq!(fs::read(m.path("f")).unwrap(), b"\0\0\0\0\0\0\0\0\0\0x", "old bytes came back");
    }
}

fn truncate_flag_keeps_inode_and_mode(m: &mut Mount) {
    use std::os::unix::fs::MetadataExt;
    fs::write(m.path("f"), pattern(2, 5000)).unwrap();
    fs::set_permissions(m.path("f"), fs::Permissions::from_mode(0o640)).unwrap();
    let before = fs::metadata(m.path("f")).unwrap();
    fs::write(m.path("f"), b"new").unwrap();
    let after = fs::metadata(m.path("f")).unwrap();
    assert_eq!((before.ino(), before.mode()), (after.ino(), after.mode()));
    assert_eq!(after.len(), 3);
}

fn append_writes_at_the_end_whatever_the_offset(m: &mut Mount) {
    fs::write(m.path("f"), b"start").unwrap();
    let mut file = OpenOptions::new().append(true).read(true).open(m.path("f")).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.write_all(b"+one").unwrap();
    // pwrite on an append descriptor appends on Linux, whatever offset it names.
    file.write_all_at(b"+two", 1).unwrap();
    assert_eq!(fs::read(m.path("f")).unwrap(), b"start+one+two");
    let mut back = String::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_string(&mut back).unwrap();
    assert_eq!(back, "start+one+two");
}

fn append_descriptors_interleave(m: &mut Mount) {
    let open = || OpenOptions::new().append(true).create(true).open(m.path("f")).unwrap();
    let (mut one, mut two) = (open(), open());
    let mut expected = Vec::new();
    for round in 0..300u32 {
        let text = format!("round {round};");
        let target = if round % 2 == 0 { &mut one } else { &mut two };
        target.write_all(text.as_bytes()).unwrap();
        expected.extend_from_slice(text.as_bytes());
    }
    assert_same(&fs::read(m.path("f")).unwrap(), &expected, "two appenders");
}

fn append_survives_a_concurrent_extension(m: &mut Mount) {
    let mut appender = OpenOptions::new().append(true).create(true).open(m.path("f")).unwrap();
    appender.write_all(b"abc").unwrap();
    OpenOptions::new().write(true).open(m.path("f")).unwrap().set_len(10_000).unwrap();
    appender.write_all(b"xyz").unwrap();
    let mut expected = b"abc".to_vec();
    expected.resize(10_000, 0);
    expected.extend_from_slice(b"xyz");
    assert_same(&fs::read(m.path("f")).unwrap(), &expected, "append after extension");
}

fn write_only_file_is_not_readable(m: &mut Mount) {
    let mut file = File::create(m.path("f")).unwrap();
    file.write_all(b"data").unwrap();
    assert_errno(file.read_at(&mut [0; 4], 0), Errno::BADF);
}

fn read_only_file_is_not_writable(m: &mut Mount) {
    fs::write(m.path("f"), b"data").unwrap();
    let file = File::open(m.path("f")).unwrap();
    assert_errno(file.write_at(b"x", 0), Errno::BADF);
    assert_errno(file.set_len(0), Errno::INVAL);
    assert_eq!(fs::read(m.path("f")).unwrap(), b"data");
}

fn write_only_overwrite_of_part_of_a_block(m: &mut Mount) {
    let mut expected = pattern(3, 20_000);
    fs::write(m.path("f"), &expected).unwrap();
    m.remount();
    let file = OpenOptions::new().write(true).open(m.path("f")).unwrap();
    for (offset, len) in [(1, 1), (4095, 2), (8192, 4096), (12_000, 5000), (19_999, 1)] {
        let piece = pattern(offset, len);
        file.write_all_at(&piece, offset).unwrap();
        expected[offset as usize..offset as usize + len].copy_from_slice(&piece);
    }
    drop(file);
    assert_same(&fs::read(m.path("f")).unwrap(), &expected, "before remount");
    m.remount();
    assert_same(&fs::read(m.path("f")).unwrap(), &expected, "after remount");
}

fn sync_flags_write_through(m: &mut Mount) {
    for (name, flag) in [("sync", libc::O_SYNC), ("dsync", libc::O_DSYNC)] {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).custom_flags(flag);
        let file = options.open(m.path(name)).unwrap();
        let data = pattern(4, 70_000);
        for (index, chunk) in data.chunks(7_001).enumerate() {
            file.write_all_at(chunk, index as u64 * 7_001).unwrap();
        }
        // Acknowledged is stored: a daemon that dies now loses nothing.
        drop(file);
        m.kill_daemon();
        m.mount();
        assert_same(&fs::read(m.path(name)).unwrap(), &data, name);
    }
}

fn no_follow_refuses_a_symlink(m: &mut Mount) {
    fs::write(m.path("f"), b"data").unwrap();
    symlink("f", m.path("l")).unwrap();
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW;
    assert_errno(rustix::fs::open(m.path("l"), flags, Mode::empty()), Errno::LOOP);
    rustix::fs::open(m.path("f"), flags, Mode::empty()).unwrap();
}

fn directory_flag_refuses_a_file(m: &mut Mount) {
    fs::write(m.path("f"), b"data").unwrap();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    assert_errno(rustix::fs::open(m.path("f"), flags, Mode::empty()), Errno::NOTDIR);
}

fn directory_is_not_opened_for_writing(m: &mut Mount) {
    fs::create_dir(m.path("d")).unwrap();
    assert_errno(OpenOptions::new().write(true).open(m.path("d")), Errno::ISDIR);
    let mut byte = [0];
    assert_errno(File::open(m.path("d")).unwrap().read(&mut byte), Errno::ISDIR);
}

fn trailing_slash_on_a_file(m: &mut Mount) {
    fs::write(m.path("f"), b"data").unwrap();
    assert_errno(File::open(m.path("f/")), Errno::NOTDIR);
    assert_errno(File::create(m.path("new/")), Errno::ISDIR);
}

fn temporary_file_without_a_name(m: &mut Mount) {
    let flags = OFlags::RDWR | OFlags::TMPFILE;
    let file: File = match rustix::fs::open(m.mnt(), flags, Mode::RUSR | Mode::WUSR) {
        Ok(descriptor) => descriptor.into(),
        // Programs fall back to a name of their own on this errno, and on no other.
        Err(error) => return assert_eq!(error, Errno::OPNOTSUPP),
    };
    file.write_all_at(b"nameless", 0).unwrap();
    assert_eq!(fs::read_dir(m.mnt()).unwrap().count(), 0);
    let mut back = [0; 8];
    file.read_exact_at(&mut back, 0).unwrap();
    assert_eq!(&back, b"nameless");
}

fn path_descriptor_reaches_the_file(m: &mut Mount) {
    fs::write(m.path("f"), b"data").unwrap();
    let path = rustix::fs::open(m.path("f"), OFlags::PATH, Mode::empty()).unwrap();
    fs::rename(m.path("f"), m.path("g")).unwrap();
    let through = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&path));
    assert_eq!(fs::read(through).unwrap(), b"data");
}

fn missing_and_not_a_directory(m: &mut Mount) {
    fs::write(m.path("f"), b"data").unwrap();
    assert_errno(File::open(m.path("none")), Errno::NOENT);
    assert_errno(File::open(m.path("none/f")), Errno::NOENT);
    assert_errno(File::open(m.path("f/below")), Errno::NOTDIR);
}
