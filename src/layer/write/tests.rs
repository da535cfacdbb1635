use super::*;
use crate::layer::blocks::BlockCache;
use crate::layer::read::{Hit, Index};
use crate::layer::{Row, tar};
use crate::node::{Device, Kind, Time};

fn member(kind: MemberKind, path: &str) -> Member {
    Member {
        path: path.into(),
        kind,
        link: Vec::new(),
        mode: 0o644,
        uid: 0,
        gid: 0,
        size: 0,
        stored: 0,
        data_at: 512,
        mtime: Time {
            seconds: 7,
            nanos: 0,
        },
        rdev: Device::default(),
        xattrs: Vec::new(),
        sparse: None,
    }
}

fn file(path: &str) -> Member {
    member(MemberKind::File, path)
}

fn dir(path: &str) -> Member {
    Member {
        mode: 0o700,
        ..member(MemberKind::Dir, path)
    }
}

fn link(path: &str, target: &str) -> Member {
    Member {
        link: target.into(),
        ..member(MemberKind::HardLink, path)
    }
}

fn symlink(path: &str, target: &str) -> Member {
    Member {
        link: target.into(),
        ..member(MemberKind::Symlink, path)
    }
}

fn build(dialect: Dialect, members: &[Member]) -> Result<Index, BuildError> {
    let mut builder = IndexBuilder::new(dialect, Limits::default());
    for member in members {
        builder.member(member.clone())?;
        if member.kind == MemberKind::File {
            builder.digest(Digest::sha256(&member.path));
        }
    }
    let bytes = builder.finish(DiffId(Digest::sha256(b"layer")), 1 << 20, Vec::new())?;
    let index = Index::open(Box::new(bytes), BlockCache::new(1 << 20)).unwrap();
    index.verify().unwrap();
    Ok(index)
}

fn docker(members: &[Member]) -> Index {
    build(Dialect::Docker, members).unwrap()
}

fn why(members: &[Member]) -> String {
    build(Dialect::Docker, members).unwrap_err().to_string()
}

fn hit(index: &Index, path: &str) -> Hit {
    let mut hit = Hit::Node(Row::ROOT, Kind::Dir);
    for name in path.split('/') {
        let Hit::Node(dir, Kind::Dir) = hit else {
            return Hit::Absent;
        };
        hit = index.lookup(dir, name.as_bytes()).unwrap();
    }
    hit
}

fn row(index: &Index, path: &str) -> Row {
    match hit(index, path) {
        Hit::Node(row, _) => row,
        other => panic!("{path}: {other:?}"),
    }
}

fn opaque(index: &Index, path: &str) -> bool {
    index.node(row(index, path)).unwrap().dir.unwrap().opaque
}

#[test]
fn an_empty_layer_is_an_implied_root() {
    let index = docker(&[]);
    let root = index.node(Row::ROOT).unwrap();
    let info = root.dir.unwrap();
    assert_eq!(
        (info.parent, info.implied, info.opaque, info.entries),
        (Row::ROOT, true, false, 0)
    );
    assert_eq!((root.attr.mode, root.attr.nlink), (0o755, 2));
    assert_eq!(index.lookup(Row::ROOT, b"x").unwrap(), Hit::Absent);
    assert!(index.names(Row::ROOT).unwrap().is_empty());
    assert!(index.node(Row(1)).is_err());
}

#[test]
fn the_root_member_sets_the_root() {
    let index = docker(&[dir("./"), file("./a")]);
    let root = index.node(Row::ROOT).unwrap();
    assert_eq!((root.attr.mode, root.dir.unwrap().implied), (0o700, false));
    assert_eq!(hit(&index, "a"), Hit::Node(Row(1), Kind::File));
    assert!(why(&[file("./")]).contains("root"));
    assert!(why(&[link(".", "a")]).contains("root"));
}

#[test]
fn paths_that_leave_the_tree_are_refused_by_name() {
    for path in ["../a", "a/../b", "/a", "", "a/\0"] {
        let error = build(Dialect::Docker, &[file(path)]).unwrap_err();
        assert!(
            matches!(error, BuildError::Refused { .. }),
            "{path}: {error}"
        );
    }
    assert_eq!(
        why(&[file("a/../b")]),
        "the member `a/../b` is refused: it has a `..` component"
    );
    assert!(why(&[file(&"n".repeat(256))]).contains("255"));
    assert!(why(&[file("a"), link("b", "../a")]).contains("`..`"));
}

