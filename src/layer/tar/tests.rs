//! Archives made by hand, one for every rule.

use std::convert::Infallible;

use proptest::prelude::*;

use super::header::{BLOCK, Block};
use super::*;
use crate::layer::Limits;

/// A pax record with its length.
pub(super) fn record(keyword: &str, value: &[u8]) -> Vec<u8> {
    let rest = keyword.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    let mut out = format!("{len} {keyword}=").into_bytes();
    out.extend_from_slice(value);
    out.push(b'\n');
    out
}

/// Takes everything, and checks the order of the calls.
#[derive(Debug, Default)]
struct Taken {
    members: Vec<(Member, Vec<u8>)>,
    open: bool,
}

impl Visitor for Taken {
    type Error = Infallible;

    fn member(&mut self, member: Member) -> Result<(), Infallible> {
        assert!(!std::mem::replace(&mut self.open, true));
        self.members.push((member, Vec::new()));
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), Infallible> {
        assert!(self.open && !bytes.is_empty());
        self.members.last_mut().unwrap().1.extend_from_slice(bytes);
        Ok(())
    }

    fn end(&mut self) -> Result<(), Infallible> {
        assert!(std::mem::replace(&mut self.open, false));
        let (member, data) = self.members.last().unwrap();
        assert_eq!(member.stored, data.len() as u64);
        if let Some(map) = &member.sparse {
            let mut stored = 0;
            let mut end = 0;
            for extent in map {
                assert!(extent.len > 0 && (extent.offset > end || end == 0));
                assert_eq!(extent.stored_at, stored);
                stored += extent.len;
                end = extent.offset + extent.len;
            }
            assert!(end <= member.size && stored == member.stored);
        }
        Ok(())
    }
}

type Outcome = Result<Vec<(Member, Vec<u8>)>, TarError>;

fn read_with(limits: Limits, pieces: &[&[u8]]) -> Outcome {
    let mut reader = TarReader::new(limits);
    let mut taken = Taken::default();
    for piece in pieces {
        match reader.push(piece, &mut taken) {
            Ok(()) => {}
            Err(Stop::Tar(error)) => return Err(error),
            Err(Stop::Visitor(never)) => match never {},
        }
    }
    reader.finish()?;
    assert!(!taken.open);
    Ok(taken.members)
}

fn read(tar: &[u8]) -> Outcome {
    read_with(Limits::default(), &[tar])
}

fn one(tar: &[u8]) -> Member {
    let mut members = read(tar).unwrap();
    assert_eq!(members.len(), 1);
    members.remove(0).0
}

fn damage(tar: &[u8]) -> String {
    match read(tar) {
        Err(TarError::Damaged { what, .. }) => what,
        other => panic!("{other:?}"),
    }
}

fn limit(tar: &[u8]) -> &'static str {
    match read(tar) {
        Err(TarError::Limit { limit, .. }) => limit,
        other => panic!("{other:?}"),
    }
}

#[derive(Clone)]
struct Head(Block);

impl Head {
    fn v7(name: &[u8], flag: u8) -> Self {
        let mut head = Self([0; BLOCK]).put(0, name).put(156, &[flag]);
        for (at, text) in [(100, "0000644\0"), (108, "0001750\0"), (116, "0001751\0")] {
            head = head.put(at, text.as_bytes());
        }
        head.size(0).put(136, b"14721270000\0")
    }

    fn ustar(name: &[u8], flag: u8) -> Self {
        Self::v7(name, flag).put(257, b"ustar\x0000")
    }

    fn gnu(name: &[u8], flag: u8) -> Self {
        Self::v7(name, flag).put(257, b"ustar  \0")
    }

