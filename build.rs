//! Links the unwinder into the program, as C++ programs do with `-static-libgcc`: to load the shared
//! one is a tenth of a millisecond of each start, of which a mount has two.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let is = |what, value| std::env::var(what).is_ok_and(|said| said == value);
    if !is("CARGO_CFG_TARGET_OS", "linux") || !is("CARGO_CFG_TARGET_ENV", "gnu") {
        return;
    }
    // The standard library asks for `gcc_s`, and the linker looks here before it looks where gcc has
    // its own. It takes the file for a script, since it is no library (ld(1), "input files").
    let directory = std::env::var("OUT_DIR").expect("because cargo sets it");
    let script = Path::new(&directory).join("libgcc_s.so");
    std::fs::write(script, "INPUT(-lgcc_eh -lgcc)\n").expect("because it is ours to write");
    println!("cargo:rustc-link-search=native={directory}");
}
