"""Ten training steps in float64 of `mnist` at width 4 with AC-GAN's head, with a gradient penalty, and with both, under
both update rules, from weights, latents, labels and batches that tests/variants.rs makes by the same formulas. Run from
the repository's root with torch 2.13:

    python tests/goldens/variant_steps.py

Writes variant_steps.safetensors: per variant the gradients of the first simultaneous step, and per rule the losses of
all steps with what is added to them; for each of them how far PyTorch's own float32 run is off.
"""

import sys

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

sys.path.insert(0, "tests/goldens")
from common import digits, normal, uniform

STEPS, BATCH, LATENT, CLASSES, WIDTH = 10, 8, 16, 10, 4
AUX_D, AUX_G, GP, SEED = 0.7, 0.3, 10.0, 1
VARIANTS = {"ac-gan": (True, False), "penalty": (False, True), "ac-gan-penalty": (True, True)}


def philox(index, stream, step):
    """Four words of the program's generator, kernels/device/philox.h, for its run's seed."""
    c, k, mask = [index, stream, step, 0], [SEED, 0], 0xFFFFFFFF
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & mask, (a >> 32) ^ c[3] ^ k[1], a & mask]
        k = [(k[0] + 0x9E3779B9) & mask, (k[1] + 0xBB67AE85) & mask]
    return c


