//! The style that no compiler enforces: ranks of modules, where `unsafe` may stand, lengths,
//! headers, names, reasons for dependencies.
//!
//! Each rule is a pure function over one file's text, and each has a test that it can fail.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use ssefs::sys::fail_point::NAMES;

/// One file and what a rule needs of it.
struct Source {
    /// Relative to the crate, with `/`.
    path: String,
    text: String,
    /// The text with comments, strings and characters blanked out, line for line.
    code: String,
}

/// One line that breaks a rule.
#[derive(Debug, PartialEq)]
struct Breach {
    line: usize,
    why: String,
}

type Rule = fn(&Source) -> Vec<Breach>;

/// The ranks of the modules, lowest first; those of one rank do not know each other.
const RANKS: &[&[&str]] = &[
    &["sys"],
    &["crypto"],
    &["format"],
    &["keys", "store"],
    &["volume"],
    &["fs"],
    &["fuse"],
    &["cli"],
];

const RULES: &[Rule] = &[
    imports_point_down_the_rank,
    unsafe_stands_in_sys_only,
    unsafe_has_a_reason,
    files_are_short,
    functions_are_short,
    lines_are_short,
    files_have_headers,
    nothing_unwraps_outside_tests,
    nothing_is_left_to_do,
    no_globs,
    names_say_something,
];

const LINE_LIMIT: usize = 100;
const FUNCTION_LIMIT: usize = 90;
const FILE_LIMIT: usize = 600;

#[test]
fn every_file_keeps_the_rules() {
    let mut report = String::new();
    let mut count = 0;
    for path in ["src", "tests"].iter().flat_map(|root| rust_files(&crate_root().join(root))) {
        let source = Source::read(&path);
        count += 1;
        for breach in RULES.iter().flat_map(|rule| rule(&source)) {
            writeln!(report, "{}:{}: {}", source.path, breach.line, breach.why).unwrap();
        }
    }
    assert!(count > 10, "only {count} files were found");
    assert!(report.is_empty(), "\n{report}");
}

#[test]
fn every_dependency_has_a_reason() {
    let manifest = fs::read_to_string(crate_root().join("Cargo.toml")).unwrap();
    let breaches = dependencies_without_reason(&manifest);
    assert!(breaches.is_empty(), "no comment says why: {breaches:?}");
}

#[test]
fn every_module_has_a_rank() {
    let library = fs::read_to_string(crate_root().join("src/lib.rs")).unwrap();
    for line in library.lines() {
        let Some(name) = line.trim().strip_prefix("pub mod ") else { continue };
        let name = name.trim_end_matches(';');
        assert!(rank(name).is_some(), "src/lib.rs: the module {name} has no rank");
    }
}

#[test]
fn every_fail_point_is_named_and_placed() {
    let sources = rust_files(&crate_root().join("src")).into_iter().map(|path| Source::read(&path));
    let calls: Vec<String> = sources
        .filter(|source| source.path != "src/sys/fail_point.rs")
        .flat_map(|source| fail_points(&source.text))
        .collect();
    for call in &calls {
        assert!(NAMES.contains(&call.as_str()), "{call} is not in sys::fail_point::NAMES");
    }
    for name in NAMES {
        assert!(calls.iter().any(|call| call == name), "nothing in src passes {name}");
    }
}

/// The names of the fail points that a file passes.
fn fail_points(text: &str) -> Vec<String> {
    let calls = ["fail_point::hit(", "fail_point::refuses("];
    let calls = calls.into_iter().flat_map(|call| text.split(call).skip(1));
    calls.map(|rest| rest.split('"').nth(1).unwrap_or_default().to_owned()).collect()
}

fn imports_point_down_the_rank(source: &Source) -> Vec<Breach> {
    let Some(own) = source.module() else { return Vec::new() };
    let Some(own_rank) = rank(own) else { return Vec::new() };
    let mut breaches = Vec::new();
    for (line, module) in crate_paths(&source.code) {
        let upward = rank(&module).is_some_and(|other| other >= own_rank && module != own);
        if upward {
            let why = format!("{own} reaches up or aside to {module}");
            breaches.push(Breach { line, why });
        }
    }
    breaches
}

