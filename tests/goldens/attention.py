"""SAGAN's attention core and gated residual, float64. python tests/goldens/attention.py, with torch 2.13."""

import pathlib

import torch
from safetensors.torch import save_file

torch.manual_seed(6)
N, L, LK, DK, DV = 2, 36, 9, 5, 11
tensors = {"q": torch.randn(N, L, DK), "k": torch.randn(N, LK, DK), "v": torch.randn(N, LK, DV)}
x, gamma, dy = torch.randn(N, L, DV), torch.tensor([0.7]), torch.randn(N, L, DV)
q, k, v = (t.double().requires_grad_() for t in tensors.values())
g = gamma.double().requires_grad_()
scores = q @ k.transpose(1, 2)
o = torch.softmax(scores, -1) @ v
o.retain_grad()
y = x.double() + g * o
y.backward(dy.double())
out = tensors | {
    "x": x, "gamma": gamma, "dy": dy, "o": o.detach(), "lse": torch.logsumexp(scores, -1).detach(), "y": y.detach(),
    "d_o": o.grad, "dgamma": g.grad, "dq": q.grad, "dk": k.grad, "dv": v.grad,
}
save_file(out, pathlib.Path(__file__).with_suffix(".safetensors"))
