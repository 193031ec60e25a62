//! FIFOs, sockets and device nodes.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::io::Errno;

use crate::harness::{Mount, Setup, assert_errno, needs_root};

crate::matrix! { Setup::new() =>
    fifo_carries_bytes,
    fifo_without_reader,
    socket_accepts,
    datagram_socket,
    mknod_makes_an_ordinary_file,
}

crate::matrix! { Setup::new().option("dev") =>
    device_nodes,
}

fn fifo_carries_bytes(m: &mut Mount) {
    let path = m.path("pipe");
    mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    let meta = fs::metadata(&path).unwrap();
    assert!(meta.file_type().is_fifo());
    assert_eq!(meta.mode() & 0o7777, 0o640);
    let writer = {
        let path = path.clone();
        std::thread::spawn(move || {
            File::options().write(true).open(path).unwrap().write_all(b"through the pipe").unwrap();
        })
    };
    let mut back = String::new();
    File::open(&path).unwrap().read_to_string(&mut back).unwrap();
    writer.join().unwrap();
    assert_eq!(back, "through the pipe");
    m.remount();
    assert!(fs::metadata(m.path("pipe")).unwrap().file_type().is_fifo());
    fs::remove_file(m.path("pipe")).unwrap();
}

fn fifo_without_reader(m: &mut Mount) {
    mknodat(CWD, m.path("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let mut options = OpenOptions::new();
    let opened = options.write(true).custom_flags(libc::O_NONBLOCK).open(m.path("pipe"));
    assert_errno(opened, Errno::NXIO);
}

fn socket_accepts(m: &mut Mount) {
    let path = m.path("s");
    let listener = UnixListener::bind(&path).unwrap();
    assert!(fs::metadata(&path).unwrap().file_type().is_socket());
    assert_errno(UnixListener::bind(&path), Errno::ADDRINUSE);
    let client = std::thread::spawn({
        let path = path.clone();
        move || {
            let mut stream = UnixStream::connect(path).unwrap();
            stream.write_all(b"hello").unwrap();
        }
    });
    let mut back = String::new();
    listener.accept().unwrap().0.read_to_string(&mut back).unwrap();
    client.join().unwrap();
    assert_eq!(back, "hello");
    drop(listener);
    assert_errno(UnixStream::connect(&path), Errno::CONNREFUSED);
    fs::remove_file(&path).unwrap();
}

fn datagram_socket(m: &mut Mount) {
    let receiver = UnixDatagram::bind(m.path("log")).unwrap();
    let sender = UnixDatagram::unbound().unwrap();
    sender.send_to(b"datagram", m.path("log")).unwrap();
    let mut back = [0; 20];
    let len = receiver.recv(&mut back).unwrap();
    assert_eq!(&back[..len], b"datagram");
}

fn mknod_makes_an_ordinary_file(m: &mut Mount) {
    let path = m.path("f");
    mknodat(CWD, &path, FileType::RegularFile, Mode::from_raw_mode(0o600), 0).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    fs::write(&path, b"written later").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"written later");
    let again = mknodat(CWD, &path, FileType::RegularFile, Mode::from_raw_mode(0o600), 0);
    assert_errno(again, Errno::EXIST);
}

fn device_nodes(m: &mut Mount) {
    if !needs_root() {
        return;
    }
    let null = makedev(1, 3);
    mknodat(CWD, m.path("null"), FileType::CharacterDevice, Mode::from_raw_mode(0o666), null)
        .unwrap();
    mknodat(
        CWD,
        m.path("disk"),
        FileType::BlockDevice,
        Mode::from_raw_mode(0o600),
        makedev(7, 300),
    )
    .unwrap();
    let meta = fs::metadata(m.path("null")).unwrap();
    assert!(meta.file_type().is_char_device());
    assert_eq!(meta.rdev(), null);
    let disk = fs::metadata(m.path("disk")).unwrap();
    assert!(disk.file_type().is_block_device());
    assert_eq!(disk.rdev(), makedev(7, 300));
    fs::write(m.path("null"), b"gone").unwrap();
    assert_eq!(fs::read(m.path("null")).unwrap(), b"");
}
