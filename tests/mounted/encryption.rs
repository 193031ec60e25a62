//! What lies in the backing directory: ciphertext in files of the documented size, readable
//! metadata, and what the mount tells about it.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{XattrFlags, getxattr, listxattr, removexattr, setxattr};
use rustix::io::Errno;

use crate::harness::{Mount, Setup, assert_errno, assert_same, open_or_create, pattern, shell};

crate::matrix! { Setup::new().mount_only("a plain directory encrypts nothing") =>
    no_plaintext_below,
    backing_sizes_follow_the_format,
    sizes_show_without_a_key,
    equal_files_differ_below,
    names_and_metadata_are_readable_below,
    virtual_attributes_read,
    virtual_attributes_are_not_listed,
    virtual_attributes_refuse_changes,
    virtual_attributes_of_a_new_file,
    file_id_is_the_file_own,
    volume_directory_is_invisible,
    copies_below_keep_working,
    changed_block_is_refused,
    keystore_is_private,
}

const ATTRIBUTES: &[&str] = &[
    "algorithm",
    "mode",
    "provider",
    "key_id",
    "key_version",
    "file_id",
    "format_version",
    "wrapped_dek",
    "created",
];

fn attribute(path: &Path, name: &str) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 8192];
    let len = getxattr(path, format!("user.ssefs.{name}"), &mut buffer)?;
    buffer.truncate(len);
    Ok(buffer)
}

/// Bytes of all files below a directory, whatever their names.
fn all_bytes(directory: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(all_bytes(&entry.path()));
        } else if entry.file_type().unwrap().is_file() {
            found.push((entry.path(), fs::read(entry.path()).unwrap()));
        }
    }
    found
}

/// Where the plain block starts in its backing file, by DESIGN: sixteen blocks after the first
/// page, then groups of one tag page and 64 blocks.
fn block_offset(block: u64) -> u64 {
    match block.checked_sub(16) {
        None => 4096 * (1 + block),
        Some(rest) => 4096 * (18 + 65 * (rest / 64) + rest % 64),
    }
}

fn backing_size(plain: u64) -> u64 {
    let last = (plain - 1) / 4096;
    block_offset(last) + plain - last * 4096
}

fn no_plaintext_below(m: &mut Mount) {
    // Long and ASCII, so that no compression of chance makes it appear.
    let marker: String = pattern(99, 48).iter().map(|byte| char::from(b'a' + byte % 26)).collect();
    let text = marker.repeat(3000);
    fs::create_dir(m.path("d")).unwrap();
    fs::write(m.path("small"), &marker).unwrap();
    fs::write(m.path("d/large"), &text).unwrap();
    let file = File::create(m.path("sparse")).unwrap();
    file.write_all_at(marker.as_bytes(), 10_000_000).unwrap();
    file.set_len(10_000_020).unwrap();
    drop(file);
    let mut map = {
        let file = open_or_create(m.path("map"));
        file.set_len(8192).unwrap();
        crate::harness::sys::Map::shared(&file, 8192).unwrap()
    };
    map.write(4000, marker.as_bytes());
    map.sync().unwrap();
    drop(map);
    fs::write(m.path("cut"), &text).unwrap();
    File::options().write(true).open(m.path("cut")).unwrap().set_len(5).unwrap();
    let appended = shell(m.mnt(), &format!("echo {marker} >> small; wc -l < small"));
    assert_eq!(appended.trim(), "1");

    let search = |m: &Mount, when: &str| {
        let needle = &marker.as_bytes()[..20];
        for (path, bytes) in all_bytes(m.backing()).into_iter().chain(all_bytes(m.keystore())) {
            let leak = bytes.windows(needle.len()).position(|window| window == needle);
            assert_eq!(leak, None, "plaintext in {} {when}", path.display());
        }
    };
    search(m, "while mounted");
    m.unmount();
    search(m, "after unmounting");
    let count = all_bytes(m.backing()).len();
    assert!(count >= 6, "only {count} files were searched");
    m.mount();
    assert_eq!(fs::read_to_string(m.path("d/large")).unwrap(), text);
}

fn backing_sizes_follow_the_format(m: &mut Mount) {
    let sizes: &[u64] = &[
        1,
        4095,
        4096,
        4097,
        16 * 4096,
        16 * 4096 + 1,
        80 * 4096,
        80 * 4096 + 1,
        144 * 4096 + 7,
        1 << 20,
    ];
    for &size in sizes {
        fs::write(m.path(format!("f{size}")), pattern(size, size as usize)).unwrap();
    }
    fs::write(m.path("empty"), b"").unwrap();
    m.unmount();
    for &size in sizes {
        let below = fs::metadata(m.backing().join(format!("f{size}"))).unwrap().len();
        assert_eq!(below, backing_size(size), "plain size {size}");
    }
    let empty = fs::metadata(m.backing().join("empty")).unwrap().len();
    assert!(empty == 0 || empty == 4096, "an empty file takes {empty}");
    m.mount();
}

