"""Whole networks in float64: G's and D's outputs and the gradients of all their parameters in one simultaneous step.
From the repository's root with torch 2.13:

    python tests/goldens/networks.py

Of a tensor with more than SAMPLE values a sample is kept, and the gradient's product with random numbers, which sees
all of it; for each, how far PyTorch's own float32 is off. The seeds were searched for: with them no ReLU and no maximum
lies within float32's rounding of its kink. That distance is printed, in deviations of its tensor."""

import sys

import numpy as np
import torch
from safetensors.numpy import save_file

sys.path.insert(0, "tests/goldens")
from resnet import *

CLASSES, LATENT, SAMPLE, EMBEDDING = 5, 8, 256, 128


class Case:
    def __init__(self, size, width, batch=2, *, bottom=4, up, down, eps=2e-5, mode="nearest", last=3, head_bias=True,
                 hidden_is_output=False, marked=False, channels=3, pool=None, loss="hinge", attention=False,
                 spectral=("discriminator",), conditioning="projection", start):
        vars(self).update(locals())
        self.up, self.start = [f * width for f in up], start * width
        self.down = [(f * width, halves) for f, halves in down]

    def names(self):
        """Name and shape of every parameter, in zgan's order."""
        c = LATENT + (CLASSES if self.marked else 0)
        k = self.bottom**2 * self.start
        out, c, side = [("linear.weight", (c, k)), ("linear.bias", (k,))], self.start, self.bottom
        for i, k in enumerate(self.up, 1):
            out += shapes_up(f"block{i}", c, k, CLASSES)
            c, side = k, 2 * side
            if self.attention and side == 32:
                out += shapes_attention("attention", c)
        out += shapes_norm("norm", c) + shapes_conv("conv", self.last, c, self.channels)
        names = [(f"generator.{name}", shape) for name, shape in out]

        out, c = [], self.channels + (CLASSES if self.conditioning == "input-concat" else 0)
        for i, (k, halves) in enumerate(self.down, 1):
            hidden = k if i == 1 or self.hidden_is_output else c
            out += shapes_down(f"block{i}", c, hidden, k, halves or c != k)
            c = k
            if self.attention and i == 1:
                out += shapes_attention("attention", c)
            if self.conditioning == "hidden-concat" and i == min(3, len(self.down) - 1):
                out += [("embedding", (CLASSES, EMBEDDING))]
                c += EMBEDDING
        out += [("head.weight", (c, 1))]
        out += [("head.embedding", (CLASSES, c))] if self.conditioning == "projection" else []
        out += [("head.bias", (1,))] if self.head_bias else []
        return names + [(f"discriminator.{name}", shape) for name, shape in out]

    def generator(self, p, z, labels):
        g = "generator."
        if self.marked:
            z = torch.cat([z, 2.0 * F.one_hot(labels, CLASSES).to(z.dtype)], 1)
        x = z @ p[g + "linear.weight"] + p[g + "linear.bias"]
        x = nchw(x.reshape(-1, self.bottom, self.bottom, self.start))
        for i in range(1, len(self.up) + 1):
            x = up_block(p, f"{g}block{i}", x, labels, self.mode, self.eps)
            if self.attention and x.shape[2] == 32:
                x = attention(p, f"{g}attention", x)
        return to_image(p, g, x, self.eps)

    def discriminator(self, p, x, labels):
        d = "discriminator."
        if self.conditioning == "input-concat":
            planes = F.one_hot(labels, CLASSES).to(x.dtype)[:, :, None, None]
            x = torch.cat([x, planes.expand(-1, -1, *x.shape[2:])], 1)
        for i, (_, halves) in enumerate(self.down, 1):
            x = down_block(p, f"{d}block{i}", x, i == 1, halves)
            if self.attention and i == 1:
                x = attention(p, f"{d}attention", x)
            if self.conditioning == "hidden-concat" and i == min(3, len(self.down) - 1):
                planes = p[d + "embedding"][labels][:, :, None, None]
                x = torch.cat([x, planes.expand(-1, -1, *x.shape[2:])], 1)
        factor = 1.0 if self.pool is None else self.pool / (x.shape[2] * x.shape[3])
        return head(p, d + "head", x, labels, factor)

    def losses(self, real, fake):
        """Of logits that say "real" when high."""
        if self.loss == "softmax":
            z = torch.logsumexp(torch.cat([real, fake]), 0)
            return z - real.mean(), z - torch.cat([real, fake]).mean()
        if self.loss == "hinge":
            return relu(1.0 - real).mean() + relu(1.0 + fake).mean(), -fake.mean()
        return F.softplus(-real).mean() + F.softplus(fake).mean(), F.softplus(-fake).mean()


mnist = dict(size=28, width=4, batch=4, bottom=7, start=2, up=[2, 1], down=[(1, True), (2, True), (2, False)],
             hidden_is_output=True, head_bias=False, eps=1e-5, marked=True, channels=1, pool=4.0, loss="softmax",
             spectral=())
of_32 = dict(size=32, width=4, start=2, up=[2, 2, 2], down=[(1, True), (1, True), (1, False), (1, False)],
             head_bias=False, batch=3)
