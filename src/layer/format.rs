//! STUB: the specification of the index (`layers-v1/`) and of the seek map (`seek-v1/`).
