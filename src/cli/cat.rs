//! `lazyroot cat`

use super::report::{Failure, in_image};
use super::target::{Target, TargetParser};
use super::{Context, print};
use crate::node::Kind;
use crate::union::FsError;

/// Print files of an image without mounting it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Image and path: `debian:12:/etc/os-release`. Symlinks are followed inside the image.
    #[arg(required = true, value_name = "IMAGE:PATH", value_parser = TargetParser)]
    targets: Vec<Target>,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let mut buffer = vec![0; 1 << 20];
    for target in &args.targets {
        let opened = target.open(context, true)?;
        let failed = |error: &FsError| in_image(&opened.name, error);
        match opened.found.attr.kind {
            Kind::File => {}
            Kind::Dir => return Err(failed(&FsError::IsDir)),
            _ => return Err(failed(&FsError::WrongKind)),
        }
        let mut offset = 0;
        loop {
            let got = opened.union.read(opened.found.ino, offset, &mut buffer);
            let got = got.map_err(|error| failed(&error))?;
            if got == 0 {
                break;
            }
            print(&buffer[..got])?;
            offset += got as u64;
        }
    }
    Ok(())
}
