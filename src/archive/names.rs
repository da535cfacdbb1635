//! The names of an archive's members, and where links among them lead.

use std::collections::HashMap;
use std::io;

use crate::tree_path::TreePath;

/// Most members of an archive: 1024 images with 60 layers of four files each.
pub(super) const MEMBERS_MAX: usize = 1 << 18;
/// Longest name that is remembered. Images name their files by digest, so longer
/// ones are nobody's; and the table stays below 256 MiB.
const NAME_MAX: usize = 1024;
/// Links followed for one name (`MAXSYMLINKS` of the kernel).
const LINKS_MAX: usize = 40;

/// What is behind a name.
#[derive(Debug)]
pub(super) enum Node<T> {
    /// A regular file.
    File(T),
    /// Another name, in the archive.
    Link(String),
    /// Something that can be no file of an image: a directory, a link to outside.
    Other,
}

/// Names and what is behind them; the last of several of one name counts, as
/// `tar -x` would have it.
#[derive(Debug)]
pub(super) struct Table<T>(HashMap<String, Node<T>>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T> Table<T> {
    /// Remembers a name; false when there are too many.
    pub(super) fn insert(&mut self, name: String, node: Node<T>) -> bool {
        self.0.insert(name, node);
        self.0.len() <= MEMBERS_MAX
    }

    /// The file behind a name, links followed, and the name it has itself.
    pub(super) fn resolve<'a>(&'a self, name: &'a str) -> io::Result<Option<(&'a str, &'a T)>> {
        let mut name = name;
        for _ in 0..=LINKS_MAX {
            match self.0.get(name) {
                Some(Node::File(file)) => return Ok(Some((name, file))),
                Some(Node::Link(target)) => name = target,
                Some(Node::Other) | None => return Ok(None),
            }
        }
        let what = format!("the links of `{name}` in the archive lead in a circle");
        Err(io::Error::new(io::ErrorKind::InvalidData, what))
    }
}

/// A member's name without `./` and slashes at its ends; nothing for one that
/// cannot be asked for.
pub(super) fn clean(name: &[u8]) -> Option<String> {
    if name.len() > NAME_MAX {
        return None;
    }
    let path = TreePath::parse(name).ok().filter(|path| !path.is_root())?;
    String::from_utf8(path.as_bytes().to_vec()).ok()
}

/// The name that a symbolic link leads to; nothing for one to outside.
pub(super) fn link_target(link: &str, target: &[u8]) -> Option<String> {
    if target.first() == Some(&b'/') || target.len() > NAME_MAX {
        return None;
    }
    let target = std::str::from_utf8(target).ok()?;
    let mut names: Vec<&str> = link.split('/').collect();
    names.pop();
    for name in target.split('/') {
        match name {
            "" | "." => {}
            ".." => {
                names.pop()?;
            }
            _ => names.push(name),
        }
    }
    clean(names.join("/").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_inside_or_nowhere() {
        let to = |link, target: &str| link_target(link, target.as_bytes());
        assert_eq!(to("a/layer.tar", "../b.tar").as_deref(), Some("b.tar"));
        assert_eq!(to("a/b/c", "./d//e").as_deref(), Some("a/b/d/e"));
        for (link, target) in [("a/b", "../../c"), ("a", "/b"), ("a", ".."), ("a/b", "..")] {
            assert_eq!(to(link, target), None, "{link} -> {target}");
        }
    }

    #[test]
    fn a_circle_of_links_is_an_error_and_a_dangling_one_is_nothing() {
        let mut table = Table::default();
        table.insert("a".into(), Node::Link("b".into()));
        table.insert("b".into(), Node::Link("a".into()));
        table.insert("c".into(), Node::Link("nothing".into()));
        table.insert("d".into(), Node::File(1));
        table.insert("d".into(), Node::File(2));
        table.insert("e".into(), Node::Link("d".into()));
        assert!(table.resolve("a").is_err());
        assert_eq!(table.resolve("c").unwrap(), None);
        assert_eq!(table.resolve("e").unwrap(), Some(("d", &2)));
    }

    #[test]
    fn names_are_cleaned() {
        assert_eq!(clean(b"./a//b/").as_deref(), Some("a/b"));
        assert_eq!(clean(b"/a").as_deref(), Some("a"));
        for nobodys in [&b""[..], b"./", b"a/../b", b"\xff", &[b'a'; 2000]] {
            assert_eq!(clean(nobodys), None);
        }
    }
}
