//! Records of one extended header (type flags `x` and `g`).
//!
//! What it is for: turning the records into values that override those of the
//! header. May assume nothing of the bytes. Must not know headers or the stream.
//!
//! A record is `LENGTH KEYWORD=VALUE\n`, `LENGTH` counting all of itself
//! (POSIX.1-2017, pax, "pax Extended Header"). What POSIX leaves open is read as
//! Go's `archive/tar` reads it, since that is what builds and unpacks images:
//! a later record of the same keyword wins, an empty value leaves the header's,
//! and keywords are taken as they are (GNU tar writes `=` in the name of an
//! extended attribute as `%3D`; nobody else undoes that).
//! Extended attributes with an empty value are left out with the rest: a record
//! without a value deletes (POSIX pax), and Docker and umoci read it so.

use std::collections::HashMap;

use crate::node::Time;
use crate::tree_path::printable;

use super::Fault;
use super::sparse::Map;

/// Bytes in one extended header, or in one long name. Go's `archive/tar` allows
/// as much (`maxSpecialFileSize`).
pub(super) const RECORDS_MAX: u64 = 1 << 20;
/// Bytes of all names and values of a member's extended attributes: the kernel
/// lists no more names (`XATTR_LIST_MAX`) and sets no longer value
/// (`XATTR_SIZE_MAX`).
pub(super) const XATTRS_MAX: usize = 64 << 10;
/// Bytes in the name of an extended attribute (`XATTR_NAME_MAX`).
pub(super) const XATTR_NAME_MAX: usize = 255;

/// Digits of a number: more than any 64 bits need.
const DIGITS_MAX: usize = 32;

type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// What an extended header says; what it does not say stays `None`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<i128>,
    pub(super) gid: Option<i128>,
    pub(super) mtime: Option<Time>,
    /// From `SCHILY.xattr.`.
    schily: Xattrs,
    /// From `LIBARCHIVE.xattr.`, decoded.
    libarchive: Xattrs,
    sparse: SparseRecords,
}

/// The `GNU.sparse.` records.
#[derive(Debug, Default, PartialEq, Eq)]
struct SparseRecords {
    /// Whether there is any.
    any: bool,
    major: Option<u64>,
    minor: Option<u64>,
    name: Option<Vec<u8>>,
    /// `GNU.sparse.size` (0.0, 0.1) and `GNU.sparse.realsize` (1.0).
    size: Option<u64>,
    realsize: Option<u64>,
    numblocks: Option<u64>,
    /// Numbers of the map: `GNU.sparse.map`, or each offset and length.
    numbers: Vec<u64>,
    /// Whether `numbers` come from a `GNU.sparse.map`.
    mapped: bool,
}

/// A sparse file as extended headers describe it.
#[derive(Debug)]
pub(super) struct PaxSparse {
    /// The file's size with its holes.
    pub(super) size: u64,
    /// Its path, where the header's is a made-up one.
    pub(super) name: Option<Vec<u8>>,
    /// Its map; nothing when that stands before the data (format 1.0).
    pub(super) map: Option<Map>,
}

impl Records {
    /// Reads all records of one extended header.
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, Fault> {
        let mut records = Self::default();
        while !bytes.is_empty() {
            let (keyword, value) = record(&mut bytes)?;
            records.take(keyword, value)?;
        }
        Ok(records)
    }

    fn take(&mut self, keyword: &[u8], value: &[u8]) -> Result<(), Fault> {
        if let Some(name) = keyword.strip_prefix(b"SCHILY.xattr.") {
            self.schily
                .push((xattr_name(name.to_vec())?, value.to_vec()));
            return Ok(());
        }
        if let Some(name) = keyword.strip_prefix(b"LIBARCHIVE.xattr.") {
            let name = xattr_name(percent_decoded(name)?)?;
            self.libarchive.push((name, base64_decoded(value)?));
            return Ok(());
        }
        if let Some(keyword) = keyword.strip_prefix(b"GNU.sparse.") {
            return self.sparse.take(keyword, value);
        }
        // Nothing said: the header's, also where an earlier record had said something.
        let said = (!value.is_empty()).then_some(value);
        match keyword {
            b"path" => self.path = said.map(|v| without_nul("path", v)).transpose()?,
            b"linkpath" => self.link = said.map(|v| without_nul("linkpath", v)).transpose()?,
            b"size" => self.size = said.map(|v| decimal("size", v)).transpose()?,
            b"uid" => self.uid = said.map(|v| signed("uid", v)).transpose()?,
            b"gid" => self.gid = said.map(|v| signed("gid", v)).transpose()?,
            b"mtime" => self.mtime = said.map(time).transpose()?,
            // Among them uname, gname (a rootfs has its own names), atime,
            // ctime, SCHILY.acl.* (ACLs as text).
            _ => {}
        }
        Ok(())
    }

