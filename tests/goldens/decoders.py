"""Pictures in many forms as files, and what Pillow makes of them: `python tests/goldens/decoders.py`, with Pillow 13.0 and
libjpeg-turbo's cjpeg 2.1. A file `GROUP--FORM` has the pixels of `GROUP`; `cut` and `odd` files have none."""

import io
import os
import struct
import subprocess
import tempfile
import zlib

import numpy as np
from PIL import Image, ImageOps
from safetensors.numpy import save_file

tensors = {}


def picture(w, h):
    y, x = np.mgrid[0:h, 0:w].astype(float)
    planes = [
        127 + 120 * np.sin(x / 7) * np.cos(y / 5),
        255 * x / (w - 1),
        np.where((x - w / 2) ** 2 + (y - h / 2) ** 2 < (h / 3) ** 2, 230, 40) + 10 * np.sin(y),
    ]
    return Image.fromarray(np.clip(np.stack(planes, -1), 0, 255).astype(np.uint8))


def on_white(image):
    if "transparency" in image.info or image.mode in ("LA", "PA", "RGBA"):
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (255,) * 4), image).convert("RGB")
    return image.convert("RGB")


def put(name, data, pixels=None, slack=0):
    """Without `pixels`, they are what Pillow decodes. The files of a group agree to `slack`."""
    if pixels is None:
        pixels = on_white(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    group, pixels = f"pixels/{name.split('--')[0]}", np.asarray(pixels).copy()
    first = tensors.setdefault(group, pixels)
    assert np.abs(first.astype(int) - pixels).max() <= slack, name
    tensors[f"file/{name}"] = np.frombuffer(data, np.uint8).copy()


# JPEG: samplings, scans, restart intervals.
SIZE = (23, 18)
rgb = picture(*SIZE)
ppm = io.BytesIO()
rgb.save(ppm, "PPM")


def cjpeg(*options, scans=None):
    with tempfile.NamedTemporaryFile("w") as file:
        file.write((scans or "").replace(";", ";\n"))
        file.flush()
        more = ["-scans", file.name] if scans else []
        command = ["cjpeg", "-quality", "60", *options, *more]
        return subprocess.run(command, input=ppm.getvalue(), capture_output=True, check=True).stdout


forms = {
    "one scan": {"options": ["-optimize"]},
    "a scan each": {"scans": "0;1;2;"},
    "scans backwards": {"scans": "2;1;0;"},
    "grey and colours": {"scans": "0;1 2;"},
    "two and one": {"scans": "0 1;2;"},
    "progressive": {"options": ["-progressive"]},
    "restarts": {"options": ["-optimize", "-restart", "1B"]},
}
samplings = {
    "444": "1x1", "422": "2x1", "420": "2x2", "440": "1x2", "411": "4x1", "410": "4x2", "14": "1x4",
    "fine colours": "1x1,2x2,2x2", "one fine colour": "1x1,1x1,2x2", "crossed": "2x2,1x2,2x1", "three": "3x1,1x1,1x1",
}  # fmt: skip
for name, sampling in samplings.items():
    for form, how in forms.items():
        if name in ("420", "440", "crossed") or form in ("one scan", "a scan each", "grey and colours"):
            put(f"jpeg {name}--{form}", cjpeg("-sample", sampling, *how.get("options", []), scans=how.get("scans")))
for form in ("one scan", "progressive", "restarts"):
    put(f"jpeg grey--{form}", cjpeg("-grayscale", *forms[form].get("options", [])))
    put(f"jpeg rgb--{form}", cjpeg("-rgb", *forms[form].get("options", [])))
file = io.BytesIO()
rgb.convert("CMYK").save(file, "JPEG", quality=90)
cmyk = file.getvalue()


def segments(data):
    """The segments up to the first scan's, and the rest."""
    at, found = 2, []
    while True:
        size = struct.unpack(">H", data[at + 2 : at + 4])[0]
        found.append((data[at + 1], data[at : at + 2 + size]))
        at += 2 + size
        if found[-1][0] == 0xDA:
            return found, data[at:]


def join(found, rest, between=b""):
    return b"\xff\xd8" + between.join(data for _, data in found) + rest


head, rest = segments(cmyk)
put("jpeg cmyk--adobe", cmyk)
put("jpeg cmyk--plain", join([s for s in head if s[0] != 0xEE], rest))
put("jpeg ycck", join([(m, data[:-1] + b"\2") if m == 0xEE else (m, data) for m, data in head], rest))

# What cameras and programs do to files that decode all the same. Where Pillow is stricter, its pixels are those of the file.
whole = cjpeg("-sample", "2x2")
head, rest = segments(whole)
same = Image.open(io.BytesIO(whole))
app14 = [(0xEE, b"\xff\xee\0\7Adobe")]
exif = [(0xE1, b"\xff\xe1\0\x0aExif\0\0II")]
odd = {
    "stray bytes": join(head, rest, b"\0\1\2"),
    "zeros": join(head, rest, bytes(40)),
    "fill bytes": join(head, rest, b"\xff\xff"),
    "short app14": join(app14 + head, rest),
    "empty app14": join([(0xEE, b"\xff\xee\0\2")] + head, rest),
    "empty app1": join([(0xE1, b"\xff\xe1\0\2")] + head, rest),
    "damaged exif": join(exif + head, rest),
    "damaged profile": join([(0xE2, b"\xff\xe2\0\x12ICC_PROFILE\0\1\2ab")] + head, rest),
    "no jfif": join([s for s in head if s[0] != 0xE0], rest),
    "no huffman tables": join([s for s in head if s[0] != 0xC4], rest),
    "restart between": join(head[:2], b"") + b"\xff\xd0" + b"".join(data for _, data in head[2:]) + rest,
    "trailing": whole + b"after the end",
    "bytes before the end": whole[:-2] + b"\0\0\xff\xff" + whole[-2:],
}
for name, data in odd.items():
    put(f"jpeg 420--{name}", data, same)
grey = cjpeg("-grayscale")
frame = grey.index(b"\xff\xc0")
for factors in (0x22, 0x21, 0x41):
    put(f"jpeg grey--factors {factors:x}", grey[: frame + 11] + bytes([factors]) + grey[frame + 12 :])

# PNG: depths, palettes, transparency, interlacing.
SIZE = W, H = 11, 9
rgb = picture(*SIZE)
colours, grey = np.asarray(rgb).astype(int), np.asarray(rgb.convert("L")).astype(int)
alpha = np.clip(np.mgrid[0:H, 0:W][1] * 20, 0, 255)


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(depth, kind, samples, interlaced=False, extra=b""):
    def pack(samples):
        lines = []
        for line in samples:
            bits = "".join(format(int(sample), f"0{depth}b") for sample in line.ravel())
            bits += "0" * (-len(bits) % 8)
            lines.append(b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big"))
        return b"".join(lines)

    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    parts = [samples[y::dy, x::dx] for x, y, dx, dy in passes] if interlaced else [samples]
    data = zlib.compress(b"".join(pack(part) for part in parts if part.size), 9)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", W, H, depth, kind, 0, 0, int(interlaced)))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def blend(colours, alpha):
    return ((colours * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


random = np.random.default_rng(1)
for depth in (1, 2, 4, 8, 16):
    most = (1 << depth) - 1
    samples = (grey * most + 127) // 255
    expected = np.repeat(((samples * 255 + most // 2) // most)[..., None], 3, -1).astype(np.uint8)
    clear = expected.copy()
    clear[samples == samples[4, 4]] = 255
    count = min(1 << depth, 60)
    palette, shades = random.integers(0, 256, (count, 3)), random.integers(0, 256, count)
    index = (grey * (count - 1) + 127) // 255
    entries, opacities = chunk(b"PLTE", palette.astype(np.uint8).tobytes()), shades.astype(np.uint8).tobytes()
    for interlaced in (False, True):
        form = "interlaced" if interlaced else "plain"
        put(f"png grey {depth}--{form}", png(depth, 0, samples, interlaced), expected)
        key = chunk(b"tRNS", struct.pack(">H", samples[4, 4]))
        put(f"png grey {depth} clear--{form}", png(depth, 0, samples, interlaced, key), clear)
        if depth <= 8:
            put(f"png palette {depth}--{form}", png(depth, 3, index, interlaced, entries), palette[index].astype(np.uint8))
            seen = blend(palette[index], shades[index][..., None])
            put(f"png palette {depth} clear--{form}", png(depth, 3, index, interlaced, entries + chunk(b"tRNS", opacities)), seen)
        if depth >= 8:
            k = most // 255
            with_alpha = np.concatenate([colours, alpha[..., None]], -1)
            put(f"png rgb {depth}--{form}", png(depth, 2, colours * k, interlaced), rgb)
            put(f"png rgba {depth}--{form}", png(depth, 6, with_alpha * k, interlaced), blend(colours, alpha[..., None]))
            both = np.stack([grey, alpha], -1)
            seen = np.repeat(blend(grey, alpha)[..., None], 3, -1)
            put(f"png grey alpha {depth}--{form}", png(depth, 4, both * k, interlaced), seen)
whole = png(8, 2, colours)
at = whole.index(b"IDAT") - 4
wrong = bytearray(chunk(b"tEXt", b"a\0b"))
wrong[-1] ^= 1
for name, extra in {
    "text without keyword": chunk(b"tEXt", b"no keyword"),
    "damaged profile": chunk(b"iCCP", b"a\0\0no zlib"),
    "wrong sum of a text": bytes(wrong),
    "unknown chunk": chunk(b"abCd", b"xyz"),
}.items():
    put(f"png rgb 8--{name}", whole[:at] + extra + whole[at:], rgb)
put("png rgb 8--trailing", whole + b"after the end", rgb)

# EXIF's orientations, in both orders of bytes.
for n in range(1, 9):
    for order, mark in ("<", b"II"), (">", b"MM"):
        tiff = struct.pack(order + "2sHIHHHIHHI", mark, 42, 8, 1, 0x112, 3, 1, n, 0, 0)
        data = whole[:at] + chunk(b"eXIf", tiff) + whole[at:]
        put(f"turned {n}--{mark.decode()}.png", data)
        if n in (1, 6, 7):
            file = io.BytesIO()
            rgb.save(file, "WEBP", lossless=True, exif=tiff)
            put(f"turned {n}--{mark.decode()}.webp", file.getvalue())
    file = io.BytesIO()
    rgb.save(file, "JPEG", quality=90, subsampling=0, exif=b"Exif\0\0" + tiff)
    put(f"turned jpeg {n}", file.getvalue())

# GIF, WebP and BMP.
with_alpha = rgb.copy()
with_alpha.putalpha(Image.fromarray(alpha.astype(np.uint8)))
few = rgb.quantize(40)


def saved(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


gif = saved(few, "GIF", interlace=0)
put("gif--plain", gif)
put("gif--interlaced", saved(few, "GIF", interlace=1))
put("gif--87", b"GIF87a" + gif[6:])
put("gif--trailing", gif + b"after the end")
put("gif clear", saved(few, "GIF", transparency=5))
put("gif of frames", saved(rgb, "GIF", save_all=True, append_images=[rgb.rotate(180)]))
at = gif.index(b"\x2c" + struct.pack("<HHHH", 0, 0, W, H))
put("gif--comments", gif[:at] + b"\x21\xfe\x05hello\0" + b"\x21\xff\x0bXMP DataXMP\x03abc\0" + gif[at:])
canvas = np.full((H + 4, W + 6, 3), 255, np.uint8)
canvas[3 : 3 + H, 2 : 2 + W] = np.asarray(few.convert("RGB"))
moved = gif[:6] + struct.pack("<HH", W + 6, H + 4) + gif[10 : at + 1] + struct.pack("<HH", 2, 3) + gif[at + 5 :]
put("gif moved", moved, canvas)
put("webp lossless--plain", saved(rgb, "WEBP", lossless=True), rgb)
put("webp lossless--of frames", saved(rgb, "WEBP", save_all=True, lossless=True, append_images=[rgb.rotate(180)]), rgb)
put("webp lossless alpha", saved(with_alpha, "WEBP", lossless=True, exact=True))
for quality in (20, 90):
    put(f"webp lossy {quality}", saved(rgb, "WEBP", quality=quality))
    put(f"webp lossy {quality} alpha", saved(with_alpha, "WEBP", quality=quality, alpha_quality=quality))
put("webp palette", saved(few, "WEBP", lossless=True))

put("bmp rgb--plain", saved(rgb, "BMP"))
put("bmp one", saved(rgb.convert("1"), "BMP"))
put("bmp grey", saved(rgb.convert("L"), "BMP"))
put("bmp palette--8", saved(few, "BMP"))


def bmp(bits, coding, data, palette=b"", size=40, masks=b"", entries=0, height=H):
    start = 14 + size + len(masks) + len(palette)
    info = struct.pack("<IiiHHIIiiII", size, W, height, 1, bits, coding, len(data), 2835, 2835, entries, 0)
    info += bytes(size - len(info))
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + info + masks + palette + data


def lines(samples, kind):
    """From the last line to the first, each filled up to four bytes."""
    data = [line.astype(kind).tobytes() for line in samples[::-1]]
    return b"".join(line + bytes(-len(line) % 4) for line in data)


bgr = colours[..., ::-1]
put("bmp rgb--top down", bmp(24, 0, lines(bgr[::-1], np.uint8), height=-H), rgb)
for size in (64, 108, 124):
    put(f"bmp rgb--header of {size}", bmp(24, 0, lines(bgr, np.uint8), size=size), rgb)
core = struct.pack("<IHHHH", 12, W, H, 1, 24) + lines(bgr, np.uint8)
put("bmp rgb--core", b"BM" + struct.pack("<IHHI", 14 + len(core), 0, 0, 26) + core, rgb)
for fourth in (0, 77):
    wide = np.concatenate([bgr, np.full((H, W, 1), fourth)], -1)
    put(f"bmp rgb--fourth byte {fourth}", bmp(32, 0, lines(wide, np.uint8)), rgb)
masks = struct.pack("<III", 0xFF0000, 0xFF00, 0xFF)
put("bmp rgb--masks of 8", bmp(32, 3, lines(wide, np.uint8), masks=masks), rgb)
r, g, b = colours[..., 0] >> 3, colours[..., 1], colours[..., 2] >> 3
seen = np.stack([r * 255 // 31, (g >> 3) * 255 // 31, b * 255 // 31], -1).astype(np.uint8)
put("bmp 555", bmp(16, 0, lines(r << 10 | g >> 3 << 5 | b, "<u2")), seen)
seen = np.stack([r * 255 // 31, (g >> 2) * 255 // 63, b * 255 // 31], -1).astype(np.uint8)
masks = struct.pack("<III", 0xF800, 0x7E0, 0x1F)
put("bmp 565", bmp(16, 3, lines(r << 11 | g >> 2 << 5 | b, "<u2"), masks=masks), seen)


def entries(image, count):
    palette = np.zeros((count, 3), np.uint8)
    used = np.asarray(image.getpalette(), np.uint8).reshape(-1, 3)[:count]
    palette[: len(used)] = used
    return b"".join(bytes([colour[2], colour[1], colour[0], 0]) for colour in palette)


def runs(index, half):
    """Runs, and every other line bytes one by one."""
    data = b""
    for y, line in enumerate(index[::-1]):
        if y % 2:
            literal = line.tobytes() if not half else bytes(a << 4 | b for a, b in zip(line[::2], [*line[1::2], 0]))
            data += bytes([0, W]) + literal + bytes(len(literal) % 2)
        else:
            data += b"".join(bytes([1, sample << 4 if half else sample]) for sample in line)
        data += b"\0\0"
    return data + b"\0\1"


put("bmp palette--runs", bmp(8, 1, runs(np.asarray(few), False), entries(few, 40), entries=40), few.convert("RGB"))
sixteen = rgb.quantize(16)
index = np.asarray(sixteen)
nibbles = np.pad(index, ((0, 0), (0, 1)))
nibbles = nibbles[:, ::2] << 4 | nibbles[:, 1::2]
put("bmp sixteen--plain", bmp(4, 0, lines(nibbles, np.uint8), entries(sixteen, 16)), sixteen.convert("RGB"))
put("bmp sixteen--runs", bmp(4, 2, runs(index, True), entries(sixteen, 16)), sixteen.convert("RGB"))

path = os.path.splitext(__file__)[0] + ".safetensors"
save_file(tensors, path)
print(f"{len(tensors)} tensors, {os.path.getsize(path)} bytes")