/// Every first segment after `crate::`, also in braces and spread over lines.
fn crate_paths(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let line = line_of(code, at);
        let rest = &code[at + "crate::".len()..];
        let segments = match rest.strip_prefix('{') {
            Some(group) => first_segments(group),
            None => vec![identifier(rest)],
        };
        found.extend(segments.into_iter().filter(|name| !name.is_empty()).map(|name| (line, name)));
    }
    found
}

/// The first segment of each path of a group, up to its closing brace.
fn first_segments(group: &str) -> Vec<String> {
    let (mut depth, mut names, mut at_start) = (0, Vec::new(), true);
    for (index, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_start = true,
            c if at_start && !c.is_whitespace() => {
                names.push(identifier(&group[index..]));
                at_start = false;
            }
            _ => {}
        }
    }
    names
}

fn unsafe_stands_in_sys_only(source: &Source) -> Vec<Breach> {
    let allowed =
        source.path.starts_with("src/sys/") || source.path == "tests/mounted/harness/sys.rs";
    if allowed {
        return Vec::new();
    }
    breaches_at(source, |line| has_word(line, "unsafe"), "unsafe outside src/sys")
}

fn unsafe_has_a_reason(source: &Source) -> Vec<Breach> {
    let lines: Vec<&str> = source.text.lines().collect();
    let code: Vec<&str> = source.code.lines().collect();
    let needs_reason =
        |line: &str| line.contains("unsafe {") || line.trim_start().starts_with("unsafe impl");
    let unexplained = |index: usize| {
        let above = &lines[index.saturating_sub(8)..=index];
        let from_blank = above.iter().rposition(|line| line.trim().is_empty()).map_or(0, |at| at);
        !above[from_blank..].iter().any(|line| line.contains("// SAFETY:"))
    };
    (0..code.len())
        .filter(|&index| needs_reason(code[index]) && unexplained(index))
        .map(|index| Breach { line: index + 1, why: "unsafe without // SAFETY:".to_owned() })
        .collect()
}

fn files_are_short(source: &Source) -> Vec<Breach> {
    let code_lines = source.lines_before_tests();
    if code_lines <= FILE_LIMIT {
        return Vec::new();
    }
    let why = format!("{code_lines} lines before the tests, more than {FILE_LIMIT}: split it");
    vec![Breach { line: code_lines, why }]
}

fn functions_are_short(source: &Source) -> Vec<Breach> {
    functions(&source.code)
        .into_iter()
        .filter(|function| function.len > FUNCTION_LIMIT)
        .map(|function| {
            let Function { name, line, len } = function;
            Breach { line, why: format!("fn {name} has {len} lines, more than {FUNCTION_LIMIT}") }
        })
        .collect()
}

struct Function {
    name: String,
    line: usize,
    len: usize,
}

/// Functions with their bodies' extents, by matching braces.
fn functions(code: &str) -> Vec<Function> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let after_word = code[..at].chars().next_back();
        if after_word.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let name = identifier(&code[at + 3..]);
        let Some(open) = code[at..].find(['{', ';']).map(|open| at + open) else { continue };
        if name.is_empty() || code.as_bytes()[open] == b';' {
            continue;
        }
        let close = matching_brace(code, open);
        let len = code[at..close].lines().count();
        found.push(Function { name, line: line_of(code, at), len });
    }
    found
}