#[test]
fn parents_that_no_member_names_are_implied_until_one_does() {
    let index = docker(&[file("a/b/c"), dir("a")]);
    let info = |path| index.node(row(&index, path)).unwrap();
    assert!(!info("a").dir.unwrap().implied);
    assert_eq!(info("a").attr.mode, 0o700);
    assert!(info("a/b").dir.unwrap().implied);
    assert_eq!(
        (info("a/b").attr.mode, info("a/b").attr.mtime),
        (0o755, Time::default())
    );
    assert_eq!(info("a").attr.nlink, 3);
    assert_eq!(info("a/b").dir.unwrap().parent, row(&index, "a"));
}

#[test]
fn a_whiteout_hides_a_name_of_lower_layers() {
    let index = docker(&[file("d/.wh.x"), dir("d/.wh.y")]);
    assert_eq!(hit(&index, "d/x"), Hit::Whiteout);
    assert_eq!(hit(&index, "d/y"), Hit::Whiteout);
    assert_eq!(hit(&index, "d/.wh.x"), Hit::Absent);
    assert_eq!(index.summary().whiteouts, 2);
}

#[test]
fn a_directory_whose_name_is_hidden_in_the_same_layer_is_opaque() {
    for members in [
        [dir("d"), file(".wh.d")],
        [file(".wh.d"), dir("d")],
        [file(".wh.d"), file("d/x")],
    ] {
        let index = docker(&members);
        assert!(opaque(&index, "d"));
        assert_eq!(index.summary().whiteouts, 1);
    }
}

#[test]
fn a_hidden_directory_with_nothing_in_it_but_what_is_hidden_is_not_there() {
    for inner in ["d/.wh.x", "d/e/.wh.x", "d/.wh..wh..opq"] {
        for members in [[file(".wh.d"), file(inner)], [file(inner), file(".wh.d")]] {
            let index = docker(&members);
            assert_eq!(hit(&index, "d"), Hit::Whiteout, "{inner}");
        }
        let index = docker(&[file(".wh.d"), file(inner), file("d/e/f")]);
        assert!(opaque(&index, "d"), "{inner}");
        assert!(matches!(hit(&index, "d/e/f"), Hit::Node(_, Kind::File)));
    }
}

#[test]
fn a_file_of_the_layer_wins_over_a_whiteout_of_its_name() {
    for members in [[file("f"), file(".wh.f")], [file(".wh.f"), file("f")]] {
        let index = docker(&members);
        assert!(matches!(hit(&index, "f"), Hit::Node(_, Kind::File)));
        assert_eq!(index.summary().whiteouts, 0);
    }
}

#[test]
fn the_opaque_mark_hides_what_lower_layers_have_in_a_directory() {
    let index = docker(&[file("d/.wh..wh..opq"), dir("d"), dir("e")]);
    assert!(opaque(&index, "d"));
    assert!(!opaque(&index, "e"));
    assert_eq!(hit(&index, "d/.wh..wh..opq"), Hit::Absent);
    let root = docker(&[file(".wh..wh..opq")]);
    assert!(root.node(Row::ROOT).unwrap().dir.unwrap().opaque);
}

#[test]
fn bookkeeping_of_aufs_is_hidden_but_hard_links_may_lead_to_it() {
    let index = docker(&[
        dir("a/.wh..wh.orph"),
        file(".wh..wh.aufs"),
        Member {
            size: 9,
            stored: 9,
            ..file(".wh..wh.plnk/1.2")
        },
        link("b", ".wh..wh.plnk/1.2"),
        link(".wh..wh.plnk/3.4", "b"),
        link("c", ".wh..wh.plnk/3.4"),
    ]);
    assert_eq!(hit(&index, "a"), Hit::Absent);
    assert_eq!(hit(&index, ".wh..wh.plnk"), Hit::Absent);
    let node = index.node(row(&index, "b")).unwrap();
    assert_eq!((node.attr.size, node.attr.nlink), (9, 2));
    assert_eq!(row(&index, "b"), row(&index, "c"));
    assert_eq!(
        index.digest(row(&index, "b")).unwrap(),
        Digest::sha256(b".wh..wh.plnk/1.2")
    );
    assert_eq!(index.summary().files, 1);
}

