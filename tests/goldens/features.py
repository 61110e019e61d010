"""Pooling and resizing of networks that judge images: python tests/goldens/features.py, with torch 2.15, torch-fidelity 0.4
and Pillow 13. Images are NHWC."""

import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.numpy import save_file
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x as tensorflow

rng = np.random.default_rng(1)
out = {}
nchw = lambda x: torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
nhwc = lambda t: np.ascontiguousarray(t.numpy().transpose(0, 2, 3, 1))

x = rng.standard_normal((2, 7, 10, 5)).astype(np.float32)
out["pool.x"] = x
for size, stride, pad in [(3, 2, 0), (3, 1, 1), (2, 2, 0), (7, 1, 0), (4, 3, 2)]:
    t = nchw(x).double()
    name = f"pool.{size}.{stride}.{pad}"
    out[f"{name}.maximum"] = nhwc(F.max_pool2d(t, size, stride, pad))
    out[f"{name}.mean"] = nhwc(F.avg_pool2d(t, size, stride, pad, count_include_pad=False))
    out[f"{name}.padded"] = nhwc(F.avg_pool2d(t, size, stride, pad, count_include_pad=True))


def pillow(image, p, q):
    """As clean-fid: each channel in f32, then cut to what a byte can be."""
    channels = [Image.fromarray(image[:, :, k].astype(np.float32)).resize((q, p), Image.BICUBIC) for k in range(image.shape[2])]
    return np.stack([np.asarray(channel).clip(0, 255) for channel in channels], 2)


for h, w, p, q in [(32, 32, 29, 41), (9, 31, 30, 13), (40, 17, 9, 9), (1, 2, 5, 5)]:
    name = f"resize.{h}.{w}.{p}.{q}"
    x = rng.integers(0, 256, (2, h, w, 3), dtype=np.uint8)
    out[f"{name}.x"] = x
    t = nchw(x).float()
    out[f"{name}.bilinear"] = nhwc(F.interpolate(t, size=(p, q), mode="bilinear", align_corners=False))
    out[f"{name}.from-corner"] = nhwc(tensorflow(t, size=(p, q), align_corners=False))
    out[f"{name}.bicubic"] = np.stack([pillow(image, p, q) for image in x]).astype(np.float32)
save_file(out, pathlib.Path(__file__).with_suffix(".safetensors"))
