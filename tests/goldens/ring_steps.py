"""Ten training steps in float64 of preset `ring` as it is: zero-sum softmax loss, R1, points drawn from the counter. Weights
and latents are those that tests/operations/variants.rs makes by the same formulas. Run from the repository's root with torch:

    python tests/goldens/ring_steps.py

Writes ring_steps.safetensors: for each step the losses of D and G, R1 and the mean norm of its gradients, and all weights
of D at the end; how far PyTorch's own float32 run is off.
"""

import sys

import numpy as np
import torch
from safetensors.numpy import save_file

sys.path.insert(0, "tests/goldens")
from common import normal, philox, uniform
from mnist_network import players, softmax_losses

STEPS, BATCH, LATENT, WIDTH, R1, SEED = 10, 256, 16, 128, 0.1, 1


def point(i, step):
    """Stream 2: words 0 and 1 are the noise, word 2 is the mode."""
    words = philox(SEED, i, 2, step)
    radius = np.sqrt(-2.0 * np.log(((words[0] >> 1) + 0.5) / 2.0**31))
    turn, centre = 2 * np.pi * (words[1] >> 8) / 2.0**24, 2 * np.pi * (words[2] >> 29) / 8.0
    noise = radius * np.array([np.cos(turn), np.sin(turn)])
    return 2.0 * np.array([np.cos(centre), np.sin(centre)]) + 0.02 * noise


def start(dtype):
    """Uniform within sqrt(3 / inputs), biases within 0.1."""
    p, seed = {}, 5500
    for player, sizes in (("generator", (LATENT, WIDTH, WIDTH, 2)), ("discriminator", (2, WIDTH, WIDTH, 1))):
        for i, (c, k) in enumerate(zip(sizes, sizes[1:]), 1):
            for name, shape, bound in (("weight", (c, k), (3.0 / c) ** 0.5), ("bias", (k,), 0.1)):
                if (player, i, name) == ("discriminator", 3, "bias"):
                    continue
                x = ((2.0 * uniform(seed, int(np.prod(shape))) - 1.0) * bound).astype(np.float32)
                p[f"{player}.linear{i}.{name}"] = torch.tensor(x.reshape(shape)).to(dtype).requires_grad_()
                seed += 1
    return p


def perceptron(p, player, x):
    for i in (1, 2, 3):
        x = x @ p[f"{player}.linear{i}.weight"] + p.get(f"{player}.linear{i}.bias", 0.0)
        x = torch.relu(x) if i < 3 else x
    return x


def run(dtype):
    p = start(dtype)
    g, d = players(p)
    adams = [torch.optim.Adam(values, lr=1e-3, betas=(0.5, 0.9)) for values in (g, d)]
    history = []
    for step in range(STEPS):
        real = torch.tensor(np.array([point(i, step) for i in range(BATCH)])).to(dtype).requires_grad_()
        z = torch.tensor(normal(5000 + step, BATCH * LATENT).astype(np.float32).reshape(BATCH, LATENT)).to(dtype)
        f_real, f_fake = perceptron(p, "discriminator", real)[:, 0], perceptron(p, "discriminator", perceptron(p, "generator", z))[:, 0]
        loss_d, _ = softmax_losses(f_real, f_fake)
        (at,) = torch.autograd.grad(f_real.sum(), real, create_graph=True)
        r1 = R1 / 2.0 * (at**2).sum() / BATCH
        gradients = torch.autograd.grad(loss_d + r1, d, retain_graph=True), torch.autograd.grad(-loss_d, g)
        for values, of in zip((d, g), gradients):
            for value, gradient in zip(values, of):
                value.grad = gradient
        for adam in adams:
            adam.step()
        history.append([x.item() for x in (loss_d, -loss_d, r1, at.norm(dim=1).mean())])
    weights = torch.cat([value.detach().flatten() for value in d]).double().numpy()
    return np.array(history), weights


(exact, weights), (single, theirs) = run(torch.float64), run(torch.float32)
stray = (np.abs(single - exact) / np.maximum(np.abs(exact), 1.0)).max()
of_weights = np.abs(theirs - weights).max() / np.abs(weights).max()
print(f"float32 is {stray:.1e} off, its weights {of_weights:.1e}; first {exact[0].round(4).tolist()}, last {exact[-1].round(4).tolist()}")
save_file({"losses": exact, "float32": np.array([stray, of_weights]), "weights": weights[::40].copy()}, "tests/goldens/ring_steps.safetensors")