#[test]
fn appc_takes_whiteouts_for_names() {
    let index = build(Dialect::AppC, &[file(".wh.x"), file(".wh..wh..opq")]).unwrap();
    assert!(matches!(hit(&index, ".wh.x"), Hit::Node(_, Kind::File)));
    assert!(matches!(
        hit(&index, ".wh..wh..opq"),
        Hit::Node(_, Kind::File)
    ));
    assert_eq!(index.summary().whiteouts, 0);
    assert_eq!(index.dialect(), Dialect::AppC);
}

#[test]
fn of_two_members_of_one_path_the_later_wins() {
    let index = docker(&[
        file("f"),
        Member {
            mode: 0o600,
            ..file("f")
        },
        dir("d"),
        file("d/x"),
        Member {
            mode: 0o711,
            ..dir("d")
        },
    ]);
    assert_eq!(index.node(row(&index, "f")).unwrap().attr.mode, 0o600);
    assert_eq!(index.node(row(&index, "d")).unwrap().attr.mode, 0o711);
    assert!(matches!(hit(&index, "d/x"), Hit::Node(_, Kind::File)));
    assert_eq!(index.summary().rows, 4);
}

#[test]
fn what_replaces_a_directory_drops_all_below_it() {
    let index = docker(&[
        file("d/e/x"),
        link("kept", "d/e/x"),
        file("d/.wh.y"),
        symlink("d", "elsewhere"),
    ]);
    assert!(matches!(hit(&index, "d"), Hit::Node(_, Kind::Symlink)));
    assert_eq!(index.node(row(&index, "kept")).unwrap().attr.nlink, 1);
    assert_eq!((index.summary().rows, index.summary().entries), (3, 2));
    let again = docker(&[
        file("d/x"),
        file("d/.wh.y"),
        file("d"),
        dir("d"),
        file("d/z"),
    ]);
    assert_eq!(hit(&again, "d/x"), Hit::Absent);
    assert_eq!(hit(&again, "d/y"), Hit::Absent);
    assert!(matches!(hit(&again, "d/z"), Hit::Node(_, Kind::File)));
}

#[test]
fn a_directory_that_replaces_something_in_its_layer_is_made_anew() {
    let index = docker(&[file("d"), dir("d")]);
    assert!(opaque(&index, "d"));
    let index = docker(&[dir("d"), dir("d")]);
    assert!(!opaque(&index, "d"));
    let index = docker(&[file(".wh.d"), file("d/x")]);
    let info = index.node(row(&index, "d")).unwrap().dir.unwrap();
    assert!(info.opaque && !info.implied);
    let index = docker(&[file("d/.wh..wh..opq")]);
    let info = index.node(row(&index, "d")).unwrap().dir.unwrap();
    assert!(info.opaque && info.implied);
}

#[test]
fn what_lies_below_a_non_directory_is_refused() {
    assert!(why(&[symlink("a", "/etc"), file("a/b")]).contains("lies below the symlink `a`"));
    assert!(why(&[file("x/a"), file("x/a/b/c")]).contains("lies below the file `x/a`"));
    assert!(why(&[link("a", "lower"), file("a/b")]).contains("lies below the hard link `a`"));
    assert!(why(&[symlink("a", "/etc"), link("b", "a/c")]).contains("lies below the symlink `a`"));
    assert!(why(&[symlink("a", "/etc"), file("a/.wh.c")]).contains("lies below the symlink `a`"));
}

#[test]
fn hard_links_are_names_of_one_object() {
    let index = docker(&[
        file("a"),
        link("d/b", "/a"),
        symlink("s", "to"),
        link("t", "./s"),
        link("a", "a"),
        file("a2"),
        link("r", "a2"),
        Member {
            mode: 0o600,
            ..file("a2")
        },
    ]);
    let a = row(&index, "a");
    assert_eq!(row(&index, "d/b"), a);
    assert_eq!(index.node(a).unwrap().attr.nlink, 2);
    assert_eq!(
        index.names(a).unwrap(),
        [
            (Row::ROOT, b"a".to_vec()),
            (row(&index, "d"), b"b".to_vec())
        ]
    );
    assert_eq!(row(&index, "s"), row(&index, "t"));
    assert_eq!(index.target(row(&index, "t")).unwrap(), b"to");
    assert_ne!(row(&index, "r"), row(&index, "a2"));
    assert_eq!(index.node(row(&index, "r")).unwrap().attr.mode, 0o644);
}

