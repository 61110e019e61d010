"""The convolutions of tests/operations/conv.rs, by PyTorch 2.13 in float64: python tests/goldens/conv.py"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn.functional import avg_pool2d, conv2d, interpolate, relu

torch.manual_seed(1)
tensors = {}


def make(*shape):
    return torch.randn(*shape, dtype=torch.float32).double()


def save(name, parts):
    """Pixels and filters as the kernels have them: (N, H, W, C) and (R, S, C, K)."""
    for part, tensor in parts.items():
        if tensor.dim() == 4:
            tensor = tensor.permute(2, 3, 1, 0) if "filters" in part else tensor.permute(0, 2, 3, 1)
        tensors[f"{name}.{part}"] = tensor.detach().float().contiguous()


# relu - convolution - average pool, the shortcut added; each sample's gradient with its own seed.
x, filters, bias = make(2, 3, 6, 4).requires_grad_(), make(5, 3, 3, 3).requires_grad_(), make(5).requires_grad_()
residual, dy, row_scale = make(2, 5, 3, 2), make(2, 5, 3, 2), make(2)
y = avg_pool2d(conv2d(relu(x), filters, bias, padding=1), 2) + residual
(y * dy * row_scale[:, None, None, None]).sum().backward()
save("discriminator", {"x": x, "filters": filters, "bias": bias, "residual": residual, "dy": dy, "row_scale": row_scale,
                       "y": y, "dx": x.grad, "dfilters": filters.grad, "dbias": bias.grad})

# scale and shift per sample - relu - upsampling - convolution - tanh; dx is the gradient before the upsampling.
x, filters, bias = make(2, 3, 3, 2), make(5, 3, 3, 3).requires_grad_(), make(5).requires_grad_()
scale, shift, dy = make(2, 3), make(2, 3), make(2, 5, 6, 4)
v = relu(x * scale[:, :, None, None] + shift[:, :, None, None]).requires_grad_()
y = torch.tanh(conv2d(interpolate(v, scale_factor=2, mode="nearest"), filters, bias, padding=1))
(y * dy).sum().backward()
save("generator", {"x": x, "scale": scale, "shift": shift, "filters": filters, "bias": bias, "dy": dy,
                   "y": y, "dx": v.grad, "dfilters": filters.grad, "dbias": bias.grad})

# 4 x 3 filters, stride 2, an odd number of rows.
x, filters = make(2, 3, 7, 6).requires_grad_(), make(4, 3, 4, 3).requires_grad_()
y = conv2d(x, filters, padding=1, stride=2)
dy = make(*y.shape)
(y * dy).sum().backward()
save("strided", {"x": x, "filters": filters, "dy": dy, "y": y, "dx": x.grad, "dfilters": filters.grad})

save_file(tensors, Path(__file__).with_suffix(".safetensors"))
