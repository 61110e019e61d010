"""What PyTorch draws and judges with exported weights: networks.py beside them, loaded as its first lines say. The exports
of all cases are written by a test; then, from the repository's root with torch 2.13 or later:

    ZGAN_EXCHANGE=/tmp/exchange cargo test --release --features check --test exchange pytorch
    python tests/goldens/exchange.py /tmp/exchange

It computes in float64, and keeps some of the images' values and the checksums of the files that it read."""

import importlib.util
import os
import sys
import warnings
import zlib

import numpy as np
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file

SAMPLE = 500
warnings.simplefilter("ignore")
root, out = sys.argv[1], {}
for name in sorted(os.listdir(root)):
    at = lambda file: os.path.join(root, name, file)
    spec = importlib.util.spec_from_file_location("networks", at("networks.py"))
    networks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(networks)
    inputs = load_file(at("inputs.safetensors"))
    labels, wanted = inputs["labels"].long(), inputs["wanted"].long()
    conditional = getattr(networks, "CONDITIONING", "none") != "none"

    g = networks.Generator()
    g.load_state_dict(load_file(at("generator.safetensors")))
    with torch.no_grad():
        drawn = g.double()(inputs["latents"].double(), *([wanted] if conditional else []))
    drawn = drawn.permute(0, 2, 3, 1).reshape(-1)
    out[f"{name}.drawn"] = drawn[:: max(1, len(drawn) // SAMPLE)].contiguous().numpy()

    d = networks.Discriminator()
    d.load_state_dict(load_file(at("discriminator.safetensors")))
    # A step judges after a power iteration, as PyTorch's norm does in train mode.
    d = d.double().train()
    images = (inputs["images"] / np.float32(127.5) - np.float32(1.0)).double().permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = d(images, *([labels] if conditional else []))
    out[f"{name}.logits"] = (logits[0] if isinstance(logits, tuple) else logits).numpy()
    files = ["generator.safetensors", "discriminator.safetensors", "networks.py"]
    out[f"{name}.crc"] = np.array([zlib.crc32(open(at(file), "rb").read()) for file in files], np.uint32).view(np.int32)

save_file(out, "tests/goldens/exchange.safetensors")
print(f"{len(out) // 3} cases, {sum(v.nbytes for v in out.values())} bytes")
