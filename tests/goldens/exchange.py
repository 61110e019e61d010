"""What PyTorch draws and judges with exported weights: networks.py beside them, loaded as its first lines say. The exports
of all cases are written by a test; then, from the repository's root with torch 2.13 or later, onnx and onnxruntime:

    ZGAN_EXCHANGE=/tmp/exchange cargo test --release --features check --test exchange pytorch
    python tests/goldens/exchange.py /tmp/exchange

It computes in float64, and keeps some of the images' values and the checksums of the files that it read. The ONNX files are
checked by onnx, and ONNX Runtime must draw and judge the same from them at batches of 1, 3 and 64."""

import importlib.util
import os
import sys
import warnings
import zlib

import numpy as np
import onnx
import onnxruntime
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file

SAMPLE = 500


def compare(at, inputs, drawn, labels, conditional):
    """ONNX Runtime with PyTorch: images, their bytes, and what D in eval mode makes of the images."""
    models = {side: onnx.load(at(f"{side}.onnx")) for side in ("generator", "discriminator")}
    for model in models.values():
        onnx.checker.check_model(model, full_check=True)
    run = {side: onnxruntime.InferenceSession(at(f"{side}.onnx")) for side in models}
    d = networks.Discriminator()
    d.load_state_dict(load_file(at("discriminator.safetensors")))
    for n in (1, 3, 64):
        pick = torch.arange(n) % len(drawn)
        z, y, expected = inputs["latents"][pick].numpy(), labels[pick].numpy(), drawn[pick].numpy()
        feed = {"latents": z} | ({"labels": y} if conditional else {})
        images, *levels = run["generator"].run(None, feed)
        assert np.abs(images - expected).max() < 5e-6 * max(1.0, np.abs(expected).max()), np.abs(images - expected).max()
        for level in levels:
            exact = (expected.transpose(0, 2, 3, 1) + 1.0) * 127.5
            assert level.dtype == np.uint8 and np.abs(level - exact).max() <= 0.501
        with torch.no_grad():
            judged = d.double()(torch.from_numpy(images).double(), *([labels[pick]] if conditional else []))
        judged = judged if isinstance(judged, tuple) else (judged,)
        feed = {"images": images, "labels": y}
        found = run["discriminator"].run(None, {i.name: feed[i.name] for i in run["discriminator"].get_inputs()})
        assert len(found) == len(judged)
        for a, b in zip(found, judged):
            assert a.shape == b.shape and np.abs(a - b.numpy()).max() <= 1e-5 * max(1.0, b.abs().max()), np.abs(a - b.numpy()).max()


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
    flat = drawn.permute(0, 2, 3, 1).reshape(-1)
    out[f"{name}.drawn"] = flat[:: max(1, len(flat) // SAMPLE)].contiguous().numpy()

    d = networks.Discriminator()
    d.load_state_dict(load_file(at("discriminator.safetensors")))
    # A step judges after a power iteration, as PyTorch's norm does in train mode.
    d = d.double().train()
    images = (inputs["images"] / np.float32(127.5) - np.float32(1.0)).double().permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = d(images, *([labels] if conditional else []))
    out[f"{name}.logits"] = (logits[0] if isinstance(logits, tuple) else logits).numpy()
    compare(at, inputs, drawn, wanted, conditional)
    files = ["generator.safetensors", "discriminator.safetensors", "networks.py", "generator.onnx", "discriminator.onnx"]
    out[f"{name}.crc"] = np.array([zlib.crc32(open(at(file), "rb").read()) for file in files], np.uint32).view(np.int32)

save_file(out, sys.argv[2] if len(sys.argv) > 2 else "tests/goldens/exchange.safetensors")
print(f"{len(out) // 3} cases, {sum(v.nbytes for v in out.values())} bytes")
