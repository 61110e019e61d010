"""Ten training steps of the `mnist` preset in float64, both update rules, from weights, latents, labels and batches
that tests/training.rs makes by the same formulas. Run from the repository's root with torch 2.13:

    python tests/goldens/mnist_steps.py

Writes, for the preset as it is and for a small one: the outputs of G and D and the gradients at the start, per rule the
losses (10, 2), and of every tensor a sample of its final values; for each of them how far PyTorch's own float32 run is
off.

A ReLU's input that lies nearer to 0 than float32's rounding takes the other side there, and one such flip among six
million moves gradients by 1e-4 to 3e-3. (At the start of an earlier draw zgan's gradients without fused multiply-adds
were up to 4.2e-4 off. Forcing one ReLU, whose input was -9e-8, to its other side in float64 gave these errors in every
tensor to two digits; PyTorch's float32 and the other instruction sets had kept to its side.) So the draws were searched
for: nothing lies within twice the root mean square of PyTorch's own float32 error in its tensor, at the start for the
whole preset, in all ten steps for the small one. Ten steps of the whole preset have too many activations for that. The
distances are printed."""

import sys

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

sys.path.insert(0, "tests/goldens")
from common import digits, normal, uniform

STEPS, LATENT, CLASSES, SAMPLE = 10, 64, 10, 256

# Width, batch, and the number of the draw for the two rules.
CASES = {"whole": (16, 64, {"simultaneous": 59, "alternating": 59}), "small": (8, 4, {"simultaneous": 18, "alternating": 36})}
WIDTH, BATCH, DRAW = 16, 64, 0

# What went into a ReLU since it was cleared.
seen = []


def conv(name, r, c, k):
    return [(f"{name}.weight", (r, r, c, k), (3.0 / (r * r * c)) ** 0.5), (f"{name}.bias", (k,), 0.1)]


def norm(name, shape):
    return [(f"{name}.weight", shape, 0.2), (f"{name}.bias", shape, 0.2)]


def tensors():
    """Name, shape, bound of the uniform start (norm weights around 1); in layout order."""
    wide, first = 2 * WIDTH, 7 * 7 * 2 * WIDTH
    out = [("generator.linear.weight", (74, first), (3.0 / 74) ** 0.5), ("generator.linear.bias", (first,), 0.1)]
    for i, (c, k) in enumerate([(wide, wide), (wide, WIDTH)], 1):
        b = f"generator.block{i}"
        out += norm(f"{b}.norm1", (CLASSES, c)) + conv(f"{b}.conv1", 3, c, k)
        out += norm(f"{b}.norm2", (CLASSES, k)) + conv(f"{b}.conv2", 3, k, k) + conv(f"{b}.shortcut", 1, c, k)
    out += norm("generator.norm", (WIDTH,)) + conv("generator.conv", 3, WIDTH, 1)
    for i, (c, k) in enumerate([(1, WIDTH), (WIDTH, wide), (wide, wide)], 1):
        b = f"discriminator.block{i}"
        out += conv(f"{b}.conv1", 3, c, k) + conv(f"{b}.conv2", 3, k, k)
        out += conv(f"{b}.shortcut", 1, c, k) if i < 3 else []
    return out + [("discriminator.head.weight", (wide, 1), 0.3), ("discriminator.head.embedding", (CLASSES, wide), 0.3)]


def start(dtype):
    values = {}
    for i, (name, shape, bound) in enumerate(tensors()):
        x = (2.0 * uniform(100_000 * DRAW + 2000 + i, int(np.prod(shape))) - 1.0) * bound
        if "norm" in name and name.endswith("weight"):
            x = x + 1.0
        values[name] = torch.tensor(x.astype(np.float32).reshape(shape)).to(dtype).requires_grad_()
    return values


