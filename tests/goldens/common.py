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


def digits(count, folder="src/data/mnist"):
    """The first images (count, 28, 28) and labels of the embedded digits."""
    import gzip

    images = gzip.open(f"{folder}/train-images-idx3-ubyte.gz").read()[16 : 16 + count * 784]
    labels = gzip.open(f"{folder}/train-labels-idx1-ubyte.gz").read()[8 : 8 + count]
    return (
        np.frombuffer(images, np.uint8).reshape(count, 28, 28),
        np.frombuffer(labels, np.uint8).astype(np.int64),
    )
