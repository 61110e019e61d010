"""The residual networks in PyTorch, for the goldens of blocks and of whole networks: written from the papers, in their
order of operations (the shortcut upsamples before its 1x1 convolution and pools after it), on dictionaries of tensors
that are named and laid out as in zgan.

Every number that goes in is drawn by the same formula in tests/common/mod.rs, from a seed that follows from the
tensor's name, so that none is stored."""

import numpy as np
import torch
import torch.nn.functional as F

from common import uniform

# The least |x| / (its tensor's standard deviation) of all that went into a ReLU or a comparison, since it was cleared:
# where it is large against float32's rounding, no float32 program takes the other side of a kink.
margins = []


def seed_of(name):
    """FNV-1a, 64 bits."""
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = ((h ^ byte) * 0x100000001B3) % (1 << 64)
    return h


def draw(name, shape, middle=0.0, bound=1.0):
    """U(middle - bound, middle + bound), rounded to float32."""
    with np.errstate(over="ignore"):
        x = middle + (2.0 * uniform(seed_of(name), int(np.prod(shape))) - 1.0) * bound
    return torch.tensor(x.astype(np.float32).reshape(shape))


def below(name, count, n):
    return torch.tensor((uniform(seed_of(name), count) * n).astype(np.int64))


def start(name, shape):
    """Middle and bound of a parameter's start."""
    part = name.split(".")
    if any(p.startswith("norm") for p in part):
        return (1.0 if name.endswith("weight") else 0.0), 0.3
    if name.endswith("gamma"):
        return 0.7, 0.2
    if "head" in part:
        return 0.0, 0.25
    if len(shape) == 4:
        return 0.0, (3.0 / (shape[0] * shape[1] * shape[2])) ** 0.5
    if len(shape) == 2:
        return 0.0, (3.0 / shape[0]) ** 0.5
    return 0.0, 0.1


def note(x):
    d = x.detach().double()
    margins.append((d.abs().min() / d.std()).item())


def relu(x):
    note(x)
    return F.relu(x)


def conv(p, name, x):
    weight = p[f"{name}.weight"].permute(3, 2, 0, 1).contiguous()
    return F.conv2d(x, weight, p.get(f"{name}.bias"), padding=weight.shape[-1] // 2)


def norm(p, name, x, labels, eps):
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    weight, bias = p[f"{name}.weight"], p[f"{name}.bias"]
    if weight.dim() == 2:
        weight, bias = weight[labels], bias[labels]
    else:
        weight, bias = weight[None], bias[None]
    return (x - mean) / torch.sqrt(var + eps) * weight[:, :, None, None] + bias[:, :, None, None]


def up(x, mode):
    return F.interpolate(x, scale_factor=2, mode=mode, **({} if mode == "nearest" else {"align_corners": False}))


def down_block(p, b, x, first=False, pool=True):
    h = conv(p, f"{b}.conv1", x if first else relu(x))
    h = conv(p, f"{b}.conv2", relu(h))
    shortcut = conv(p, f"{b}.shortcut", x) if f"{b}.shortcut.weight" in p else x
    return F.avg_pool2d(h, 2) + F.avg_pool2d(shortcut, 2) if pool else h + shortcut


def up_block(p, b, x, labels, mode, eps):
    h = conv(p, f"{b}.conv1", up(relu(norm(p, f"{b}.norm1", x, labels, eps)), mode))
    h = conv(p, f"{b}.conv2", relu(norm(p, f"{b}.norm2", h, labels, eps)))
    return h + conv(p, f"{b}.shortcut", up(x, mode))


def to_image(p, b, x, eps):
    return torch.tanh(conv(p, f"{b}conv", relu(norm(p, f"{b}norm", x, None, eps))))


def max_pool(x):
    best = F.unfold(x.detach().reshape(-1, 1, *x.shape[2:]), 2, stride=2).topk(2, 1).values
    margins.append(((best[:, 0] - best[:, 1]).min() / x.detach().std()).item())
    return F.max_pool2d(x, 2)


def attention(p, b, x):
    n, c, h, w = x.shape
    flat = lambda t: t.flatten(2).transpose(1, 2)
    q = flat(conv(p, f"{b}.query", x))
    k, v = flat(max_pool(conv(p, f"{b}.key", x))), flat(max_pool(conv(p, f"{b}.value", x)))
    o = torch.softmax(q @ k.transpose(1, 2), -1) @ v
    o = o.transpose(1, 2).reshape(n, -1, h, w)
    return x + p[f"{b}.gamma"] * conv(p, f"{b}.out", o)


def head(p, b, x, labels, factor):
    h = factor * relu(x).sum((2, 3))
    f = h @ p[f"{b}.weight"][:, 0]
    if f"{b}.embedding" in p:
        f = f + (h * p[f"{b}.embedding"][labels]).sum(1)
    return f + p[f"{b}.bias"] if f"{b}.bias" in p else f


def shapes_conv(name, r, c, k, bias=True):
    return [(f"{name}.weight", (r, r, c, k))] + ([(f"{name}.bias", (k,))] if bias else [])


def shapes_norm(name, *shape):
    return [(f"{name}.weight", shape), (f"{name}.bias", shape)]


def shapes_down(b, c, hidden, k, shortcut):
    out = shapes_conv(f"{b}.conv1", 3, c, hidden) + shapes_conv(f"{b}.conv2", 3, hidden, k)
    return out + (shapes_conv(f"{b}.shortcut", 1, c, k) if shortcut else [])


def shapes_up(b, c, k, classes):
    out = shapes_norm(f"{b}.norm1", classes, c) + shapes_conv(f"{b}.conv1", 3, c, k)
    out += shapes_norm(f"{b}.norm2", classes, k) + shapes_conv(f"{b}.conv2", 3, k, k)
    return out + shapes_conv(f"{b}.shortcut", 1, c, k)


def shapes_attention(b, c):
    few, half = max(c // 8, 1), max(c // 2, 1)
    sizes = {"query": (c, few), "key": (c, few), "value": (c, half), "out": (half, c)}
    out = [t for part, (c, k) in sizes.items() for t in shapes_conv(f"{b}.{part}", 1, c, k, bias=False)]
    return out + [(f"{b}.gamma", (1,))]


def nhwc(x):
    return x.permute(0, 2, 3, 1).contiguous() if x.dim() == 4 else x


def nchw(x):
    return x.permute(0, 3, 1, 2)
