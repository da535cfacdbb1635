//! The law of the house: modules stand on floors and use lower floors only.
//!
//! The floors are read from the map at the top of `src/lib.rs`, so a module that
//! is not on the map fails here too. Looked at are paths that begin with `crate`
//! or climb there by `super`, wherever they stand; comments and strings do not
//! count. Precedent: go-containerregistry's `depcheck_test.go`.

#![expect(
    clippy::unwrap_used,
    reason = "a source that cannot be read fails the test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// (user, used, why): neighbours or upper floors that a module may know after all.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    (
        "reference",
        "digest",
        "a reference may end in a digest, `name@sha256:...`",
    ),
    (
        "discovery",
        "http",
        "it asks for pages and files; http knows neither",
    ),
    (
        "registry",
        "http",
        "it asks for manifests and blobs; http knows neither",
    ),
    (
        "store",
        "remove",
        "trash is emptied as every other tree is; it knows nothing of the store",
    ),
];

/// Run in a test with neither disk nor kernel: these name no file system.
const PURE: &[&str] = &[
    "digest",
    "reference",
    "node",
    "tree_path",
    "layer",
    "image",
    "mesos",
    "union",
];

/// The one module that may name the crate `fuser`.
const KNOWS_FUSER: &str = "fuse";

type Floors = BTreeMap<String, u32>;

/// The map of `lib.rs`: rows of its table, where an empty first cell means "the
/// floor above".
fn floors(lib: &str) -> Floors {
    let mut floor = None;
    let mut map = Floors::new();
    for row in lib.lines().filter_map(|line| line.strip_prefix("//! |")) {
        let mut cells = row.split('|').map(str::trim);
        let (first, second) = (cells.next().unwrap_or(""), cells.next().unwrap_or(""));
        if let Some(number) = first.split(' ').next().and_then(|word| word.parse().ok()) {
            floor = Some(number);
        }
        let name = second.split(['`', ']']).nth(1);
        if let (Some(floor), Some(name), true) = (floor, name, second.starts_with("[`")) {
            map.insert(name.to_owned(), floor);
        }
    }
    map
}

/// Identifiers and single punctuation marks of Rust source, `::` as one; comments,
/// strings, characters and lifetimes left out.
fn tokens(source: &str) -> Vec<String> {
    let chars: Vec<char> = source.chars().collect();
    let starts = |at: usize, what: &str| {
        what.chars()
            .enumerate()
            .all(|(i, c)| chars.get(at + i) == Some(&c))
    };
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        if starts(at, "//") {
            at += chars[at..].iter().take_while(|&&c| c != '\n').count();
        } else if starts(at, "/*") {
            at = end_of_comment(&chars, at);
        } else if c.is_alphabetic() || c == '_' {
            let word: String = chars[at..]
                .iter()
                .take_while(|c| c.is_alphanumeric() || **c == '_')
                .collect();
            let next = at + word.chars().count();
            let hashes = chars[next..].iter().take_while(|&&c| c == '#').count();
            let prefix = matches!(word.as_str(), "r" | "b" | "br" | "c" | "cr");
            if prefix && word.ends_with('r') && chars.get(next + hashes) == Some(&'"') {
                let close: String = std::iter::once('"')
                    .chain(std::iter::repeat_n('#', hashes))
                    .collect();
                let body = next + hashes + 1;
                at = (body..chars.len())
                    .find(|&i| starts(i, &close))
                    .map_or(chars.len(), |i| i + close.len());
            } else if word == "r" && hashes == 1 {
                at = next + 1; // `r#type`: the identifier follows
            } else if prefix && matches!(chars.get(next), Some('"' | '\'')) {
                at = next; // the quote is seen next
            } else {
                at = next;
                out.push(word);
            }
        } else if c == '"' {
            at = end_of_quote(&chars, at);
        } else if c == '\'' {
            // A character has its closing quote; a lifetime has none.
            let escaped = chars.get(at + 1) == Some(&'\\');
            let character = escaped || chars.get(at + 2) == Some(&'\'');
            at = if character {
                end_of_quote(&chars, at)
            } else {
                at + 1
            };
        } else {
            let double = starts(at, "::");
            if !c.is_whitespace() {
                out.push(if double {
                    "::".to_owned()
                } else {
                    c.to_string()
                });
            }
            at += if double { 2 } else { 1 };
        }
    }
    out
}

