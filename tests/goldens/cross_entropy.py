"""Cross-entropy with a weight, float64. python tests/goldens/cross_entropy.py, with torch 2.13."""

import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.manual_seed(5)
x, labels = torch.randn(13, 7) * 3, torch.randint(7, (13,), dtype=torch.int32)
x64 = x.double().requires_grad_()
loss = 0.3 * F.cross_entropy(x64, labels.long())
loss.backward()
correct = (x64.argmax(1) == labels).sum().double()
out = {"x": x, "labels": labels, "statistics": torch.stack([loss.detach(), correct]), "dx": x64.grad}
save_file(out, pathlib.Path(__file__).with_suffix(".safetensors"))