    fn put(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn size(self, size: u64) -> Self {
        self.put(124, format!("{size:011o}\0").as_bytes())
    }

    fn sealed(mut self) -> Vec<u8> {
        seal(&mut self.0);
        self.0.to_vec()
    }

    /// The member with its size and data.
    fn with(self, data: &[u8]) -> Vec<u8> {
        let mut out = self.size(data.len() as u64).sealed();
        out.extend(padded(data));
        out
    }
}

fn seal(block: &mut [u8]) {
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn padded(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    data.resize(data.len().next_multiple_of(BLOCK), 0);
    data
}

fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let body: Vec<u8> = records
        .iter()
        .flat_map(|(keyword, value)| record(keyword, value))
        .collect();
    Head::ustar(b"PaxHeaders/x", b'x').with(&body)
}

fn join(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut out = parts.concat();
    out.resize(out.len() + 2 * BLOCK, 0);
    out
}

/// A number in base 256 for a field of 12 bytes.
fn base256(value: i128) -> [u8; 12] {
    let mut field = [0; 12];
    field.copy_from_slice(&value.to_be_bytes()[4..]);
    field[0] = field[0] & 0x7f | 0x80;
    field
}

fn sparse_1_0() -> Vec<u8> {
    let mut data = padded(b"3\n512\n600\n4096\n10\n8000\n0\n");
    data.extend([7; 610]);
    let records: &[(&str, &[u8])] = &[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"holes"),
        ("GNU.sparse.realsize", b"8000"),
    ];
    [
        pax(records),
        Head::ustar(b"GNUSparseFile.0/holes", b'0').with(&data),
    ]
    .concat()
}

fn sparse_old() -> Vec<u8> {
    let entry = |offset: u64, len: u64| format!("{offset:011o}\0{len:011o}\0").into_bytes();
    let table = |from: u64, count: u64| -> Vec<u8> {
        (from..from + count)
            .flat_map(|at| entry(at * 1024, 16))
            .collect()
    };
    let head = Head::gnu(b"old-holes", b'S').size(27 * 16);
    let head = head.put(386, &table(0, 4)).put(482, &[1]);
    let mut out = head
        .put(483, format!("{:011o}\0", 40000).as_bytes())
        .sealed();
    let mut block = table(4, 21);
    block.resize(BLOCK, 0);
    block[504] = 1;
    out.extend(block);
    let mut block = [table(25, 2), entry(40000, 0)].concat();
    block.resize(BLOCK, 0);
    out.extend(block);
    out.extend(padded(&[9; 27 * 16]));
    out
}

/// Something of everything.
fn zoo() -> Vec<u8> {
    let long = [b'l'; 300];
    join(&[
        Head::ustar(b"", b'g').with(&record("path", b"nobody")),
        Head::ustar(b"dir/", b'5').sealed(),
        Head::ustar(b"dir/file", b'0').with(b"hello"),
        Head::v7(b"old", 0).with(&[b'x'; 1000]),
        Head::gnu(b"././@LongLink", b'K').with(&long),
        Head::gnu(b"././@LongLink", b'L').with(&long),
        Head::gnu(b"lll", b'2').put(157, b"cut").sealed(),
        pax(&[
            ("path", b"pax/name"),
            ("mtime", b"-1.5"),
            ("SCHILY.xattr.user.a", b"1\n"),
        ]),
        Head::ustar(b"short", b'0').with(&[b'y'; 512]),
        sparse_1_0(),
        sparse_old(),
        Head::ustar(b"dev", b'3')
            .put(329, b"0000001\0")
            .put(337, b"0000003\0")
            .sealed(),
    ])
}

#[test]
fn a_plain_file_arrives_with_all_its_fields() {
    let tar = join(&[Head::ustar(b"a/b", b'0').put(265, b"root").with(b"hello")]);
    let members = read(&tar).unwrap();
    let wanted = Member {
        path: b"a/b".to_vec(),
        kind: MemberKind::File,
        link: Vec::new(),
        mode: 0o644,
        uid: 1000,
        gid: 1001,
        size: 5,
        stored: 5,
        data_at: 512,
        mtime: Time {
            seconds: 0o14721270000,
            nanos: 0,
        },
        rdev: Device::default(),
        xattrs: Vec::new(),
        sparse: None,
    };
    assert_eq!(members, [(wanted, b"hello".to_vec())]);
}