def apply_conv(p, name, x):
    weight = p[f"{name}.weight"].permute(3, 2, 0, 1).contiguous()
    return F.conv2d(x, weight, p[f"{name}.bias"], padding=weight.shape[-1] // 2)


def apply_norm(p, name, x, labels):
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    weight, bias = p[f"{name}.weight"], p[f"{name}.bias"]
    if weight.dim() == 2:
        weight, bias = weight[labels], bias[labels]
    else:
        weight, bias = weight[None], bias[None]
    return (x - mean) / torch.sqrt(var + 1e-5) * weight[:, :, None, None] + bias[:, :, None, None]


def relu(x):
    seen.append(x.detach())
    return F.relu(x)


def up(x):
    return F.interpolate(x, scale_factor=2, mode="nearest")


def generator(p, z, labels):
    x = torch.cat([z, 2.0 * F.one_hot(labels, CLASSES).to(z.dtype)], 1)
    x = x @ p["generator.linear.weight"] + p["generator.linear.bias"]
    x = x.reshape(-1, 7, 7, 2 * WIDTH).permute(0, 3, 1, 2)
    for i in (1, 2):
        b = f"generator.block{i}"
        h = apply_conv(p, f"{b}.conv1", up(relu(apply_norm(p, f"{b}.norm1", x, labels))))
        h = apply_conv(p, f"{b}.conv2", relu(apply_norm(p, f"{b}.norm2", h, labels)))
        x = h + apply_conv(p, f"{b}.shortcut", up(x))
    x = relu(apply_norm(p, "generator.norm", x, labels))
    return torch.tanh(apply_conv(p, "generator.conv", x))


def discriminator(p, x, labels):
    for i in (1, 2, 3):
        b = f"discriminator.block{i}"
        h = apply_conv(p, f"{b}.conv1", x if i == 1 else relu(x))
        h = apply_conv(p, f"{b}.conv2", relu(h))
        if i < 3:
            x = F.avg_pool2d(h, 2) + apply_conv(p, f"{b}.shortcut", F.avg_pool2d(x, 2))
        else:
            x = h + x
    h = 4.0 * relu(x).mean((2, 3))
    embedding = p["discriminator.head.embedding"][labels]
    return h @ p["discriminator.head.weight"][:, 0] + (h * embedding).sum(1)


def losses(real, fake):
    """Of logits that say "real" when high."""
    a, b = -real, -fake
    log_z = torch.logsumexp(torch.cat([-a, -b]), 0)
    return a.mean() + log_z, torch.cat([a, b]).mean() + log_z


def inputs(step, dtype):
    images, labels = digits(STEPS * BATCH)
    rows = slice(step * BATCH, (step + 1) * BATCH)
    real = torch.tensor(images[rows].astype(np.float32) / np.float32(127.5) - np.float32(1.0)).to(dtype)[:, None]
    z = torch.tensor(normal(100_000 * DRAW + 5000 + step, BATCH * LATENT).astype(np.float32).reshape(BATCH, LATENT)).to(dtype)
    wanted = torch.tensor((uniform(100_000 * DRAW + 7000 + step, BATCH) * CLASSES).astype(np.int64))
    return real, torch.tensor(labels[rows]), z, wanted


def players(p):
    return [[v for n, v in p.items() if n.startswith(who)] for who in ("generator", "discriminator")]


def run(rule, dtype, steps=STEPS):
    """The final values, the losses, and what went into the ReLUs."""
    p = start(dtype)
    g, d = players(p)
    adam_g = torch.optim.Adam(g, lr=1e-3, betas=(0.5, 0.9))
    adam_d = torch.optim.Adam(d, lr=1e-3, betas=(0.5, 0.9))
    history, inside = [], []
    for step in range(steps):
        seen.clear()
        real, labels, z, wanted = inputs(step, dtype)
        evaluate = lambda: losses(discriminator(p, real, labels), discriminator(p, generator(p, z, wanted), wanted))
        loss_d, loss_g = evaluate()
        grads_d = torch.autograd.grad(loss_d, d, retain_graph=True)
        if rule == "simultaneous":
            grads_g = torch.autograd.grad(loss_g, g)
        for v, grad in zip(d, grads_d):
            v.grad = grad
        adam_d.step()
        if rule == "alternating":
            loss_g = evaluate()[1]
            grads_g = torch.autograd.grad(loss_g, g)
        for v, grad in zip(g, grads_g):
            v.grad = grad
        adam_g.step()
        history.append([loss_d.item(), loss_g.item()])
        inside += list(seen) if steps <= 1 or WIDTH < 16 else []
    return {n: v.detach().double().numpy() for n, v in p.items()}, np.array(history), inside


def least(exact, single):
    """The least distance from a kink, in root mean squares of float32's error there; how many took the other side."""
    error = lambda a, b: (b.double() - a).pow(2).mean().sqrt()
    distance = min((a.abs().min() / error(a, b)).item() for a, b in zip(exact, single))
    return distance, sum(int(((a > 0) != (b > 0)).sum()) for a, b in zip(exact, single))


def sample(value):
    flat = np.ascontiguousarray(value).reshape(-1)
    return flat[:: max(1, flat.size // SAMPLE)].copy()


def first(dtype):
    """The fakes, the logits and all gradients at the start."""
    p = start(dtype)
    g, d = players(p)
    real, labels, z, wanted = inputs(0, dtype)
    seen.clear()
    fake = generator(p, z, wanted)
    f_real, f_fake = discriminator(p, real, labels), discriminator(p, fake, wanted)
    loss_d, loss_g = losses(f_real, f_fake)
    grads = torch.autograd.grad(loss_g, g, retain_graph=True) + torch.autograd.grad(loss_d, d)
    out = {"start.fake": fake.permute(0, 2, 3, 1), "start.logits": torch.cat([f_real, f_fake])}
    out |= {f"start.gradient.{name}": grad for name, grad in zip(p, grads)}
    return {name: sample(value.detach().double().numpy()) for name, value in out.items()}, list(seen)


def case(which, out):
    global WIDTH, BATCH, DRAW
    WIDTH, BATCH, draws = CASES[which]
    for rule, DRAW in draws.items():
        if rule == "simultaneous":
            (exact, inside), (single, inside_single) = first(torch.float64), first(torch.float32)
            print(f"{which}, start: %.1f rms from a kink, {sum(a.numel() for a in inside)} activations, %d flips" % least(inside, inside_single))
            for name, value in exact.items():
                off = np.abs(single[name] - value).max() / np.abs(value).max()
                out |= {f"{which}.{name}": value, f"{which}.{name}.float32": np.array([off])}
                print(f"{which} {name:50} float32 is {off:.1e} off")
        exact, history, inside = run(rule, torch.float64)
        single, history_single, inside_single = run(rule, torch.float32)
        if inside:
            print(f"{which} {rule}: %.1f rms from a kink, %d flips" % least(inside, inside_single))
        key = f"{which}.{rule}"
        out[f"{key}.losses"] = history
        out[f"{key}.losses.float32"] = np.array([np.abs(history_single / history - 1.0).max()])
        print(f"{key} losses: float32 is {out[f'{key}.losses.float32'][0]:.1e} off")
        begin = {n: v.detach().numpy() for n, v in start(torch.float64).items()}
        for name, value in exact.items():
            travelled = np.linalg.norm(sample(value) - sample(begin[name]))
            ratio = np.linalg.norm(sample(single[name]) - sample(value)) / travelled
            out |= {f"{key}.{name}": sample(value), f"{key}.{name}.float32": np.array([ratio])}
            print(f"{key:20} {name:36} float32 ends {ratio:.2e} of the way off")
        out[f"{key}.draw"] = np.array([DRAW], np.int32)


def main():
    out = {}
    for which in CASES:
        case(which, out)
    save_file(out, "tests/goldens/mnist_steps.safetensors")


main()
