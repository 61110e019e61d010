"""The networks of a zgan run in PyTorch. Three lines load the generator, ready to draw:

    from networks import Generator
    g = Generator()
    g.load_state_dict(load_file("generator.safetensors"))        # from safetensors.torch

`g(z, labels)` turns latents (N, LATENT) and labels (N) into images (N, C, H, W) between -1 and 1. Networks begin in eval
mode; `.train()` makes them learn. `python networks.py` draws a grid.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F
#SETTINGS#

normalised_g = nn.utils.spectral_norm if SPECTRAL_NORM_G else lambda layer: layer
normalised_d = nn.utils.spectral_norm if SPECTRAL_NORM_D else lambda layer: layer


class ConditionalNorm(nn.BatchNorm2d):
    """Batch norm with a scale and a shift for each class."""

    def __init__(self, channels):
        super().__init__(channels, eps=EPS, affine=False)
        self.weights = nn.Embedding(CLASSES, channels)
        self.biases = nn.Embedding(CLASSES, channels)

    def forward(self, x, labels):
        return super().forward(x) * self.weights(labels)[:, :, None, None] + self.biases(labels)[:, :, None, None]


class Norm(nn.BatchNorm2d):
    def __init__(self, channels):
        super().__init__(channels, eps=EPS)

    def forward(self, x, labels=None):
        return super().forward(x)


def upsample(x):
    if UPSAMPLING == "nearest":
        return F.interpolate(x, scale_factor=2, mode="nearest")
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class UpBlock(nn.Module):
    """A block of G: it doubles height and width."""

    def __init__(self, c, k):
        super().__init__()
        norm = Norm if CONDITIONING == "none" else ConditionalNorm
        self.b1, self.c1 = norm(c), normalised_g(nn.Conv2d(c, k, 3, padding=1))
        self.b2, self.c2 = norm(k), normalised_g(nn.Conv2d(k, k, 3, padding=1))
        self.c_sc = normalised_g(nn.Conv2d(c, k, 1))

    def forward(self, x, labels):
        h = self.c1(upsample(F.relu(self.b1(x, labels))))
        h = self.c2(F.relu(self.b2(h, labels)))
        return h + self.c_sc(upsample(x))


class DownBlock(nn.Module):
    """A block of D. The first one of a network has no ReLU before it."""

    def __init__(self, c, hidden, k, halves, first):
        super().__init__()
        self.halves, self.first = halves, first
        self.c1 = normalised_d(nn.Conv2d(c, hidden, 3, padding=1))
        self.c2 = normalised_d(nn.Conv2d(hidden, k, 3, padding=1))
        self.c_sc = normalised_d(nn.Conv2d(c, k, 1)) if halves or c != k else None

    def forward(self, x):
        h = self.c2(F.relu(self.c1(x if self.first else F.relu(x))))
        pool = (lambda x: F.avg_pool2d(x, 2)) if self.halves else (lambda x: x)
        return pool(h) + (pool(x) if self.c_sc is None else self.c_sc(pool(x)))


class Attention(nn.Module):
    """Self-attention as SAGAN released it."""

    def __init__(self, c, normalised):
        super().__init__()
        few, half = max(c // 8, 1), max(c // 2, 1)
        self.query = normalised(nn.Conv2d(c, few, 1, bias=False))
        self.key = normalised(nn.Conv2d(c, few, 1, bias=False))
        self.value = normalised(nn.Conv2d(c, half, 1, bias=False))
        self.out = normalised(nn.Conv2d(half, c, 1, bias=False))
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x, labels=None):
        n, _, h, w = x.shape
        q, k, v = self.query(x), F.max_pool2d(self.key(x), 2), F.max_pool2d(self.value(x), 2)
        weights = torch.softmax(q.flatten(2).transpose(1, 2) @ k.flatten(2), -1)
        o = (v.flatten(2) @ weights.transpose(1, 2)).reshape(n, -1, h, w)
        return x + self.gamma * self.out(o)


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        inputs = LATENT + (0 if LABEL is None or CONDITIONING == "none" else CLASSES)
        self.l1 = normalised_g(nn.Linear(inputs, BOTTOM[0] * BOTTOM[1] * START))
        self.order, c = [], START
        for i, k in enumerate(UP, 2):
            self.add(f"block{i}", UpBlock(c, k))
            c = k
            if ATTENTION and i == len(UP) + 1 - ATTENTION:
                self.add("attention", Attention(c, normalised_g))
        last = len(UP) + 2
        self.add_module(f"b{last}", Norm(c))
        self.add_module(f"conv{last}", normalised_g(nn.Conv2d(c, CHANNELS, LAST, padding=LAST // 2)))
        self.norm, self.conv = f"b{last}", f"conv{last}"
        self.eval()

    def add(self, name, module):
        self.add_module(name, module)
        self.order.append(name)

    def forward(self, z, labels=None):
        if LABEL is not None and CONDITIONING != "none":
            z = torch.cat([z, LABEL * F.one_hot(labels, CLASSES).to(z.dtype)], 1)
        x = self.l1(z).reshape(-1, START, *BOTTOM)
        for name in self.order:
            x = getattr(self, name)(x, labels)
        return torch.tanh(getattr(self, self.conv)(F.relu(getattr(self, self.norm)(x))))


class Discriminator(nn.Module):
    """Logits (N), high for real images#LOW#; with conditioning ac-gan, class logits (N, CLASSES) as well."""

    def __init__(self):
        super().__init__()
        c = CHANNELS + (CLASSES if CONDITIONING == "input-concat" else 0)
        for i, (k, halves) in enumerate(DOWN, 1):
            hidden = k if i == 1 or HIDDEN_IS_OUTPUT else c
            self.add_module(f"block{i}", DownBlock(c, hidden, k, halves, i == 1))
            c = k
            if i == ATTENTION:
                self.attention = Attention(c, normalised_d)
            if CONDITIONING == "hidden-concat" and i == JOINS:
                self.l_y = normalised_d(nn.Embedding(CLASSES, EMBEDDING))
                c += EMBEDDING
        self.add_module(f"l{len(DOWN) + 1}", normalised_d(nn.Linear(c, 1, bias=HEAD_BIAS)))
        if CONDITIONING == "projection":
            self.l_y = normalised_d(nn.Embedding(CLASSES, c))
        if CONDITIONING == "ac-gan":
            self.l_c = normalised_d(nn.Linear(c, CLASSES))
        self.eval()

    def forward(self, x, labels=None):
        if CONDITIONING == "input-concat":
            planes = F.one_hot(labels, CLASSES).to(x.dtype)[:, :, None, None]
            x = torch.cat([x, planes.expand(-1, -1, *x.shape[2:])], 1)
        for i in range(1, len(DOWN) + 1):
            x = getattr(self, f"block{i}")(x)
            if i == ATTENTION:
                x = self.attention(x)
            if CONDITIONING == "hidden-concat" and i == JOINS:
                planes = self.l_y(labels)[:, :, None, None]
                x = torch.cat([x, planes.expand(-1, -1, *x.shape[2:])], 1)
        h = POOL * F.relu(x).sum((2, 3))
        f = getattr(self, f"l{len(DOWN) + 1}")(h)[:, 0]
        if CONDITIONING == "projection":
            f = f + (h * self.l_y(labels)).sum(1)
        return (f, self.l_c(h)) if CONDITIONING == "ac-gan" else f

#GRID#
