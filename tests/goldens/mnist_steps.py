"""Ten training steps of the `mnist` preset in float64, both update rules, from weights, latents, labels and batches
that tests/operations/training.rs makes by the same formulas. Run from the repository's root with torch 2.13:

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
from safetensors.numpy import save_file

sys.path.insert(0, "tests/goldens")
import mnist_network as network
from mnist_network import CLASSES, generator, players, seen, softmax_losses

STEPS, LATENT, SAMPLE = 10, 64, 256

# Width, batch, and the number of the draw for the two rules.
CASES = {"whole": (16, 64, {"simultaneous": 59, "alternating": 59}), "small": (8, 4, {"simultaneous": 18, "alternating": 36})}
WIDTH, BATCH, DRAW = 16, 64, 0


def start(dtype):
    head = [("discriminator.head.weight", (2 * WIDTH, 1), 0.3), ("discriminator.head.embedding", (CLASSES, 2 * WIDTH), 0.3)]
    return network.start(network.tensors(WIDTH, LATENT, head), 100_000 * DRAW + 2000, dtype)


def inputs(step, dtype):
    return network.inputs(step, BATCH, LATENT, 100_000 * DRAW, dtype)


def discriminator(p, x, labels):
    return network.projection(p, network.features(p, x), labels)


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
        evaluate = lambda: softmax_losses(discriminator(p, real, labels), discriminator(p, generator(p, z, wanted), wanted))
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
    loss_d, loss_g = softmax_losses(f_real, f_fake)
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
