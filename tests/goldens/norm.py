"""The golden of tests/operations/norm.rs, by PyTorch 2.13 in float64: python tests/goldens/norm.py

plain: BatchNorm1d(7), eps 0.8, then LeakyReLU 0.2, on 33 rows.
conditional: class-conditional batch norm of (6, 3, 5, 4) channels last, ReLU, nearest upsampling; 3 classes.
"""
import pathlib
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.manual_seed(2)
torch.set_default_dtype(torch.float64)
tensors = {}

def record(prefix, **values):
    for name, value in values.items():
        value = value.detach()
        tensors[f"{prefix}_{name}"] = (value if value.dtype == torch.int64 else value.float()).contiguous()

def rounded(*shape):  # numbers that are float32
    return torch.randn(*shape).float().double()

x, dy = (rounded(33, 7) * 2 + 1).float().double().requires_grad_(), rounded(33, 7)
norm = torch.nn.BatchNorm1d(7, eps=0.8, momentum=0.1)
norm.weight.data, norm.bias.data = rounded(7), rounded(7)
y = F.leaky_relu(norm(x), 0.2)
y.backward(dy)
record("plain", x=x, dy=dy, gamma=norm.weight, beta=norm.bias, y=y, dx=x.grad, dgamma=norm.weight.grad,
       dbeta=norm.bias.grad, running_mean=norm.running_mean, running_var=norm.running_var)

x, dy = rounded(6, 3, 5, 4).requires_grad_(), rounded(6, 6, 10, 4)
gamma, beta = rounded(3, 4).requires_grad_(), rounded(3, 4).requires_grad_()
labels = torch.tensor([2, 0, 2, 2, 0, 2])  # no sample of class 1
xhat = F.batch_norm(x.permute(0, 3, 1, 2), None, None, training=True, eps=1e-5)
z = gamma[labels][:, :, None, None] * xhat + beta[labels][:, :, None, None]
y = F.interpolate(F.relu(z), scale_factor=2, mode="nearest").permute(0, 2, 3, 1)
y.backward(dy)
record("conditional", x=x, dy=dy, gamma=gamma, beta=beta, labels=labels, y=y, dx=x.grad, dgamma=gamma.grad,
       dbeta=beta.grad)
save_file(tensors, pathlib.Path(__file__).with_suffix(".safetensors"))
