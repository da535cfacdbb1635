//! STUB: a tar, a directory or standard input as `image::Files`.