    /// Extended attributes in the order of the records; of the same name the
    /// last one. libarchive writes each one twice, so its own kind counts only
    /// where there is none of the common kind.
    pub(super) fn take_xattrs(&mut self) -> Result<Xattrs, Fault> {
        let mut all = std::mem::take(&mut self.schily);
        let own = std::mem::take(&mut self.libarchive);
        if !own.is_empty() {
            let known: std::collections::HashSet<_> =
                all.iter().map(|(name, _)| &name[..]).collect();
            let more: Vec<_> = own
                .into_iter()
                .filter(|(name, _)| !known.contains(&name[..]))
                .collect();
            all.extend(more);
        }
        if all.len() > 1 {
            let last: HashMap<_, _> = all
                .iter()
                .enumerate()
                .map(|(at, (name, _))| (name.clone(), at))
                .collect();
            let mut at = 0;
            all.retain(|(name, _)| {
                at += 1;
                last.get(name) == Some(&(at - 1))
            });
        }
        all.retain(|(_, value)| !value.is_empty());
        let bytes: usize = all
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        if bytes > XATTRS_MAX {
            return Err(Fault::limit(
                "xattrs",
                format!("{bytes} bytes of extended attributes"),
            ));
        }
        Ok(all)
    }

    /// The sparse file that the records describe, if they do.
    pub(super) fn take_sparse(&mut self) -> Result<Option<PaxSparse>, Fault> {
        let sparse = std::mem::take(&mut self.sparse);
        if sparse.any {
            sparse.finish().map(Some)
        } else {
            Ok(None)
        }
    }
}

