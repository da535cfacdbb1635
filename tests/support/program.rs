//! Random programs.
//!
//! What it is for: operations whose numbers pick one of what is there at the
//! moment, so that a program stays sensible while it is made smaller. Must not know
//! how the outcome is judged.

use std::panic::{AssertUnwindSafe, catch_unwind};

use lazyroot::node::{Kind, Time};
use lazyroot::union::upper::{Change, SetTime, SetXattr};
use lazyroot::union::writable::{Maker, Open, Rename};
use proptest::prelude::*;

use super::NAMES;
use super::posix::Id;
use super::support::layers::Entry;
use super::twins::{At, Call, Thing, Twins, Verdict};
use super::upper::Fault;

/// What a random program does. Numbers pick one of what is there at the moment.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Make(u8, u8, Thing, Maker),
    Link(u8, u8, u8),
    /// The call that fits what is there, or the other one.
    Remove(u8, bool),
    /// A name that may not be there.
    RemoveAt(u8, u8, bool),
    /// A whole tree, name by name.
    Sweep(u8),
    /// To a place that may be free.
    RenameTo(u8, u8, u8, Rename),
    /// Onto something.
    RenameOnto(u8, u8, Rename),
    Chmod(u8, u16),
    Chown(u8, Option<u32>, Option<u32>),
    Utimens(u8, Option<SetTime>, Option<SetTime>),
    Truncate(u8, u64),
    Strip(u8),
    Open(u8, Open),
    Close(u8),
    Write(u8, u8, Vec<u8>),
    Punch(u8, u8, u8),
    SetXattr(u8, &'static [u8], u8, SetXattr),
    RemoveXattr(u8, &'static [u8]),
    Begin(u8),
    ReadOn(u8, usize),
    Forget(u8),
    ForgetAll,
    Remount,
}

const XATTRS: &[&[u8]] = &[
    b"user.a",
    b"user.b",
    b"trusted.t",
    b"security.capability",
    b"trusted.overlay.opaque",
    b"trusted.overlay.redirect",
    b"trusted.overlay.metacopy",
];

fn thing() -> impl Strategy<Value = Thing> {
    prop_oneof![
        4 => Just(Thing::File),
        4 => Just(Thing::Dir),
        1 => prop::sample::select(vec![&b"a"[..], b"/b/c", b"nowhere"]).prop_map(Thing::Symlink),
        2 => (0u32..2, 0u32..2).prop_map(|(major, minor)| Thing::Char(major, minor)),
        1 => Just(Thing::Block(8, 1)),
        1 => Just(Thing::Fifo),
    ]
}

fn maker() -> impl Strategy<Value = Maker> {
    let modes = vec![0o644, 0o755, 0o1777, 0o2755, 0o4755, 0];
    let umask = prop::sample::select(vec![0, 0o022, 0o077]);
    (0u32..3, 0u32..3, prop::sample::select(modes), umask).prop_map(|(uid, gid, mode, umask)| {
        Maker {
            uid,
            gid,
            mode,
            umask,
        }
    })
}

fn rename_mode() -> impl Strategy<Value = Rename> {
    prop_oneof![
        6 => Just(Rename::Replace),
        1 => Just(Rename::NoReplace),
        3 => Just(Rename::Exchange),
        1 => (any::<bool>(), 0..3_u32).prop_map(|(replace, id)| Rename::Whiteout {
            replace,
            owner: (id, id + 1),
        }),
    ]
}

fn set_time() -> impl Strategy<Value = Option<SetTime>> {
    let to = |seconds| SetTime::To(Time { seconds, nanos: 5 });
    prop_oneof![
        Just(None),
        Just(Some(SetTime::Now)),
        (-5i64..50).prop_map(move |seconds| Some(to(seconds))),
    ]
}

fn open_mode() -> impl Strategy<Value = Open> {
    prop::sample::select(vec![
        Open::Read,
        Open::Read,
        Open::Write,
        Open::Write,
        Open::Truncate,
    ])
}

pub(crate) fn op() -> impl Strategy<Value = Op> {
    let any = any::<u8>;
    let owner = || prop::option::of(0u32..9);
    let bytes = prop::collection::vec(0u8..4, 1..20);
    let name = || prop::sample::select(XATTRS);
    let how = prop::sample::select(vec![
        SetXattr::Any,
        SetXattr::Any,
        SetXattr::Create,
        SetXattr::Replace,
    ]);
    let names = prop_oneof![
        10 => (any(), any(), thing(), maker()).prop_map(|(d, n, t, m)| Op::Make(d, n, t, m)),
        5 => (any(), any(), any()).prop_map(|(of, d, n)| Op::Link(of, d, n)),
        8 => (any(), prop::bool::weighted(0.9)).prop_map(|(at, fits)| Op::Remove(at, fits)),
        2 => (any(), any(), prop::bool::ANY).prop_map(|(d, n, dir)| Op::RemoveAt(d, n, dir)),
        4 => any().prop_map(Op::Sweep),
        12 => (any(), any(), any(), rename_mode()).prop_map(|(f, d, n, how)| Op::RenameTo(f, d, n, how)),
        8 => (any(), any(), rename_mode()).prop_map(|(f, onto, how)| Op::RenameOnto(f, onto, how)),
    ];
    let attrs = prop_oneof![
        3 => (any(), 0u16..0o10000).prop_map(|(of, mode)| Op::Chmod(of, mode)),
        3 => (any(), owner(), owner()).prop_map(|(of, uid, gid)| Op::Chown(of, uid, gid)),
        2 => (any(), set_time(), set_time()).prop_map(|(of, a, m)| Op::Utimens(of, a, m)),
        3 => (any(), 0u64..50).prop_map(|(of, size)| Op::Truncate(of, size)),
        1 => any().prop_map(Op::Strip),
        3 => (any(), name(), any(), how).prop_map(|(of, name, v, how)| Op::SetXattr(of, name, v, how)),
        2 => (any(), name()).prop_map(|(of, name)| Op::RemoveXattr(of, name)),
    ];
    let contents = prop_oneof![
        4 => (any(), open_mode()).prop_map(|(of, how)| Op::Open(of, how)),
        1 => any().prop_map(Op::Close),
        5 => (any(), 0u8..40, bytes).prop_map(|(n, at, bytes)| Op::Write(n, at, bytes)),
        1 => (any(), 0u8..40, 1u8..20).prop_map(|(n, at, len)| Op::Punch(n, at, len)),
    ];
    let around = prop_oneof![
        2 => any().prop_map(Op::Begin),
        4 => (any(), 1usize..5).prop_map(|(n, most)| Op::ReadOn(n, most)),
        2 => any().prop_map(Op::Forget),
        1 => Just(Op::ForgetAll),
        2 => Just(Op::Remount),
    ];
    prop_oneof![9 => names, 4 => attrs, 3 => contents, 3 => around]
}

/// Picks, and does.
pub(crate) struct Program {
    pub(crate) twins: Twins,
}

impl Program {
    pub(crate) fn new(stack: &[Vec<Entry>], keeps: bool) -> Self {
        let twins = Twins::new(stack, keeps);
        Self { twins }
    }

    /// A name that is there.
    fn named(&self, n: u8) -> Option<(At, Id)> {
        let mut all = self.twins.model.all();
        let n = usize::from(n) % all.len().max(1);
        (!all.is_empty())
            .then(|| all.swap_remove(n))
            .map(|(dir, name, id)| ((dir, name), id))
    }

    /// An object: the root, one with a name, or one that lost it.
    fn any(&self, n: u8) -> Id {
        let mut all = vec![self.twins.model.root];
        all.extend(self.twins.model.all().into_iter().map(|(_, _, id)| id));
        all.extend(self.twins.lost());
        all[usize::from(n) % all.len()]
    }

    /// Rather a file.
    fn file(&self, n: u8) -> Id {
        let model = &self.twins.model;
        let mut all: Vec<_> = model.all().into_iter().map(|(_, _, id)| id).collect();
        all.extend(self.twins.lost());
        all.retain(|id| model.get(*id).kind == Kind::File);
        match all[..] {
            _ if n % 16 == 15 => self.any(n / 16),
            [] => self.any(n),
            _ => all[usize::from(n) % all.len()],
        }
    }

    /// A directory; now and then one that is removed, or that is none.
    fn dir(&self, n: u8) -> Id {
        let mut all = vec![self.twins.model.root];
        all.extend(self.twins.model.all().into_iter().map(|(_, _, id)| id));
        all.extend(self.twins.lost());
        all.retain(|id| self.twins.model.is_dir(*id));
        match n {
            250.. => self.any(n),
            _ => all[usize::from(n) % all.len()],
        }
    }

    fn at(&self, dir: u8, name: u8) -> At {
        let long = vec![b'x'; 256];
        let name = match name {
            253.. => long,
            _ => NAMES[usize::from(name) % NAMES.len()].to_vec(),
        };
        (self.dir(dir), name)
    }

    /// The calls that an operation is; nothing for what is no change of the tree.
    fn calls(&self, op: &Op) -> Vec<Call> {
        let model = &self.twins.model;
        let removal = |at: At, dir: bool| {
            if dir {
                Call::Rmdir(at)
            } else {
                Call::Unlink(at)
            }
        };
        let change = |of: u8, change| vec![Call::SetAttr(self.any(of), change)];
        let none = Change::default();
        let named = |n: u8, then: &dyn Fn(At, Id) -> Call| {
            self.named(n)
                .map(|(at, id)| then(at, id))
                .into_iter()
                .collect()
        };
        match *op {
            Op::Make(dir, name, thing, maker) => {
                // What the kernel takes away before it asks (vfs_mkdir).
                let mask = if thing == Thing::Dir { 0o1777 } else { 0o7777 };
                let mode = maker.mode & mask;
                vec![Call::Make(
                    self.at(dir, name),
                    thing,
                    Maker { mode, ..maker },
                )]
            }
            Op::Link(of, dir, name) => vec![Call::Link(self.any(of), self.at(dir, name))],
            Op::Remove(n, fits) => named(n, &|at, id| removal(at, model.is_dir(id) == fits)),
            Op::RemoveAt(dir, name, rmdir) => vec![removal(self.at(dir, name), rmdir)],
            Op::Sweep(n) => {
                let Some((at, id)) = self.named(n) else {
                    return Vec::new();
                };
                let mut all = vec![(at.0, at.1, id)];
                model.all_below(id, &mut all);
                let all = all.into_iter().rev();
                all.map(|(dir, name, id)| removal((dir, name), model.is_dir(id)))
                    .collect()
            }
            Op::RenameTo(from, dir, name, how) => {
                named(from, &|from, _| Call::Rename(from, self.at(dir, name), how))
            }
            Op::RenameOnto(from, onto, how) => match self.named(onto) {
                Some((onto, _)) => named(from, &|from, _| Call::Rename(from, onto.clone(), how)),
                None => Vec::new(),
            },
            Op::Chmod(of, mode) => match model.get(self.any(of)).kind {
                // The kernel answers EOPNOTSUPP itself.
                Kind::Symlink => Vec::new(),
                _ => change(
                    of,
                    Change {
                        mode: Some(mode),
                        ..none
                    },
                ),
            },
            Op::Chown(of, uid, gid) => change(of, Change { uid, gid, ..none }),
            Op::Utimens(of, atime, mtime) => change(
                of,
                Change {
                    atime,
                    mtime,
                    ..none
                },
            ),
            Op::Truncate(of, size) => {
                vec![Call::SetAttr(
                    self.file(of),
                    Change {
                        size: Some(size),
                        ..none
                    },
                )]
            }
            Op::Strip(of) => match self.file(of) {
                of if model.get(of).kind == Kind::File => vec![Call::Strip(of)],
                _ => Vec::new(),
            },
            Op::Open(of, how) => vec![Call::Open(self.file(of), how)],
            Op::SetXattr(of, name, value, how) => {
                vec![Call::SetXattr(
                    self.any(of),
                    name.to_vec(),
                    vec![value],
                    how,
                )]
            }
            Op::RemoveXattr(of, name) => vec![Call::RemoveXattr(self.any(of), name.to_vec())],
            _ => Vec::new(),
        }
    }

    fn step(&mut self, op: &Op, fault: Option<(u32, Fault)>) -> Verdict {
        for call in self.calls(op) {
            // The device that this one leaves behind comes in a second step.
            let two_steps = matches!(call, Call::Rename(.., Rename::Whiteout { .. }));
            self.twins.call(&call, fault.filter(|_| !two_steps))?;
        }
        match *op {
            Op::Close(n) => self.twins.close(n.into()),
            Op::Write(n, at, ref bytes) => self.twins.write(n.into(), at.into(), bytes)?,
            Op::Punch(n, at, len) => self.twins.punch(n.into(), at.into(), len.into())?,
            Op::Begin(dir) => self.twins.begin(match self.dir(dir) {
                id if self.twins.model.is_dir(id) && !self.twins.model.is_lost(id) => id,
                _ => self.twins.model.root,
            })?,
            Op::ReadOn(n, most) => self.twins.read_on(n.into(), most)?,
            Op::Forget(of) => self.twins.forget(self.any(of)),
            Op::ForgetAll => self.twins.forget_all(),
            Op::Remount => self.twins.remount()?,
            _ => return Ok(()),
        }
        self.twins.check()
    }

    /// Does all of it, or says what happened and what is wrong.
    pub(crate) fn run(&mut self, ops: &[(Op, Option<(u32, Fault)>)]) -> Verdict {
        let run = || {
            self.twins.check()?;
            for (op, fault) in ops {
                self.step(op, *fault)?;
            }
            self.twins.end()
        };
        // The referee's complaints come as panics.
        let verdict = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
            let said = panic.downcast_ref::<String>().cloned();
            Err(said.unwrap_or_else(|| "a panic".to_owned()))
        });
        verdict.map_err(|wrong| self.twins.tale(&wrong))
    }
}

/// Some changes go wrong.
pub(crate) fn fault() -> impl Strategy<Value = Option<(u32, Fault)>> {
    let fault = prop::sample::select(vec![Fault::NoSpace, Fault::Crash]);
    prop::option::of((0u32..8, fault))
}
