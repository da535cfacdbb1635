//! Lists with commas between their entries.

use std::fmt;
use std::str::FromStr;

use crate::reference::Reference;

/// Entries in the order in which they were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct List<T>(pub(crate) Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: fmt::Display> fmt::Display for List<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.pad(&all.join(","))
    }
}

impl<T: FromStr<Err: fmt::Display>> FromStr for List<T> {
    type Err = String;

    /// An empty text is an empty list, so that a flag can take back what a file says.
    fn from_str(text: &str) -> Result<Self, String> {
        let entries = text.split(',').map(str::trim).filter(|_| !text.is_empty());
        let all = entries.map(|entry| entry.parse().map_err(|error: T::Err| error.to_string()));
        all.collect::<Result<_, _>>().map(Self)
    }
}

impl<'de, T: FromStr<Err: fmt::Display>> serde::Deserialize<'de> for List<T> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from_list_or_text(from)
    }
}

/// What a config file has as a list, or as one text as flags have it.
pub(super) fn from_list_or_text<'de, D: serde::Deserializer<'de>, T>(from: D) -> Result<T, D::Error>
where
    T: FromStr<Err: fmt::Display>,
{
    #[derive(serde::Deserialize)]
    #[serde(untagged, expecting = "a list of texts, or one text with commas")]
    enum Written {
        Text(String),
        List(Vec<String>),
    }
    let text = match serde::Deserialize::deserialize(from)? {
        Written::Text(text) => text,
        Written::List(list) => list.join(","),
    };
    text.parse().map_err(serde::de::Error::custom)
}

/// A registry's host, as references begin with it: `host`, `host:5000`, `[::1]:5000`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host(pub(crate) String);

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no host: HOST or HOST:PORT");
        // A word alone is a host where nothing else can stand.
        let as_name = |host: &str| format!("{host}/a").parse::<Reference>().ok();
        let bare = as_name(text).or_else(|| as_name(&format!("{text}:1")));
        let is_one = !text.is_empty() && !text.contains('/') && bare.is_some();
        is_one.then(|| Self(text.to_owned())).ok_or_else(wrong)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_texts_with_commas_or_a_list() {
        let hosts: List<Host> = "a.b, c:5000,[::1]:1,lab".parse().unwrap();
        assert_eq!(hosts.to_string(), "a.b,c:5000,[::1]:1,lab");
        assert_eq!("".parse::<List<Host>>().unwrap().0, []);
        let read: List<Host> = serde_json::from_str("[\"a.b\", \"c:5000\"]").unwrap();
        assert_eq!(read.to_string(), "a.b,c:5000");
        assert!(serde_json::from_str::<List<Host>>("3").is_err());
    }

    #[test]
    fn a_host_is_nothing_else() {
        for wrong in [
            "a.b,",
            ",",
            "http://a.b",
            "a.b/c",
            "a b",
            "u@a.b",
            "a.b:x",
            "a.b:99999",
        ] {
            assert!(wrong.parse::<List<Host>>().is_err(), "{wrong}");
        }
    }
}
