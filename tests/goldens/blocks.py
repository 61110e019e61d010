"""Each residual block, and self-attention with its convolutions: the output and all gradients in float64. From the
repository's root with torch 2.13:

    python tests/goldens/blocks.py

Sample n counts `scale[n]` times in the gradients of the parameters and, in layers of G, in that of the input. Per case
the first seed is taken at which no ReLU lies within rounding of its kink."""

import sys

import numpy as np
import torch
from safetensors.numpy import save_file

sys.path.insert(0, "tests/goldens")
from resnet import *

N, H, W, CLASSES, EPS = 3, 6, 10, 4, 2e-5


def down(c, hidden, k, first, pool):
    shapes = shapes_down("block", c, hidden, k, pool or c != k)
    return c, shapes, lambda p, x, labels: down_block(p, "block", x, first, pool)


def upsampling(c, k, mode):
    return c, shapes_up("block", c, k, CLASSES), lambda p, x, labels: up_block(p, "block", x, labels, mode, EPS)


def image(c, r):
    shapes = shapes_norm("norm", c) + shapes_conv("conv", r, c, 3)
    return c, shapes, lambda p, x, labels: to_image(p, "", x, EPS)


cases = {
    "down_first": down(3, 7, 7, True, True),
    "down": down(5, 5, 7, False, True),
    "down_wide": down(5, 7, 7, False, True),
    "kept_identity": down(5, 5, 5, False, False),
    "kept_shortcut": down(5, 5, 7, False, False),
    "up_nearest": upsampling(7, 5, "nearest"),
    "up_bilinear": upsampling(7, 5, "bilinear"),
    "to_image": image(5, 3),
    "to_image_1x1": image(5, 1),
    "attention": (16, shapes_attention("block", 16), lambda p, x, labels: attention(p, "block", x)),
}

out = {}
for case, (c, shapes, block) in cases.items():
    for seed in range(1000):
        at = f"{case}/{seed}/"
        margins.clear()
        p = {name: draw(at + name, shape, *start(name, shape)).double().requires_grad_() for name, shape in shapes}
        x = draw(at + "x", (N, H, W, c), 0.0, 2.0).double().requires_grad_()
        labels = below(at + "labels", N, CLASSES)
        y = nhwc(block(p, nchw(x), labels))
        if min(margins) > 1e-4:
            break
    dy, scale = draw(at + "dy", y.shape).double(), draw(at + "scale", (N,)).double()
    scaled = dy * scale[:, None, None, None]
    gradients = torch.autograd.grad(y, list(p.values()), scaled, retain_graph=True)
    (dx,) = torch.autograd.grad(y, x, scaled if case.startswith(("to_image", "up")) else dy)
    print(f"{case:15} seed {seed}, margin {min(margins):.1e}")
    out[f"{case}.seed"] = np.array([seed], np.int32)
    out |= {f"{case}.y": y.detach().numpy(), f"{case}.dx": dx.numpy()}
    out |= {f"{case}.gradient.{name}": np.ascontiguousarray(g.numpy()) for name, g in zip(p, gradients)}
out = {name: v.astype(np.float32) if v.dtype == np.float64 else v for name, v in out.items()}
save_file(out, "tests/goldens/blocks.safetensors")
