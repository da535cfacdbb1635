//! Inflates gzip files on one thread and throws the bytes away: the least time
//! that any import of the same layers can take on one core (`scripts/bench`).

use std::fs::File;
use std::io::{self, BufReader, Read};

/// As large as the pieces that the importer decodes into.
const PIECE: usize = 256 << 10;

fn main() -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    for path in std::env::args_os().skip(1) {
        let file = BufReader::with_capacity(PIECE, File::open(path)?);
        let mut plain = flate2::bufread::MultiGzDecoder::new(file);
        while plain.read(&mut piece)? > 0 {}
    }
    Ok(())
}
