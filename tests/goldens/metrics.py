"""Metrics of given features by prdc 0.2, torch-fidelity 0.4 and pytorch-fid 0.3, and the Fréchet distance by eigenvalues in float64:
python tests/goldens/metrics.py, with torch 2.15 and scipy 1.17."""

import pathlib

import numpy as np
import torch
from prdc import compute_prdc
from pytorch_fid.fid_score import calculate_frechet_distance
from safetensors.numpy import save_file
from scipy.spatial.distance import cdist
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

rng = np.random.default_rng(7)
normal = lambda n, d, shift=0, scale=1: (rng.standard_normal((n, d)) * scale + shift).astype(np.float32)


def frechet(a, b):
    (m, s), (n, t) = [(x.mean(0), np.cov(x, rowvar=False)) for x in (a.astype(np.float64), b.astype(np.float64))]
    values, vectors = np.linalg.eigh(s)
    half = vectors * np.sqrt(values.clip(0)) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(half @ t @ half).clip(0)).sum()
    return ((m - n) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * shared


def overlap(real, fake):
    reach = lambda x, k: np.sort(cdist(x, x), 1)[:, k]
    between = cdist(real, fake)
    precision = (between <= reach(real, 3)[:, None]).any(0).mean()
    recall = (between <= reach(fake, 3)[None]).any(1).mean()
    inside = between < reach(real, 5)[:, None]
    return np.array([precision, recall]), np.array([inside.sum(0).mean() / 5, inside.any(1).mean()])


repeated = normal(40, 8)
sets = {
    "plain": (normal(300, 16), normal(250, 16, 0.3, 0.8)),
    # Rows that are there three times, and some of them on the other side too; far from 0, as products cancel there.
    "repeated": (np.repeat(repeated, 3, 0) + 5, np.concatenate([repeated[:20], normal(30, 8)]) + 5),
    "few": (normal(10, 64), normal(14, 64, 0.1)),
    # More rows than are compared at once.
    "many": (normal(300, 3), normal(4500, 3, 0.2)),
}
out = {}
for name, (real, fake) in sets.items():
    if name != "many":
        out[f"{name}.real"], out[f"{name}.fake"] = real, fake
        out[f"{name}.frechet"] = np.array([frechet(real, fake)])
        size = min(len(real), len(fake), 100)
        tensors = torch.from_numpy(fake), torch.from_numpy(real)
        # Their sums in float32 lose what they do; ours are compared with sums in float64.
        kid = kid_features_to_metric(*[t.double() for t in tensors], kid_subsets=100, kid_subset_size=size, kid_kernel="poly",
                                     kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1,
                                     rng_seed=2020, verbose=False)
        out[f"{name}.kid.{size}"] = np.array(list(kid.values()))
        isc = isc_features_to_metric(tensors[0], 10, True, 2020)
        out[f"{name}.is"] = np.array(list(isc.values()))
    else:
        out[f"{name}.real"], out[f"{name}.fake"] = real, fake
    # By definition, from differences in float64: where rows are repeated, the packages' rounding decides between equal numbers.
    pr, dc = overlap(real.astype(np.float64), fake.astype(np.float64))
    out[f"{name}.pr"], out[f"{name}.dc"] = pr, dc
    if name != "repeated":
        prc = prc_features_to_metric(torch.from_numpy(fake).double(), torch.from_numpy(real).double(), prc_neighborhood=3,
                                     prc_batch_size=10000, save_cpu_ram=False, verbose=False)
        assert np.allclose(pr, [prc["precision"], prc["recall"]], atol=1e-6)
        theirs = compute_prdc(real.astype(np.float64), fake.astype(np.float64), 5)
        assert np.allclose(dc, [theirs["density"], theirs["coverage"]], atol=1e-12)
real, fake = sets["plain"]
moments = [part for x in (real, fake) for part in (x.astype(np.float64).mean(0), np.cov(x.astype(np.float64), rowvar=False))]
out["plain.pytorch-fid"] = np.array([calculate_frechet_distance(*moments)])
# As pytorch-fid keeps statistics.
np.savez_compressed(pathlib.Path(__file__).with_name("statistics.npz"), mu=np.array([0.5, -2.0]), sigma=np.array([[2.0, 0.25], [0.25, 1.0]]))
save_file(out, pathlib.Path(__file__).with_suffix(".safetensors"))
print({name: value for name, value in out.items() if value.size < 3})
