//! Zstandard (RFC 8878): frames and skippable frames, forwards in pieces, or from
//! the beginning of any frame.
//!
//! What it is for: frame borders, which the library's stream hides, and the limits
//! on what a frame may ask for. Must not know points or maps.

use zstd::zstd_safe::{self, DCtx, DParameter, InBuffer, OutBuffer, ResetDirective};

use super::engine::{Event, Step};
use super::pool::{Lent, Pool};

/// log2 of the largest window that is accepted, 128 MiB: what the reference
/// decoder accepts without being told to (zstd.h, `ZSTD_WINDOWLOG_LIMIT_DEFAULT`).
const WINDOW_LOG_MAX: u32 = 27;
/// A decoder that has grown beyond this is not kept: 16 of them would hold 256 MiB.
const KEPT_MAX: usize = 16 << 20;

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// A frame header is never longer (RFC 8878, 3.1.1.1: 4 + 14).
const HEAD_MAX: usize = 18;

/// Shared with the unpacking of windows.
pub(super) static DECODERS: Pool<DCtx<'static>> =
    Pool::new(DCtx::create, |decoder| decoder.sizeof() <= KEPT_MAX);

/// A Zstandard stream being decoded.
pub(super) struct Frames {
    decoder: Lent<DCtx<'static>>,
    part: Part,
}

impl std::fmt::Debug for Frames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frames({:?})", self.part)
    }
}

#[derive(Debug)]
enum Part {
    Head {
        got: [u8; HEAD_MAX],
        n: usize,
    },
    Body,
    /// So many bytes of a skippable frame are left.
    Skip(u32),
    /// A frame has ended.
    Between,
}

impl Part {
    const NEW: Self = Self::Head {
        got: [0; HEAD_MAX],
        n: 0,
    };
}

impl Frames {
    /// At the beginning of a frame.
    pub(super) fn new() -> Self {
        let mut decoder = DECODERS.lend();
        // Both can only fail in the middle of a frame, or for a value out of range.
        let _ = decoder.reset(ResetDirective::SessionOnly);
        let _ = decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX));
        Self {
            decoder,
            part: Part::NEW,
        }
    }

    /// Whether the stream may end here.
    pub(super) fn may_end(&self) -> bool {
        matches!(self.part, Part::Between)
    }

    /// See [`super::engine::Engine::step`].
    pub(super) fn step(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        room: usize,
    ) -> Result<Step, &'static str> {
        if matches!(self.part, Part::Between) && !input.is_empty() {
            self.part = Part::NEW;
        }
        match &mut self.part {
            Part::Head { got, n } => {
                for (consumed, &byte) in input.iter().enumerate() {
                    got[*n] = byte;
                    *n += 1;
                    let head = &got[..*n];
                    if let Some(part) = begun(head)? {
                        let step = Step {
                            consumed: consumed + 1,
                            ..self.begin(&part)?
                        };
                        return Ok(step);
                    }
                }
                Ok(Step {
                    consumed: input.len(),
                    event: Event::None,
                })
            }
            Part::Body => self.body(input, out, room),
            Part::Skip(left) => {
                let take = usize::try_from(*left).map_or(input.len(), |n| n.min(input.len()));
                // At most `left`.
                *left -= take as u32;
                let ends = *left == 0;
                if ends {
                    self.part = Part::Between;
                }
                let event = if ends { Event::UnitEnds } else { Event::None };
                Ok(Step {
                    consumed: take,
                    event,
                })
            }
            Part::Between => Ok(Step {
                consumed: 0,
                event: Event::None,
            }),
        }
    }

    fn begin(&mut self, begun: &Begun) -> Result<Step, &'static str> {
        let event = match begun {
            Begun::Skip(0) => {
                self.part = Part::Between;
                Event::UnitEnds
            }
            Begun::Skip(left) => {
                self.part = Part::Skip(*left);
                Event::None
            }
            Begun::Frame { head, declared } => {
                // The header alone makes no output; the library takes all of it.
                let mut from = InBuffer::around(head);
                let mut nothing = OutBuffer::around(&mut [] as &mut [u8]);
                self.decoder
                    .decompress_stream(&mut nothing, &mut from)
                    .map_err(name)?;
                if from.pos() != head.len() {
                    return Err("a frame's header is not understood");
                }
                self.part = Part::Body;
                Event::Frame {
                    declared: *declared,
                }
            }
        };
        Ok(Step { consumed: 0, event })
    }

    fn body(&mut self, input: &[u8], out: &mut Vec<u8>, room: usize) -> Result<Step, &'static str> {
        let mut from = InBuffer::around(input);
        let len = out.len();
        let hint = if room >= out.capacity() - len {
            let mut to = OutBuffer::around_pos(out, len);
            self.decoder.decompress_stream(&mut to, &mut from)
        } else {
            out.resize(len + room, 0);
            let mut to = OutBuffer::around(&mut out[len..]);
            let hint = self.decoder.decompress_stream(&mut to, &mut from);
            let made = to.pos();
            out.truncate(len + made);
            hint
        };
        let ends = hint.map_err(name)? == 0;
        if ends {
            self.part = Part::Between;
        }
        let event = if ends { Event::UnitEnds } else { Event::None };
        Ok(Step {
            consumed: from.pos(),
            event,
        })
    }
}

fn name(code: usize) -> &'static str {
    zstd_safe::get_error_name(code)
}

enum Begun {
    Frame {
        head: Vec<u8>,
        declared: Option<u64>,
    },
    Skip(u32),
}

/// What begins with `head`; nothing while it is too short to tell (RFC 8878, 3.1.1
/// and 3.1.2). The magic numbers of formats before version 0.8 are refused:
/// their decoders see no fuzzing any more.
fn begun(head: &[u8]) -> Result<Option<Begun>, &'static str> {
    let Some((magic, rest)) = head.split_first_chunk::<4>() else {
        return Ok(None);
    };
    if matches!(magic, [0x50..=0x5f, 0x2a, 0x4d, 0x18]) {
        let len = rest.first_chunk::<4>().map(|len| u32::from_le_bytes(*len));
        return Ok(len.map(Begun::Skip));
    }
    if *magic != MAGIC {
        return Err("what follows is not a frame");
    }
    let Some((&descriptor, rest)) = rest.split_first() else {
        return Ok(None);
    };
    let single = descriptor & 0x20 != 0;
    let window = usize::from(!single);
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size = match descriptor >> 6 {
        0 => usize::from(single),
        1 => 2,
        2 => 4,
        _ => 8,
    };
    if rest.len() < window + dictionary + size {
        return Ok(None);
    }
    if rest[window..window + dictionary]
        .iter()
        .any(|&byte| byte != 0)
    {
        return Err("a frame wants a dictionary");
    }
    let mut wide = [0; 8];
    wide[..size].copy_from_slice(&rest[window + dictionary..][..size]);
    let declared = match size {
        0 => None,
        // "When the field is 2 bytes, the value is offset by 256."
        2 => Some(u64::from_le_bytes(wide) + 256),
        _ => Some(u64::from_le_bytes(wide)),
    };
    Ok(Some(Begun::Frame {
        head: head.to_vec(),
        declared,
    }))
}
