//! Seeds, and the shortest list of operations that still fails.
//!
//! What it is for: what happens around every random test. Must not know what is
//! tried.

use std::time::{Duration, SystemTime};

use super::operations::Op;

/// A failure is tried again with fewer operations at most so often.
const TRIES: usize = 250;

/// The seeds to try: these, or those of `LAZYROOT_AGREEMENT_SEEDS`.
pub(crate) fn seeds(always: std::ops::Range<u64>) -> impl Iterator<Item = u64> {
    let wanted = std::env::var("LAZYROOT_AGREEMENT_SEEDS").ok();
    let range = wanted.map_or(always, |range| {
        let (from, to) = range.split_once('-').unwrap_or((&range, &range));
        from.parse().unwrap()..to.parse::<u64>().unwrap() + 1
    });
    range.inspect(|seed| println!("seed {seed}"))
}

/// A moment before everything that a test does, and after all times of layers.
pub(crate) fn before_now() -> i64 {
    let now = SystemTime::now() - Duration::from_secs(3600);
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    since.as_secs().cast_signed()
}

/// An operation and its place in the whole list, which it keeps when others are
/// left out.
pub(crate) type Numbered = (usize, Op);

/// Tries a list of operations; when it fails, leaves out what it can and fails
/// with what is left. `around` is told too.
#[track_caller]
pub(crate) fn holds(
    around: &dyn std::fmt::Debug,
    ops: Vec<Op>,
    mut fails: impl FnMut(&[Numbered]) -> Option<String>,
) {
    let mut ops: Vec<Numbered> = ops.into_iter().enumerate().collect();
    let Some(mut why) = fails(&ops) else { return };
    eprintln!("fails, is being shortened: {why}");
    let mut chunk = ops.len().div_ceil(2);
    let mut tries = 0;
    while chunk > 0 {
        let mut from = 0;
        while from < ops.len() && tries < TRIES {
            tries += 1;
            let to = (from + chunk).min(ops.len());
            let fewer = [&ops[..from], &ops[to..]].concat();
            match fails(&fewer) {
                Some(still) => (ops, why) = (fewer, still),
                None => from = to,
            }
        }
        chunk /= 2;
    }
    let list: Vec<String> = ops.iter().map(|(n, op)| format!("{n:3} {op:?}")).collect();
    panic!("{around:#?}\n{}\n{why}", list.join("\n"));
}
