//! gzip (RFC 1952): members around deflate streams, forwards in pieces, or from
//! the middle of one.
//!
//! What it is for: members' headers and trailers, checked. Must not know points
//! or maps.

use super::engine::{Event, Step};
use super::pool::{Lent, Pool};
use crate::layer::inflate::{At, Inflater, Stop, crc32};

/// Shared with the packing of windows.
pub(super) static INFLATERS: Pool<Inflater> = Pool::new(Inflater::new, |_| true);

/// Bits of the header's FLG (RFC 1952, 2.3.1).
const FHCRC: u8 = 2;
const FEXTRA: u8 = 4;
const FNAME: u8 = 8;
const FCOMMENT: u8 = 16;
const RESERVED: u8 = 0xe0;

/// A gzip stream being decoded.
#[derive(Debug)]
pub(super) struct Gunzip {
    inflater: Lent<Inflater>,
    part: Part,
    /// Whether members' trailers are looked at: not when a decode began in the
    /// middle of a member.
    verify: bool,
    crc: u32,
    len: u32,
}

#[derive(Debug)]
enum Part {
    Head(Head),
    Body,
    Tail {
        got: [u8; 8],
        n: usize,
    },
    /// A member has ended.
    Between,
    /// Only zeros from here on: padding as tapes and some registries leave it.
    Padding,
}

impl Gunzip {
    /// At the beginning of a member.
    pub(super) fn new(verify: bool) -> Self {
        let part = Part::Head(Head::default());
        Self {
            inflater: INFLATERS.lend(),
            part,
            verify,
            crc: 0,
            len: 0,
        }
    }

    /// At the beginning of a block, see [`Inflater::resume`].
    pub(super) fn resume(window: &[u8], bits: u8, byte: u8) -> Self {
        let mut inflater = INFLATERS.lend();
        inflater.resume(window, bits, byte);
        Self {
            inflater,
            part: Part::Body,
            verify: false,
            crc: 0,
            len: 0,
        }
    }

    /// Whether the stream may end here.
    pub(super) fn may_end(&self) -> bool {
        matches!(self.part, Part::Between | Part::Padding)
    }

    /// What came before the next byte of output, at most 32 KiB.
    pub(super) fn window(&mut self) -> Vec<u8> {
        self.inflater.window()
    }

    /// See [`super::engine::Engine::step`].
    pub(super) fn step(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        room: usize,
        stop: Stop,
    ) -> Result<Step, &'static str> {
        if let (Part::Between, Some(&byte)) = (&self.part, input.first()) {
            self.part = if byte == 0 {
                Part::Padding
            } else {
                Part::Head(Head::default())
            };
        }
        match &mut self.part {
            Part::Head(head) => {
                let mut consumed = 0;
                for &byte in input {
                    consumed += 1;
                    if head.take(byte)? {
                        self.inflater.reset();
                        (self.crc, self.len) = (0, 0);
                        self.part = Part::Body;
                        break;
                    }
                }
                Ok(Step {
                    consumed,
                    event: Event::None,
                })
            }
            Part::Body => self.body(input, out, room, stop),
            Part::Tail { got, n } => {
                let take = input.len().min(8 - *n);
                got[*n..*n + take].copy_from_slice(&input[..take]);
                *n += take;
                if *n < 8 {
                    return Ok(Step {
                        consumed: take,
                        event: Event::None,
                    });
                }
                let word =
                    |at| u32::from_le_bytes([got[at], got[at + 1], got[at + 2], got[at + 3]]);
                if self.verify && word(0) != self.crc {
                    return Err("a member fails its CRC-32");
                }
                if self.verify && word(4) != self.len {
                    return Err("a member has another length than its trailer says");
                }
                self.part = Part::Between;
                Ok(Step {
                    consumed: take,
                    event: Event::UnitEnds,
                })
            }
            Part::Between => Ok(Step {
                consumed: 0,
                event: Event::None,
            }),
            Part::Padding if input.iter().any(|&byte| byte != 0) => {
                Err("there is something behind the last member")
            }
            Part::Padding => Ok(Step {
                consumed: input.len(),
                event: Event::None,
            }),
        }
    }

    fn body(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        room: usize,
        stop: Stop,
    ) -> Result<Step, &'static str> {
        let from = out.len();
        let ran = self.inflater.run(input, out, room, stop)?;
        if self.verify {
            self.crc = crc32(self.crc, &out[from..]);
            // ISIZE is the length modulo 2^32 (RFC 1952, 2.3.1).
            self.len = self.len.wrapping_add((out.len() - from) as u32);
        }
        let event = match ran.at {
            At::Somewhere => Event::None,
            At::Block { bits } => Event::Block { bits },
            At::End => {
                self.part = Part::Tail { got: [0; 8], n: 0 };
                Event::None
            }
        };
        Ok(Step {
            consumed: ran.consumed,
            event,
        })
    }
}

/// A member's header, byte by byte.
#[derive(Debug, Default)]
struct Head {
    field: Field,
    /// Bytes of the current field so far.
    n: u32,
    flags: u8,
    extra: u32,
    crc: u32,
    claimed: u32,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Field {
    #[default]
    Fixed,
    ExtraLen,
    Extra,
    Name,
    Comment,
    Crc,
    Done,
}

impl Head {
    /// Takes one byte; true after the last.
    fn take(&mut self, byte: u8) -> Result<bool, &'static str> {
        let at = self.n;
        self.n += 1;
        if self.field != Field::Crc {
            self.crc = crc32(self.crc, &[byte]);
        }
        let ends = match self.field {
            Field::Fixed => {
                match (at, byte) {
                    (0, 0x1f) | (1, 0x8b) | (2, 8) => {}
                    (0 | 1, _) => return Err("what follows is not a gzip member"),
                    (2, _) => return Err("a member is not compressed by deflate"),
                    // RFC 1952, 2.3.1.2: "must give an error indication if any
                    // reserved bit is non-zero".
                    (3, flags) if flags & RESERVED != 0 => {
                        return Err("a member's header has reserved flags");
                    }
                    (3, flags) => self.flags = flags,
                    _ => {}
                }
                at == 9
            }
            Field::ExtraLen => {
                self.extra |= u32::from(byte) << (8 * at);
                at == 1
            }
            Field::Extra => at + 1 == self.extra,
            // No limit: a long name is passed over, never kept. The counter only
            // matters for the other fields.
            Field::Name | Field::Comment => {
                self.n = 0;
                byte == 0
            }
            Field::Crc => {
                self.claimed |= u32::from(byte) << (8 * at);
                if at == 1 && self.claimed != self.crc & 0xffff {
                    return Err("a member's header fails its CRC-16");
                }
                at == 1
            }
            Field::Done => true,
        };
        if ends {
            self.n = 0;
            self.field = self.following();
        }
        Ok(self.field == Field::Done)
    }

    /// The next field that this header has.
    fn following(&self) -> Field {
        let has = |flag| self.flags & flag != 0;
        let all = [
            (Field::ExtraLen, has(FEXTRA)),
            (Field::Extra, has(FEXTRA) && self.extra > 0),
            (Field::Name, has(FNAME)),
            (Field::Comment, has(FCOMMENT)),
            (Field::Crc, has(FHCRC)),
        ];
        let next = all
            .iter()
            .find(|(field, there)| *there && *field > self.field);
        next.map_or(Field::Done, |(field, _)| *field)
    }
}