#[test]
fn every_flag_has_its_kind_and_unknown_ones_are_named() {
    for (flag, kind) in [
        (0, MemberKind::File),
        (b'0', MemberKind::File),
        (b'7', MemberKind::File),
        (b'1', MemberKind::HardLink),
        (b'2', MemberKind::Symlink),
        (b'3', MemberKind::Char),
        (b'4', MemberKind::Block),
        (b'5', MemberKind::Dir),
        (b'6', MemberKind::Fifo),
    ] {
        let member = one(&join(&[Head::ustar(b"n", flag)
            .put(157, b"target")
            .sealed()]));
        assert_eq!(member.kind, kind);
        let is_link = matches!(kind, MemberKind::HardLink | MemberKind::Symlink);
        assert_eq!(member.link, if is_link { &b"target"[..] } else { b"" });
    }
    for flag in [b'D', b'M', b'N', b'A', b'X', b'8', b'\xff'] {
        let what = damage(&join(&[Head::ustar(b"name", flag).sealed()]));
        let flag = header::flag_name(flag);
        assert!(
            what.contains("`name`") && what.contains(&format!("`{flag}`")),
            "{what}"
        );
    }
}

#[test]
fn a_volume_label_is_nothing() {
    let tar = join(&[
        Head::gnu(b"label", b'V').sealed(),
        Head::gnu(b"a", b'0').with(b"1"),
    ]);
    assert_eq!(one(&tar).path, b"a");
}

#[test]
fn only_an_old_flag_makes_a_directory_of_a_trailing_slash() {
    assert_eq!(
        one(&join(&[Head::v7(b"d/", 0).sealed()])).kind,
        MemberKind::Dir
    );
    assert_eq!(
        one(&join(&[Head::v7(b"d/", b'0').sealed()])).kind,
        MemberKind::File
    );
    let long = join(&[pax(&[("path", b"long/")]), Head::v7(b"d", 0).sealed()]);
    assert_eq!(one(&long).kind, MemberKind::Dir);
}

#[test]
fn what_is_not_a_file_has_no_data_whatever_its_size_says() {
    for flag in *b"123456" {
        let pax_too = pax(&[("size", b"2048")]);
        for before in [Vec::new(), pax_too] {
            let head = Head::ustar(b"n", flag).put(157, b"t").size(1024).sealed();
            let members = read(&join(&[before, head, Head::ustar(b"b", b'0').with(b"2")])).unwrap();
            assert_eq!(members.len(), 2);
            assert_eq!((members[0].0.size, members[0].0.stored), (0, 0));
        }
    }
}

#[test]
fn a_prefix_belongs_to_ustar_and_star_only() {
    let tar = |head: Head| join(&[head.put(345, b"pre/fix").sealed()]);
    assert_eq!(one(&tar(Head::ustar(b"n", b'5'))).path, b"pre/fix/n");
    assert_eq!(
        one(&tar(Head::ustar(b"n", b'5').put(508, b"tar\0"))).path,
        b"pre/fix/n"
    );
    assert_eq!(one(&tar(Head::v7(b"n", b'5'))).path, b"n");
    let full = Head::ustar(&[b'n'; 100], b'5')
        .put(345, &[b'p'; 155])
        .sealed();
    assert_eq!(one(&join(&[full])).path.len(), 256);
    // star's prefix has 131 bytes; two times follow.
    let star = Head::ustar(b"n", b'5')
        .put(345, &[b'p'; 131])
        .put(476, b"14721270000 ");
    assert_eq!(
        one(&join(&[star.put(508, b"tar\0").sealed()])).path.len(),
        133
    );
}

#[test]
fn gnu_has_times_where_ustar_has_a_prefix_but_old_docker_wrote_one() {
    let times = Head::gnu(b"n", b'5')
        .put(345, b"14721270000\x0014721270000\0")
        .sealed();
    assert_eq!(one(&join(&[times])).path, b"n");
    let prefix = Head::gnu(b"n", b'5')
        .put(345, b"usr/share/something")
        .sealed();
    assert_eq!(one(&join(&[prefix])).path, b"usr/share/something/n");
    let strange = Head::gnu(b"n", b'5').put(345, b"caf\xe9").sealed();
    assert_eq!(one(&join(&[strange])).path, b"n");
}

