"""Ten training steps in float64 of `mnist` at width 4 with AC-GAN's head, with gradient penalties, with both, in the
zero-sum softmax game, and with DiffAug, under both update rules, from weights, latents, labels and batches that tests/operations/variants.rs makes by the same formulas. Run from
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
import mnist_network as network
from common import philox
from diffaug import Change
from mnist_network import CLASSES, generator, players, softmax_losses

STEPS, BATCH, LATENT, WIDTH = 10, 8, 16, 4
AUX_D, AUX_G, GP, SEED = 0.7, 0.3, 10.0, 1
# AC-GAN's head; the penalty of wasserstein-gp; R1's and R2's factors, and the steps between them; the softmax loss: what a
# real sample weighs, and whether G's is D's with the other sign; DiffAug.
VARIANTS = {
    "ac-gan": (True, False, 0.0, 0.0, 1, 1.0, False, False),
    "penalty": (False, True, 0.0, 0.0, 1, 1.0, False, False),
    "ac-gan-penalty": (True, True, 0.0, 0.0, 1, 1.0, False, False),
    "r1": (False, False, 2.0, 0.0, 1, 1.0, False, False),
    "zero-sum": (False, False, 2.0, 1.0, 3, 0.5, True, False),
    "diffaug": (False, False, 0.0, 0.0, 1, 1.0, False, True),
    "ac-gan-r1": (True, False, 2.0, 1.0, 1, 1.0, False, False),
}


def shares(step):
    """How much of each point of the penalty is real: stream 3."""
    words = [word for i in range(BATCH // 4) for word in philox(SEED, i, 3, step)]
    return np.array([word >> 8 for word in words]) * 2.0**-24


def start(classified, dtype):
    w = 2 * WIDTH
    head = [("discriminator.head.weight", (w, 1), 0.6)]
    if classified:
        head += [("discriminator.classes.weight", (w, CLASSES), 0.6), ("discriminator.classes.bias", (CLASSES,), 0.1)]
    else:
        head += [("discriminator.head.embedding", (CLASSES, w), 0.6)]
    return network.start(network.tensors(WIDTH, LATENT, head), 5500, dtype)


def discriminator(p, x, labels):
    """The logit, and the cross entropy of the labels (0 without a class layer)."""
    h = network.features(p, x)
    if "discriminator.classes.weight" not in p:
        return network.projection(p, h, labels), torch.zeros((), dtype=x.dtype)
    classes = h @ p["discriminator.classes.weight"] + p["discriminator.classes.bias"]
    return h @ p["discriminator.head.weight"][:, 0], F.cross_entropy(classes, labels)


def zero_centred(p, gamma, x, labels):
    """R1 or R2, and the mean norm."""
    x = x.detach().requires_grad_()
    (g,) = torch.autograd.grad(discriminator(p, x, labels)[0].sum(), x, create_graph=True)
    return gamma / 2.0 * (g**2).sum() / len(x), g.flatten(1).norm(dim=1).mean()


def losses(p, variant, step, real, labels, fake, wanted):
    """Of D and of G: on the logits, and what is added; then each penalty and the mean norm of its gradients."""
    _, penalised, r1, r2, every, weight, zero_sum, diffaug = variant
    if diffaug:
        real, fake = (Change(BATCH, first, 4, step, SEED)(x) for first, x in ((0, real), (BATCH, fake)))
    (f_real, c_real), (f_fake, c_fake) = discriminator(p, real, labels), discriminator(p, fake, wanted)
    nothing = torch.zeros((), dtype=real.dtype)
    penalties = [(nothing, nothing)] * 3
    if penalised:
        loss_d, loss_g = f_fake.mean() - f_real.mean(), -f_fake.mean()
        share = torch.tensor(shares(step)).to(real.dtype)[:, None, None, None]
        points = (share * real + (1.0 - share) * fake).detach().requires_grad_()
        (g,) = torch.autograd.grad(discriminator(p, points, labels)[0].sum(), points, create_graph=True)
        norms = g.flatten(1).norm(dim=1)
        penalties[0] = GP * ((norms - 1.0) ** 2).mean(), norms.mean()
    else:
        loss_d, loss_g = softmax_losses(f_real, f_fake, weight)
        loss_g = -loss_d if zero_sum else loss_g
    if step % every == 0 and r1:
        penalties[1] = zero_centred(p, r1, real, labels)
    if step % every == 0 and r2:
        penalties[2] = zero_centred(p, r2, fake, wanted)
    return loss_d, loss_g, AUX_D * (c_real + c_fake), AUX_G * c_fake, *[x for pair in penalties for x in pair]


def run(variant, rule, dtype):
    """The losses of all steps, and the gradients of the first."""
    settings = VARIANTS[variant]
    every = settings[4]
    p = start(settings[0], dtype)
    g, d = players(p)
    adam_g = torch.optim.Adam(g, lr=1e-3, betas=(0.5, 0.9))
    adam_d = torch.optim.Adam(d, lr=1e-3, betas=(0.5, 0.9))
    history, first = [], None
    for step in range(STEPS):
        real, labels, z, wanted = network.inputs(step, BATCH, LATENT, 0, dtype)
        evaluate = lambda: losses(p, settings, step, real, labels, generator(p, z, wanted), wanted)
        loss_d, loss_g, class_d, class_g, *penalties = evaluate()
        whole = loss_d + class_d + every * sum(penalties[::2])
        grads_d = torch.autograd.grad(whole, d, retain_graph=True)
        if rule == "simultaneous":
            grads_g = torch.autograd.grad(loss_g + class_g, g)
        for v, grad in zip(d, grads_d):
            v.grad = grad
        adam_d.step()
        if rule == "alternating":
            _, loss_g, _, class_g, *_ = evaluate()
            grads_g = torch.autograd.grad(loss_g + class_g, g)
        for v, grad in zip(g, grads_g):
            v.grad = grad
        adam_g.step()
        first = first or dict(zip(p, grads_g + grads_d))
        row = [value.item() for value in (loss_d, loss_g, class_d, class_g, *penalties)]
        # What is told between two penalties is that of the one before.
        history.append(row if step % every == 0 else row[:4] + history[-1][4:])
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
