"""What the golden scripts share: the tests' generator (SplitMix64, tests/common/mod.rs), vectorised."""

import numpy as np

GAMMA = np.uint64(0x9E3779B97F4A7C15)


def uniform(seed, n):
    """n numbers in [0, 1): the first n of `Random(seed)`."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + GAMMA * np.arange(1, n + 1, dtype=np.uint64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) / float(1 << 53)


def normal(seed, n):
    """n standard normals: Box and Muller on pairs, as `Random::normal`."""
    u = uniform(seed, 2 * n).reshape(n, 2)
    return np.sqrt(-2.0 * np.log(1.0 - u[:, 0])) * np.cos(2.0 * np.pi * u[:, 1])


def philox(seed, index, stream, step, more=0):
    """Four words of the program's generator, kernels/device/philox.h, for its run's seed."""
    c, k, mask = [index, stream, step, more], [seed, 0], 0xFFFFFFFF
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & mask, (a >> 32) ^ c[3] ^ k[1], a & mask]
        k = [(k[0] + 0x9E3779B9) & mask, (k[1] + 0xBB67AE85) & mask]
    return c


def digits(count, folder="src/data/mnist"):
    """The first images (count, 28, 28) and labels of the embedded digits."""
    import gzip

    images = gzip.open(f"{folder}/train-images-idx3-ubyte.gz").read()[16 : 16 + count * 784]
    labels = gzip.open(f"{folder}/train-labels-idx1-ubyte.gz").read()[8 : 8 + count]
    return (
        np.frombuffer(images, np.uint8).reshape(count, 28, 28),
        np.frombuffer(labels, np.uint8).astype(np.int64),
    )
