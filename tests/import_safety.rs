//! *Safe*: what is damaged, hostile or interrupted leaves the store as it was,
//! and says why; what only looks strange is taken.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says when it is skipped"
)]

#[path = "support/images.rs"]
mod images;

#[path = "import_safety/accepted.rs"]
mod accepted;
#[path = "import_safety/disk.rs"]
mod disk;
#[path = "import_safety/flipped.rs"]
mod flipped;
#[path = "import_safety/hostile.rs"]
mod hostile;
#[path = "import_safety/interrupted.rs"]
mod interrupted;
#[path = "import_safety/refused.rs"]
mod refused;
#[path = "import_safety/together.rs"]
mod together;
#[path = "import_safety/truncated.rs"]
mod truncated;