fn sizes_show_without_a_key(m: &mut Mount) {
    for size in [0usize, 1, 5000, 70_000, 1 << 20] {
        fs::write(m.path(format!("f{size}")), pattern(1, size)).unwrap();
    }
    m.remount();
    for size in [0u64, 1, 5000, 70_000, 1 << 20] {
        assert_eq!(fs::metadata(m.path(format!("f{size}"))).unwrap().len(), size);
    }
}

fn equal_files_differ_below(m: &mut Mount) {
    let data = pattern(1, 50_000);
    fs::write(m.path("a"), &data).unwrap();
    fs::write(m.path("b"), &data).unwrap();
    fs::write(m.path("zeros"), vec![0; 8 * 4096]).unwrap();
    m.unmount();
    let below = |name: &str| fs::read(m.backing().join(name)).unwrap();
    let (a, b) = (below("a"), below("b"));
    assert_eq!(a.len(), b.len());
    for page in 1..12 {
        assert_ne!(a[page * 4096..(page + 1) * 4096], b[page * 4096..(page + 1) * 4096]);
    }
    let zeros = below("zeros");
    for page in 1..9 {
        let block = &zeros[page * 4096..(page + 1) * 4096];
        assert!(block.iter().any(|&byte| byte != 0), "written zeros lie there as zeros");
        assert_ne!(block, &zeros[(page % 8 + 1) * 4096..][..4096], "equal blocks show as equal");
    }
    m.mount();
}

fn names_and_metadata_are_readable_below(m: &mut Mount) {
    fs::create_dir(m.path("a directory")).unwrap();
    fs::write(m.path("a directory/a name"), b"x").unwrap();
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_400_000_000);
    File::options()
        .write(true)
        .open(m.path("a directory/a name"))
        .unwrap()
        .set_modified(time)
        .unwrap();
    std::os::unix::fs::symlink("a target", m.path("link")).unwrap();
    m.unmount();
    let file = fs::metadata(m.backing().join("a directory/a name")).unwrap();
    assert_eq!(file.mtime(), 1_400_000_000);
    assert_eq!(fs::read_link(m.backing().join("link")).unwrap().to_str(), Some("a target"));
    m.mount();
}

fn virtual_attributes_read(m: &mut Mount) {
    fs::write(m.path("f"), b"content").unwrap();
    for round in ["fresh", "remounted"] {
        for name in ATTRIBUTES {
            let value = attribute(&m.path("f"), name).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(!value.is_empty(), "{name} is empty, {round}");
            assert!(
                std::str::from_utf8(&value).is_ok_and(|text| !text.contains(char::is_control)),
                "{name} is not text: {value:?}"
            );
        }
        assert_eq!(attribute(&m.path("f"), "mode").unwrap(), b"managed", "{round}");
        assert_eq!(attribute(&m.path("f"), "format_version").unwrap(), b"1", "{round}");
        m.remount();
    }
    assert_errno(attribute(&m.path("f"), "nonsense"), Errno::NODATA);
    let size = rustix::fs::getxattr_query(m.path("f"), "user.ssefs.file_id").unwrap();
    assert_eq!(size, attribute(&m.path("f"), "file_id").unwrap().len());
    let short = getxattr(m.path("f"), "user.ssefs.file_id", &mut [0; 1]);
    assert_errno(short, Errno::RANGE);
}

fn virtual_attributes_are_not_listed(m: &mut Mount) {
    fs::write(m.path("f"), b"content").unwrap();
    let flags = XattrFlags::empty();
    setxattr(m.path("f"), "user.mine", b"x", flags).unwrap();
    let mut names = vec![0; 4096];
    let len = listxattr(m.path("f"), &mut names).unwrap();
    let names = String::from_utf8(names[..len].to_vec()).unwrap();
    assert!(names.contains("user.mine") && !names.contains("ssefs"), "{names:?}");
    // So cp -a, which copies all that is listed, has nothing to fail on.
    shell(m.mnt(), "cp -a f g && cmp f g");
    assert_ne!(attribute(&m.path("f"), "file_id"), attribute(&m.path("g"), "file_id"));
}

fn virtual_attributes_refuse_changes(m: &mut Mount) {
    fs::write(m.path("f"), b"content").unwrap();
    for name in ATTRIBUTES.iter().chain(&["made_up"]) {
        let name = format!("user.ssefs.{name}");
        assert_errno(setxattr(m.path("f"), &*name, b"x", XattrFlags::empty()), Errno::PERM);
        assert_errno(removexattr(m.path("f"), &*name), Errno::PERM);
    }
    assert_eq!(fs::read(m.path("f")).unwrap(), b"content");
}

