//! Members, indexes made of them, and every question that an index answers.

#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each test file uses its part"
)]

use std::fmt::Debug;

use lazyroot::digest::{DiffId, Digest};
use lazyroot::layer::blocks::BlockCache;
use lazyroot::layer::read::{Hit, Index};
use lazyroot::layer::tar::{Extent, Member, MemberKind};
use lazyroot::layer::write::{BuildError, IndexBuilder};
use lazyroot::layer::{Dialect, Limits, ReadError, Row};
use lazyroot::node::{Device, Kind, Time};
use proptest::prelude::ProptestConfig;

/// Length that every tar here says to have.
pub(crate) const TAR_LEN: u64 = 1 << 40;

/// So many times the usual number of cases, which `PROPTEST_CASES` can raise.
pub(crate) fn several(times: u32) -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig {
        cases: usual.cases.saturating_mul(times),
        ..usual
    }
}

/// A member with nothing special.
pub(crate) fn member(kind: MemberKind, path: &[u8]) -> Member {
    Member {
        path: path.to_vec(),
        kind,
        link: Vec::new(),
        mode: 0o644,
        uid: 0,
        gid: 0,
        size: 0,
        stored: 0,
        data_at: 0,
        mtime: Time::default(),
        rdev: Device::default(),
        xattrs: Vec::new(),
        sparse: None,
    }
}

/// What a file is said to hash to here: where its data is.
pub(crate) fn digest_of(member: &Member) -> Digest {
    Digest::sha256(&member.data_at.to_le_bytes())
}

/// The layer's name in all of these tests.
pub(crate) fn diff_id() -> DiffId {
    DiffId(Digest::sha256(b"the layer"))
}

/// The index of some members.
pub(crate) fn build(dialect: Dialect, members: &[Member]) -> Result<Vec<u8>, BuildError> {
    let mut builder = IndexBuilder::new(dialect, Limits::default());
    for member in members {
        builder.member(member.clone())?;
        if member.kind == MemberKind::File {
            builder.digest(digest_of(member));
        }
    }
    builder.finish(diff_id(), TAR_LEN, Vec::new())
}

/// Opens an index in memory, with a cache of its own.
pub(crate) fn open(bytes: &[u8]) -> Result<Index, ReadError> {
    Index::open(Box::new(bytes.to_vec()), BlockCache::new(1 << 20))
}

/// A small layer that has one of everything; the golden index is made of it.
pub(crate) fn golden() -> Vec<Member> {
    use MemberKind::{Block, Char, Dir, Fifo, File, HardLink, Symlink};
    let at = |seconds, nanos| Time { seconds, nanos };
    let file = |path: &str, data_at, size| Member {
        size,
        stored: size,
        data_at,
        mtime: at(1_700_000_000, 5),
        ..member(File, path.as_bytes())
    };
    let link = |path: &str, target: &str| Member {
        link: target.into(),
        ..member(HardLink, path.as_bytes())
    };
    let symlink = |path: &str, target: &str| Member {
        link: target.into(),
        mode: 0o777,
        ..member(Symlink, path.as_bytes())
    };
    let caps = vec![
        (b"security.capability".to_vec(), vec![1, 0, 0, 2, 0, 4]),
        (b"user.note".to_vec(), Vec::new()),
    ];
    let map = vec![
        Extent {
            offset: 4096,
            len: 10,
            stored_at: 0,
        },
        Extent {
            offset: 1 << 20,
            len: 6,
            stored_at: 10,
        },
    ];
    vec![
        Member {
            mode: 0o755,
            mtime: at(-1, 999_999_999),
            ..member(Dir, b"./")
        },
        Member {
            mode: 0o1777,
            uid: 1000,
            gid: u32::MAX,
            ..member(Dir, b"tmp/")
        },
        file("etc/hostname", 2048, 5),
        Member {
            mode: 0o4755,
            xattrs: caps.clone(),
            ..file("usr/bin/sudo", 4096, 70000)
        },
        Member {
            mode: 0o4755,
            xattrs: caps,
            ..file("usr/bin/sudoedit", 80000, 1)
        },
        link("usr/bin/hard", "./usr/bin/sudo"),
        symlink("usr/bin/soft", "../share/doc"),
        symlink("usr/soft", "../share/doc"),
        Member {
            sparse: Some(map),
            stored: 16,
            size: 2 << 20,
            ..file("var/holes", 90112, 0)
        },
        Member {
            rdev: Device { major: 1, minor: 3 },
            ..member(Char, b"dev/null")
        },
        Member {
            rdev: Device {
                major: 259,
                minor: 1 << 18,
            },
            ..member(Block, b"dev/disk")
        },
        member(Fifo, b"run/fifo"),
        file("etc/.wh.removed", 0, 0),
        file("opt/.wh..wh..opq", 0, 0),
        file(".wh.srv", 0, 0),
        Member {
            mode: 0o750,
            ..member(Dir, b"srv")
        },
        link("lib/a-name-of-something-below", "usr/lib/below"),
        link("lib/b", "/usr/lib/below"),
        Member {
            path: b"odd/\xff\x01 name".to_vec(),
            ..file("", 92160, 3)
        },
        file("replaced", 94208, 9),
        file("replaced", 96256, 11),
    ]
}

