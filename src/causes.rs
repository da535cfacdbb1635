//! An error with what caused it.
//!
//! What it is for: errors of this program tell themselves only, and their cause is in
//! `source()`; people and logs want one line. May assume nothing. Must not know who reads it.

use std::error::Error;

/// An error and its causes, joined by colons.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Told(&'static str, #[source] Option<Box<Told>>);

    #[test]
    fn causes_follow_in_one_line() {
        let told = |text, cause: Option<Told>| Told(text, cause.map(Box::new));
        assert_eq!(chain(&told("it failed", None)), "it failed");
        let deep = told(
            "it failed",
            Some(told("as this", Some(told("and that", None)))),
        );
        assert_eq!(chain(&deep), "it failed: as this: and that");
    }
}
