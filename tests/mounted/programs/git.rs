//! git: many small files, locks by exclusive creation, renames over, read-only packs, mmap.

use crate::harness::{Mount, Setup, needs_program, shell};

crate::matrix! { Setup::new() =>
    commit_clone_and_collect,
}

fn commit_clone_and_collect(m: &mut Mount) {
    if !needs_program("git") {
        return;
    }
    const CONFIG: &str = "export GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=t GIT_AUTHOR_EMAIL=t@t \
         GIT_COMMITTER_NAME=t GIT_COMMITTER_EMAIL=t@t";
    let run = |m: &Mount, script: &str| shell(m.mnt(), &format!("{CONFIG}\n{script}"));
    run(
        m,
        "git init -q -b main repo
         cd repo
         for i in $(seq 200); do mkdir -p d$((i % 10)); seq $i $((i * 7)) > d$((i % 10))/f$i; done
         git add .
         git commit -qm first
         for i in $(seq 1 3 200); do echo changed >> d$((i % 10))/f$i; done
         git commit -qam second
         git mv d1 e1 && git commit -qm renamed",
    );
    m.remount();
    run(
        m,
        "cd repo
         git fsck --full --strict
         test -z \"$(git status --porcelain)\"
         test $(git log --oneline | wc -l) = 3
         git clone -q . ../clone
         git gc -q --aggressive --prune=now
         git fsck --full --strict
         git checkout -q HEAD~1 && git checkout -q main
         git stash list
         cd ../clone
         git fsck --full --strict
         diff -r --exclude=.git . ../repo",
    );
    m.remount();
    let status = run(m, "cd repo && git fsck --full --strict && git status --porcelain");
    assert_eq!(status.trim(), "");
}