impl SparseRecords {
    fn take(&mut self, keyword: &[u8], value: &[u8]) -> Result<(), Fault> {
        self.any = true;
        match keyword {
            b"major" => self.major = Some(decimal("GNU.sparse.major", value)?),
            b"minor" => self.minor = Some(decimal("GNU.sparse.minor", value)?),
            b"name" => self.name = Some(without_nul("GNU.sparse.name", value)?),
            b"size" => self.size = Some(decimal("GNU.sparse.size", value)?),
            b"realsize" => self.realsize = Some(decimal("GNU.sparse.realsize", value)?),
            b"numblocks" => self.numblocks = Some(decimal("GNU.sparse.numblocks", value)?),
            // Format 0.0 repeats these two in turn, against POSIX's rule that
            // the last record of a keyword wins.
            b"offset" if !self.mapped && self.numbers.len().is_multiple_of(2) => {
                self.numbers.push(decimal("GNU.sparse.offset", value)?);
            }
            b"numbytes" if !self.mapped && !self.numbers.len().is_multiple_of(2) => {
                self.numbers.push(decimal("GNU.sparse.numbytes", value)?);
            }
            b"offset" | b"numbytes" => {
                return Err(Fault::damaged(
                    "the GNU.sparse.offset and numbytes do not alternate",
                ));
            }
            b"map" => {
                self.mapped = true;
                self.numbers.clear();
                for number in value
                    .split(|&byte| byte == b',')
                    .filter(|_| !value.is_empty())
                {
                    self.numbers.push(decimal("GNU.sparse.map", number)?);
                }
            }
            _ => {
                return Err(Fault::damaged(format!(
                    "the record `GNU.sparse.{}` is unknown",
                    printable(keyword)
                )));
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<PaxSparse, Fault> {
        // Formats 0.0 and 0.1 do not name themselves.
        let in_data = match (self.major, self.minor) {
            (None, None) | (Some(0), Some(0 | 1)) => false,
            (Some(1), Some(0)) => true,
            (major, minor) => {
                return Err(Fault::damaged(format!(
                    "the sparse format {}.{} is unknown",
                    major.unwrap_or(0),
                    minor.unwrap_or(0)
                )));
            }
        };
        let size = self.size.or(self.realsize);
        let size = size.ok_or_else(|| Fault::damaged("a sparse file has no real size"))?;
        if in_data {
            return Ok(PaxSparse {
                size,
                name: self.name,
                map: None,
            });
        }
        if self.numblocks != Some(self.numbers.len() as u64 / 2)
            || !self.numbers.len().is_multiple_of(2)
        {
            return Err(Fault::damaged(
                "a sparse map has not as many stretches as it says",
            ));
        }
        let mut map = Map::default();
        for stretch in self.numbers.chunks_exact(2) {
            map.add(stretch[0], stretch[1])?;
        }
        Ok(PaxSparse {
            size,
            name: self.name,
            map: Some(map),
        })
    }
}

/// Takes the first record off; its keyword and value.
fn record<'a>(bytes: &mut &'a [u8]) -> Result<(&'a [u8], &'a [u8]), Fault> {
    let broken = || Fault::damaged("a record of an extended header is broken");
    let space = bytes
        .iter()
        .take(DIGITS_MAX)
        .position(|&byte| byte == b' ')
        .ok_or_else(broken)?;
    let len = decimal("length of a record", &bytes[..space])?;
    let len = usize::try_from(len).map_err(|_| broken())?;
    let (record, rest) = bytes.split_at_checked(len).ok_or_else(broken)?;
    let text = record
        .get(space + 1..)
        .and_then(|text| text.strip_suffix(b"\n"));
    let text = text.ok_or_else(broken)?;
    let equals = text
        .iter()
        .position(|&byte| byte == b'=')
        .ok_or_else(broken)?;
    let (keyword, value) = (&text[..equals], &text[equals + 1..]);
    if keyword.is_empty() || keyword.contains(&0) {
        return Err(broken());
    }
    *bytes = rest;
    Ok((keyword, value))
}

/// A decimal number without sign; over 64 bits it is `u64::MAX`, for the limits
/// to refuse.
fn decimal(what: &str, text: &[u8]) -> Result<u64, Fault> {
    if text.is_empty() || text.len() > DIGITS_MAX || !text.iter().all(u8::is_ascii_digit) {
        return Err(Fault::damaged(format!(
            "the {what} `{}` is no number",
            printable(text)
        )));
    }
    let digits = text.iter().map(|&byte| u64::from(byte - b'0'));
    Ok(digits.fold(0u64, |value, digit| {
        value.saturating_mul(10).saturating_add(digit)
    }))
}

/// A decimal number that may be negative.
fn signed(what: &str, text: &[u8]) -> Result<i128, Fault> {
    match text.strip_prefix(b"-") {
        Some(text) => decimal(what, text).map(|value| -i128::from(value)),
        None => decimal(what, text).map(i128::from),
    }
}

/// Seconds with a fraction. Digits behind the ninth are cut, as Go does.
fn time(text: &[u8]) -> Result<Time, Fault> {
    let bad = || Fault::damaged(format!("the mtime `{}` is no time", printable(text)));
    let negative = text.first() == Some(&b'-');
    let point = text.iter().position(|&byte| byte == b'.');
    let (whole, fraction) = match point {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, &[][..]),
    };
    let seconds = i64::try_from(signed("mtime", whole)?).map_err(|_| bad())?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(bad());
    }
    let digits = fraction
        .iter()
        .copied()
        .chain(std::iter::repeat(b'0'))
        .take(9);
    let nanos = digits.fold(0u32, |value, digit| value * 10 + u32::from(digit - b'0'));
    if !negative || nanos == 0 {
        return Ok(Time { seconds, nanos });
    }
    // Half a second before -1 is -2 and half a second.
    let seconds = seconds.checked_sub(1).ok_or_else(bad)?;
    Ok(Time {
        seconds,
        nanos: 1_000_000_000 - nanos,
    })
}

fn without_nul(what: &str, value: &[u8]) -> Result<Vec<u8>, Fault> {
    if value.contains(&0) {
        return Err(Fault::damaged(format!(
            "the {what} `{}` has a NUL byte",
            printable(value)
        )));
    }
    Ok(value.to_vec())
}

fn xattr_name(name: Vec<u8>) -> Result<Vec<u8>, Fault> {
    if name.is_empty() || name.contains(&0) {
        return Err(Fault::damaged(
            "an extended attribute has an empty name or one with NUL",
        ));
    }
    if name.len() > XATTR_NAME_MAX {
        let what = format!("the name of an extended attribute has {} bytes", name.len());
        return Err(Fault::limit("xattr-name", what));
    }
    Ok(name)
}

