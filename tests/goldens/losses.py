"""Losses and per-logit gradients by autograd in float64. python tests/goldens/losses.py, with torch 2.15
(torch 2.13 gives the same bits)."""

import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.manual_seed(1)
real = (torch.randn(13) * 2).double()
fake = (torch.randn(7) * 2 - 0.5).double()
bce = F.binary_cross_entropy_with_logits
one, zero = torch.ones_like, torch.zeros_like

LOSSES = {
    "hinge": (lambda r, f: F.relu(1 - r).mean() + F.relu(1 + f).mean(), lambda r, f: -f.mean()),
    "non_saturating": (lambda r, f: bce(r, one(r)) + bce(f, zero(f)), lambda r, f: bce(f, one(f))),
    "minimax": (lambda r, f: bce(r, one(r)) + bce(f, zero(f)), lambda r, f: -bce(f, zero(f))),
    "least_squares": (
        lambda r, f: (F.mse_loss(r, one(r)) + F.mse_loss(f, zero(f))) / 2,
        lambda r, f: F.mse_loss(f, one(f)) / 2,
    ),
    "wasserstein": (lambda r, f: f.mean() - r.mean(), lambda r, f: -f.mean()),
    "relativistic_average": (
        lambda r, f: bce(r - f.mean(), one(r)) + bce(f - r.mean(), zero(f)),
        lambda r, f: bce(r - f.mean(), zero(r)) + bce(f - r.mean(), one(f)),
    ),
    "relativistic_hinge": (
        lambda r, f: F.relu(1 - (r - f.mean())).mean() + F.relu(1 + (f - r.mean())).mean(),
        lambda r, f: F.relu(1 + (r - f.mean())).mean() + F.relu(1 - (f - r.mean())).mean(),
    ),
}

out = {"real": real.float(), "fake": fake.float()}
for name, (loss_d, loss_g) in LOSSES.items():
    r, f = real.float().double().requires_grad_(), fake.float().double().requires_grad_()
    d, g = loss_d(r, f), loss_g(r, f)
    seed_d = torch.cat(torch.autograd.grad(d, (r, f)))
    (seed_g,) = torch.autograd.grad(g, f)
    out[f"{name}.statistics"] = torch.stack([d, g, r.mean(), f.mean()]).detach()
    out[f"{name}.seed_d"], out[f"{name}.seed_g"] = seed_d, seed_g
save_file(out, pathlib.Path(__file__).with_suffix(".safetensors"))