fn matching_brace(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (index, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return index + 1,
            b'}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

fn lines_are_short(source: &Source) -> Vec<Breach> {
    let long = |line: &str| line.chars().count() > LINE_LIMIT;
    let lines = source.text.lines().enumerate().filter(|(_, line)| long(line));
    let why = format!("longer than {LINE_LIMIT} characters");
    lines.map(|(index, _)| Breach { line: index + 1, why: why.clone() }).collect()
}

fn files_have_headers(source: &Source) -> Vec<Breach> {
    let header = source.text.lines().next().is_some_and(|line| line.starts_with("//! "));
    if header {
        return Vec::new();
    }
    vec![Breach { line: 1, why: "no //! header says what the file owns".to_owned() }]
}

fn nothing_unwraps_outside_tests(source: &Source) -> Vec<Breach> {
    if source.is_test() {
        return Vec::new();
    }
    let limit = source.lines_before_tests();
    let mut breaches =
        breaches_at(source, |line| line.contains(".unwrap()"), "unwrap: expect states the reason");
    breaches.retain(|breach| breach.line <= limit);
    breaches
}

fn nothing_is_left_to_do(source: &Source) -> Vec<Breach> {
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("dbg", "!("),
        concat!("#[ign", "ore]"),
    ];
    let lines = source.text.lines().enumerate();
    let left = lines.filter_map(|(index, line)| {
        let mark = marks.iter().find(|mark| line.contains(**mark))?;
        Some(Breach { line: index + 1, why: format!("{mark} is left") })
    });
    left.collect()
}

fn no_globs(source: &Source) -> Vec<Breach> {
    let glob = |line: &str| {
        let line = line.trim_start();
        (line.starts_with("use ") || line.starts_with("pub use ")) && line.contains("::*")
            || line.trim_end_matches(',').trim_end_matches(';').ends_with("::*")
    };
    let mut breaches = breaches_at(source, glob, "glob import: names tell where they come from");
    // A module of tests at the end of a file may take all that it tests.
    let (limit, lines) = (source.lines_before_tests(), source.code.lines());
    let lines: Vec<&str> = lines.collect();
    breaches
        .retain(|breach| breach.line <= limit || lines[breach.line - 1].trim() != "use super::*;");
    breaches
}

fn names_say_something(source: &Source) -> Vec<Breach> {
    const BANNED: &[&str] = &["util", "utils", "manager", "helper", "helpers", "misc", "common"];
    let stem = source.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
    let mut breaches = Vec::new();
    if BANNED.contains(&stem) || source.path.split('/').any(|part| BANNED.contains(&part)) {
        breaches.push(Breach { line: 1, why: "the file's name says nothing".to_owned() });
    }
    for (index, line) in source.code.lines().enumerate() {
        for keyword in ["mod ", "struct ", "enum ", "trait ", "fn "] {
            let Some(at) = line.find(keyword) else { continue };
            let name = identifier(&line[at + keyword.len()..]);
            let lower = name.to_lowercase();
            let vague = BANNED.contains(&lower.as_str())
                || ["manager", "helper", "util", "utils"].iter().any(|end| lower.ends_with(end))
                || keyword == "fn " && name.starts_with("get_");
            if vague && starts_item(&line[..at]) {
                breaches.push(Breach { line: index + 1, why: format!("{name} says nothing") });
            }
        }
    }
    breaches
}

/// Whether only visibility and qualifiers stand before an item's keyword.
fn starts_item(before: &str) -> bool {
    let words = before.split_whitespace();
    words.into_iter().all(|word| {
        word.starts_with("pub") || ["const", "async", "unsafe", "super)", "crate)"].contains(&word)
    })
}

/// Dependency lines of the manifest that carry no comment, on the line or just above.
fn dependencies_without_reason(manifest: &str) -> Vec<String> {
    let (mut section, mut previous, mut breaches) = (String::new(), "", Vec::new());
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']).to_owned();
        } else if section.ends_with("dependencies") && line.contains('=') {
            let name = line.split('=').next().unwrap_or_default().trim();
            if !line.contains(" # ") && !previous.trim_start().starts_with('#') {
                breaches.push(name.to_owned());
            }
        }
        previous = line;
    }
    breaches
}

impl Source {
    fn read(path: &Path) -> Self {
        let relative = path.strip_prefix(crate_root()).unwrap_or(path);
        Self::new(&relative.to_string_lossy(), fs::read_to_string(path).unwrap())
    }

    fn new(path: &str, text: String) -> Self {
        let code = blank_text(&text);
        Self { path: path.to_owned(), text, code }
    }

    /// The module of a file of the library, `None` for roots and tests.
    fn module(&self) -> Option<&str> {
        let below = self.path.strip_prefix("src/")?;
        let first = below.split('/').next().unwrap_or(below);
        let name = first.trim_end_matches(".rs");
        (name != "lib" && name != "main").then_some(name)
    }

    fn is_test(&self) -> bool {
        self.path.starts_with("tests/")
            || self.path.ends_with("/tests.rs")
            || self.path.ends_with("_tests.rs")
            || self.path.ends_with("/testing.rs")
    }

