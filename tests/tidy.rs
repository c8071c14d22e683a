//! The source judged by its own rules: floors, purity, documentation, length, order at the top.
//!
//! Each rule is a function of text, so that each can be shown to fail.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::{Path, PathBuf};

/// The folders of `src`, by floor. Imports go down only.
const FLOORS: [&[&str]; 7] = [
    &["types"],
    &["logic", "protocol", "config"],
    &["runtime"],
    &["storage", "rpc", "net", "admin"],
    &["meta", "client"],
    &["leader", "node", "bench", "chaos"],
    &["cli"],
];
/// Above all floors: the library's root, and the simulator, which drives what it wants (in test
/// builds only).
const ABOVE: [&str; 3] = ["lib", "main", "simulation"];
/// Folders whose code decides without touching the world.
const PURE: [&str; 4] = ["types", "logic", "protocol", "config"];
/// The one file of a pure folder that reads files, and says so.
const IMPURE_BY_DESIGN: [&str; 1] = ["src/config/load.rs"];
/// Words that pure code has no use for.
const IMPURE_WORDS: [&str; 13] = [
    "tokio",
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "std::thread",
    "std::env",
    "std::process",
    "Instant",
    "SystemTime",
    "rand",
    "Uuid::new",
    "Uuid::now",
    "File::open",
];
/// The longest file, tests apart.
const MAX_LINES: usize = 600;
/// What lies at the top of the repository; nothing else does.
const TOP: [&str; 25] = [
    "Cargo.toml",
    "Cargo.lock",
    "build.rs",
    "src",
    "proto",
    "Dockerfile",
    "docker-compose.yml",
    "config.yaml",
    "tolerance.conf",
    "loadtest",
    "tests",
    "docs",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "justfile",
    "LICENSE-MIT",
    "LICENSE-APACHE",
    "deploy",
    "fuzz",
    "clippy.toml",
    "deny.toml",
    "rustfmt.toml",
    "rust-toolchain.toml",
    "target",
];

/// A source file: its path from the root of the repository, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    /// The folder of `src` it is in, or its own name at the top.
    fn folder(&self) -> &str {
        let inside = self.path.strip_prefix("src/").unwrap_or(&self.path);
        inside.split('/').next().unwrap().trim_end_matches(".rs")
    }

    /// The text without its unit tests.
    fn code(&self) -> &str {
        if self.path.ends_with("/tests.rs") || self.path.contains("/tests/") {
            return "";
        }
        // A `mod tests { ... }` is the last item of its file.
        self.text.split("\n#[cfg(test)]\nmod tests {").next().unwrap()
    }

    /// The lines of the code with their numbers, without comments.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let code = self.code().lines().enumerate();
        code.map(|(index, line)| (index + 1, line.split("//").next().unwrap()))
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below these folders.
fn sources(folders: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders: Vec<_> = folders.iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).unwrap().to_str().unwrap();
                found.push(Source::new(name, &fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(!found.is_empty(), "no sources in {}", root().display());
    found
}

fn floor(folder: &str) -> Option<usize> {
    FLOORS.iter().position(|folders| folders.contains(&folder))
}

/// The folders that a line names as `crate::folder`, also within braces.
fn imported(line: &str) -> Vec<&str> {
    let word = |text: &'_ str| -> usize {
        text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())
    };
    let mut folders = Vec::new();
    for rest in line.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(list) => folders.extend(list.split(',').map(|part| {
                let part = part.trim();
                &part[..word(part)]
            })),
            None => folders.push(&rest[..word(rest)]),
        }
    }
    folders
}

/// Imports that go up, or across folders of one floor.
fn wrong_imports(source: &Source) -> Vec<String> {
    let own = source.folder();
    let Some(own_floor) = floor(own) else {
        let known = ABOVE.contains(&own);
        return if known { vec![] } else { vec![format!("{}: on no floor", source.path)] };
    };
    let mut wrong = Vec::new();
    for (number, line) in source.lines() {
        for folder in imported(line) {
            let allowed = folder == own || floor(folder).is_some_and(|floor| floor < own_floor);
            if !allowed {
                wrong.push(format!("{}:{number}: {own} imports {folder}", source.path));
            }
        }
    }
    wrong
}

/// Words in pure code that touch the world.
fn impurities(source: &Source) -> Vec<String> {
    if !PURE.contains(&source.folder()) || IMPURE_BY_DESIGN.contains(&source.path.as_str()) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (number, line) in source.lines() {
        for word in IMPURE_WORDS.iter().filter(|word| holds_word(line, word)) {
            found.push(format!("{}:{number}: {word} in pure code", source.path));
        }
    }
    found
}

/// Whether the line holds the word, not within a longer one at its beginning.
fn holds_word(line: &str, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let whole = word.contains("::") || !after.is_some_and(part_of_word);
        whole && !before.is_some_and(part_of_word)
    })
}

fn undocumented(source: &Source) -> bool {
    !source.text.starts_with("//! ")
}

fn too_long(source: &Source) -> bool {
    source.code().lines().count() > MAX_LINES
}

/// Work that was put off.
fn put_off(source: &Source) -> bool {
    let unfinished = [concat!("todo", "!("), concat!("unimplemented", "!(")];
    unfinished.iter().any(|word| source.text.contains(word))
}