/// Undoes `%XX`.
fn percent_decoded(text: &[u8]) -> Result<Vec<u8>, Fault> {
    let bad = || Fault::damaged("the name of a LIBARCHIVE.xattr is not url-encoded");
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut nibble = || {
            bytes
                .next()
                .and_then(|&digit| char::from(digit).to_digit(16))
        };
        let (Some(high), Some(low)) = (nibble(), nibble()) else {
            return Err(bad());
        };
        out.push(u8::try_from(high << 4 | low).map_err(|_| bad())?);
    }
    Ok(out)
}

/// Undoes base64 (RFC 4648), with or without `=` at the end: libarchive writes
/// none.
fn base64_decoded(text: &[u8]) -> Result<Vec<u8>, Fault> {
    let bad = || Fault::damaged("the value of a LIBARCHIVE.xattr is not base64");
    let end = text
        .iter()
        .rposition(|&byte| byte != b'=')
        .map_or(0, |at| at + 1);
    let mut out = Vec::with_capacity(end * 3 / 4);
    let (mut bits, mut have) = (0u32, 0);
    for &byte in &text[..end] {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return Err(bad()),
        };
        bits = (bits << 6 | u32::from(six)) & 0xfff;
        have += 6;
        if have >= 8 {
            have -= 8;
            out.push((bits >> have & 0xff) as u8);
        }
    }
    // One letter alone is less than a byte.
    if end % 4 == 1 || text.len() - end > 2 {
        Err(bad())
    } else {
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(records: &[(&str, &[u8])]) -> Vec<u8> {
        records
            .iter()
            .flat_map(|(keyword, value)| super::super::tests::record(keyword, value))
            .collect()
    }

    fn parse(records: &[(&str, &[u8])]) -> Result<Records, Fault> {
        Records::parse(&encode(records))
    }

    #[test]
    fn a_later_record_wins_and_an_empty_one_says_nothing() {
        let records = parse(&[
            ("path", b"a"),
            ("path", b"b"),
            ("uid", b""),
            ("size", b"12"),
        ])
        .unwrap();
        assert_eq!(records.path.as_deref(), Some(&b"b"[..]));
        assert_eq!((records.uid, records.size), (None, Some(12)));
    }

    #[test]
    fn an_empty_record_takes_back_what_an_earlier_one_said() {
        // Go's archive/tar, and so umoci and podman: the header's value is in force.
        for keyword in ["path", "linkpath", "size", "uid", "gid", "mtime"] {
            let said = parse(&[(keyword, b"1")]).unwrap();
            assert_ne!(said, Records::default(), "{keyword}");
            let taken_back = parse(&[(keyword, b"1"), (keyword, b"")]).unwrap();
            assert_eq!(taken_back, Records::default(), "{keyword}");
            let again = parse(&[(keyword, b""), (keyword, b"1")]).unwrap();
            assert_eq!(again, said, "{keyword}");
        }
    }

    #[test]
    fn broken_records_are_refused() {
        for bad in [
            &b"x"[..],
            b"5 a=b",
            b"0 a=b\n",
            b"3 a=b\n",
            b"7 a=b\n",
            b"6 ab\n\n",
            b"06 a=b\n",
            b"5 =b\n",
            b"99999999999999999999 a=b\n",
            b" 6 a=b\n",
            b"6 a=b\n\0",
            b"6 \0=b\n",
        ] {
            assert!(Records::parse(bad).is_err(), "{}", printable(bad));
        }
        assert!(Records::parse(b"6 a=b\n").is_ok());
        for (keyword, value) in [
            ("path", &b"a\0b"[..]),
            ("linkpath", b"\0"),
            ("size", b"-1"),
            ("size", b"+1"),
            ("size", b"1.5"),
            ("uid", b"x"),
            ("mtime", b"."),
            ("mtime", b"1.x"),
            ("mtime", b"99999999999999999999"),
            ("SCHILY.xattr.", b"v"),
            ("LIBARCHIVE.xattr.user.%4", b""),
            ("LIBARCHIVE.xattr.user.a", b"A"),
            ("LIBARCHIVE.xattr.user.a", b"A=A="),
            ("GNU.sparse.volume", b"1"),
        ] {
            assert!(
                parse(&[(keyword, value)]).is_err(),
                "{keyword}={}",
                printable(value)
            );
        }
    }

    #[test]
    fn times_are_rounded_towards_the_past() {
        for (text, seconds, nanos) in [
            ("0", 0, 0),
            ("1.5", 1, 500_000_000),
            ("1.", 1, 0),
            ("-1", -1, 0),
            ("-1.0", -1, 0),
            ("-1.5", -2, 500_000_000),
            ("-0.25", -1, 750_000_000),
            ("1350244992.023960108", 1_350_244_992, 23_960_108),
            ("7.1234567899", 7, 123_456_789),
        ] {
            let records = parse(&[("mtime", text.as_bytes())]).unwrap();
            assert_eq!(records.mtime, Some(Time { seconds, nanos }), "{text}");
        }
    }

    #[test]
    fn libarchives_attributes_count_where_there_are_no_others() {
        let mut records = parse(&[
            ("LIBARCHIVE.xattr.user.b%3D%25", b"AP8"),
            ("LIBARCHIVE.xattr.user.a", b"Zm9v"),
            ("SCHILY.xattr.user.a", b"\0raw\n"),
            ("SCHILY.xattr.user.z", b"1"),
            ("SCHILY.xattr.user.z", b""),
        ])
        .unwrap();
        let xattrs = records.take_xattrs().unwrap();
        // The second `user.z` deletes the first.
        let wanted: [(&[u8], &[u8]); 2] = [(b"user.a", b"\0raw\n"), (b"user.b=%", b"\0\xff")];
        let found: Vec<_> = xattrs
            .iter()
            .map(|(name, value)| (&name[..], &value[..]))
            .collect();
        assert_eq!(found, wanted);
    }

    #[test]
    fn base64_has_its_padding_or_not() {
        for (text, bytes) in [
            ("", &b""[..]),
            ("Zg", b"f"),
            ("Zg==", b"f"),
            ("Zm8", b"fo"),
            ("Zm9v", b"foo"),
            ("+/+/", b"\xfb\xff\xbf"),
        ] {
            assert_eq!(base64_decoded(text.as_bytes()).unwrap(), bytes);
        }
    }

    #[test]
    fn attributes_over_the_kernels_limits_are_refused() {
        let full = vec![0; XATTRS_MAX - 6];
        assert!(
            parse(&[("SCHILY.xattr.user.a", &full)])
                .unwrap()
                .take_xattrs()
                .is_ok()
        );
        let more = vec![0; XATTRS_MAX - 5];
        let outcome = parse(&[("SCHILY.xattr.user.a", &more)])
            .unwrap()
            .take_xattrs();
        assert!(matches!(
            outcome,
            Err(Fault::Limit {
                limit: "xattrs",
                ..
            })
        ));
        let name = format!("SCHILY.xattr.{}", "n".repeat(256));
        let outcome = parse(&[(&name, b"")]);
        assert!(matches!(
            outcome,
            Err(Fault::Limit {
                limit: "xattr-name",
                ..
            })
        ));
    }

    #[test]
    fn sparse_maps_come_as_pairs_or_as_a_list() {
        let pairs: &[(&str, &[u8])] = &[
            ("GNU.sparse.size", b"100"),
            ("GNU.sparse.numblocks", b"2"),
            ("GNU.sparse.offset", b"10"),
            ("GNU.sparse.numbytes", b"5"),
            ("GNU.sparse.offset", b"100"),
            ("GNU.sparse.numbytes", b"0"),
        ];
        let list: &[(&str, &[u8])] = &[
            ("GNU.sparse.major", b"0"),
            ("GNU.sparse.minor", b"1"),
            ("GNU.sparse.size", b"100"),
            ("GNU.sparse.numblocks", b"2"),
            ("GNU.sparse.name", b"real"),
            ("GNU.sparse.map", b"10,5,100,0"),
        ];
        for records in [pairs, list] {
            let sparse = parse(records).unwrap().take_sparse().unwrap().unwrap();
            assert_eq!(sparse.size, 100);
            assert_eq!(
                sparse.map.unwrap().finish(100, 5).unwrap().unwrap().len(),
                1
            );
        }
        for left_out in 0..pairs.len() {
            let mut records = pairs.to_vec();
            records.remove(left_out);
            let outcome = parse(&records).and_then(|mut records| records.take_sparse());
            assert!(outcome.is_err(), "{left_out}");
        }
        for (major, minor) in [(1, 1), (2, 0), (0, 2)] {
            let (major, minor) = (major.to_string(), minor.to_string());
            let mut records = list.to_vec();
            records[0].1 = major.as_bytes();
            records[1].1 = minor.as_bytes();
            assert!(parse(&records).unwrap().take_sparse().is_err());
        }
        assert!(parse(&[("GNU.sparse.map", b"1,,2")]).is_err());
    }
}
