"""The linear layer of tests/operations/matmul.rs, by PyTorch 2.13 in float64: python tests/goldens/matmul.py"""

from pathlib import Path

import torch
from safetensors.torch import save_file

torch.manual_seed(1)
N, C, K, SLOPE = 5, 19, 7, 0.2
x = torch.randn(N, C, dtype=torch.float32).double().requires_grad_()
weight = torch.randn(C, K, dtype=torch.float32).double().requires_grad_()
bias = torch.randn(K, dtype=torch.float32).double().requires_grad_()
dy = torch.randn(N, K, dtype=torch.float32).double()
row_scale = torch.randn(N, dtype=torch.float32).double()
tensors = {"x": x, "weight": weight, "bias": bias, "dy": dy, "row_scale": row_scale}
for name, activation in [("leaky", lambda v: torch.nn.functional.leaky_relu(v, SLOPE)), ("tanh", torch.tanh)]:
    x.grad = weight.grad = bias.grad = None
    y = activation(torch.nn.functional.linear(x, weight.t(), bias))
    (y * dy * row_scale[:, None]).sum().backward()
    tensors |= {f"{name}.y": y, f"{name}.dx": x.grad, f"{name}.dweight": weight.grad, f"{name}.dbias": bias.grad}
tensors = {name: tensor.detach().float().contiguous() for name, tensor in tensors.items()}
save_file(tensors, Path(__file__).with_suffix(".safetensors"))
