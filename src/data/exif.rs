//! How a picture was held: the one entry of EXIF metadata that changes what one sees.

/// The value of EXIF's orientation, 1 to 8, from a TIFF header on. Metadata that cannot be read count as 1, upright.
pub fn orientation(tiff: &[u8]) -> u8 {
    find(tiff).unwrap_or(1)
}

fn find(tiff: &[u8]) -> Option<u8> {
    // Some writers repeat the name that JPEG's segment begins with.
    let tiff = tiff.strip_prefix(b"Exif\0\0").unwrap_or(tiff);
    let big = match tiff.get(..4)? {
        b"MM\0\x2a" => true,
        b"II\x2a\0" => false,
        _ => return None,
    };
    let short = |at: usize| {
        let bytes = tiff.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    };
    let long = |at: usize| {
        let bytes = tiff.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    };
    let first = long(4)? as usize;
    for entry in 0..usize::from(short(first)?) {
        let at = first.checked_add(2 + 12 * entry)?;
        // Its tag and type: one number of 16 bits, or of 32 as some write it.
        let value = match (short(at)?, short(at + 2)?) {
            (0x0112, 3) => u32::from(short(at + 8)?),
            (0x0112, 4) => long(at + 8)?,
            _ => continue,
        };
        return u8::try_from(value).ok().filter(|value| (1..=8).contains(value));
    }
    None
}
