"""Gradient penalties of both kinds, norm 1 and norm 0, by double backward, float64: its value, the gradient it is taken of, and those of all weights, for
small discriminators. python tests/goldens/gradient_penalty.py, with torch 2.13.
"""

import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.manual_seed(5)
N, SIDE, C, CLASSES, EMBEDDING, WEIGHT = 4, 8, 2, 5, 3, 10.0
LABELS = torch.tensor([1, 3, 1, 0])
# Channels in, hidden, out; whether it is pooled: as tests/operations/gradient_penalty.rs builds them.
BLOCKS = [(4, 4, True), (4, 6, True), (6, 6, False)]


def conv(p, name, x):
    weight = p[f"{name}.weight"].permute(3, 2, 0, 1)
    return F.conv2d(x, weight, p[f"{name}.bias"], padding=weight.shape[-1] // 2)


def appended(x, more):
    return torch.cat([x, more[:, :, None, None].expand(-1, -1, *x.shape[2:])], 1)


def residual(kind):
    """The parameters in order, and the logits of images (N, H, W, C)."""
    p = {}

    def add(name, *shape, scale):
        p[name] = (torch.randn(*shape) * scale).double().requires_grad_()

    def add_conv(name, r, c, k):
        add(f"{name}.weight", r, r, c, k, scale=(2.0 / (r * r * c)) ** 0.5)
        add(f"{name}.bias", k, scale=0.3)

    c = C + (CLASSES if kind == "concat" else 0)
    for i, (hidden, out, pool) in enumerate(BLOCKS, 1):
        add_conv(f"block{i}.conv1", 3, c, hidden)
        add_conv(f"block{i}.conv2", 3, hidden, out)
        if pool or c != out:
            add_conv(f"block{i}.shortcut", 1, c, out)
        c = out
        if kind == "concat" and i == 1:
            add("embedding", CLASSES, EMBEDDING, scale=1.0)
            c += EMBEDDING
    add("head.weight", c, 1, scale=0.4)
    if kind == "projection":
        add("head.embedding", CLASSES, c, scale=0.4)
    add("head.bias", 1, scale=0.3)

    def logits(x):
        x = x.permute(0, 3, 1, 2)
        if kind == "concat":
            x = appended(x, F.one_hot(LABELS, CLASSES).double())
        for i, (_, _, pool) in enumerate(BLOCKS, 1):
            h = conv(p, f"block{i}.conv1", x if i == 1 else F.relu(x))
            h = conv(p, f"block{i}.conv2", F.relu(h))
            shortcut = conv(p, f"block{i}.shortcut", x) if f"block{i}.shortcut.weight" in p else x
            x = F.avg_pool2d(h, 2) + F.avg_pool2d(shortcut, 2) if pool else h + shortcut
            if kind == "concat" and i == 1:
                x = appended(x, p["embedding"][LABELS])
        h = 0.5 * F.relu(x).sum((2, 3))
        f = h @ p["head.weight"][:, 0] + p["head.bias"]
        return f + (p["head.embedding"][LABELS] * h).sum(1) if kind == "projection" else f

    return p, logits


def perceptron():
    p = {}
    for i, (c, k) in enumerate([(SIDE * SIDE * C, 9), (9, 7), (7, 1)], 1):
        p[f"linear{i}.weight"] = (torch.randn(c, k) * c**-0.5 * 1.4).double().requires_grad_()
        p[f"linear{i}.bias"] = (torch.randn(k) * 0.3).double().requires_grad_()

    def logits(x):
        x = x.flatten(1)
        for i in (1, 2, 3):
            x = x @ p[f"linear{i}.weight"] + p[f"linear{i}.bias"]
            x = F.leaky_relu(x, 0.2) if i < 3 else x
        return x[:, 0]

    return p, logits


x = torch.randn(N, SIDE, SIDE, C)
out = {"x": x, "labels": LABELS.int()}
for kind in ("plain", "projection", "concat", "perceptron"):
    p, logits = perceptron() if kind == "perceptron" else residual(kind)
    with torch.no_grad():  # what is stored in float32 is what is computed with
        for value in p.values():
            value.copy_(value.float().double())
    at = x.double().requires_grad_()
    (g,) = torch.autograd.grad(logits(at).sum(), at, create_graph=True)
    norms = g.flatten(1).norm(dim=1)
    out |= {f"{kind}.g": g.detach()}
    out |= {f"{kind}.{name}": value.detach().float() for name, value in p.items()}
    for wanted, of in ((1.0, ""), (0.0, "zero-centred.")):
        # That of norm 0 is written as R1 is: the root has no derivative at 0.
        penalty = WEIGHT * ((norms - 1.0) ** 2 if wanted else (g**2).flatten(1).sum(1)).mean()
        gradients = torch.autograd.grad(penalty, list(p.values()), allow_unused=True, retain_graph=True)
        print(f"{of + kind:24} penalty {penalty.item():.4f}, norms {norms.tolist()}")
        out[f"{of}{kind}.statistics"] = torch.stack([penalty, norms.mean()]).detach()
        for (name, value), gradient in zip(p.items(), gradients):
            out[f"{of}{kind}.d.{name}"] = torch.zeros_like(value) if gradient is None else gradient
save_file({k: v.contiguous() for k, v in out.items()}, pathlib.Path(__file__).with_suffix(".safetensors"))
