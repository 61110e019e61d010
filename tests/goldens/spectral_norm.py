"""A filter, a linear layer and an embedding through five training forwards, one evaluation and a backward; float64.
python tests/goldens/spectral_norm.py, with torch 2.13."""

import pathlib
import warnings

import torch
from safetensors.torch import save_file

warnings.simplefilter("ignore")
torch.manual_seed(3)
layers = {
    "conv": torch.nn.Conv2d(5, 7, 3, bias=False),
    "linear": torch.nn.Linear(19, 6, bias=False),
    "embedding": torch.nn.Embedding(4, 9),
}


def stored(name, w):
    """As zgan stores it: filters (R, S, C, K), linear layers (C, K), embeddings (classes, C)."""
    if name == "conv":
        return w.permute(2, 3, 1, 0)
    return w.T if name == "linear" else w


out = {}
for name, layer in layers.items():
    out[f"{name}.weight"] = stored(name, layer.weight.detach()).contiguous().clone()
    # Chainer's and PyTorch's older order: v from u, then u from v.
    layer = torch.nn.utils.spectral_norm(layer.double())
    u = torch.randn_like(layer.weight_u)
    layer.weight_u.copy_(u.float().double())
    out[f"{name}.u"] = u.float()
    hook = next(iter(layer._forward_pre_hooks.values()))
    for _ in range(5):
        hook(layer, None)
    w = layer.weight
    g = torch.randn_like(w).float()
    (dw,) = torch.autograd.grad(w, layer.weight_orig, g.double())
    out[f"{name}.g"] = stored(name, g).contiguous()
    out[f"{name}.dw"] = stored(name, dw).contiguous()
    out[f"{name}.effective"] = stored(name, w.detach()).contiguous().clone()
    out[f"{name}.u5"] = layer.weight_u.clone()
    # Evaluation at another weight.
    layer.eval()
    with torch.no_grad():
        layer.weight_orig.mul_(1.5).add_(0.1)
    hook(layer, None)
    out[f"{name}.changed"] = stored(name, layer.weight_orig.detach()).float().contiguous()
    out[f"{name}.evaluated"] = stored(name, layer.weight.detach()).contiguous()
save_file(out, pathlib.Path(__file__).with_suffix(".safetensors"))