#[test]
fn gnu_long_names_go_before_pax_ones_and_end_at_nul() {
    let tar = join(&[
        pax(&[("path", b"from pax"), ("linkpath", b"to pax")]),
        Head::gnu(b"././@LongLink", b'L').with(b"from gnu\0rest"),
        Head::gnu(b"././@LongLink", b'K').with(b"to gnu\0"),
        Head::ustar(b"n", b'2').put(157, b"t").sealed(),
    ]);
    let member = one(&tar);
    assert_eq!(
        (&member.path[..], &member.link[..]),
        (&b"from gnu"[..], &b"to gnu"[..])
    );
    let empty = join(&[
        Head::gnu(b"", b'L').with(b"\0"),
        Head::gnu(b"n", b'5').sealed(),
    ]);
    assert_eq!(one(&empty).path, b"n");
}

#[test]
fn base_256_carries_what_octal_cannot() {
    let head = Head::gnu(b"n", b'0')
        .put(108, b"\x80\0\0\0\xff\xff\xff\xfe")
        .put(116, b"\x80\0\0\0\x80\0\0\0")
        .put(124, &base256(3))
        .put(136, &base256(-5));
    let member = one(&join(&[head.sealed(), padded(b"abc")]));
    assert_eq!(
        (member.uid, member.gid, member.size),
        (0xffff_fffe, 0x8000_0000, 3)
    );
    assert_eq!(
        member.mtime,
        Time {
            seconds: -5,
            nanos: 0
        }
    );
}

#[test]
fn pax_records_override_the_header_of_one_member() {
    let tar = join(&[
        pax(&[
            ("path", b"dir/caf\xe9\n"),
            ("uid", b"4294967294"),
            ("gid", b"3000000000"),
            ("mtime", b"-1.25"),
            ("uname", b"nobody"),
            ("SCHILY.acl.access", b"user::rwx"),
            ("SCHILY.xattr.security.capability", b"\x01\0\0\x02=\n"),
        ]),
        Head::ustar(b"n", b'0').with(b"1"),
        Head::ustar(b"m", b'0').with(b"2"),
    ]);
    let members = read(&tar).unwrap();
    let (first, second) = (&members[0].0, &members[1].0);
    assert_eq!(first.path, b"dir/caf\xe9\n");
    assert_eq!((first.uid, first.gid), (u32::MAX - 1, 3_000_000_000));
    assert_eq!(
        first.mtime,
        Time {
            seconds: -2,
            nanos: 750_000_000
        }
    );
    assert_eq!(
        first.xattrs,
        [(b"security.capability".to_vec(), b"\x01\0\0\x02=\n".to_vec())]
    );
    assert_eq!((&second.path[..], second.uid), (&b"m"[..], 1000));
    assert!(second.xattrs.is_empty());
}

#[test]
fn global_headers_must_be_well_formed_and_change_nothing() {
    let global = |body: &[u8]| Head::ustar(b"pax_global_header", b'g').with(body);
    let body = [
        record("path", b"other"),
        record("uid", b"7"),
        record("comment", b"c"),
    ]
    .concat();
    let member = one(&join(&[global(&body), Head::ustar(b"n", b'0').with(b"1")]));
    assert_eq!((&member.path[..], member.uid), (&b"n"[..], 1000));
    damage(&join(&[
        global(b"nonsense"),
        Head::ustar(b"n", b'0').with(b"1"),
    ]));
}

#[test]
fn a_pax_size_counts_for_finding_the_next_header() {
    // CVE-2025-62518 ("TARmageddon"): a header says 0, its extended header says
    // how long it is, and what a naive reader takes for members is data.
    let inner = Head::ustar(b"smuggled", b'0').with(b"evil");
    let outer = [
        pax(&[("size", inner.len().to_string().as_bytes())]),
        Head::ustar(b"outer.tar", b'0').size(0).sealed(),
        inner.clone(),
        Head::ustar(b"next", b'0').with(b"2"),
    ];
    let members = read(&join(&outer)).unwrap();
    let paths: Vec<_> = members.iter().map(|(member, _)| &member.path[..]).collect();
    assert_eq!(paths, [&b"outer.tar"[..], b"next"]);
    assert_eq!(members[0].1, inner);
    // The other way round, smaller than the header says.
    let tar = join(&[
        pax(&[("size", b"1")]),
        Head::ustar(b"a", b'0').size(1024).sealed(),
        padded(b"1"),
        Head::ustar(b"b", b'0').with(b"2"),
    ]);
    assert_eq!(read(&tar).unwrap().len(), 2);
}

