//! tar, rsync and cp: a tree of every kind of file there and back, compared byte for byte and
//! attribute for attribute.

use std::path::Path;

use crate::harness::{Mount, Setup, is_root, needs_program, pattern, shell};

crate::matrix! { Setup::new().option("acl") =>
    tar_there_and_back,
    rsync_there_and_back,
    copy_there_and_back,
}

/// A tree outside the mount, with every kind of file, odd modes, old times, links and xattrs.
fn make_tree(m: &Mount) -> std::path::PathBuf {
    let tree = m.scratch().join("tree");
    std::fs::create_dir(&tree).unwrap();
    for (index, len) in [0, 1, 4095, 4096, 4097, 65_536, 70_000, 1 << 20].iter().enumerate() {
        std::fs::write(tree.join(format!("file{index}")), pattern(index as u64, *len)).unwrap();
    }
    shell(
        &tree,
        "mkdir -p a/b/c 'with blank' empty
         for i in $(seq 50); do seq $i 100 > a/b/c/n$i; done
         ln file5 a/hard-link
         ln -s ../file1 a/symlink
         ln -s /nowhere dangling
         mkfifo pipe
         truncate -s 5M sparse; echo end >> sparse
         chmod 4755 file1; chmod 0400 file2; chmod 1777 empty; chmod 2755 a/b
         setfattr -n user.note -v 'a value' file3
         setfattr -n user.dir -v 'on a directory' a
         setfacl -m u:54321:rw file4
         touch -h -d '1969-03-04 05:06:07.123456789 UTC' file0 a/symlink
         touch -d '2031-01-01 00:00:00.5 UTC' file5 a/b/c a",
    );
    if is_root() {
        shell(&tree, "chown 54321:54322 file6; chown -h 12:13 dangling; mknod null c 1 3");
    }
    tree
}

/// Everything that the tools keep, as text.
fn describe(directory: &Path) -> String {
    shell(
        directory,
        "find . -mindepth 1 ! -type d -printf '%P %y %m %U:%G %s %T@ %n %l\\n' | sort
         find . -mindepth 1 -type d -printf '%P %y %m %U:%G %T@\\n' | sort
         find . -type f -exec sha256sum {} + | sort -k2
         find . -print0 | sort -z | xargs -0 getfattr -hd -m '^user\\.'
         find . ! -type l -print0 | sort -z | xargs -0 getfacl -pn
         find . -samefile file5 | sort",
    )
}

fn tools_are_here(program: &str) -> bool {
    [program, "setfattr", "setfacl"].iter().all(|program| needs_program(program))
}

fn compare(there: &Path, back: &Path, tree: &Path) {
    let original = describe(tree);
    assert_same_lines(&describe(there), &original, "on the mount");
    assert_same_lines(&describe(back), &original, "brought back");
}

fn assert_same_lines(actual: &str, expected: &str, what: &str) {
    let (actual, expected): (Vec<_>, Vec<_>) =
        (actual.lines().collect(), expected.lines().collect());
    let lost: Vec<_> = expected.iter().filter(|line| !actual.contains(line)).collect();
    let new: Vec<_> = actual.iter().filter(|line| !expected.contains(line)).collect();
    assert!(actual == expected, "{what}: expected {lost:#?}, found {new:#?}");
}

fn tar_there_and_back(m: &mut Mount) {
    if !tools_are_here("tar") {
        return;
    }
    let tree = make_tree(m);
    let flags = "--acls --xattrs --sparse --numeric-owner -p";
    shell(
        m.scratch(),
        &format!(
            "mkdir mnt/t back
             tar {flags} -cf - -C tree . | tar {flags} -xf - -C mnt/t
             tar {flags} -cf mnt/archive.tar -C mnt/t .
             tar {flags} -xf mnt/archive.tar -C back"
        ),
    );
    m.remount();
    compare(&m.path("t"), &m.scratch().join("back"), &tree);
}

fn rsync_there_and_back(m: &mut Mount) {
    if !tools_are_here("rsync") {
        return;
    }
    let tree = make_tree(m);
    shell(
        m.scratch(),
        "mkdir mnt/t back; rsync -aHAX --modify-window=-1 --numeric-ids tree/ mnt/t/",
    );
    m.remount();
    let again =
        shell(m.scratch(), "rsync -aHAXi --modify-window=-1 --numeric-ids --checksum tree/ mnt/t/");
    assert_eq!(again, "", "a second run finds something to change");
    shell(m.scratch(), "rsync -aHAXS --modify-window=-1 --numeric-ids mnt/t/ back/");
    compare(&m.path("t"), &m.scratch().join("back"), &tree);
    // Updates in place: what rsync writes into existing blocks.
    shell(
        m.scratch(),
        "echo more >> tree/file7
         printf x | dd of=tree/file7 bs=1 seek=5000 conv=notrunc status=none
         rsync -aHAX --modify-window=-1 --numeric-ids --inplace --no-whole-file tree/ mnt/t/
         cmp tree/file7 mnt/t/file7",
    );
}

fn copy_there_and_back(m: &mut Mount) {
    if !tools_are_here("cp") {
        return;
    }
    let tree = make_tree(m);
    shell(m.scratch(), "cp -a tree mnt/t");
    m.remount();
    shell(m.scratch(), "cp -a mnt/t back");
    compare(&m.path("t"), &m.scratch().join("back"), &tree);
    shell(m.mnt(), "cp -a t u; diff -r --no-dereference -x pipe -x null t u; rm -rf t u");
}
