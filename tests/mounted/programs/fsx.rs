//! fsx, the file system exerciser: random reads, writes, maps, truncations, holes and copies of
//! one file, each read checked. `SSEFS_FSX_OPS` sets how many operations, `SSEFS_FSX_SEED` the
//! seed; `scripts/test` installs the program.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Mount, Setup, skip, succeed};

crate::matrix! { Setup::new() =>
    random_operations,
}

fn random_operations(m: &mut Mount) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let Some(fsx) = installed(root) else {
        return skip("fsx is missing: scripts/test installs it into target/tools");
    };
    let variable = |name: &str, default: &str| std::env::var(name).unwrap_or(default.to_owned());
    let (count, seed) = (variable("SSEFS_FSX_OPS", "1500"), variable("SSEFS_FSX_SEED", "7"));
    let mut command = Command::new(fsx);
    command.arg("-f").arg(root.join("tests/fsx.toml"));
    command.args(["-N", &count, "-S", &seed, "-P"]).arg(m.scratch()).arg(m.path("f"));
    let output = succeed(&mut command);
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("A-OK"), "{said}");
    let len = std::fs::metadata(m.path("f")).unwrap().len();
    let before = std::fs::read(m.path("f")).unwrap();
    m.remount();
    assert_eq!(std::fs::metadata(m.path("f")).unwrap().len(), len);
    crate::harness::assert_same(&std::fs::read(m.path("f")).unwrap(), &before, "remounted");
}

/// Where `scripts/test` puts the program, or the `PATH`.
fn installed(root: &Path) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::iter::once(root.join("target/tools/bin")).chain(std::env::split_paths(&path));
    places.map(|place| place.join("fsx")).find(|program| program.is_file())
}