#[test]
fn a_pax_size_is_not_that_of_a_long_name_on_the_way() {
    let tar = join(&[
        pax(&[("size", b"4")]),
        Head::gnu(b"././@LongLink", b'L').with(&[b'n'; 700]),
        Head::ustar(b"n", b'0').size(0).sealed(),
        padded(b"data"),
    ]);
    let members = read(&tar).unwrap();
    assert_eq!(
        (members[0].0.path.len(), &members[0].1[..]),
        (700, &b"data"[..])
    );
}

#[test]
fn a_later_extended_header_replaces_an_earlier_one() {
    let tar = join(&[
        pax(&[("path", b"first"), ("uid", b"5")]),
        pax(&[("path", b"second")]),
        Head::ustar(b"n", b'0').with(b""),
    ]);
    let member = one(&tar);
    assert_eq!((&member.path[..], member.uid), (&b"second"[..], 1000));
}

#[test]
fn records_that_no_member_follows_are_refused() {
    let end = vec![0; 2 * BLOCK];
    let global = Head::ustar(b"", b'g').with(&record("a", b"b"));
    let label = Head::gnu(b"label", b'V').sealed();
    let member = Head::ustar(b"n", b'0').with(b"");
    for special in [
        pax(&[("path", b"p")]),
        Head::gnu(b"", b'L').with(b"n"),
        Head::gnu(b"", b'K').with(b"n"),
        Head::ustar(b"", b'x').sealed(),
    ] {
        assert_eq!(
            damage(&special),
            "no member follows a long name or an extended header"
        );
        damage(&[&special[..], &end].concat());
        damage(&[&special[..], &global, &member].concat());
        damage(&[&special[..], &label, &member].concat());
    }
}

#[test]
fn old_gnu_sparse_files_have_their_map_in_headers() {
    let tar = join(&[Head::gnu(b"a", b'0').with(b"1"), sparse_old()]);
    let (member, data) = read(&tar).unwrap().pop().unwrap();
    assert_eq!((member.size, member.stored, data.len()), (40000, 432, 432));
    assert_eq!(member.data_at, 1024 + 3 * 512);
    let map = member.sparse.unwrap();
    assert_eq!(map.len(), 27);
    assert_eq!(
        map[26],
        Extent {
            offset: 26 * 1024,
            len: 16,
            stored_at: 26 * 16
        }
    );
    let wrong = Head::ustar(b"n", b'S').put(483, b"00000000100\0").sealed();
    damage(&join(&[wrong]));
}

#[test]
fn pax_sparse_1_0_has_its_map_before_the_data() {
    let (member, data) = read(&join(&[sparse_1_0()])).unwrap().pop().unwrap();
    assert_eq!(member.path, b"holes");
    assert_eq!((member.size, member.stored), (8000, 610));
    assert_eq!(member.data_at, 1024 + 512 + 512);
    assert_eq!(data, [7; 610]);
    let wanted = [
        Extent {
            offset: 512,
            len: 600,
            stored_at: 0,
        },
        Extent {
            offset: 4096,
            len: 10,
            stored_at: 600,
        },
    ];
    assert_eq!(member.sparse.unwrap(), wanted);
}

