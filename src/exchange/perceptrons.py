"""The networks of a zgan run in PyTorch. Three lines load the generator, ready to draw:

    from networks import Generator
    g = Generator()
    g.load_state_dict(load_file("generator.safetensors"))        # from safetensors.torch

`g(z)` turns latents (N, LATENT) into #WHAT#. Networks begin in eval mode; `.train()` makes
them learn.#DRAWS#
"""

import torch
import torch.nn as nn
#SETTINGS#

normalised_g = nn.utils.spectral_norm if SPECTRAL_NORM_G else lambda layer: layer
normalised_d = nn.utils.spectral_norm if SPECTRAL_NORM_D else lambda layer: layer


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        layers, c = [], LATENT
        for i, k in enumerate(WIDTHS_G):
            layers.append(normalised_g(nn.Linear(c, k)))
            layers += [nn.BatchNorm1d(k, EPS)] if NORMS and i > 0 else []
            layers.append(nn.LeakyReLU(SLOPE_G))
            c = k
        layers.append(normalised_g(nn.Linear(c, CHANNELS * HEIGHT * WIDTH)))
        self.model = nn.Sequential(*layers, *([nn.Tanh()] if NORMS else []))
        self.eval()

    def forward(self, z):
        return self.model(z).reshape(-1, CHANNELS, HEIGHT, WIDTH)


class Discriminator(nn.Module):
    """Logits (N), #HIGH# for real images."""

    def __init__(self):
        super().__init__()
        layers, c = [], CHANNELS * HEIGHT * WIDTH
        for k in WIDTHS_D:
            layers += [normalised_d(nn.Linear(c, k)), nn.LeakyReLU(SLOPE_D)]
            c = k
        self.model = nn.Sequential(*layers, normalised_d(nn.Linear(c, 1)))
        self.eval()

    def forward(self, x):
        return self.model(x.flatten(1))[:, 0]

#GRID#
