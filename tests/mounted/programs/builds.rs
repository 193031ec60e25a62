//! Compilers: a C program of several files and a crate, built and run on the mount.

use crate::harness::{Mount, Setup, needs_program, shell};

crate::matrix! { Setup::new().option("exec") =>
    c_program_of_several_files,
    crate_without_dependencies,
    scripts_and_copies_of_programs_run,
}

fn c_program_of_several_files(m: &mut Mount) {
    if !needs_program("gcc") || !needs_program("make") {
        return;
    }
    let said = shell(
        m.mnt(),
        "mkdir c && cd c
         for i in $(seq 20); do
           echo \"int f$i(int x) { return x + $i; }\" > f$i.c
           echo \"int f$i(int x);\" >> all.h
         done
         { echo '#include <stdio.h>'; echo '#include \"all.h\"'; echo 'int main(void) { int x = 0;'
           for i in $(seq 20); do echo \"x = f$i(x);\"; done
           echo 'printf(\"%d\\n\", x); return 0; }'; } > main.c
         { echo 'OBJ = $(patsubst %.c,%.o,$(wildcard *.c))'; echo 'prog: $(OBJ)'
           printf '\\tgcc -g -o $@ $^\\n%%.o: %%.c all.h\\n\\tgcc -g -O1 -c -o $@ $<\\n'
         } > Makefile
         make -sj2
         ./prog
         ar rcs lib.a f*.o && gcc -g main.o lib.a -o linked && ./linked
         make -q prog && echo up-to-date",
    );
    assert_eq!(said, "210\n210\nup-to-date\n");
    m.remount();
    let said = shell(m.mnt(), "cd c && make -q prog && touch f3.c && make -sj2 && ./prog");
    assert_eq!(said, "210\n");
}

fn crate_without_dependencies(m: &mut Mount) {
    if !needs_program("cargo") {
        return;
    }
    std::fs::create_dir_all(m.path("krate/src")).unwrap();
    std::fs::write(
        m.path("krate/Cargo.toml"),
        "[package]\nname = \"krate\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n",
    )
    .unwrap();
    std::fs::write(m.path("krate/src/lib.rs"), "pub fn answer() -> u32 { 42 }\n").unwrap();
    let main = "fn main() { println!(\"{}\", krate::answer()); }\n";
    std::fs::write(m.path("krate/src/main.rs"), main).unwrap();
    // The toolchain lies in the real home directory, which the shell's HOME hides.
    let homes: String = ["CARGO_HOME", "RUSTUP_HOME"]
        .iter()
        .zip([".cargo", ".rustup"])
        .map(|(variable, directory)| {
            let home = std::env::var("HOME").unwrap();
            let value = std::env::var(variable).unwrap_or(format!("{home}/{directory}"));
            format!("export {variable}='{value}'\n")
        })
        .collect();
    let build = format!("{homes}unset RUSTC_WRAPPER; export CARGO_TARGET_DIR=target\ncd krate\n");
    let said = shell(m.mnt(), &format!("{build}cargo run -q --offline"));
    assert_eq!(said, "42\n");
    m.remount();
    let again = shell(m.mnt(), &format!("{build}cargo build --offline 2>&1; target/debug/krate"));
    assert!(!again.contains("Compiling"), "time stamps changed over a remount: {again}");
    assert!(again.ends_with("42\n"), "{again}");
}

fn scripts_and_copies_of_programs_run(m: &mut Mount) {
    let said = shell(
        m.mnt(),
        "printf '#!/bin/sh\\necho \"script says $1\"\\n' > script && chmod +x script
         ./script hello
         cp /bin/echo my-echo && ./my-echo copied
         cp my-echo busy && (exec 3>>busy; ./busy x 2>&1 || true)",
    );
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(&lines[..2], ["script says hello", "copied"]);
    // A program open for writing does not start.
    assert!(lines[2].contains("busy") && lines[2].contains("Text file"), "{said}");
    m.remount();
    assert_eq!(shell(m.mnt(), "./my-echo again; ./script more"), "again\nscript says more\n");
}
