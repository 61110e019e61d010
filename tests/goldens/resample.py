"""Pooling, upsampling and their gradients, float64, NHWC. python tests/goldens/resample.py, with torch 2.13."""

import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.manual_seed(4)
N, H, W, C = 2, 5, 7, 3
nhwc = lambda t: t.permute(0, 2, 3, 1).contiguous()
x = torch.randn(N, C, H, W)
out = {"x": nhwc(x)}
for name, f in {
    "average": lambda t: F.avg_pool2d(t, 2),
    "max": lambda t: F.max_pool2d(t, 2),
    "nearest": lambda t: F.interpolate(t, scale_factor=2, mode="nearest"),
    "bilinear": lambda t: F.interpolate(t, scale_factor=2, mode="bilinear", align_corners=False),
}.items():
    x64 = x.double().requires_grad_()
    y = f(x64)
    dy = torch.randn_like(y).float()
    y.backward(dy.double())
    out |= {f"{name}.y": nhwc(y.detach()), f"{name}.dy": nhwc(dy), f"{name}.dx": nhwc(x64.grad)}
save_file(out, pathlib.Path(__file__).with_suffix(".safetensors"))