of_64 = dict(size=64, width=4, start=16, up=[8, 4, 2, 1], down=[(f, True) for f in (1, 2, 4, 8, 16)])
SEEDS = {
    "mnist": 0, "mnist-hidden-concat": 12, "mnist-input-concat": 2, "sngan-projection-32": 3,
    "sngan-projection-32-hidden-concat": 3, "sngan-projection-32-input-concat": 1, "sngan-projection-64": 56,
    "crcrpar-64": 37, "sagan-64": 31,
}
cases = {
    "mnist": Case(**mnist),
    "mnist-hidden-concat": Case(**mnist | {"conditioning": "hidden-concat"}),
    "mnist-input-concat": Case(**mnist | {"conditioning": "input-concat"}),
    "sngan-projection-32": Case(**of_32),
    "sngan-projection-32-hidden-concat": Case(**of_32, conditioning="hidden-concat", pool=4.0),
    "sngan-projection-32-input-concat": Case(**of_32, conditioning="input-concat", pool=4.0),
    "sngan-projection-64": Case(**of_64),
    "crcrpar-64": Case(**of_64, mode="bilinear", last=1, eps=1e-5),
    "sagan-64": Case(**of_64 | {"width": 8}, attention=True, spectral=("generator", "discriminator")),
}


def normalise(case, p, at):
    """Spectral normalisation after one power iteration; u and v are constants."""
    unit = lambda x: x / x.norm()
    for who in case.spectral:
        matrices = {}
        for name, value in p.items():
            part = name.split(".")
            normed = part[0] == who and (value.dim() > 1 and not any(s.startswith("norm") for s in part))
            if normed:
                matrices[name] = value if part[-1] == "embedding" else value.reshape(-1, value.shape[-1]).T
        u = draw(f"{at}{who}.spectral_u", (sum(len(m) for m in matrices.values()),)).to(value.dtype)
        for name, m in matrices.items():
            mine, u, fixed = u[: len(m)], u[len(m) :], m.detach()
            v = unit(fixed.T @ mine)
            mine = unit(fixed @ v)
            p = p | {name: p[name] / (mine @ m @ v)}
    return p


def run(case, at, dtype):
    p = {name: draw(at + name, shape, *start(name, shape)).to(dtype).requires_grad_() for name, shape in case.names()}
    n, shape = case.batch, (case.batch, case.size, case.size, case.channels)
    real = below(at + "images", int(np.prod(shape)), 256).reshape(shape).float() / np.float32(127.5) - np.float32(1.0)
    z = draw(at + "latents", (n, LATENT), 0.0, 1.7).to(dtype)
    labels, wanted = below(at + "labels", n, CLASSES), below(at + "wanted", n, CLASSES)
    effective = normalise(case, p, at)
    fake = case.generator(effective, z, wanted)
    logits = [case.discriminator(effective, nchw(real.to(dtype)), labels), case.discriminator(effective, fake, wanted)]
    loss_d, loss_g = case.losses(*logits)
    sides = {who: [v for name, v in p.items() if name.startswith(who)] for who in ("generator", "discriminator")}
    gradients = torch.autograd.grad(loss_g, sides["generator"], retain_graph=True)
    gradients += torch.autograd.grad(loss_d, sides["discriminator"])
    out = {"fakes": nhwc(fake), "logits": torch.cat(logits), "losses": torch.stack([loss_d, loss_g])}
    out |= {f"gradient.{name}": g for name, g in zip(p, gradients)}
    return {name: v.detach().double().numpy() for name, v in out.items()}


def faint(case, at):
    """The fakes when all that enters G's first norm is a hundredth: their variance is near the norm's eps, which the
    other numbers hardly show."""
    p = {name: draw(at + name, shape, *start(name, shape)).double() for name, shape in case.names()}
    p = {name: v / 100.0 if name.startswith("generator.linear") else v for name, v in p.items()}
    z, wanted = draw(at + "latents", (case.batch, LATENT), 0.0, 1.7).double(), below(at + "wanted", case.batch, CLASSES)
    return nhwc(case.generator(normalise(case, p, at), z, wanted)).numpy()


def sample(value):
    flat = np.ascontiguousarray(value).reshape(-1)
    return flat[:: max(1, flat.size // SAMPLE)].copy()


out = {}
for name, case in cases.items():
    seed = SEEDS[name]
    margins.clear()
    exact, margin = run(case, f"{name}/{seed}/", torch.float64), min(margins)
    single = run(case, f"{name}/{seed}/", torch.float32)
    out[f"{name}.seed"] = np.array([seed], np.int32)
    worst = 0.0
    for what, value in exact.items():
        key, norm = f"{name}.{what}", np.linalg.norm(value)
        off = np.linalg.norm(single[what] - value) / norm if norm > 1e-9 else 0.0
        worst = max(worst, off)
        out[key] = sample(value).astype(np.float64 if what == "losses" else np.float32)
        out[f"{key}.float32"] = np.array([off])
        if what.startswith("gradient") and out[key].size < value.size:
            weights = draw(f"{name}.{what}", value.shape).double().numpy()
            out[f"{key}.norm_and_product"] = np.array([norm, (weights * value).sum()])
    out[f"{name}.faint"] = sample(faint(case, f"{name}/{seed}/")).astype(np.float32)
    logits = exact["logits"]
    print(f"{name:34} seed {seed:3}, margin {margin:.1e}, float32 at most {worst:.1e} off, logits {logits.min():.2f} to {logits.max():.2f}", flush=True)
save_file(out, "tests/goldens/networks.safetensors")