#[test]
fn pax_sparse_0_x_has_its_map_in_records() {
    let old: &[(&str, &[u8])] = &[
        ("GNU.sparse.size", b"100"),
        ("GNU.sparse.numblocks", b"2"),
        ("GNU.sparse.offset", b"10"),
        ("GNU.sparse.numbytes", b"3"),
        ("GNU.sparse.offset", b"50"),
        ("GNU.sparse.numbytes", b"2"),
    ];
    let new: &[(&str, &[u8])] = &[
        ("GNU.sparse.size", b"100"),
        ("GNU.sparse.numblocks", b"2"),
        ("GNU.sparse.name", b"n"),
        ("GNU.sparse.map", b"10,3,50,2"),
    ];
    for records in [old, new] {
        let (member, data) = read(&join(&[
            pax(records),
            Head::ustar(b"n", b'0').with(b"abcde"),
        ]))
        .unwrap()
        .remove(0);
        assert_eq!(
            (&member.path[..], member.size, member.stored),
            (&b"n"[..], 100, 5)
        );
        assert_eq!(data, b"abcde");
        let wanted = [
            Extent {
                offset: 10,
                len: 3,
                stored_at: 0,
            },
            Extent {
                offset: 50,
                len: 2,
                stored_at: 3,
            },
        ];
        assert_eq!(member.sparse.unwrap(), wanted);
        // More or less data than the map has.
        damage(&join(&[
            pax(records),
            Head::ustar(b"n", b'0').with(b"abcd"),
        ]));
        damage(&join(&[
            pax(records),
            Head::ustar(b"n", b'0').with(b"abcdef"),
        ]));
        damage(&join(&[pax(records), Head::ustar(b"n", b'5').sealed()]));
    }
}

#[test]
fn a_map_longer_than_its_member_is_refused() {
    let records: &[(&str, &[u8])] = &[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.realsize", b"8000"),
    ];
    let map = b"100\n".repeat(128);
    for len in [0, 100, 512, 600] {
        let mut data = map.clone();
        data.resize(len, b'1');
        let tar = join(&[pax(records), Head::ustar(b"n", b'0').with(&data)]);
        assert!(damage(&tar).contains("sparse map"), "{len}");
    }
}