#[test]
fn a_hard_link_to_something_unknown_waits_for_lower_layers() {
    let index = docker(&[
        link("d/a", "/low/er"),
        link("b", "d/a"),
        link("self", "self"),
    ]);
    let links = index.unresolved().unwrap();
    assert_eq!(links.len(), 3);
    for (path, target) in [("d/a", "low/er"), ("b", "low/er"), ("self", "self")] {
        let Hit::Link(number) = hit(&index, path) else {
            panic!("{path}")
        };
        let link = &links[number as usize];
        assert_eq!(link.target.as_bytes(), target.as_bytes());
        assert!(path.ends_with(std::str::from_utf8(&link.name).unwrap()));
    }
    assert!(why(&[dir("d"), link("a", "d")]).contains("is a directory"));
    assert!(why(&[link("a", "/")]).contains("is a directory"));
    assert!(why(&[link("a", "")]).contains("without a target"));
    assert!(why(&[link("a", ".wh.b")]).contains("is a whiteout"));
}

#[test]
fn what_cannot_be_in_a_layer_is_refused() {
    assert!(why(&[symlink("s", "")]).contains("target"));
    assert!(why(&[symlink("s", &"t".repeat(4096))]).contains("target"));
    let xattr = |name: &str, value: usize| Member {
        xattrs: vec![(name.into(), vec![0; value])],
        ..file("x")
    };
    assert!(why(&[xattr("", 0)]).contains("xattr"));
    assert!(why(&[xattr(&"n".repeat(256), 0)]).contains("xattr"));
    assert!(why(&[xattr("user.big", (64 << 10) + 1)]).contains("user.big"));
    assert!(
        why(&[Member {
            size: 1,
            ..file("f")
        }])
        .contains("size")
    );
    assert!(
        why(&[Member {
            size: 2 << 40,
            stored: 2 << 40,
            ..file("f")
        }])
        .contains("unpacked")
    );
    let far = Member {
        size: 9,
        stored: 9,
        data_at: 1 << 20,
        ..file("far")
    };
    assert!(why(&[far]).contains("`far`"));
    let map = |offset, stored_at| {
        Some(vec![
            tar::Extent {
                offset,
                len: 4,
                stored_at,
            },
            tar::Extent {
                offset: 2,
                len: 4,
                stored_at,
            },
        ])
    };
    assert!(
        why(&[Member {
            size: 9,
            stored: 9,
            sparse: map(0, 0),
            ..file("f")
        }])
        .contains("sparse")
    );
}

#[test]
fn limits_are_named() {
    let mut builder = IndexBuilder::new(
        Dialect::Docker,
        Limits {
            entries: 2,
            ..Limits::default()
        },
    );
    builder.member(dir("a")).unwrap();
    builder.member(dir("b")).unwrap();
    let error = builder.member(dir("c")).unwrap_err();
    assert!(matches!(
        error,
        BuildError::Limit {
            limit: "entries",
            ..
        }
    ));
    let mut builder = IndexBuilder::new(
        Dialect::Docker,
        Limits {
            entries: 2,
            ..Limits::default()
        },
    );
    let error = builder.member(dir("a/b/c/d")).unwrap_err();
    assert!(matches!(
        error,
        BuildError::Limit {
            limit: "entries",
            ..
        }
    ));
}

#[test]
fn a_file_with_data_needs_its_digest() {
    let mut builder = IndexBuilder::new(Dialect::Docker, Limits::default());
    builder.member(file("empty")).unwrap();
    builder
        .member(Member {
            size: 1,
            stored: 1,
            ..file("full")
        })
        .unwrap();
    let error = builder.member(dir("d")).unwrap_err();
    assert!(error.to_string().contains("`full`"), "{error}");
    let index = docker(&[file(".wh.x")]);
    assert_eq!(hit(&index, "x"), Hit::Whiteout);
}

