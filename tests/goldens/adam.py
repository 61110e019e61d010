"""The golden of tests/operations/adam.rs, by PyTorch 2.13: python tests/goldens/adam.py

Adam on seven numbers for 5,000 steps, in float64 and in float32; the gradient of step t is row t % 61 of a table.
"""
import pathlib
import torch
from safetensors.torch import save_file

RECORDED = [1, 2, 3, 10, 100, 1000, 5000]

def run(start, gradients, betas, dtype):
    p = start.detach().clone().to(dtype).requires_grad_()
    adam = torch.optim.Adam([p], lr=2e-4, betas=betas, eps=1e-8, foreach=False)
    rows = []
    for t in range(1, max(RECORDED) + 1):
        p.grad = gradients[(t - 1) % 61].to(dtype)
        adam.step()
        if t in RECORDED:
            rows.append(p.detach().clone())
    return torch.stack(rows)

torch.manual_seed(1)
start = torch.randn(7)
gradients = torch.randn(61, 7) * torch.tensor([1e-6, 1e-3, 0.1, 1.0, 10.0, 1e3, 1.0]) + 0.1
tensors = {"start": start, "gradients": gradients}
for name, betas in [("a", (0.5, 0.999)), ("b", (0.0, 0.9))]:
    tensors[f"{name}_f64"] = run(start, gradients, betas, torch.float64)
    tensors[f"{name}_f32"] = run(start, gradients, betas, torch.float32)
save_file(tensors, pathlib.Path(__file__).with_suffix(".safetensors"))