def shares(step):
    """How much of each point of the penalty is real: stream 3."""
    words = [word for i in range(BATCH // 4) for word in philox(i, 3, step)]
    return np.array([word >> 8 for word in words]) * 2.0**-24


def conv(name, r, c, k):
    return [(f"{name}.weight", (r, r, c, k), (3.0 / (r * r * c)) ** 0.5), (f"{name}.bias", (k,), 0.1)]


def norm(name, shape):
    return [(f"{name}.weight", shape, 0.2), (f"{name}.bias", shape, 0.2)]


def tensors(classified):
    """Name, shape, bound of the uniform start (norm weights around 1); in layout order."""
    w, seen = WIDTH, LATENT + CLASSES
    out = [("generator.linear.weight", (seen, 98 * w), (3.0 / seen) ** 0.5), ("generator.linear.bias", (98 * w,), 0.1)]
    for i, (c, k) in enumerate([(2 * w, 2 * w), (2 * w, w)], 1):
        b = f"generator.block{i}"
        out += norm(f"{b}.norm1", (CLASSES, c)) + conv(f"{b}.conv1", 3, c, k)
        out += norm(f"{b}.norm2", (CLASSES, k)) + conv(f"{b}.conv2", 3, k, k) + conv(f"{b}.shortcut", 1, c, k)
    out += norm("generator.norm", (w,)) + conv("generator.conv", 3, w, 1)
    for i, (c, k) in enumerate([(1, w), (w, 2 * w), (2 * w, 2 * w)], 1):
        b = f"discriminator.block{i}"
        out += conv(f"{b}.conv1", 3, c, k) + conv(f"{b}.conv2", 3, k, k)
        out += conv(f"{b}.shortcut", 1, c, k) if i < 3 else []
    out += [("discriminator.head.weight", (2 * w, 1), 0.6)]
    if classified:
        return out + [("discriminator.classes.weight", (2 * w, CLASSES), 0.6), ("discriminator.classes.bias", (CLASSES,), 0.1)]
    return out + [("discriminator.head.embedding", (CLASSES, 2 * w), 0.6)]


def start(classified, dtype):
    values = {}
    for i, (name, shape, bound) in enumerate(tensors(classified)):
        x = (2.0 * uniform(5500 + i, int(np.prod(shape))) - 1.0) * bound
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


def up(x):
    return F.interpolate(x, scale_factor=2, mode="nearest")


def generator(p, z, labels):
    x = torch.cat([z, 2.0 * F.one_hot(labels, CLASSES).to(z.dtype)], 1)
    x = x @ p["generator.linear.weight"] + p["generator.linear.bias"]
    x = x.reshape(-1, 7, 7, 2 * WIDTH).permute(0, 3, 1, 2)
    for i in (1, 2):
        b = f"generator.block{i}"
        h = apply_conv(p, f"{b}.conv1", up(F.relu(apply_norm(p, f"{b}.norm1", x, labels))))
        h = apply_conv(p, f"{b}.conv2", F.relu(apply_norm(p, f"{b}.norm2", h, labels)))
        x = h + apply_conv(p, f"{b}.shortcut", up(x))
    x = F.relu(apply_norm(p, "generator.norm", x, labels))
    return torch.tanh(apply_conv(p, "generator.conv", x))


def discriminator(p, x, labels):
    """The logit, and the cross entropy of the labels (0 without a class layer)."""
    for i in (1, 2, 3):
        b = f"discriminator.block{i}"
        h = apply_conv(p, f"{b}.conv1", x if i == 1 else F.relu(x))
        h = apply_conv(p, f"{b}.conv2", F.relu(h))
        x = F.avg_pool2d(h, 2) + apply_conv(p, f"{b}.shortcut", F.avg_pool2d(x, 2)) if i < 3 else h + x
    h = 4.0 * F.relu(x).mean((2, 3))
    psi = h @ p["discriminator.head.weight"][:, 0]
    if "discriminator.classes.weight" in p:
        classes = h @ p["discriminator.classes.weight"] + p["discriminator.classes.bias"]
        return psi, F.cross_entropy(classes, labels)
    return psi + (h * p["discriminator.head.embedding"][labels]).sum(1), torch.zeros((), dtype=x.dtype)


def losses(p, penalised, step, real, labels, fake, wanted):
    """Of D and of G: on the logits, and what is added; the mean norm of the penalised gradients."""
    (f_real, c_real), (f_fake, c_fake) = discriminator(p, real, labels), discriminator(p, fake, wanted)
    penalty = norms = torch.zeros((), dtype=real.dtype)
    if penalised:
        loss_d, loss_g = f_fake.mean() - f_real.mean(), -f_fake.mean()
        share = torch.tensor(shares(step)).to(real.dtype)[:, None, None, None]
        points = (share * real + (1.0 - share) * fake).detach().requires_grad_()
        (g,) = torch.autograd.grad(discriminator(p, points, labels)[0].sum(), points, create_graph=True)
        norms = g.flatten(1).norm(dim=1)
        penalty = GP * ((norms - 1.0) ** 2).mean()
    else:
        a, b = -f_real, -f_fake
        log_z = torch.logsumexp(torch.cat([-a, -b]), 0)
        loss_d, loss_g = a.mean() + log_z, torch.cat([a, b]).mean() + log_z
    return loss_d, loss_g, AUX_D * (c_real + c_fake), AUX_G * c_fake, penalty, norms.mean()


def inputs(step, dtype):
    images, labels = digits(STEPS * BATCH)
    rows = slice(step * BATCH, (step + 1) * BATCH)
    real = torch.tensor(images[rows].astype(np.float32) / np.float32(127.5) - np.float32(1.0)).to(dtype)[:, None]
    z = torch.tensor(normal(5000 + step, BATCH * LATENT).astype(np.float32).reshape(BATCH, LATENT)).to(dtype)
    wanted = torch.tensor((uniform(7000 + step, BATCH) * CLASSES).astype(np.int64))
    return real, torch.tensor(labels[rows]), z, wanted


def run(variant, rule, dtype):
    """The losses of all steps, and the gradients of the first."""
    classified, penalised = VARIANTS[variant]
    p = start(classified, dtype)
    g, d = ([v for n, v in p.items() if n.startswith(who)] for who in ("generator", "discriminator"))
    adam_g = torch.optim.Adam(g, lr=1e-3, betas=(0.5, 0.9))
    adam_d = torch.optim.Adam(d, lr=1e-3, betas=(0.5, 0.9))
    history, first = [], None
    for step in range(STEPS):
        real, labels, z, wanted = inputs(step, dtype)
        evaluate = lambda: losses(p, penalised, step, real, labels, generator(p, z, wanted), wanted)
        loss_d, loss_g, class_d, class_g, penalty, norms = evaluate()
        grads_d = torch.autograd.grad(loss_d + class_d + penalty, d, retain_graph=True)
        if rule == "simultaneous":
            grads_g = torch.autograd.grad(loss_g + class_g, g)
        for v, grad in zip(d, grads_d):
            v.grad = grad
        adam_d.step()
        if rule == "alternating":
            _, loss_g, _, class_g, _, _ = evaluate()
            grads_g = torch.autograd.grad(loss_g + class_g, g)
        for v, grad in zip(g, grads_g):
            v.grad = grad
        adam_g.step()
        first = first or dict(zip(p, grads_g + grads_d))
        history.append([value.item() for value in (loss_d, loss_g, class_d, class_g, penalty, norms)])
    return np.array(history), {name: grad.double().numpy() for name, grad in first.items()}


def main():
    out = {}
    for variant in VARIANTS:
        for rule in ("simultaneous", "alternating"):
            (exact, gradients), (single, _) = (run(variant, rule, dtype) for dtype in (torch.float64, torch.float32))
            stray = (np.abs(single - exact) / np.maximum(np.abs(exact), 1.0)).max()
            out |= {f"{variant}.{rule}.losses": exact, f"{variant}.{rule}.losses.float32": np.array([stray])}
            print(f"{variant:15} {rule:13} float32 is {stray:.1e} off; the last step {exact[-1].round(4).tolist()}")
            if rule == "simultaneous":
                out |= {f"{variant}.gradient.{name}": np.ascontiguousarray(grad) for name, grad in gradients.items()}
    # A sample of the larger tensors is enough.
    out = {n: (v.reshape(-1)[:: max(1, v.size // 200)].copy() if ".gradient." in n else v) for n, v in out.items()}
    save_file(out, "tests/goldens/variant_steps.safetensors")


main()
