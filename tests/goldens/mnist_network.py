"""The networks of the `mnist` preset in PyTorch, of any width, for the goldens of its training steps: parameters, weights to
begin with, batches, G and D. D's shortcuts are pooled before their 1x1 convolution.

tests/operations/training.rs and tests/operations/variants.rs make the same numbers by the same formulas, so that none is stored."""

import numpy as np
import torch
import torch.nn.functional as F

from common import digits, normal, uniform
from resnet import conv, norm, up

CLASSES = 10

# What went into a ReLU since the start, or since it was cleared.
seen = []


def relu(x):
    seen.append(x.detach())
    return F.relu(x)


def tensors_conv(name, r, c, k):
    return [(f"{name}.weight", (r, r, c, k), (3.0 / (r * r * c)) ** 0.5), (f"{name}.bias", (k,), 0.1)]


def tensors_norm(name, shape):
    return [(f"{name}.weight", shape, 0.2), (f"{name}.bias", shape, 0.2)]


def tensors(width, latent, head):
    """Name, shape, bound of the uniform start (norm weights around 1), in layout order; `head`: those after D's blocks."""
    w, inputs = width, latent + CLASSES
    out = [("generator.linear.weight", (inputs, 98 * w), (3.0 / inputs) ** 0.5), ("generator.linear.bias", (98 * w,), 0.1)]
    for i, (c, k) in enumerate([(2 * w, 2 * w), (2 * w, w)], 1):
        b = f"generator.block{i}"
        out += tensors_norm(f"{b}.norm1", (CLASSES, c)) + tensors_conv(f"{b}.conv1", 3, c, k)
        out += tensors_norm(f"{b}.norm2", (CLASSES, k)) + tensors_conv(f"{b}.conv2", 3, k, k)
        out += tensors_conv(f"{b}.shortcut", 1, c, k)
    out += tensors_norm("generator.norm", (w,)) + tensors_conv("generator.conv", 3, w, 1)
    for i, (c, k) in enumerate([(1, w), (w, 2 * w), (2 * w, 2 * w)], 1):
        b = f"discriminator.block{i}"
        out += tensors_conv(f"{b}.conv1", 3, c, k) + tensors_conv(f"{b}.conv2", 3, k, k)
        out += tensors_conv(f"{b}.shortcut", 1, c, k) if i < 3 else []
    return out + head


def start(tensors, seed, dtype):
    seen.clear()
    values = {}
    for i, (name, shape, bound) in enumerate(tensors):
        x = (2.0 * uniform(seed + i, int(np.prod(shape))) - 1.0) * bound
        if "norm" in name and name.endswith("weight"):
            x = x + 1.0
        values[name] = torch.tensor(x.astype(np.float32).reshape(shape)).to(dtype).requires_grad_()
    return values


def players(p):
    return [[v for n, v in p.items() if n.startswith(who)] for who in ("generator", "discriminator")]


def inputs(step, batch, latent, draw, dtype):
    """Real images and their labels, latents and the labels wanted, of a step."""
    images, labels = digits((step + 1) * batch)
    rows = slice(step * batch, (step + 1) * batch)
    real = torch.tensor(images[rows].astype(np.float32) / np.float32(127.5) - np.float32(1.0)).to(dtype)[:, None]
    z = torch.tensor(normal(draw + 5000 + step, batch * latent).astype(np.float32).reshape(batch, latent)).to(dtype)
    wanted = torch.tensor((uniform(draw + 7000 + step, batch) * CLASSES).astype(np.int64))
    return real, torch.tensor(labels[rows]), z, wanted


def generator(p, z, labels):
    x = torch.cat([z, 2.0 * F.one_hot(labels, CLASSES).to(z.dtype)], 1)
    x = x @ p["generator.linear.weight"] + p["generator.linear.bias"]
    x = x.reshape(len(z), 7, 7, -1).permute(0, 3, 1, 2)
    for i in (1, 2):
        b = f"generator.block{i}"
        h = conv(p, f"{b}.conv1", up(relu(norm(p, f"{b}.norm1", x, labels, 1e-5)), "nearest"))
        h = conv(p, f"{b}.conv2", relu(norm(p, f"{b}.norm2", h, labels, 1e-5)))
        x = h + conv(p, f"{b}.shortcut", up(x, "nearest"))
    return torch.tanh(conv(p, "generator.conv", relu(norm(p, "generator.norm", x, None, 1e-5))))


def features(p, x):
    """What D's head sees, (N, 2 * width): 4 times the mean over pixels."""
    for i in (1, 2, 3):
        b = f"discriminator.block{i}"
        h = conv(p, f"{b}.conv1", x if i == 1 else relu(x))
        h = conv(p, f"{b}.conv2", relu(h))
        x = F.avg_pool2d(h, 2) + conv(p, f"{b}.shortcut", F.avg_pool2d(x, 2)) if i < 3 else h + x
    return 4.0 * relu(x).mean((2, 3))


def projection(p, h, labels):
    return h @ p["discriminator.head.weight"][:, 0] + (h * p["discriminator.head.embedding"][labels]).sum(1)


def softmax_losses(real, fake, weight=1.0):
    """Of D and of G, from logits that say "real" when high; `weight`: what a real sample weighs in Z."""
    a, b = -real, -fake
    log_z = torch.logsumexp(torch.cat([np.log(weight) - a, -b]), 0)
    return a.mean() + log_z, (weight * a.sum() + b.sum()) / (weight * len(a) + len(b)) + log_z