#[test]
fn checksums_are_of_unsigned_or_of_signed_bytes() {
    let good = Head::ustar(b"caf\xe9\xff", b'5').sealed();
    let mut signed = good.clone();
    signed[148..156].copy_from_slice(b"        ");
    let sum: i32 = signed.iter().map(|&byte| i32::from(byte as i8)).sum();
    signed[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    assert_ne!(good, signed);
    assert_eq!(one(&good).path, one(&signed).path);
    let mut bad = good;
    bad[0] ^= 1;
    assert_eq!(damage(&bad), "the checksum of a header is wrong");
}

#[test]
fn an_archive_may_end_in_several_ways() {
    let member = Head::ustar(b"n", b'0').with(b"hello");
    let zeros = [0; 4 * BLOCK];
    for tail in [
        &zeros[..0],
        &zeros[..BLOCK],
        &zeros[..2 * BLOCK],
        &zeros[..],
    ] {
        assert_eq!(read(&[&member[..], tail].concat()).unwrap().len(), 1);
        assert_eq!(read(tail).unwrap().len(), 0);
    }
    let behind = [
        &member[..],
        &zeros[..2 * BLOCK],
        b"what follows is not ours",
    ]
    .concat();
    assert_eq!(read(&behind).unwrap().len(), 1);
    // Go accepts an end within padding, too.
    assert_eq!(read(&member[..512 + 5]).unwrap().len(), 1);
    assert_eq!(read(&member[..512 + 80]).unwrap().len(), 1);
    damage(&[&member[..], &zeros[..BLOCK], &member].concat());
    damage(&[&member[..], &zeros[..10]].concat());
    damage(&[&member[..], &zeros[..BLOCK + 10]].concat());
}

#[test]
fn an_end_inside_a_member_is_an_error() {
    let tar = zoo();
    let whole = read(&tar).unwrap().len();
    for cut in 0..tar.len() - 2 * BLOCK {
        if let Ok(members) = read(&tar[..cut]) {
            assert!(members.len() < whole);
        }
    }
    let member = Head::ustar(b"n", b'0').with(b"hello");
    for cut in 1..512 + 5 {
        let what = damage(&member[..cut]);
        assert!(what.starts_with("the stream ends in a "), "{what}");
    }
}

#[test]
fn claims_beyond_the_limits_are_refused_at_once() {
    let sized = |size: i128| Head::gnu(b"n", b'0').put(124, &base256(size)).sealed();
    for size in [1 << 63, 1 << 64, (1 << 40) + 1, (1 << 94) - 1, 1 << 40] {
        assert_eq!(limit(&sized(size)), "unpacked");
    }
    for text in ["9223372036854775808", "99999999999999999999999"] {
        let tar = [
            pax(&[("size", text.as_bytes())]),
            Head::ustar(b"n", b'0').sealed(),
        ]
        .concat();
        assert_eq!(limit(&tar), "unpacked");
        let records: &[(&str, &[u8])] = &[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", text.as_bytes()),
        ];
        assert_eq!(
            limit(&[pax(records), Head::ustar(b"n", b'0').with(b"0\n")].concat()),
            "unpacked"
        );
    }
    let old = Head::gnu(b"n", b'S').put(483, &base256(1 << 63)).sealed();
    assert_eq!(limit(&old), "unpacked");
    assert!(damage(&sized(-1)).contains("negative"));
    let label = Head::gnu(b"n", b'V').put(124, &base256(1 << 63)).sealed();
    assert_eq!(limit(&label), "unpacked");
    for (flag, name) in [
        (b'x', "extended-header"),
        (b'g', "extended-header"),
        (b'L', "long-name"),
        (b'K', "long-name"),
    ] {
        assert_eq!(
            limit(&Head::gnu(b"n", flag).size((1 << 20) + 1).sealed()),
            name
        );
        assert_eq!(
            limit(&Head::gnu(b"n", flag).put(124, &base256(1 << 64)).sealed()),
            name
        );
    }
}

#[test]
fn the_layers_own_limits_are_kept() {
    let two = join(&[
        Head::ustar(b"a", b'0').with(b"1"),
        Head::ustar(b"b", b'0').with(b"2"),
    ]);
    let limits = |entries, unpacked| Limits {
        entries,
        unpacked,
        ..Limits::default()
    };
    assert!(read_with(limits(2, 2000), &[&two]).is_ok());
    for (limits, named) in [(limits(1, 2000), "entries"), (limits(2, 1500), "unpacked")] {
        match read_with(limits, &[&two]) {
            Err(TarError::Limit {
                limit, at: 1024, ..
            }) => assert_eq!(limit, named),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn owners_and_devices_that_linux_does_not_have_are_refused() {
    for uid in ["4294967296", "-1", "99999999999999999999999"] {
        let tar = [
            pax(&[("uid", uid.as_bytes())]),
            Head::ustar(b"n", b'0').sealed(),
        ]
        .concat();
        assert!(damage(&tar).contains("does not fit"));
    }
    damage(
        &Head::gnu(b"n", b'0')
            .put(116, b"\xff\xff\xff\xff\xff\xff\xff\xff")
            .sealed(),
    );
    let device = |major: &[u8], minor: &[u8]| {
        read(
            &Head::ustar(b"n", b'4')
                .put(329, major)
                .put(337, minor)
                .sealed(),
        )
    };
    let member = &device(b"0007777\0", b"3777777\0").unwrap()[0].0;
    assert_eq!(
        member.rdev,
        Device {
            major: 4095,
            minor: (1 << 20) - 1
        }
    );
    assert!(device(b"0010000\0", b"0000000\0").is_err());
    assert!(device(b"0000000\0", b"4000000\0").is_err());
    // Not looked at for anything but a device.
    assert_eq!(
        one(&Head::ustar(b"n", b'0').put(329, b"rubbish").sealed()).rdev,
        Device::default()
    );
}

#[test]
fn an_owner_that_is_none_is_root() {
    // chown(2) takes 2^32 - 1 for -1, which changes nothing; the kernel cannot show it.
    let none = b"4294967295";
    for (records, owner) in [
        (pax(&[("uid", none)]), (0, 7)),
        (pax(&[("gid", none)]), (5, 0)),
    ] {
        let head = Head::ustar(b"n", b'0')
            .put(108, b"0000005\0")
            .put(116, b"0000007\0");
        let member = one(&[records, head.sealed()].concat());
        assert_eq!((member.uid, member.gid), owner);
    }
    let binary = Head::gnu(b"n", b'0').put(108, b"\x80\0\0\0\xff\xff\xff\xff");
    assert_eq!(one(&binary.sealed()).uid, 0);
}

#[test]
fn names_that_are_none_are_refused() {
    damage(&Head::ustar(b"", b'0').sealed());
    for keyword in ["path", "linkpath", "GNU.sparse.name"] {
        damage(&[pax(&[(keyword, b"a\0b")]), Head::ustar(b"n", b'0').sealed()].concat());
    }
    assert!(damage(&Head::ustar(b"n", b'2').sealed()).contains("`n` has no target"));
    damage(&Head::ustar(b"n", b'1').sealed());
}

#[test]
fn after_an_error_nothing_more_is_taken() {
    let mut reader = TarReader::new(Limits::default());
    let mut taken = Taken::default();
    let bad = Head::ustar(b"n", b'D').sealed();
    assert!(reader.push(&bad, &mut taken).is_err());
    let good = Head::ustar(b"n", b'0').sealed();
    assert!(reader.push(&good, &mut taken).is_err());
    assert!(taken.members.is_empty());
    assert!(reader.finish().is_err());
}

#[test]
fn what_the_visitor_says_comes_back() {
    struct No;
    impl Visitor for No {
        type Error = &'static str;
        fn member(&mut self, _: Member) -> Result<(), Self::Error> {
            Err("no")
        }
        fn data(&mut self, _: &[u8]) -> Result<(), Self::Error> {
            Ok(())
        }
        fn end(&mut self) -> Result<(), Self::Error> {
            Ok(())
        }
    }
    let mut reader = TarReader::new(Limits::default());
    let outcome = reader.push(&Head::ustar(b"n", b'0').with(b"1"), &mut No);
    assert!(matches!(outcome, Err(Stop::Visitor("no"))));
}

#[test]
fn where_the_stream_is_cut_makes_no_difference() {
    let tar = zoo();
    let whole = read(&tar).unwrap();
    assert_eq!(whole.len(), 8);
    for (member, data) in &whole {
        let at = member.data_at as usize;
        assert_eq!(&tar[at..at + data.len()], data);
    }
    for cut in 0..=tar.len() {
        let (a, b) = tar.split_at(cut);
        assert_eq!(
            read_with(Limits::default(), &[a, b]).unwrap(),
            whole,
            "cut at {cut}"
        );
    }
    for size in [1, 7, 511, 513] {
        let pieces: Vec<_> = tar.chunks(size).collect();
        assert_eq!(read_with(Limits::default(), &pieces).unwrap(), whole);
    }
}

/// Makes every block's checksum right that could be a header.
fn resealed(mut tar: Vec<u8>) -> Vec<u8> {
    for block in tar.chunks_exact_mut(BLOCK) {
        if block[100..104] == *b"0000" {
            seal(block);
        }
    }
    tar
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_flipped_or_missing_byte_makes_a_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        whole in any::<bool>(),
        reseal in any::<bool>(),
        piece in 1usize..2000,
    ) {
        let mut tar = zoo();
        for (at, byte) in flips {
            let at = at.index(tar.len());
            tar[at] = byte;
        }
        if reseal {
            tar = resealed(tar);
        }
        if !whole {
            tar.truncate(cut.index(tar.len()));
        }
        let pieces: Vec<_> = tar.chunks(piece).collect();
        let (cut, straight) = (read_with(Limits::default(), &pieces), read(&tar));
        prop_assert_eq!(format!("{cut:?}"), format!("{straight:?}"));
    }

    #[test]
    fn no_record_makes_a_panic(
        body in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            "([0-9]{1,3} )?(GNU.sparse.(map|size|offset|major)|mtime|uid|size|LIBARCHIVE.xattr.a%)=[-0-9.,%]{0,30}\n".prop_map(String::into_bytes),
        ],
        keyword in "(GNU.sparse.(map|size|offset|numbytes|major|minor|realsize)|mtime|uid|size|path|LIBARCHIVE.xattr.%?[a-f0-9]{1,3})",
        value in "[-0-9.,%=A-Za-z+/]{0,30}",
    ) {
        let made = [body.clone(), record(&keyword, value.as_bytes())].concat();
        for body in [body, made] {
            let head = Head::ustar(b"x", b'x').with(&body);
            let _ = read(&join(&[head, Head::ustar(b"n", b'0').with(b"12345")]));
        }
    }
}
