//! PostgreSQL: initdb, pgbench, a shutdown and a start again, as an ordinary user with an account,
//! since the server refuses root and users without one.

use std::path::PathBuf;

use crate::harness::{Mount, NOBODY, Setup, shell, skip};

crate::matrix! { Setup::new().for_all_users() =>
    initdb_and_pgbench,
}

/// Where the distribution keeps the server's programs: not on the PATH.
fn server_programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let mut found: Vec<PathBuf> = versions.map(|entry| entry.path().join("bin")).collect();
    found.retain(|bin| bin.join("initdb").is_file() && bin.join("pgbench").is_file());
    found.sort();
    found.pop()
}

fn initdb_and_pgbench(m: &mut Mount) {
    let Some(bin) = server_programs() else { return skip("PostgreSQL's server is missing") };
    let bin = bin.display();
    let directory = m.mnt().display().to_string();
    // The path of a socket must be short.
    let sockets = m.scratch().join("s");
    std::fs::create_dir(&sockets).unwrap();
    std::os::unix::fs::chown(&sockets, Some(NOBODY), Some(NOBODY)).unwrap();
    let sockets = sockets.display();
    let as_nobody = |m: &Mount, script: &str| {
        let inner = format!(
            "set -euo pipefail; export PGHOST={sockets} PGUSER=postgres PGDATABASE=postgres LC_ALL=C
             start() {{
               {bin}/pg_ctl -s -w -t 60 -D {directory}/db -l {sockets}/log -o \
                 \"-c listen_addresses='' -c unix_socket_directories={sockets} \
                  -c shared_buffers=16MB -c fsync=on -c max_connections=20\" start \
               || {{ cat {sockets}/log; exit 1; }}
             }}
             stop() {{ {bin}/pg_ctl -s -w -D {directory}/db -m \"$1\" stop; }}
             {script}"
        );
        std::fs::write(m.scratch().join("script"), inner).unwrap();
        let run =
            format!("setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups bash script 2>&1");
        shell(m.scratch(), &run)
    };
    as_nobody(
        m,
        &format!(
            "{bin}/initdb -D {directory}/db -U postgres -A trust --data-checksums > /dev/null
             start
             {bin}/pgbench -i -q -s 1
             {bin}/pgbench -c 4 -j 2 -t 100
             {bin}/psql -qc 'CREATE TABLE big AS SELECT i, md5(i::text) AS h \
               FROM generate_series(1, 50000) i; CREATE INDEX ON big(h)'
             {bin}/psql -qc 'VACUUM ANALYZE big'
             stop fast
             {bin}/pg_checksums -c -D {directory}/db > /dev/null"
        ),
    );
    m.remount();
    let said = as_nobody(
        m,
        &format!(
            "start
             {bin}/psql -Atc 'SELECT count(*), sum(i), count(DISTINCT h) FROM big'
             {bin}/psql -Atc 'SELECT sum(delta) = (SELECT sum(abalance) FROM pgbench_accounts) \
               FROM pgbench_history'
             {bin}/pg_dump -t big | md5sum > /dev/null
             stop immediate
             start
             {bin}/psql -Atc 'SELECT count(*) FROM pgbench_history'
             stop fast"
        ),
    );
    assert_eq!(said, "50000|1250025000|50000\nt\n400\n");
}