/// Every answer that an index gives, in words.
pub(crate) fn answers(index: &Index) -> Vec<Result<String, ReadError>> {
    fn say<T: Debug>(answer: Result<T, ReadError>) -> Result<String, ReadError> {
        answer.map(|answer| format!("{answer:?}"))
    }
    let about = (
        index.diff_id(),
        index.dialect(),
        index.tar_len(),
        index.summary(),
    );
    let mut all = vec![Ok(format!("{about:?}"))];
    for row in (0..=index.summary().rows).map(Row) {
        all.push(say(index.node(row)));
        all.push(say(index.xattrs(row)));
        all.push(say(index.target(row)));
        all.push(say(index.extents(row)));
        all.push(say(index.digest(row)));
        all.push(say(index.names(row)));
        let mut listed = Vec::new();
        let outcome = index.list(row, 0, &mut |number, name, hit| {
            listed.push((number, name.to_vec(), hit));
            true
        });
        all.push(say(outcome));
        for (_, name, _) in &listed {
            all.push(say(index.lookup(row, name)));
        }
        all.push(say(index.lookup(row, b"no such name")));
        all.push(Ok(format!("{listed:?}")));
    }
    all.push(say(index.unresolved()));
    all
}

/// The answers to all that a walk from the root asks: every question has one.
/// The first failure ends it.
pub(crate) fn walk(index: &Index) -> Result<Vec<String>, ReadError> {
    let mut said = vec![format!("{:?}", index.unresolved()?)];
    let mut left = vec![Row::ROOT];
    while let Some(row) = left.pop() {
        let node = index.node(row)?;
        said.push(format!("{row:?} {node:?} {:?}", index.xattrs(row)?));
        said.push(format!("{:?}", index.names(row)?));
        match node.attr.kind {
            Kind::File => {
                said.push(format!(
                    "{:?} {:?}",
                    index.extents(row)?,
                    index.digest(row)?
                ));
            }
            Kind::Symlink => said.push(format!("{:?}", index.target(row)?)),
            Kind::Dir => {
                let mut listed = Vec::new();
                index.list(row, 0, &mut |number, name, hit| {
                    listed.push((number, name.to_vec(), hit));
                    true
                })?;
                for (_, name, hit) in &listed {
                    let found = index.lookup(row, name)?;
                    said.push(format!("{name:?} {hit:?} {found:?}"));
                    if let Hit::Node(below, _) = hit {
                        left.push(*below);
                    }
                }
            }
            _ => {}
        }
    }
    Ok(said)
}
