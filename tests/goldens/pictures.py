"""Small pictures as files, and what PIL makes of them: `python tests/goldens/pictures.py`, with Pillow 13.0."""

import io
import os

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

W, H, SIZE = 45, 31, 16
y, x = np.mgrid[0:H, 0:W].astype(np.float64)
planes = [
    127 + 120 * np.sin(x / 7) * np.cos(y / 5),
    255 * x / (W - 1),
    np.where((x - 20) ** 2 + (y - 14) ** 2 < 100, 230, 40) + 10 * np.sin(y),
]
rgb = Image.fromarray(np.clip(np.stack(planes, -1), 0, 255).astype(np.uint8))
grey = rgb.convert("L")
rgba = rgb.copy()
rgba.putalpha(Image.fromarray(np.clip(x * 6, 0, 255).astype(np.uint8)))
deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)

tensors = {}


def crop_and_scale(image, size=SIZE):
    """The middle square, scaled."""
    w, h = image.size
    side = min(w, h)
    box = ((w - side) / 2, (h - side) / 2, (w + side) / 2, (h + side) / 2)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))


def add(name, image, form, expected, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    tensors[f"{name}.file"] = np.frombuffer(file.getvalue(), np.uint8).copy()
    if form == "JPEG":
        expected = Image.open(file).convert(expected.mode)
    tensors[f"{name}.pixels"] = np.asarray(expected).reshape(H, W, -1).copy()
    tensors[f"{name}.small"] = crop_and_scale(expected).reshape(SIZE, SIZE, -1).copy()
    tensors[f"{name}.large"] = crop_and_scale(expected, 50).reshape(50, 50, -1).copy()


white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
add("png_rgb", rgb, "PNG", rgb)
add("png_grey", grey, "PNG", grey)
add("png_deep", deep, "PNG", grey)
add("png_rgba", rgba, "PNG", Image.alpha_composite(white, rgba).convert("RGB"))
palette = rgb.quantize(64)
add("png_palette", palette, "PNG", palette.convert("RGB"))
add("jpeg_444", rgb, "JPEG", rgb, quality=90, subsampling=0)
add("jpeg_420", rgb, "JPEG", rgb, quality=90, subsampling=2)
add("jpeg_progressive", rgb, "JPEG", rgb, quality=85, subsampling=0, progressive=True)
add("jpeg_grey", grey, "JPEG", grey, quality=90)
add("jpeg_cmyk", rgb.convert("CMYK"), "JPEG", rgb, quality=95)
save_file(tensors, os.path.splitext(__file__)[0] + ".safetensors")
