"""The projection head with repeated and absent labels, float64. python tests/goldens/projection.py, with torch 2.13."""

import pathlib

import torch
from safetensors.torch import save_file

torch.manual_seed(2)
N, H, W, C, CLASSES = 7, 3, 5, 19, 4
x = torch.randn(N, C, H, W)
w, V, bias = torch.randn(C) * 0.3, torch.randn(CLASSES, C) * 0.3, torch.randn(1)
df = torch.randn(N)
labels = torch.tensor([2, 0, 2, -1, 2, 1, 0], dtype=torch.int32)  # class 3 never, sample 3 without
out = {"x": x.permute(0, 2, 3, 1).contiguous(), "w": w, "V": V, "bias": bias, "df": df, "labels": labels}

embedding, psi = torch.nn.Embedding(CLASSES, C).double(), torch.nn.Linear(C, 1).double()
with torch.no_grad():
    embedding.weight.copy_(V)
    psi.weight.copy_(w[None])
    psi.bias.copy_(bias)
x64 = x.double().requires_grad_()
h = torch.relu(x64).sum(dim=(2, 3))
present = labels >= 0
f = psi(h)[:, 0] + (embedding(labels.clamp(min=0).long()) * h).sum(1) * present
f.backward(df.double())
out |= {
    "f": f.detach(),
    "h": h.detach(),
    "dx": x64.grad.permute(0, 2, 3, 1).contiguous(),
    "dw": psi.weight.grad[0],
    "dV": embedding.weight.grad,
    "dbias": psi.bias.grad,
}
save_file(out, pathlib.Path(__file__).with_suffix(".safetensors"))
