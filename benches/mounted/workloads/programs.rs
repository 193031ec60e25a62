//! What programmers do all day.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Row, Unit, Workload, execute, require, tree};
use crate::place::{Amount, Place};

pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "git",
        rows: &[
            row("git-clone", "git clone of a repository of half the tree"),
            row("git-status-cold", "git status in it, cold"),
            row("git-status", "git status in it, warm"),
        ],
        pieces: 1,
        compares_modes: false,
        prepare: |place| {
            require("git");
            make_repository(place);
        },
        run: |place, _| {
            let (origin, clone) = (place.kit(REPOSITORY), place.path("clone"));
            place.timed("git-clone", || {
                // Over the protocol, or it would link or copy files.
                let origin = format!("file://{}", origin.display());
                let arguments = ["clone", "--quiet", &origin, "clone"];
                git(place.system().directory(), &arguments);
                Amount::operations(1)
            });
            place.forget_all();
            for name in ["git-status-cold", "git-status"] {
                place.timed(name, || {
                    git(&clone, &["status", "--porcelain"]);
                    Amount::operations(1)
                });
            }
            fs::remove_dir_all(clone).expect("the mount can be written");
        },
        clean: super::nothing,
    },
    Workload {
        name: "build",
        rows: &[row("build", "make -j4 of 24 C files, sources and objects in the mount")],
        pieces: 1,
        compares_modes: false,
        prepare: |place| {
            require("make");
            require("cc");
            write_sources(&place.path(BUILD));
        },
        run: |place, _| {
            let directory = place.path(BUILD);
            place.timed("build", || {
                execute(Command::new("make").args(["-s", "-j4"]), &directory, "");
                Amount::operations(1)
            });
            execute(Command::new("make").args(["-s", "clean"]), &directory, "");
        },
        clean: |place| fs::remove_dir_all(place.path(BUILD)).expect("it is there"),
    },
];

fn git(directory: &Path, arguments: &[&str]) {
    let author = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"];
    let quiet = ["-c", "init.defaultBranch=main", "-c", "gc.auto=0"];
    execute(Command::new("git").args(author).args(quiet).args(arguments), directory, "");
}

fn make_repository(place: &Place) {
    let directory = place.kit(REPOSITORY);
    if directory.exists() {
        return;
    }
    let archive = tree::pack(place, "half-tree.tar", place.scale().tree_files / 2);
    fs::create_dir(&directory).expect("the scratch directory can be written");
    tree::unpack(&archive, &directory);
    git(&directory, &["init", "--quiet"]);
    git(&directory, &["add", "--all", "--force"]);
    git(&directory, &["commit", "--quiet", "--message", "All"]);
}

fn write_sources(directory: &Path) {
    fs::create_dir(directory).expect("the mount can be written");
    let write = |name: &str, text: &str| {
        fs::write(directory.join(name), text).expect("the mount can be written");
    };
    let mut header = String::from("#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n");
    let mut main = String::from("#include \"all.h\"\nint main(void) {\n");
    for unit in 0..UNITS {
        let mut source = String::from("#include \"all.h\"\n");
        for function in 0..20 {
            let name = format!("f{unit}_{function}");
            let _ = writeln!(header, "int {name}(const char *s);");
            let _ = writeln!(
                source,
                "int {name}(const char *s) {{\n  char b[64];\n  \
                 snprintf(b, sizeof b, \"%s-%d\", s, {function});\n  \
                 return (int)strlen(b) + {unit};\n}}"
            );
            let _ = writeln!(main, "  if ({name}(\"x\") < 0) return 1;");
        }
        write(&format!("u{unit}.c"), &source);
    }
    main.push_str("  return 0;\n}\n");
    write("all.h", &header);
    write("main.c", &main);
    write("Makefile", MAKEFILE);
}

const fn row(name: &'static str, description: &'static str) -> Row {
    Row::new(name, description, Unit::Milliseconds)
}

const UNITS: usize = 23;
const BUILD: &str = "build";
const REPOSITORY: &str = "repository";
const MAKEFILE: &str = "\
OBJECTS := $(patsubst %.c,%.o,$(wildcard *.c))
program: $(OBJECTS)
\tcc -o $@ $(OBJECTS)
%.o: %.c all.h
\tcc -O1 -c -o $@ $<
clean:
\trm -f program *.o
";
