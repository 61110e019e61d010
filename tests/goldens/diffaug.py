"""The golden of tests/operations/diffaug.rs: DiffAugment's program (Zhao et al., 2020, policy color,translation,cutout) in
float64, with random numbers from the counter of kernels/diffaug.cu in place of PyTorch's: python tests/goldens/diffaug.py"""

import pathlib

import torch
import torch.nn.functional as F
from common import philox
from safetensors.torch import save_file


class Change:
    """The program's changes of `count` images from row `first` on, of a stream and a step of a run's seed."""

    def __init__(self, count, first, stream, step, seed):
        self.count = count
        self.words = [philox(seed, first + n, stream, step, p) for n in range(count) for p in (0, 1)]
        self.words = [self.words[2 * n] + self.words[2 * n + 1] for n in range(count)]

    def rand(self, i, x):
        return torch.tensor([w[i] >> 8 for w in self.words]).to(x.dtype).reshape(-1, 1, 1, 1) * 2.0**-24

    def randint(self, i, low, high):
        return torch.tensor([low + (w[i] * (high - low) >> 32) for w in self.words]).reshape(-1, 1, 1)

    def brightness(self, x):
        return x + (self.rand(0, x) - 0.5)

    def saturation(self, x):
        mean = x.mean(dim=1, keepdim=True)
        return (x - mean) * (self.rand(1, x) * 2) + mean

    def contrast(self, x):
        mean = x.mean(dim=[1, 2, 3], keepdim=True)
        return (x - mean) * (self.rand(2, x) + 0.5) + mean

    def grid(self, *sides):
        return torch.meshgrid(torch.arange(self.count), *map(torch.arange, sides), indexing="ij")

    def translation(self, x, ratio=0.125):
        height, width = x.size(2), x.size(3)
        shift_x, shift_y = int(height * ratio + 0.5), int(width * ratio + 0.5)
        batch, grid_x, grid_y = self.grid(height, width)
        grid_x = torch.clamp(grid_x + self.randint(3, -shift_x, shift_x + 1) + 1, 0, height + 1)
        grid_y = torch.clamp(grid_y + self.randint(4, -shift_y, shift_y + 1) + 1, 0, width + 1)
        padded = F.pad(x, [1, 1, 1, 1, 0, 0, 0, 0])
        return padded.permute(0, 2, 3, 1)[batch, grid_x, grid_y].permute(0, 3, 1, 2)

    def cutout(self, x, ratio=0.5):
        height, width = x.size(2), x.size(3)
        size = int(height * ratio + 0.5), int(width * ratio + 0.5)
        batch, grid_x, grid_y = self.grid(*size)
        offset_x = self.randint(5, 0, height + (1 - size[0] % 2))
        offset_y = self.randint(6, 0, width + (1 - size[1] % 2))
        grid_x = torch.clamp(grid_x + offset_x - size[0] // 2, min=0, max=height - 1)
        grid_y = torch.clamp(grid_y + offset_y - size[1] // 2, min=0, max=width - 1)
        mask = torch.ones(self.count, height, width, dtype=x.dtype)
        mask[batch, grid_x, grid_y] = 0
        return x * mask.unsqueeze(1)

    def __call__(self, x):
        for change in (self.brightness, self.saturation, self.contrast, self.translation, self.cutout):
            x = change(x)
        return x


if __name__ == "__main__":
    torch.manual_seed(7)
    x, dy = torch.randn(6, 12, 10, 3), torch.randn(6, 12, 10, 3)
    at = x.double().requires_grad_()
    y = Change(6, first=5, stream=4, step=3, seed=1)(at.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    (dx,) = torch.autograd.grad(y, at, dy.double())
    out = {"x": x, "dy": dy, "y": y.detach(), "dx": dx}
    save_file({k: v.contiguous() for k, v in out.items()}, pathlib.Path(__file__).with_suffix(".safetensors"))
