//! Appending by many: threads and processes to one chain, over segments, with checkpoints that
//! the system's log is told of.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use ssefs::keys::audit::{AuditOptions, AuditSync};

use super::harness::{AppendingChild, TestLog, leasing, options, record};

#[test]
fn threads_and_handles_share_one_chain() {
    let log = TestLog::new();
    let always = AuditOptions { sync: AuditSync::Always, segment_size: 20_000, ..options() };
    std::thread::scope(|scope| {
        for handle in 0..3_u64 {
            let opened = log.open_with(always.clone()).unwrap();
            scope.spawn(move || {
                std::thread::scope(|scope| {
                    for thread in 0..3_u64 {
                        let opened = &opened;
                        scope.spawn(move || {
                            for number in 0..20 {
                                record(opened, handle * 1000 + thread * 100 + number).unwrap();
                            }
                        });
                    }
                });
            });
        }
    });
    let verification = log.assert_clean();
    assert_eq!(log.numbers().len(), 180);
    assert!(verification.segments > 3 && verification.checkpoints >= verification.segments as u64);
    let last = verification.last.unwrap();
    assert_eq!(verification.signed_seq, Some(last.seq), "a close signs");
}

#[test]
fn two_processes_at_once() {
    let log = TestLog::new();
    let mut children = [1_000_000, 2_000_000].map(|first| AppendingChild::start(log.path(), first));
    let mut heard = Vec::new();
    for _ in 0..300 {
        heard.extend(children.iter_mut().map(|child| child.hear().unwrap()));
    }
    for child in children {
        heard.extend(child.kill());
    }
    drop(log.open());
    log.assert_clean();
    let numbers = log.numbers();
    for number in &heard {
        assert!(numbers.contains(number), "{number} was acknowledged");
    }
    let changes = numbers.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) > 500_000).count();
    assert!(changes > 10, "they took turns {changes} times only");
    assert!(log.segment(2).exists(), "no segment ended");
}

#[test]
fn a_segment_ends_in_a_checkpoint_and_the_chain_goes_on() {
    let log = TestLog::new();
    let open = log.open_with(AuditOptions { segment_size: 5000, ..options() }).unwrap();
    for number in 0..40 {
        record(&open, number).unwrap();
    }
    drop(open);
    let verification = log.assert_clean();
    assert!(verification.segments > 5, "{}", verification.segments);
    for segment in 1..=u32::try_from(verification.segments).unwrap() {
        let text = std::fs::read_to_string(log.segment(segment)).unwrap();
        assert!(text.lines().last().unwrap().contains("AuditCheckpoint"), "segment {segment}");
        assert!(text.len() < 6500, "segment {segment} has {} bytes", text.len());
    }
    assert_eq!(log.numbers(), (0..40).collect::<Vec<_>>());
}

#[test]
fn checkpoints_come_by_number_and_are_told_to_the_system_s_log() {
    let mut log = TestLog::new();
    let path = log.path().with_file_name("syslog");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    log.surroundings().syslog = path;
    let open = log.open();
    for number in 0..1100 {
        record(&open, number).unwrap();
    }
    open.flush().unwrap();
    let mut buffer = [0; 1024];
    let mut hear = || {
        let len = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..len].to_vec()).unwrap()
    };
    let first = hear();
    assert!(first.starts_with("<85>"), "{first}");
    assert!(first.contains(": record 1001 has the hash "), "{first}");
    drop(open);
    let verification = log.assert_clean();
    let last = verification.last.unwrap();
    let told = hear();
    let hash: String = last.hash.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(told.contains(&format!("record {} has the hash {hash}", last.seq)), "{told}");
    assert_eq!(verification.checkpoints, 2);
}

#[test]
fn nothing_new_is_not_signed_again() {
    let log = TestLog::new();
    log.append(0..1);
    let records = log.records().len();
    for _ in 0..3 {
        let open = log.open();
        open.flush().unwrap();
    }
    assert_eq!(log.records().len(), records);
}

/// Prints what a record costs; the bound is far above it, for slow machines.
#[test]
fn a_record_is_cheap() {
    const RECORDS: u32 = 20_000;
    let log = TestLog::new();
    let open = log.open_with(leasing()).unwrap();
    let identity = ssefs::keys::identity::Identity::own();
    let start = Instant::now();
    for number in 0..RECORDS {
        super::harness::record_as(&open, number.into(), &identity, "/a/file", None).unwrap();
    }
    let each = start.elapsed() / RECORDS;
    println!("a record takes {each:?}");
    assert!(each < Duration::from_millis(2), "{each:?}");
}
