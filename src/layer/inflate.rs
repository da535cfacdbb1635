//! STUB: deflate with checkpoints; the only place of FFI-like unsafe calls.
