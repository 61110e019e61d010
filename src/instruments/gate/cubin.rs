//! What a cubin says about its kernels. A cubin is an ELF file. The numbers are attributes in its sections `.nv.info`, and
//! the sizes of its sections `.nv.shared.NAME`.

/// What a kernel takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources {
    pub name: String,
    pub registers: u32,
    /// Bytes of local memory of a thread, including what the functions need that it calls.
    pub local: u32,
    /// Bytes of static shared memory of a block, without what the system keeps for itself.
    pub shared: u32,
}

/// From this generation on, `.nv.shared.NAME` also counts what the system keeps in the shared memory of each block.
const RESERVED_INSIDE: u32 = 90;
const RESERVED: u64 = 1024;

struct Section<'a> {
    name: &'a str,
    bytes: &'a [u8],
    size: u64,
}

/// The kernels of a cubin for `sm_ARCH`, in the order of their names.
pub fn kernels(cubin: &[u8], arch: u32) -> Result<Vec<Resources>, String> {
    read(cubin, arch).ok_or_else(|| "a cubin that cannot be read: it is not as NVRTC 12 makes them".into())
}

fn read(cubin: &[u8], arch: u32) -> Option<Vec<Resources>> {
    let sections = sections(cubin)?;
    let find = |name: &str| sections.iter().find(|section| section.name == name);
    let symbols = symbols(find(".symtab")?.bytes, find(".strtab")?.bytes)?;
    let attributes = attributes(find(".nv.info")?.bytes)?;
    let of = |kernel: &str, attribute: u8| {
        let mut values = attributes.iter().filter(|(number, symbol, _)| {
            *number == attribute && symbols.get(*symbol as usize).is_some_and(|name| *name == kernel)
        });
        values.next().map(|(.., value)| *value)
    };
    const REGISTERS: u8 = 0x2f;
    const FRAME: u8 = 0x11;
    const STACK: u8 = 0x12;
    let mut kernels = Vec::new();
    // Only kernels have a section `.nv.info.NAME`; the functions that they call have none.
    for name in sections.iter().filter_map(|section| section.name.strip_prefix(".nv.info.")) {
        let shared = find(&format!(".nv.shared.{name}")).map_or(0, |section| section.size);
        let reserved = if arch >= RESERVED_INSIDE { RESERVED } else { 0 };
        kernels.push(Resources {
            name: name.into(),
            registers: of(name, REGISTERS)?,
            local: of(name, FRAME)?.max(of(name, STACK)?),
            shared: shared.saturating_sub(reserved) as u32,
        });
    }
    kernels.sort_by(|a, b| a.name.cmp(&b.name));
    Some(kernels)
}

fn number(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(len)?)?;
    Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

fn text(table: &[u8], at: u64) -> Option<&str> {
    let bytes = table.get(usize::try_from(at).ok()?..)?;
    std::str::from_utf8(bytes.split(|byte| *byte == 0).next()?).ok()
}

fn sections(file: &[u8]) -> Option<Vec<Section<'_>>> {
    const NO_BYTES: u64 = 8;
    if !file.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (table, size, count) =
        (number(file, 0x28, 8)? as usize, number(file, 0x3a, 2)? as usize, number(file, 0x3c, 2)?);
    let header = |i: u64, at: usize, len: usize| number(file, table + i as usize * size + at, len);
    let bytes = |i: u64| {
        let (start, len) = (header(i, 0x18, 8)? as usize, header(i, 0x20, 8)? as usize);
        if header(i, 4, 4)? == NO_BYTES { Some(&file[..0]) } else { file.get(start..start.checked_add(len)?) }
    };
    let names = bytes(number(file, 0x3e, 2)?)?;
    (0..count)
        .map(|i| Some(Section { name: text(names, header(i, 0, 4)?)?, bytes: bytes(i)?, size: header(i, 0x20, 8)? }))
        .collect()
}

fn symbols<'a>(table: &[u8], names: &'a [u8]) -> Option<Vec<&'a str>> {
    table.chunks_exact(24).map(|symbol| text(names, number(symbol, 0, 4)?)).collect()
}

/// The attributes that say something about a symbol: (attribute, symbol, value). `.nv.info` is a list of entries. Each has a
/// format, the number of the attribute, and two bytes, which are the value or the number of bytes of the value behind them.
fn attributes(mut bytes: &[u8]) -> Option<Vec<(u8, u32, u32)>> {
    const WITH_BYTES: u8 = 4;
    let mut found = Vec::new();
    while let [format, attribute, rest @ ..] = bytes {
        let len = if *format == WITH_BYTES { number(rest, 0, 2)? as usize } else { 0 };
        let value = rest.get(2..2 + len)?;
        if len == 8 {
            found.push((*attribute, number(value, 0, 4)? as u32, number(value, 4, 4)? as u32));
        }
        bytes = &rest[2 + len..];
    }
    Some(found)
}