fn virtual_attributes_of_a_new_file(m: &mut Mount) {
    File::create(m.path("f")).unwrap();
    for name in ATTRIBUTES {
        // No key is made before there is something to encrypt.
        match attribute(&m.path("f"), name) {
            Ok(value) => assert!(!value.is_empty(), "{name}"),
            Err(error) => assert_eq!(error, Errno::NODATA, "{name}"),
        }
    }
    fs::write(m.path("f"), b"now").unwrap();
    assert!(!attribute(&m.path("f"), "file_id").unwrap().is_empty());
}

fn file_id_is_the_file_own(m: &mut Mount) {
    fs::write(m.path("a"), b"content").unwrap();
    fs::write(m.path("b"), b"content").unwrap();
    let a = attribute(&m.path("a"), "file_id").unwrap();
    assert_ne!(a, attribute(&m.path("b"), "file_id").unwrap());
    fs::hard_link(m.path("a"), m.path("c")).unwrap();
    fs::rename(m.path("a"), m.path("d")).unwrap();
    m.remount();
    assert_eq!(attribute(&m.path("c"), "file_id").unwrap(), a);
    assert_eq!(attribute(&m.path("d"), "file_id").unwrap(), a);
    assert_ne!(
        attribute(&m.path("b"), "wrapped_dek").unwrap(),
        attribute(&m.path("d"), "wrapped_dek").unwrap()
    );
}

fn volume_directory_is_invisible(m: &mut Mount) {
    assert!(m.backing().join(".ssefs/volume.json").is_file());
    assert_eq!(fs::read_dir(m.mnt()).unwrap().count(), 0);
    assert_errno(fs::metadata(m.path(".ssefs")), Errno::NOENT);
    assert_errno(fs::metadata(m.path(".ssefs/volume.json")), Errno::NOENT);
    assert_errno(fs::remove_dir_all(m.path(".ssefs")), Errno::NOENT);
    assert!(fs::create_dir(m.path(".ssefs")).is_err(), "a directory in its place was made");
    assert!(fs::write(m.path(".ssefs"), b"x").is_err(), "a file in its place was made");
    fs::create_dir(m.path("d")).unwrap();
    assert!(fs::rename(m.path("d"), m.path(".ssefs")).is_err(), "renamed over it");
    assert!(fs::rename(m.path(".ssefs"), m.path("e")).is_err(), "renamed away");
    assert!(std::os::unix::fs::symlink("x", m.path(".ssefs")).is_err(), "linked over it");
    // Only the root has it: below, it is a name like any other.
    fs::write(m.path("d/.ssefs"), b"ordinary").unwrap();
    assert_eq!(fs::read(m.path("d/.ssefs")).unwrap(), b"ordinary");
    m.remount();
    assert_eq!(fs::read_dir(m.mnt()).unwrap().count(), 1);
}

fn copies_below_keep_working(m: &mut Mount) {
    let data = pattern(1, 100_000);
    fs::create_dir(m.path("d")).unwrap();
    fs::write(m.path("d/f"), &data).unwrap();
    m.unmount();
    // Any tool may copy ciphertext: the key to it is in the file.
    shell(m.backing(), "cp d/f copied; cat d/f > plain-copy; mv d moved");
    m.mount();
    for name in ["copied", "plain-copy", "moved/f"] {
        assert_same(&fs::read(m.path(name)).unwrap(), &data, name);
    }
}

fn changed_block_is_refused(m: &mut Mount) {
    let data = pattern(1, 30 * 4096);
    fs::write(m.path("f"), &data).unwrap();
    m.unmount();
    let below = File::options().read(true).write(true).open(m.backing().join("f")).unwrap();
    let mut block = vec![0; 4096];
    below.read_exact_at(&mut block, block_offset(20)).unwrap();
    block[1000] ^= 1;
    below.write_all_at(&block, block_offset(20)).unwrap();
    m.mount();
    let file = File::open(m.path("f")).unwrap();
    let mut back = vec![0; 4096];
    assert_errno(file.read_exact_at(&mut back, 20 * 4096), Errno::IO);
    file.read_exact_at(&mut back, 10 * 4096).unwrap();
    assert_same(&back, &data[10 * 4096..11 * 4096], "a block beside it");
    let log = m.log();
    assert!(log.contains("20"), "no line names block 20:\n{log}");
}

fn keystore_is_private(m: &mut Mount) {
    let files = all_bytes(m.keystore());
    assert!(!files.is_empty(), "managed mode keeps its key somewhere else");
    for (path, _) in files {
        let mode = fs::metadata(&path).unwrap().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", path.display());
    }
}
