"""Training steps of three presets in PyTorch, written the way a good user of it would: channels last, one forward of D for
real and fake images, the shortcut's 1x1 convolution before the upsampling and after the pooling, fused Adam, `set_to_none`.
The same steps as src/instruments/bench/libtorch/ has, from Python and in a process of their own, to see that those are not slower; the
numbers of a step are compared in tests/training.rs.

    python benches/pytorch.py mnist|softmax-gan|sngan-projection-32 [simultaneous|alternating] [width] [batch]

Needs torch 2.13. Prints the median time of a step."""

import statistics
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils.parametrizations import spectral_norm


class ConditionalNorm(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.scale, self.shift = nn.Embedding(classes, channels), nn.Embedding(classes, channels)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, x, labels):
        return torch.addcmul(self.shift(labels)[:, :, None, None], self.norm(x), self.scale(labels)[:, :, None, None])


class Up(nn.Module):
    def __init__(self, c, k, classes):
        super().__init__()
        self.norm1, self.norm2 = ConditionalNorm(c, classes), ConditionalNorm(k, classes)
        self.conv1, self.conv2, self.shortcut = nn.Conv2d(c, k, 3, padding=1), nn.Conv2d(k, k, 3, padding=1), nn.Conv2d(c, k, 1)

    def forward(self, x, labels):
        up = lambda t: F.interpolate(t, scale_factor=2, mode="nearest")
        h = self.conv1(up(F.relu(self.norm1(x, labels))))
        h = self.conv2(F.relu(self.norm2(h, labels)))
        return h + up(self.shortcut(x))


class Down(nn.Module):
    def __init__(self, c, hidden, k, pool, first, wrap):
        super().__init__()
        self.pool, self.first = pool, first
        self.conv1, self.conv2 = wrap(nn.Conv2d(c, hidden, 3, padding=1)), wrap(nn.Conv2d(hidden, k, 3, padding=1))
        self.shortcut = wrap(nn.Conv2d(c, k, 1)) if c != k or pool else None

    def forward(self, x):
        h = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        s = x
        if self.pool:
            h, s = F.avg_pool2d(h, 2), F.avg_pool2d(s, 2)
        return h + (self.shortcut(s) if self.shortcut else s)


class Generator(nn.Module):
    """`extra`: the label beside z, times 2."""

    def __init__(self, latent, side, widths, channels, classes, extra):
        super().__init__()
        self.side, self.classes, self.extra = side, classes, extra
        self.linear = nn.Linear(latent + (classes if extra else 0), side * side * widths[0])
        self.blocks = nn.ModuleList(Up(c, k, classes) for c, k in zip(widths, widths[1:]))
        self.norm, self.conv = nn.BatchNorm2d(widths[-1]), nn.Conv2d(widths[-1], channels, 3, padding=1)

    def forward(self, z, labels):
        if self.extra:
            z = torch.cat([z, 2.0 * F.one_hot(labels, self.classes)], 1)
        x = self.linear(z).view(len(z), self.side, self.side, -1).permute(0, 3, 1, 2)
        for block in self.blocks:
            x = block(x, labels)
        return torch.tanh(self.conv(F.relu(self.norm(x))))


class Discriminator(nn.Module):
    def __init__(self, channels, blocks, classes, factor, normalised):
        super().__init__()
        wrap = spectral_norm if normalised else lambda layer: layer
        inputs = [channels] + [k for k, _ in blocks]
        hidden = lambda i, c, k: c if normalised and i > 0 else k
        self.blocks = nn.Sequential(
            *(Down(c, hidden(i, c, k), k, pool, i == 0, wrap) for i, (c, (k, pool)) in enumerate(zip(inputs, blocks)))
        )
        self.factor = factor
        self.psi, self.embedding = wrap(nn.Linear(inputs[-1], 1, bias=False)), wrap(nn.Embedding(classes, inputs[-1]))

    def forward(self, x, labels):
        h = self.factor * F.relu(self.blocks(x)).sum((2, 3))
        return self.psi(h)[:, 0] + (self.embedding(labels) * h).sum(1)


def perceptrons():
    def block(c, k, normalise):
        return [nn.Linear(c, k)] + ([nn.BatchNorm1d(k, 0.8)] if normalise else []) + [nn.LeakyReLU(0.2, inplace=True)]

    g = nn.Sequential(
        *block(100, 128, False), *block(128, 256, True), *block(256, 512, True), *block(512, 1024, True),
        nn.Linear(1024, 784), nn.Tanh(),
    )
    d = nn.Sequential(*block(784, 512, False), *block(512, 256, False), nn.Linear(256, 1, bias=False))
    return g, d


