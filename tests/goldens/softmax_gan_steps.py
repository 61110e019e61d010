"""Ten training steps of the `softmax-gan` preset in float64, both update rules, from weights, latents and batches
that tests/operations/training.rs makes by the same formulas. Run from the repository's root with torch 2.13:

    python tests/goldens/softmax_gan_steps.py

Writes softmax_gan_steps.safetensors: per rule the losses (10, 2), and of every tensor a sample of its final values
in float64, with the distance that PyTorch's own float32 run ends from them over the distance travelled.
"""

import sys

import numpy as np
import torch
from safetensors.numpy import save_file

sys.path.insert(0, "tests/goldens")
from common import digits, normal, uniform

STEPS, BATCH, LATENT, SAMPLE = 10, 64, 100, 512
G_WIDTHS, D_WIDTHS = [128, 256, 512, 1024], [512, 256]


def tensors():
    """Name, shape (weights input-major), bound of the uniform start; in layout order."""
    out, c = [], LATENT
    for i, k in enumerate(G_WIDTHS + [784], 1):
        out += [(f"generator.linear{i}.weight", (c, k), c**-0.5), (f"generator.linear{i}.bias", (k,), c**-0.5)]
        if 2 <= i <= 4:
            out += [(f"generator.norm{i}.weight", (k,), 0.0), (f"generator.norm{i}.bias", (k,), 0.0)]
        c = k
    c = 784
    for i, k in enumerate(D_WIDTHS + [1], 1):
        out.append((f"discriminator.linear{i}.weight", (c, k), c**-0.5))
        if i <= 2:
            out.append((f"discriminator.linear{i}.bias", (k,), c**-0.5))
        c = k
    return out


def start(dtype):
    values = {}
    for i, (name, shape, bound) in enumerate(tensors()):
        x = (2.0 * uniform(1000 + i, int(np.prod(shape))) - 1.0) * bound
        if "norm" in name:
            x = x + (1.0 if name.endswith("weight") else 0.0)
        values[name] = torch.tensor(x.astype(np.float32).reshape(shape)).to(dtype).requires_grad_()
    return values


def generator(p, z):
    x = z
    for i in range(1, 6):
        x = x @ p[f"generator.linear{i}.weight"] + p[f"generator.linear{i}.bias"]
        if 2 <= i <= 4:
            mean, var = x.mean(0), x.var(0, unbiased=False)
            x = (x - mean) / torch.sqrt(var + 0.8)
            x = x * p[f"generator.norm{i}.weight"] + p[f"generator.norm{i}.bias"]
        x = torch.tanh(x) if i == 5 else torch.nn.functional.leaky_relu(x, 0.2)
    return x


def discriminator(p, x):
    for i in (1, 2):
        x = x @ p[f"discriminator.linear{i}.weight"] + p[f"discriminator.linear{i}.bias"]
        x = torch.nn.functional.leaky_relu(x, 0.2)
    return (x @ p["discriminator.linear3.weight"])[:, 0]


def losses(real, fake):
    log_z = torch.logsumexp(torch.cat([-real, -fake]), 0)
    return real.mean() + log_z, torch.cat([real, fake]).mean() + log_z


def run(rule, dtype):
    p = start(dtype)
    g = [v for n, v in p.items() if n.startswith("generator")]
    d = [v for n, v in p.items() if n.startswith("discriminator")]
    adam_g = torch.optim.Adam(g, lr=2e-4, betas=(0.5, 0.999))
    adam_d = torch.optim.Adam(d, lr=2e-4, betas=(0.5, 0.999))
    images, _ = digits(STEPS * BATCH)
    history = []
    for step in range(STEPS):
        batch = images[step * BATCH : (step + 1) * BATCH].reshape(BATCH, 784)
        real = torch.tensor(batch.astype(np.float32) / np.float32(127.5) - np.float32(1.0)).to(dtype)
        z = torch.tensor(normal(5000 + step, BATCH * LATENT).astype(np.float32).reshape(BATCH, LATENT)).to(dtype)
        fake = generator(p, z)
        loss_d, loss_g = losses(discriminator(p, real), discriminator(p, fake))
        if rule == "simultaneous":
            for v, grad in zip(d, torch.autograd.grad(loss_d, d, retain_graph=True)):
                v.grad = grad
            for v, grad in zip(g, torch.autograd.grad(loss_g, g)):
                v.grad = grad
            adam_d.step(), adam_g.step()
        else:
            for v, grad in zip(d, torch.autograd.grad(loss_d, d, retain_graph=True)):
                v.grad = grad
            adam_d.step()
            loss_g = losses(discriminator(p, real), discriminator(p, generator(p, z)))[1]
            for v, grad in zip(g, torch.autograd.grad(loss_g, g)):
                v.grad = grad
            adam_g.step()
        history.append([loss_d.item(), loss_g.item()])
    return {n: v.detach().double().numpy() for n, v in p.items()}, np.array(history)


def main():
    torch.manual_seed(0)
    out = {}
    begin = {n: v.detach().numpy() for n, v in start(torch.float64).items()}
    for rule in ("simultaneous", "alternating"):
        exact, history = run(rule, torch.float64)
        single, _ = run(rule, torch.float32)
        out[f"{rule}.losses"] = history
        for name, value in exact.items():
            flat = value.reshape(-1)
            stride = max(1, flat.size // SAMPLE)
            pick = np.arange(0, flat.size, stride)
            travelled = np.linalg.norm((value - begin[name]).reshape(-1)[pick])
            ratio = np.linalg.norm((single[name] - value).reshape(-1)[pick]) / travelled
            out[f"{rule}.{name}"] = flat[pick]
            out[f"{rule}.{name}.float32"] = np.array([ratio])
            print(f"{rule:13} {name:32} float32 ends {ratio:.2e} of the way off")
    save_file(out, "tests/goldens/softmax_gan_steps.safetensors")


main()
