"""The golden of tests/operations/log_partition.rs, by PyTorch 2.13 in float64: python tests/goldens/log_partition.py"""
import pathlib
import torch
from safetensors.torch import save_file

torch.manual_seed(3)
real = (torch.randn(37) * 3).requires_grad_()
fake = (torch.randn(50) * 3 + 2).requires_grad_()
a, b = real.double(), fake.double()
lse = torch.logsumexp(torch.cat([-a, -b]), 0)
loss_d, loss_g = a.mean() + lse, torch.cat([a, b]).mean() + lse
d_real, d_fake = torch.autograd.grad(loss_d, [a, b], retain_graph=True)
(g_fake,) = torch.autograd.grad(loss_g, [b])
tensors = {"real": real, "fake": fake, "statistics": torch.stack([loss_d, loss_g, a.mean(), b.mean()]),
           "seed_d": torch.cat([d_real, d_fake]), "seed_g": g_fake}
save_file({k: v.detach().contiguous() for k, v in tensors.items()}, pathlib.Path(__file__).with_suffix(".safetensors"))
