"""Features, logits and distances of pytorch-fid 0.3, torch-fidelity 0.4 and clean-fid 0.1.35, with weights and pictures that
tests/operations/inception.rs draws by the same formulas: python tests/goldens/inception.py, with torch 2.15, torchvision, scipy."""

import pathlib
import sys
import tempfile

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from common import uniform


def seed_of(name):
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = ((h ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return h


def draw(name, shape, middle, bound):
    return (middle + (2 * uniform(seed_of(name), int(np.prod(shape))) - 1) * bound).astype(np.float32).reshape(shape)


def picture(name, h, w):
    """Squares of colour, with noise."""
    below = lambda part, n, most: (uniform(seed_of(f"{name}.{part}"), n) * most).astype(np.int64)
    squares = below("squares", 5 * 5 * 3, 192).reshape(5, 5, 3)
    rows, columns = np.arange(h) * 5 // h, np.arange(w) * 5 // w
    return (squares[rows][:, columns] + below("noise", h * w * 3, 64).reshape(h, w, 3)).astype(np.uint8)


def state(model):
    """Weights by formula; the norms' statistics are what the model holds."""
    weights = {}
    for name, tensor in model.state_dict().items():
        shape = tuple(tensor.shape)
        if name.endswith("conv.weight") or name == "fc.weight":
            weights[name] = torch.from_numpy(draw(name, shape, 0, (6 / np.prod(shape[1:])) ** 0.5))
        elif name.endswith("bn.weight"):
            weights[name] = torch.from_numpy(draw(name, shape, 1, 0.3))
        elif name.endswith("bias"):
            weights[name] = torch.from_numpy(draw(name, shape, 0, 0.3))
        else:
            weights[name] = tensor
    return weights


import pytorch_fid.inception as theirs

# Instead of a download.
made = {}


def load(url, **_):
    return made["state"]


theirs.load_state_dict_from_url = load
import torchvision

bare = theirs._inception_v3(num_classes=1008, aux_logits=False, weights=None)
made["state"] = state(bare)

SIZES = [(32, 32), (64, 64), (299, 299), (45, 71)]
pictures = {f"{h}x{w}.{i}": picture(f"{h}x{w}.{i}", h, w) for h, w in SIZES for i in range(2)}
tensor = lambda image: torch.from_numpy(image.transpose(2, 0, 1).copy())[None]

# One pass over all pictures sets the statistics, layer after layer.
model = theirs.InceptionV3([3])
for module in model.modules():
    if isinstance(module, torch.nn.BatchNorm2d):
        module.momentum = 1.0
model.train()
seen = [torch.nn.functional.interpolate(tensor(x) / 255.0, size=(299, 299), mode="bilinear") for x in pictures.values()]
with torch.no_grad():
    model(torch.cat(seen))
fid = theirs.fid_inception_v3()  # for the names
names = [name for name, m in fid.named_modules() if isinstance(m, torch.nn.BatchNorm2d)]
norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
assert len(names) == len(norms) == 94
out = {}
for name, norm in zip(names, norms):
    for part, value in [("running_mean", norm.running_mean), ("running_var", norm.running_var)]:
        out[f"{name}.{part}"] = value.numpy().copy()
        made["state"][f"{name}.{part}"] = value.clone()

with torch.no_grad():
    model = theirs.InceptionV3([0, 1, 2, 3]).eval()
    fc = made["state"]["fc.weight"]
    for name, image in pictures.items():
        features = [block.mean((2, 3))[0] for block in model(tensor(image) / 255.0)]
        for features in features:
            out[f"{name}.pytorch-fid.{len(features)}"] = features.numpy().copy()
        out[f"{name}.pytorch-fid.logits"] = (features @ fc.T).numpy().copy()

    with tempfile.TemporaryDirectory() as folder:
        torch.save(made["state"], f"{folder}/weights.pth")
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        fidelity = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], f"{folder}/weights.pth")
    from cleanfid.resize import build_resizer

    clean, plain = build_resizer("clean"), theirs.InceptionV3([3], resize_input=False, normalize_input=False).eval()
    for name in [name for name in pictures if name.endswith(".1")]:
        features, logits = fidelity(tensor(pictures[name]))
        out[f"{name}.torch-fidelity.2048"], out[f"{name}.torch-fidelity.logits"] = features[0].numpy(), logits[0].numpy()
        resized = tensor(clean(pictures[name]))
        out[f"{name}.clean-fid.2048"] = plain((resized - 128) / 128)[0][0, :, 0, 0].numpy().copy()

# Two folders: pytorch-fid's own distance at 64 dimensions, and eigenvalues in f64 at 2,048.
from pytorch_fid.fid_score import calculate_frechet_distance, calculate_activation_statistics


def frechet(a, b):
    (m, s), (n, t) = [(x.mean(0), np.cov(x, rowvar=False)) for x in (a, b)]
    values, vectors = np.linalg.eigh(s)
    half = vectors * np.sqrt(values.clip(0)) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(half @ t @ half).clip(0)).sum()
    return ((m - n) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * shared


with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    files = {}
    for side in "ab":
        files[side] = []
        for i in range(100):
            image = picture(f"{side}.{i}", 32, 32) // (1 if side == "a" else 2)
            path = folder / f"{side}{i:03}.png"
            Image.fromarray(image).save(path)
            files[side].append(path)
    small = theirs.InceptionV3([0]).eval()
    statistics = [calculate_activation_statistics(files[side], small, 20, 64, "cpu", 0) for side in "ab"]
    out["fid.64"] = np.array([calculate_frechet_distance(*statistics[0], *statistics[1])])
    out["mu.64"], out["sigma.64"] = statistics[0]
    from pytorch_fid.fid_score import get_activations

    large = theirs.InceptionV3([3]).eval()
    features = [get_activations(files[side][:12], large, 12, 2048, "cpu", 0) for side in "ab"]
    out["fid.2048"] = np.array([frechet(*features)])

save_file(out, pathlib.Path(__file__).with_suffix(".safetensors"))
for name in ["fid.64", "fid.2048"]:
    print(name, out[name])
spread = np.stack([out[f"{name}.pytorch-fid.2048"] for name in pictures])
print("spread of features over pictures", spread.std(0).mean(), "mean", spread.mean())
