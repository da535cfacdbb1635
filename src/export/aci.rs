//! An AppC image: the archive that came, alone.

use super::bytes::Watched;
use super::{ExportError, Note, Outgoing};

/// Writes the archive as it came. What had to be packed again for the store goes out
/// uncompressed: an ACI is a tar, or one in gzip, bzip2 or xz (spec/aci.md, "Image
/// Archives"), and the image's ID is that of the tar.
pub(super) fn write(image: &Outgoing<'_>, to: &mut Watched<'_>) -> Result<Vec<Note>, ExportError> {
    let mut notes = Vec::new();
    for (layer, said) in image.layers.iter().zip(&image.record.layers) {
        if said.declared.is_some_and(|declared| declared != layer.blob) {
            notes.push(Note::Unpacked);
            to.expect(layer.tar_size);
            to.tar(image.store, layer)?;
        } else {
            to.expect(layer.blob_size);
            to.blob(image.store, layer)?;
        }
    }
    if let Some(outline) = &image.record.appc
        && !outline.dependencies.is_empty()
    {
        let needs = outline.dependencies.iter();
        notes.push(Note::Needs(needs.map(|one| one.image.clone()).collect()));
    }
    Ok(notes)
}
