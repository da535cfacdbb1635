//! What a document names is there.

use std::fs;
use std::path::Path;

/// Names of tests in a text: `FILE::TEST`, where FILE is below `tests/` or begins with
/// `src/`, without its `.rs`.
fn named(text: &str) -> Vec<(String, String)> {
    let words = text.split('`').skip(1).step_by(2);
    let name = |text: &str| {
        text.chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    words
        .filter_map(|word| word.split_once("::"))
        .filter(|(file, test)| file.split('/').all(name) && name(test))
        .map(|(file, test)| (file.to_owned(), test.to_owned()))
        .collect()
}

/// Whether a file has a test of that name.
fn has_test(source: &str, test: &str) -> bool {
    // Between the two there are other attributes, at most.
    source.split("#[test]").skip(1).any(|after| {
        after
            .lines()
            .map(str::trim)
            .find(|line| line.starts_with("fn "))
            .is_some_and(|line| line.starts_with(&format!("fn {test}(")))
    })
}

#[test]
fn every_test_that_the_provisioners_table_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/provisioner.md")).unwrap();
    let named = named(&text);
    assert!(named.len() > 100, "{}", named.len());
    let missing: Vec<_> = named
        .into_iter()
        .filter(|(file, test)| {
            let below = if file.starts_with("src/") {
                root.to_owned()
            } else {
                root.join("tests")
            };
            let source = fs::read_to_string(below.join(format!("{file}.rs"))).unwrap_or_default();
            !has_test(&source, test)
        })
        .collect();
    assert_eq!(missing, []);
}