    /// Lines up to the test module at the file's end.
    fn lines_before_tests(&self) -> usize {
        let lines: Vec<&str> = self.code.lines().collect();
        let attribute = lines.iter().rposition(|line| line.starts_with("#[cfg(test)]"));
        let module = attribute.filter(|&at| {
            lines.get(at + 1).is_some_and(|line| line.contains("mod tests") && line.ends_with('{'))
        });
        module.unwrap_or(lines.len())
    }
}

fn breaches_at(source: &Source, breaks: impl Fn(&str) -> bool, why: &str) -> Vec<Breach> {
    let lines = source.code.lines().enumerate();
    let broken = lines.filter(|(_, line)| breaks(line));
    broken.map(|(index, _)| Breach { line: index + 1, why: why.to_owned() }).collect()
}

fn rank(module: &str) -> Option<usize> {
    RANKS.iter().position(|rank| rank.contains(&module))
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn has_word(line: &str, word: &str) -> bool {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| {
        !part(line[..at].chars().next_back()) && !part(line[at + word.len()..].chars().next())
    })
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// Replaces comments, strings and characters by blanks, so that the rules see only code.
fn blank_text(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = end_of_text(&chars, at);
        if end == at {
            out.push(chars[at]);
            at += 1;
            continue;
        }
        out.extend(chars[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
        at = end;
    }
    out
}

/// The end of the comment, string or character that starts at `at`, or `at` itself.
fn end_of_text(chars: &[char], at: usize) -> usize {
    let starts = |text: &str| text.chars().enumerate().all(|(i, c)| chars.get(at + i) == Some(&c));
    let until = |from: usize, found: &dyn Fn(usize) -> bool| {
        (from..chars.len()).find(|&index| found(index)).map_or(chars.len(), |index| index)
    };
    if starts("//") {
        return until(at, &|index| chars[index] == '\n');
    }
    if starts("/*") {
        return (until(at + 2, &|i| chars[i] == '*' && chars.get(i + 1) == Some(&'/')) + 2)
            .min(chars.len());
    }
    let in_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    let raw = at + usize::from(starts("br") || starts("cr")) + 1;
    if !in_word && (starts("r\"") || starts("r#") || starts("br\"") || starts("br#")) {
        let hashes = chars[raw..].iter().take_while(|&&c| c == '#').count();
        if chars.get(raw + hashes) == Some(&'"') {
            let closes = |i: usize| {
                chars[i] == '"' && (1..=hashes).all(|offset| chars.get(i + offset) == Some(&'#'))
            };
            return (until(raw + hashes + 1, &closes) + 1 + hashes).min(chars.len());
        }
    }
    if chars[at] == '"' {
        return end_of_quoted(chars, at, '"');
    }
    let is_character =
        chars[at] == '\'' && (chars.get(at + 1) == Some(&'\\') || chars.get(at + 2) == Some(&'\''));
    if is_character { end_of_quoted(chars, at, '\'') } else { at }
}

fn end_of_quoted(chars: &[char], at: usize, quote: char) -> usize {
    let mut index = at + 1;
    while index < chars.len() && chars[index] != quote {
        index += 1 + usize::from(chars[index] == '\\');
    }
    (index + 1).min(chars.len())
}

fn crate_root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

mod the_rules_can_fail {
    use super::{Rule, Source, blank_text, dependencies_without_reason, fail_points};

    fn lines(rule: Rule, path: &str, text: &str) -> Vec<usize> {
        rule(&Source::new(path, text.to_owned())).iter().map(|breach| breach.line).collect()
    }

    #[test]
    fn ranks() {
        let rule = super::imports_point_down_the_rank;
        let down = "use crate::crypto::Key;\nuse crate::format::Page;\n";
        assert!(lines(rule, "src/volume/read.rs", down).is_empty());
        assert_eq!(lines(rule, "src/crypto/aead.rs", "\nuse crate::format::Page;\n"), [2]);
        assert_eq!(lines(rule, "src/store.rs", "fn f() { crate::keys::open() }"), [1]);
        let group = "use crate::{\n    crypto::{a, b},\n    fuse::Session,\n};\n";
        assert_eq!(lines(rule, "src/fs/open.rs", group), [1]);
        assert!(lines(rule, "src/fs/open.rs", "// crate::fuse::Session\n").is_empty());
        assert!(lines(rule, "src/fs/open.rs", "use crate::fs::Inode;\n").is_empty());
        assert!(lines(rule, "src/main.rs", "use crate::cli::run;\n").is_empty());
    }

    #[test]
    fn unsafe_code() {
        let rule = super::unsafe_stands_in_sys_only;
        assert_eq!(lines(rule, "src/fs/open.rs", "fn f() {\n    unsafe { g() }\n}\n"), [2]);
        assert!(lines(rule, "src/sys/file.rs", "unsafe { g() }").is_empty());
        assert!(lines(rule, "src/fs/open.rs", "// unsafe\n#![forbid(unsafe_code)]\n").is_empty());
        let rule = super::unsafe_has_a_reason;
        assert_eq!(lines(rule, "src/sys/file.rs", "fn f() {\n\n    unsafe { g() }\n}"), [3]);
        let reason = "fn f() {\n    // SAFETY: g takes anything.\n    unsafe { g() }\n}";
        assert!(lines(rule, "src/sys/file.rs", reason).is_empty());
    }

    #[test]
    fn lengths() {
        let long = format!("//! x\n{}", "fn f() {}\n".repeat(601));
        assert_eq!(lines(super::files_are_short, "src/a.rs", &long).len(), 1);
        let tests = format!("//! x\n#[cfg(test)]\nmod tests {{\n{}}}\n", "//\n".repeat(700));
        assert!(lines(super::files_are_short, "src/a.rs", &tests).is_empty());
        let function = format!("\nfn f() {{\n{}}}\n", "    g();\n".repeat(90));
        assert_eq!(lines(super::functions_are_short, "src/a.rs", &function), [2]);
        let wide = format!("//! x\n// {}\n", "w".repeat(98));
        assert_eq!(lines(super::lines_are_short, "src/a.rs", &wide), [2]);
    }

    #[test]
    fn headers_unwraps_and_leftovers() {
        assert_eq!(lines(super::files_have_headers, "src/a.rs", "fn f() {}\n"), [1]);
        let rule = super::nothing_unwraps_outside_tests;
        let text = "f().unwrap();\n#[cfg(test)]\nmod tests {\n    g().unwrap();\n}\n";
        assert_eq!(lines(rule, "src/a.rs", text), [1]);
        assert!(lines(rule, "tests/a.rs", text).is_empty());
        let left = concat!("//! x\n// TO", "DO: later\n");
        assert_eq!(lines(super::nothing_is_left_to_do, "src/a.rs", left), [2]);
        assert_eq!(lines(super::no_globs, "src/a.rs", "use super::*;\n"), [1]);
        assert!(lines(super::no_globs, "src/a.rs", "let x = a::b * c;\n").is_empty());
    }

    #[test]
    fn names() {
        let rule = super::names_say_something;
        assert_eq!(lines(rule, "src/fs/util.rs", "//! x\n"), [1]);
        assert_eq!(lines(rule, "src/fs/a.rs", "pub struct KeyManager;\n"), [1]);
        assert_eq!(lines(rule, "src/fs/a.rs", "pub(crate) mod helpers;\n"), [1]);
        assert_eq!(lines(rule, "src/fs/a.rs", "    pub fn get_key() {}\n"), [1]);
        assert!(lines(rule, "src/fs/a.rs", "fn widget_getter() {}\n").is_empty());
    }

    #[test]
    fn dependencies() {
        let manifest =
            "[dependencies]\na = \"1\" # why\nb = \"2\"\n# why\nc = \"3\"\n[lib]\nx = 1\n";
        assert_eq!(dependencies_without_reason(manifest), ["b"]);
    }

    #[test]
    fn text_is_blanked() {
        let code =
            blank_text("a(\"unsafe \\\" {\"); // {\nb(r#\"}\"#, '{', 'x', '\\'', &'a T) /* } */;");
        assert!(!code.contains(['{', '}', '"']), "{code}");
        assert!(code.contains("&'a T") && code.lines().count() == 2, "{code}");
    }

    #[test]
    fn calls_of_fail_points() {
        let text = "fail_point::hit(\"a.b\");\nfail_point::hit(name);\n  fail_point::hit(\"c\");";
        assert_eq!(fail_points(text), ["a.b", "", "c"]);
    }
}