def softmax_losses(real, fake):
    everything = torch.cat([real, fake])
    z = torch.logsumexp(everything, 0)
    return z - real.mean(), z - everything.mean()


def hinge_losses(real, fake):
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean(), -fake.mean()


def main():
    preset = sys.argv[1]
    update = sys.argv[2] if len(sys.argv) > 2 else "simultaneous"
    width = int(sys.argv[3]) if len(sys.argv) > 3 else {"mnist": 16, "sngan-projection-32": 32}.get(preset, 0)
    batch = int(sys.argv[4]) if len(sys.argv) > 4 else {"sngan-projection-32": 32}.get(preset, 64)
    torch.manual_seed(1)
    losses, betas, average, latent, shape = softmax_losses, (0.5, 0.9), 0.995, 64, (1, 28, 28)
    if preset == "mnist":
        g = Generator(64, 7, [2 * width, 2 * width, width], 1, 10, True)
        d = Discriminator(1, [(width, True), (2 * width, True), (2 * width, False)], 10, 4.0 / 49, False)
    elif preset == "sngan-projection-32":
        g = Generator(128, 4, [2 * width] * 4, 3, 10, False)
        d = Discriminator(3, [(width, True), (width, True), (width, False), (width, False)], 10, 1.0, True)
        losses, betas, average, latent, shape = hinge_losses, (0.0, 0.9), 0.0, 128, (3, 32, 32)
    elif preset == "softmax-gan":
        g, d = perceptrons()
        betas, average, latent, shape = (0.5, 0.999), 0.0, 100, (784,)
    else:
        sys.exit(f"{preset}: not one of mnist, softmax-gan, sngan-projection-32")
    convolutional = len(shape) == 3
    if convolutional:
        g, d = g.to(memory_format=torch.channels_last), d.to(memory_format=torch.channels_last)
    adam = lambda net: torch.optim.Adam(net.parameters(), 1e-3, betas, fused=True)
    adam_g, adam_d = adam(g), adam(d)
    kept = [p.detach().clone() for p in g.parameters()]
    images = torch.rand(batch, *shape) * 2 - 1
    if convolutional:
        images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,))
    call = (lambda net, x, y: net(x, y)) if convolutional else (lambda net, x, y: net(x).view(len(x), -1))
    judge = lambda x, y: call(d, x, y).view(-1)
    together = lambda fake: torch.cat([images, fake])

    def step():
        z, wanted = torch.randn(batch, latent), torch.randint(10, (batch,))
        y = torch.cat([labels, wanted])
        fake = call(g, z, wanted)
        if update == "simultaneous":
            f = judge(together(fake), y)
            loss_d, loss_g = losses(f[:batch], f[batch:])
            of_d, of_g = list(d.parameters()), list(g.parameters())
            for p, grad in zip(of_d, torch.autograd.grad(loss_d, of_d, retain_graph=True)):
                p.grad = grad
            for p, grad in zip(of_g, torch.autograd.grad(loss_g, of_g)):
                p.grad = grad
            adam_d.step()
            adam_g.step()
        else:
            f = judge(together(fake.detach()), y)
            losses(f[:batch], f[batch:])[0].backward()
            adam_d.step()
            adam_d.zero_grad(set_to_none=True)
            d.requires_grad_(False)
            f = judge(together(fake), y)
            losses(f[:batch], f[batch:])[1].backward()
            d.requires_grad_(True)
            adam_g.step()
            adam_g.zero_grad(set_to_none=True)
        if average:
            torch._foreach_lerp_(kept, [p.detach() for p in g.parameters()], 1 - average)

    for _ in range(5):
        step()
    times, start = [], time.perf_counter()
    while len(times) < 10 or time.perf_counter() - start < 8:
        before = time.perf_counter()
        step()
        times.append((time.perf_counter() - before) * 1e3)
    parameters = sum(p.numel() for p in g.parameters()), sum(p.numel() for p in d.parameters())
    print(
        f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads: {preset}, {update}, width {width}, batch {batch}, "
        f"{parameters[0]} + {parameters[1]} parameters: {statistics.median(times):.1f} ms a step, best {min(times):.1f}"
    )


main()