fn end_of_quote(chars: &[char], open: usize) -> usize {
    let mut at = open + 1;
    while let Some(&c) = chars.get(at) {
        match c {
            '\\' => at += 2,
            _ if c == chars[open] => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// Block comments nest (The Rust Reference, "Comments").
fn end_of_comment(chars: &[char], open: usize) -> usize {
    let (mut at, mut depth) = (open, 0);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

/// What one file names.
#[derive(Debug, Default, PartialEq, Eq)]
struct Names {
    /// Modules at the top of the crate.
    modules: BTreeSet<String>,
    /// Other crates that the law cares for, and `std::fs`; not those in tests.
    outside: BTreeSet<String>,
}

/// The names in `source`, whose module is `depth` below the crate's root
/// (`layer/tar.rs`: 2). `top` are the modules at the crate's root.
fn names(source: &str, depth: usize, top: &Floors) -> Names {
    let words = tokens(source);
    let word = |at: usize| words.get(at).map_or("", String::as_str);
    let mut found = Names::default();
    // Inline modules that are open: the brace depth inside, and whether a test.
    let (mut inside, mut braces) = (Vec::<(usize, bool)>::new(), 0);
    let mut test_ahead = false;
    let mut at = 0;
    while at < words.len() {
        match word(at) {
            "{" => braces += 1,
            "}" => {
                braces -= 1;
                inside.retain(|&(depth, _)| depth <= braces);
            }
            ";" => test_ahead = false,
            "cfg" if word(at + 1) == "(" && word(at + 2) == "test" => test_ahead = true,
            "mod" if word(at + 2) == "{" => {
                inside.push((braces + 1, std::mem::take(&mut test_ahead)))
            }
            "crate" if word(at + 1) == "::" => heads(&words, at + 2, &mut found.modules),
            "super" if word(at.wrapping_sub(2)) != "super" => {
                let mut climb = 1;
                while word(at + 2 * climb) == "super" {
                    climb += 1;
                }
                if climb >= depth + inside.len() {
                    heads(&words, at + 2 * climb, &mut found.modules);
                }
            }
            "fuser" if !inside.iter().any(|i| i.1) => _ = found.outside.insert("fuser".to_owned()),
            "std" if word(at + 1) == "::" && !inside.iter().any(|i| i.1) => {
                let mut below = BTreeSet::new();
                heads(&words, at + 2, &mut below);
                if below.contains("fs") {
                    found.outside.insert("std::fs".to_owned());
                }
            }
            _ => {}
        }
        at += 1;
    }
    found.modules.retain(|name| top.contains_key(name));
    found
}

/// The first names of a path or of a group of paths that begins at `at`.
fn heads(words: &[String], at: usize, into: &mut BTreeSet<String>) {
    match words.get(at).map(String::as_str) {
        Some("{") => {
            let (mut depth, mut first) = (0, true);
            for word in &words[at..] {
                match word.as_str() {
                    "{" => depth += 1,
                    "}" => depth -= 1,
                    "," => first = depth == 1,
                    name if first && depth == 1 => {
                        into.insert(name.to_owned());
                        first = false;
                    }
                    _ => {}
                }
                if depth == 0 {
                    return;
                }
            }
        }
        Some(name) => _ = into.insert(name.to_owned()),
        None => {}
    }
}

/// What `module` may not name of what it names, as sentences.
fn violations(module: &str, names: &Names, floors: &Floors) -> Vec<String> {
    let Some(own) = floors.get(module) else {
        return vec![format!("`{module}` is not on the map in src/lib.rs")];
    };
    let excused = |used: &str| EXCEPTIONS.iter().any(|e| e.0 == module && e.1 == used);
    let climbs = |used: &&String| {
        used.as_str() != module && floors.get(*used) >= Some(own) && !excused(used)
    };
    let mut out: Vec<String> = (names.modules.iter().filter(climbs))
        .map(|used| format!("`{module}` may not use `{used}`: it is not on a lower floor"))
        .collect();
    if names.outside.contains("fuser") && module != KNOWS_FUSER {
        out.push(format!(
            "`{module}` may not name `fuser`: only `{KNOWS_FUSER}` may"
        ));
    }
    if names.outside.contains("std::fs") && PURE.contains(&module) {
        out.push(format!("`{module}` may not name `std::fs`: it is pure"));
    }
    out
}

/// Every source file below `src` that belongs to a module: its path in parts.
fn sources(dir: &Path, below: &[String], out: &mut Vec<(Vec<String>, String)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let mut parts = below.to_vec();
        if path.is_dir() {
            parts.push(name);
            sources(&path, &parts, out);
        } else if path.extension().is_some_and(|e| e == "rs")
            && !(below.is_empty() && matches!(name.as_str(), "lib" | "main"))
        {
            if name != "mod" {
                parts.push(name);
            }
            out.push((parts, fs::read_to_string(&path).unwrap()));
        }
    }
}

fn map_of_this_crate() -> Floors {
    floors(&fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap())
}

fn files_of_this_crate() -> Vec<(Vec<String>, String)> {
    let mut files = Vec::new();
    sources(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &[],
        &mut files,
    );
    files
}

#[test]
fn modules_use_lower_floors_only() {
    let floors = map_of_this_crate();
    let mut wrong = BTreeSet::new();
    for (parts, source) in files_of_this_crate() {
        let mut names = names(&source, parts.len(), &floors);
        // A file of its own for tests is a test, as an inline module is.
        if parts.iter().any(|part| part == "tests") {
            names.outside.clear();
        }
        wrong.extend(violations(&parts[0], &names, &floors));
    }
    assert!(
        wrong.is_empty(),
        "\n{}\n",
        wrong.into_iter().collect::<Vec<_>>().join("\n")
    );
}

#[test]
fn every_module_is_on_the_map_and_every_name_on_the_map_is_a_module() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let declared: BTreeSet<String> = (lib.lines())
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .map(str::to_owned)
        .collect();
    let mapped: BTreeSet<String> = floors(&lib).into_keys().collect();
    assert_eq!(declared, mapped);
}

#[test]
fn every_exception_is_still_needed() {
    let floors = map_of_this_crate();
    for (user, used, why) in EXCEPTIONS {
        let needed = (files_of_this_crate().iter()).any(|(parts, source)| {
            parts[0] == *user && names(source, parts.len(), &floors).modules.contains(*used)
        });
        assert!(
            needed,
            "`{user}` does not use `{used}` any more ({why}): remove the exception"
        );
    }
}

const MAP: &str = "\
//! | floor | module | what it is for |
//! |---|---|---|
//! | 0 words | [`digest`] | digests |
//! | | [`reference`](mod@reference) | references, [`digest`] inside |
//! | 1 formats | [`layer`] | a layer |
//! | 2 places | [`union`](mod@union) | the heart |
//! | 3 movers | [`fuse`] | FUSE |
";

fn wrong(module: &str, depth: usize, source: &str) -> Vec<String> {
    let floors = floors(MAP);
    violations(module, &names(source, depth, &floors), &floors)
}

#[test]
fn the_map_is_read_from_the_table() {
    let expected = [
        ("digest", 0),
        ("fuse", 3),
        ("layer", 1),
        ("reference", 0),
        ("union", 2),
    ];
    assert_eq!(
        floors(MAP),
        expected
            .map(|(name, floor)| (name.to_owned(), floor))
            .into()
    );
}

#[test]
fn a_planted_violation_is_found_however_it_is_written() {
    let expected = ["`layer` may not use `union`: it is not on a lower floor"];
    for source in [
        "use crate::union::Union;",
        "use crate::{digest::{self, Digest}, union};",
        "fn f() { let _ = crate::union::Union::new(vec![]); }",
        "use super::union::Union;",
        "mod inner { use super::super::union::Union; }",
        "/* /* nested */ ' */ use crate :: union;",
        "const A: char = '\"'; const B: &str = r#\"\"#; use crate::union;",
    ] {
        assert_eq!(wrong("layer", 1, source), expected, "{source}");
    }
    assert_eq!(
        wrong("layer", 2, "use super::super::union::Union;"),
        expected
    );
    assert_eq!(
        wrong(
            "union",
            1,
            "use crate::union::Found; use crate::layer::Row;"
        ),
        [""; 0]
    );
}

#[test]
fn what_only_looks_like_a_violation_is_none() {
    for source in [
        "//! See [`crate::union`].\nuse crate::digest::Digest;",
        "/* crate::union */ const A: &str = \"use crate::union; \\\" crate::union\";",
        "const A: &str = r##\"\"# use crate::union;\"##;",
        "fn f<'a>(x: &'a str) {} pub(crate) struct S;",
        "mod tests { use super::union; }", // a thing of this file that is called so
        "#[cfg(test)] mod tests { use std::fs; }",
    ] {
        assert_eq!(wrong("layer", 1, source), [""; 0], "{source}");
    }
    assert_eq!(wrong("layer", 2, "use super::union;"), [""; 0]);
}

#[test]
fn pure_modules_name_no_files_and_only_one_names_fuser() {
    assert_eq!(
        wrong("union", 1, "use std::{fmt, fs};"),
        ["`union` may not name `std::fs`: it is pure"]
    );
    assert_eq!(wrong("union", 1, "use std::fs::File;").len(), 1);
    assert_eq!(
        wrong("digest", 1, "use fuser::Request;"),
        ["`digest` may not name `fuser`: only `fuse` may"]
    );
    assert_eq!(
        wrong("fuse", 1, "use fuser::Request; use std::fs;"),
        [""; 0]
    );
}

#[test]
fn a_module_that_is_not_on_the_map_is_refused() {
    assert_eq!(
        wrong("utils", 1, ""),
        ["`utils` is not on the map in src/lib.rs"]
    );
}