/// Whether an entry at the top of the repository has no business there.
fn out_of_place(name: &str) -> bool {
    !name.starts_with('.') && !TOP.contains(&name)
}

#[test]
fn imports_go_down_only() {
    let wrong: Vec<_> = sources(&["src"]).iter().flat_map(wrong_imports).collect();
    assert!(wrong.is_empty(), "imports must go down the floors:\n{}", wrong.join("\n"));
}

#[test]
fn pure_code_is_pure() {
    let found: Vec<_> = sources(&["src"]).iter().flat_map(impurities).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_file_says_what_it_is() {
    report(undocumented, "begin with //! and what the file is");
}

#[test]
fn files_are_short() {
    report(too_long, "are longer than 600 lines; split them");
}

#[test]
fn nothing_is_put_off() {
    report(put_off, "leave work undone");
}

/// Fails with the files of which this can be said.
fn report(rule: fn(&Source) -> bool, what: &str) {
    let sources = sources(&["src", "tests", "loadtest"]);
    let found: Vec<_> = sources.iter().filter(|source| rule(source)).map(|s| &s.path).collect();
    assert!(found.is_empty(), "these {what}: {found:#?}");
}

#[test]
fn the_top_level_is_in_order() {
    // What git ignores is the user's own.
    let ignored = fs::read_to_string(root().join(".gitignore")).unwrap_or_default();
    let is_ignored = |name: &str| ignored.lines().any(|line| line.trim_matches('/') == name);
    let names = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().file_name());
    let wrong: Vec<_> = names
        .map(|name| name.into_string().unwrap())
        .filter(|name| out_of_place(name) && !is_ignored(name))
        .collect();
    assert!(wrong.is_empty(), "not at the top: {wrong:?}");
}

#[test]
fn every_folder_has_a_floor_and_a_first_page() {
    for entry in fs::read_dir(root().join("src")).unwrap().map(|entry| entry.unwrap().path()) {
        let name = entry.file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(floor(&name).is_some() || ABOVE.contains(&name.as_str()), "{name}: on no floor");
        if entry.is_dir() {
            let page = fs::read_to_string(entry.join("mod.rs")).unwrap_or_default();
            assert!(page.starts_with("//! "), "{name}/mod.rs must say what the folder is");
        }
    }
    assert!(Path::new(&root()).join("tests/tidy.rs").exists());
}

#[test]
fn an_import_upwards_or_sideways_is_seen() {
    let wrong = |path: &str, line: &str| wrong_imports(&Source::new(path, line)).len();
    assert_eq!(wrong("src/logic/ring.rs", "use crate::types::Epoch;"), 0);
    assert_eq!(wrong("src/logic/ring.rs", "use crate::logic::hash;"), 0);
    assert_eq!(wrong("src/logic/ring.rs", "use crate::protocol::record::Record;"), 1);
    assert_eq!(wrong("src/types/key.rs", "    crate::runtime::clock::now()"), 1);
    assert_eq!(wrong("src/net/mod.rs", "use crate::{types::Key, leader::Leader, config};"), 1);
    assert_eq!(wrong("src/node/mod.rs", "use crate::leader::view;"), 1);
    assert_eq!(wrong("src/cli/mod.rs", "use crate::{leader, node, client};"), 0);
    assert_eq!(wrong("src/node/mod.rs", "//! see [`crate::cli`]"), 0);
    assert_eq!(wrong("src/attic/mod.rs", ""), 1);
    let tests = "fn a() {}\n#[cfg(test)]\nmod tests {\n    use crate::cli;\n}";
    assert_eq!(wrong("src/types/key.rs", tests), 0);
}

#[test]
fn an_impure_word_is_seen() {
    let found = |path: &str, line: &str| impurities(&Source::new(path, line)).len();
    assert_eq!(found("src/logic/ring.rs", "use std::collections::BTreeMap;"), 0);
    assert_eq!(found("src/logic/ring.rs", "use tokio::sync::mpsc;"), 1);
    assert_eq!(found("src/logic/ring.rs", "let now = Instant::now();"), 1);
    assert_eq!(found("src/logic/ring.rs", "let brand = operand.random();"), 0);
    assert_eq!(found("src/protocol/line.rs", "std::fs::read(path)"), 1);
    assert_eq!(found("src/config/load.rs", "std::fs::read(path)"), 0);
    assert_eq!(found("src/storage/log.rs", "std::fs::read(path)"), 0);
    assert_eq!(found("src/logic/ring.rs", "let x = 1; // not tokio"), 0);
}

#[test]
fn a_file_without_a_page_or_end_is_seen() {
    assert!(undocumented(&Source::new("src/a.rs", "fn main() {}")));
    assert!(!undocumented(&Source::new("src/a.rs", "//! What it is.\n")));
    let long = "//! Long.\n".to_owned() + &"fn a() {}\n".repeat(MAX_LINES);
    assert!(too_long(&Source::new("src/a.rs", &long)));
    assert!(!too_long(&Source::new("src/a/tests.rs", &long)));
    assert!(put_off(&Source::new("src/a.rs", concat!("todo", "!()"))));
    assert!(out_of_place("notes.txt") && !out_of_place("src") && !out_of_place(".ci"));
}