#[test]
fn attributes_arrive_as_they_were_given() {
    let xattrs = vec![
        (b"user.b".to_vec(), b"2".to_vec()),
        (b"security.capability".to_vec(), vec![0, 1, 255]),
        (b"user.b".to_vec(), b"later".to_vec()),
        (b"odd".to_vec(), Vec::new()),
    ];
    let extents = vec![
        tar::Extent {
            offset: 0,
            len: 0,
            stored_at: 0,
        },
        tar::Extent {
            offset: 4096,
            len: 512,
            stored_at: 0,
        },
        tar::Extent {
            offset: 1 << 30,
            len: 1,
            stored_at: 512,
        },
    ];
    let index = docker(&[
        Member {
            xattrs: xattrs.clone(),
            uid: u32::MAX,
            gid: 5,
            mode: 0o6755,
            ..file("f")
        },
        Member {
            xattrs,
            rdev: Device { major: 5, minor: 1 },
            ..member(MemberKind::Char, "c")
        },
        Member {
            size: 2 << 30,
            stored: 513,
            sparse: Some(extents),
            data_at: 1024,
            ..file("s")
        },
        Member {
            mtime: Time {
                seconds: -9,
                nanos: 5,
            },
            ..symlink("l", "over/there")
        },
        member(MemberKind::Fifo, "p"),
        Member {
            rdev: Device {
                major: 8,
                minor: 1 << 19,
            },
            ..member(MemberKind::Block, "b")
        },
    ]);
    let set = index.xattrs(row(&index, "f")).unwrap();
    assert_eq!(
        set,
        [
            (b"odd".to_vec(), Vec::new()),
            (b"security.capability".to_vec(), vec![0, 1, 255]),
            (b"user.b".to_vec(), b"later".to_vec()),
        ]
    );
    assert_eq!(index.xattrs(row(&index, "c")).unwrap(), set);
    assert!(index.xattrs(row(&index, "p")).unwrap().is_empty());
    let node = |path| index.node(row(&index, path)).unwrap();
    let f = node("f");
    assert_eq!(
        (f.attr.uid, f.attr.gid, f.attr.mode, f.has_xattrs),
        (u32::MAX, 5, 0o6755, true)
    );
    assert_eq!(node("c").attr.rdev, Device { major: 5, minor: 1 });
    assert_eq!(
        node("b").attr.rdev,
        Device {
            major: 8,
            minor: 1 << 19
        }
    );
    assert_eq!((node("s").attr.size, node("s").attr.stored), (2 << 30, 513));
    let extents = index.extents(row(&index, "s")).unwrap();
    assert_eq!((extents.start, extents.map.unwrap().len()), (1024, 2));
    assert_eq!(
        (node("l").attr.mtime, node("l").attr.size),
        (
            Time {
                seconds: -9,
                nanos: 5
            },
            10
        )
    );
    assert_eq!(index.summary().with_xattrs, 2);
    assert!(index.target(row(&index, "f")).is_err());
    assert!(index.extents(row(&index, "l")).is_err());
    assert!(index.digest(row(&index, "p")).is_err());
    assert!(index.lookup(row(&index, "p"), b"x").is_err());
}

#[test]
fn a_large_directory_is_found_and_listed_across_blocks() {
    let names: Vec<String> = (0..5000u32)
        .map(|n| match n % 3 {
            0 => format!("{n:04}"),
            1 => format!("same-beginning-{n}"),
            _ => format!("f{n}-{}", "x".repeat((n % 200) as usize)),
        })
        .collect();
    let members: Vec<Member> = names
        .iter()
        .map(|name| file(&format!("d/{name}")))
        .collect();
    let index = docker(&members);
    let d = row(&index, "d");
    for name in &names {
        let Hit::Node(row, Kind::File) = index.lookup(d, name.as_bytes()).unwrap() else {
            panic!("{name}");
        };
        assert_eq!(index.names(row).unwrap(), [(d, name.clone().into_bytes())]);
        assert_eq!(
            index.lookup(d, format!("{name}-").as_bytes()).unwrap(),
            Hit::Absent
        );
    }
    let mut sorted: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
    sorted.sort_unstable();
    let mut seen = Vec::new();
    index
        .list(d, 0, &mut |number, name, _| {
            assert_eq!(number as usize, seen.len());
            seen.push(name.to_vec());
            true
        })
        .unwrap();
    assert_eq!(seen, sorted);
    let mut tail = Vec::new();
    index
        .list(d, 4000, &mut |number, name, _| {
            tail.push((number, name.to_vec()));
            tail.len() < 3
        })
        .unwrap();
    assert_eq!(tail.len(), 3);
    assert_eq!(tail[0], (4000, sorted[4000].to_vec()));
    index
        .list(d, 5000, &mut |_, _, _| panic!("nothing is there"))
        .unwrap();
    index
        .list(d, u32::MAX, &mut |_, _, _| panic!("nothing is there"))
        .unwrap();
}
