"""The golden of tests/operations/log_partition.rs, by PyTorch 2.13 in float64: python tests/goldens/log_partition.py"""
import pathlib
import torch
from safetensors.torch import save_file

torch.manual_seed(3)
real = (torch.randn(37) * 3).requires_grad_()
fake = (torch.randn(50) * 3 + 2).requires_grad_()
a, b = real.double(), fake.double()
tensors = {"real": real, "fake": fake}
# What a real sample weighs, and the target; the first pair is Softmax GAN as published.
for weight, target in [(1.0, "uniform"), (1.0, "zero-sum"), (0.1, "uniform"), (0.1, "zero-sum"), (3.0, "zero-sum")]:
    lse = torch.logsumexp(torch.cat([torch.tensor(weight).double().log() - a, -b]), 0)
    loss_d = a.mean() + lse
    loss_g = (weight * a.sum() + b.sum()) / (weight * len(a) + len(b)) + lse if target == "uniform" else -loss_d
    d_real, d_fake = torch.autograd.grad(loss_d, [a, b], retain_graph=True)
    (g_fake,) = torch.autograd.grad(loss_g, [b])
    name = "" if (weight, target) == (1.0, "uniform") else f"{target}.{weight}."
    tensors |= {f"{name}statistics": torch.stack([loss_d, loss_g, a.mean(), b.mean()]),
                f"{name}seed_d": torch.cat([d_real, d_fake]), f"{name}seed_g": g_fake}
save_file({k: v.detach().contiguous() for k, v in tensors.items()}, pathlib.Path(__file__).with_suffix(".safetensors"))
