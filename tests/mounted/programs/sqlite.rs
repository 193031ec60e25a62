//! SQLite: record locks, fsync, a shared-memory map (WAL), journals that are renamed or cut.

use crate::harness::{Mount, Setup, needs_program, shell};

crate::matrix! { Setup::new() =>
    every_journal_mode,
    two_writers_at_once,
    committed_rows_survive_a_killed_daemon,
}

fn every_journal_mode(m: &mut Mount) {
    if !needs_program("sqlite3") {
        return;
    }
    for mode in ["wal", "delete", "truncate", "persist"] {
        let script = format!(
            "sqlite3 {mode}.db <<'SQL'
             PRAGMA journal_mode={mode};
             PRAGMA synchronous=FULL;
             CREATE TABLE t(id INTEGER PRIMARY KEY, data TEXT);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
             INSERT INTO t SELECT i, hex(randomblob(60)) FROM n;
             CREATE INDEX by_data ON t(data);
             BEGIN; DELETE FROM t; ROLLBACK;
             DELETE FROM t WHERE id % 3 = 0;
             UPDATE t SET data = data || data WHERE id % 5 = 0;
             VACUUM;
SQL
             sqlite3 {mode}.db 'PRAGMA integrity_check; SELECT count(*) FROM t;'"
        );
        let said = shell(m.mnt(), &script);
        assert!(said.starts_with(mode), "journal mode {mode} was refused: {said}");
        assert!(said.ends_with("ok\n3334\n"), "{mode}: {said}");
    }
    m.remount();
    for mode in ["wal", "delete", "truncate", "persist"] {
        let said = shell(m.mnt(), &format!("sqlite3 {mode}.db 'PRAGMA integrity_check'"));
        assert_eq!(said, "ok\n", "{mode} after remount");
    }
}

fn two_writers_at_once(m: &mut Mount) {
    if !needs_program("sqlite3") {
        return;
    }
    for mode in ["wal", "delete"] {
        let said = shell(
            m.mnt(),
            &format!(
                "sqlite3 {mode}.db 'PRAGMA journal_mode={mode}; CREATE TABLE t(w, i)' > /dev/null
                 writer() {{
                   for i in $(seq 60); do
                     echo \".timeout 60000\nINSERT INTO t VALUES($1, $i);\" | sqlite3 {mode}.db
                   done
                 }}
                 writer 1 & one=$!
                 writer 2 & two=$!
                 wait $one; wait $two
                 sqlite3 {mode}.db 'PRAGMA integrity_check; SELECT count(*) FROM t'"
            )
            .replace("\\n", "\n"),
        );
        assert_eq!(said, "ok\n120\n", "{mode}");
    }
}

fn committed_rows_survive_a_killed_daemon(m: &mut Mount) {
    if !needs_program("sqlite3") {
        return;
    }
    for mode in ["wal", "delete"] {
        let insert = format!(
            "sqlite3 {mode}.db 'PRAGMA journal_mode={mode}; PRAGMA synchronous=FULL;
               CREATE TABLE t(i, data);
               INSERT INTO t SELECT value, hex(randomblob(500)) FROM generate_series(1, 500);'"
        );
        shell(m.mnt(), &insert);
        m.kill_daemon();
        m.mount();
        let said = shell(
            m.mnt(),
            &format!("sqlite3 {mode}.db 'PRAGMA integrity_check; SELECT count(*) FROM t'"),
        );
        assert_eq!(said, "ok\n500\n", "{mode}");
    }
}
