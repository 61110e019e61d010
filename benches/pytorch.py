"""Training steps of four presets in PyTorch, written the way a good user of it would: channels last, one forward of D for
real and fake images, the shortcut's 1x1 convolution before the upsampling and after the pooling, fused Adam, `set_to_none`.
The same steps as src/instruments/bench/libtorch/ has, from Python and in a process of their own, to see that those are not
slower; the numbers of a step are compared in tests/training.rs. Names and sizes are those of `zgan bench --preset`.

    python benches/pytorch.py mnist softmax-gan --update alternating      # on the CPU, as it has ever been
    python benches/pytorch.py --device cuda --json --time-limit 80        # everything that a GPU is compared by
    python benches/pytorch.py --device cuda --list                        # the names of the steps; needs no torch
    python benches/pytorch.py --parts operations,steps --json             # for zgan bench --beside

On a GPU a step is timed launched from Python (`eager`), as one CUDA graph (`graph`), and launched with both networks
compiled by `torch.compile` (`compile`): many steps in a row between two events, at most 100. f32 is without TF32, tf32 is f32
with TF32 in products and convolutions, bf16 is autocast. What fails is a line of the output, and the rest is timed.

Operations are timed in f32, forward and backward: `eager`, as one CUDA graph, and by `torch.compile` for static shapes with
`max-autotune`. Each run finds in the caches what the run before left, as with `zgan bench --warm`.

Written for torch 2.13. docs/timing.md has the fields of --json."""

import argparse
import datetime
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
import traceback

# The width and the batch that each preset trains with, the fakes of its G step, its own update rule, and the sizes that a
# CPU is timed at.
PRESETS = {
    "mnist": dict(width=16, batch=64, fakes=64, update="simultaneous", n_dis=1, small=[(16, 64)]),
    "softmax-gan": dict(width=None, batch=64, fakes=64, update="simultaneous", n_dis=1, small=[(None, 64)]),
    "sngan-projection-32": dict(width=128, batch=64, fakes=128, update="alternating", n_dis=5, small=[(32, 32), (64, 32)]),
    "sngan-projection-64": dict(width=64, batch=64, fakes=64, update="alternating", n_dis=5, small=[(16, 8)]),
}
# The sizes of operations, as src/instruments/bench/operations/shapes.rs has them, usual and tiny.
LOGITS = [[64, 256, 65_536], [5]]
HEADS = [[(128, 49, 32, 10), (64, 64, 64, 10), (16, 4, 1024, 1000)], [(4, 6, 8, 3)]]
NORMS = [[(64, 7, 7, 32), (64, 14, 14, 32), (32, 4, 4, 128), (32, 8, 8, 128), (32, 16, 16, 128)], [(3, 4, 4, 5)]]
BLOCKS = [[(128, 14, 16, 32)], [(3, 6, 5, 7)]]
PRECISIONS = ["f32", "tf32", "bf16"]
FORMS = ["eager", "graph", "compile"]
LATE = "left out: the time limit had come"


class Problem:
    def __init__(self, preset, update, width, batch, precision):
        own = PRESETS[preset]
        self.preset, self.width, self.batch, self.precision = preset, width, batch, precision
        self.update = update or own["update"]
        alternating = self.update == "alternating"
        self.fakes = batch * own["fakes"] // own["batch"] if alternating else batch
        self.n_dis = own["n_dis"] if alternating else 1

    def name(self):
        width = f" width {self.width}," if self.width else ""
        fakes = f" ({self.fakes} fakes)" if self.fakes != self.batch else ""
        n_dis = f", n_dis {self.n_dis}" if self.n_dis > 1 else ""
        precision = "" if self.precision == "f32" else f", {self.precision}"
        return f"step, {self.preset},{width} batch {self.batch}{fakes}, {self.update}{n_dis}{precision}"

    def record(self):
        return {
            "step": self.name(), "preset": self.preset, "update": self.update, "n_dis": self.n_dis, "width": self.width,
            "batch": self.batch, "batch_g": self.fakes, "precision": self.precision,
        }


class Operation:
    """`kind` and `sizes` are the name that `zgan bench` has; `make` makes what runs it, of a device and of how to compile."""

    precision = "f32"

    def __init__(self, kind, sizes, make, *numbers):
        self.kind, self.sizes, self.make, self.numbers = kind, sizes, make, numbers

    def name(self):
        return f"{self.kind} {self.sizes}"

    def record(self):
        return {"operation": self.kind, "sizes": self.sizes, "precision": self.precision}


def operations(asked):
    for each in LOGITS[asked.tiny]:
        yield Operation("log_partition", f"{each}+{each}", log_partition, each)
    for n, p, c, classes in HEADS[asked.tiny]:
        yield Operation("projection", f"{n} samples of {p} pixels, C {c}, {classes} classes", projection, n, p, c, classes)
    for n, h, w, c in NORMS[asked.tiny]:
        yield Operation("norm", f"conditional, ReLU, x2: {n} of {h}x{w}, C {c}", conditional_norm, n, h, w, c)
    for n, side, c, k in BLOCKS[asked.tiny]:
        yield Operation("block", f"D: {n} of {side}x{side}, {c} to {k}, pooled", block_of_d, n, side, c, k)


def log_partition(device, compiled, each):
    """Both losses of Softmax GAN and all gradients, by their formulas: no autograd, which would take two passes."""

    @compiled
    def formulas(real, fake):
        logits = torch.cat([real, fake])
        log_z = torch.logsumexp(-logits, 0)
        p = torch.exp(-logits - log_z)
        seed_d = torch.cat([1 / each - p[:each], -p[each:]])
        return real.mean() + log_z, logits.mean() + log_z, seed_d, 1 / (2 * each) - p[each:]

    real, fake = (torch.randn(each, device=device) for _ in range(2))
    return lambda: formulas(real, fake)


def gradients(forward, inputs, shape, **layout):
    """Runs forward, and backward to the inputs from a fixed gradient of the output."""
    dy = torch.randn(shape, device=inputs[0].device).contiguous(**layout)
    return lambda: torch.autograd.grad(forward(), inputs, dy)


def projection(device, compiled, n, p, c, classes):
    psi, embedding = nn.Linear(c, 1, bias=False).to(device), nn.Embedding(classes, c).to(device)

    @compiled
    def head(x, labels):
        h = F.relu(x).sum(1)
        return psi(h)[:, 0] + (embedding(labels) * h).sum(1)

    x = torch.randn(n, p, c, device=device, requires_grad=True)
    labels = torch.arange(n, device=device) % classes
    return gradients(lambda: head(x, labels), [x, psi.weight, embedding.weight], (n,))


def conditional_norm(device, compiled, n, h, w, c):
    norm = ConditionalNorm(c, 10).to(device)
    forward = compiled(lambda x, labels: F.interpolate(F.relu(norm(x, labels)), scale_factor=2, mode="nearest"))
    layout = dict(memory_format=torch.channels_last)
    x = torch.randn(n, c, h, w, device=device).contiguous(**layout).requires_grad_()
    labels = torch.arange(n, device=device) % 10
    return gradients(lambda: forward(x, labels), [x, *norm.parameters()], (n, c, 2 * h, 2 * w), **layout)


def block_of_d(device, compiled, n, side, c, k):
    layout = dict(memory_format=torch.channels_last)
    block = Down(c, k, k, True, False, lambda layer: layer).to(device, **layout)
    forward = compiled(block)
    x = torch.randn(n, c, side, side, device=device).contiguous(**layout).requires_grad_()
    return gradients(lambda: forward(x), [x, *block.parameters()], (n, k, side // 2, side // 2), **layout)


def problems(asked):
    for precision in asked.precision:
        for preset in asked.presets or PRESETS:
            own = PRESETS[preset]
            real = asked.device == "cuda"
            sizes = [(4, 2)] if asked.tiny else [(own["width"], own["batch"])] if real else own["small"]
            seen = []
            for width, batch in sizes:
                width = own["width"] and (asked.width or width)
                size = (width, asked.batch or batch)
                if size not in seen:
                    seen.append(size)
                    yield Problem(preset, asked.update, *size, precision)


def arguments():
    def several(names):
        def read(text):
            wrong = [name for name in text.split(",") if name not in names]
            if wrong:
                raise argparse.ArgumentTypeError(f"{wrong[0]!r} is not one of {', '.join(names)}")
            return text.split(",")

        return read

    parser = argparse.ArgumentParser(description="Training steps of zgan's presets in PyTorch")
    parser.add_argument("presets", nargs="*", metavar="PRESET", help=f"of {', '.join(PRESETS)} [default: all]")
    parser.add_argument("--parts", type=several(["operations", "steps"]), default=["steps"], help="of operations, steps [default: steps]")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--update", choices=["simultaneous", "alternating"], help="instead of the preset's own rule")
    parser.add_argument("--width", type=int, help="instead of the preset's on a GPU, and of a small one on the CPU")
    parser.add_argument("--batch", type=int, help="likewise")
    parser.add_argument("--precision", type=several(PRECISIONS), help="of f32, tf32, bf16 [default: all on a GPU, f32 on the CPU]")
    parser.add_argument("--form", type=several(FORMS), help="of eager, graph, compile [default: all on a GPU, eager on the CPU]")
    parser.add_argument("--time", type=float, help="seconds for each form of a step [default: 1 on a GPU, 8 on the CPU]")
    parser.add_argument("--time-limit", type=float, help="print what there is after so many seconds, and end")
    parser.add_argument("--tiny", action="store_true", help="sizes that only try the program")
    parser.add_argument("--list", action="store_true", help="print the names alone")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    for preset in asked.presets:
        if preset not in PRESETS:
            parser.error(f"{preset}: not one of {', '.join(PRESETS)}")
    on_gpu = asked.device == "cuda"
    asked.precision = asked.precision or (PRECISIONS if on_gpu else ["f32"])
    asked.form = asked.form or (FORMS if on_gpu else ["eager"])
    asked.time = (1.0 if on_gpu else 8.0) if asked.time is None else asked.time
    return asked


asked = arguments()
everything = [one for part, all in [("operations", operations), ("steps", problems)] if part in asked.parts for one in all(asked)]
if asked.list:
    print("\n".join(one.name() for one in everything))
    sys.exit()

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils.parametrizations import spectral_norm


class ConditionalNorm(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.scale, self.shift = nn.Embedding(classes, channels), nn.Embedding(classes, channels)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, x, labels):
        return torch.addcmul(self.shift(labels)[:, :, None, None], self.norm(x), self.scale(labels)[:, :, None, None])


class Up(nn.Module):
    def __init__(self, c, k, classes):
        super().__init__()
        self.norm1, self.norm2 = ConditionalNorm(c, classes), ConditionalNorm(k, classes)
        self.conv1, self.conv2, self.shortcut = nn.Conv2d(c, k, 3, padding=1), nn.Conv2d(k, k, 3, padding=1), nn.Conv2d(c, k, 1)

    def forward(self, x, labels):
        up = lambda t: F.interpolate(t, scale_factor=2, mode="nearest")
        h = self.conv1(up(F.relu(self.norm1(x, labels))))
        h = self.conv2(F.relu(self.norm2(h, labels)))
        return h + up(self.shortcut(x))


class Down(nn.Module):
    def __init__(self, c, hidden, k, pool, first, wrap):
        super().__init__()
        self.pool, self.first = pool, first
        self.conv1, self.conv2 = wrap(nn.Conv2d(c, hidden, 3, padding=1)), wrap(nn.Conv2d(hidden, k, 3, padding=1))
        self.shortcut = wrap(nn.Conv2d(c, k, 1)) if c != k or pool else None

    def forward(self, x):
        h = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        s = x
        if self.pool:
            h, s = F.avg_pool2d(h, 2), F.avg_pool2d(s, 2)
        return h + (self.shortcut(s) if self.shortcut else s)


class Generator(nn.Module):
    """`extra`: the label beside z, times 2."""

    def __init__(self, latent, side, widths, channels, classes, extra):
        super().__init__()
        self.side, self.classes, self.extra = side, classes, extra
        self.linear = nn.Linear(latent + (classes if extra else 0), side * side * widths[0])
        self.blocks = nn.ModuleList(Up(c, k, classes) for c, k in zip(widths, widths[1:]))
        self.norm, self.conv = nn.BatchNorm2d(widths[-1]), nn.Conv2d(widths[-1], channels, 3, padding=1)

    def forward(self, z, labels):
        if self.extra:
            z = torch.cat([z, 2.0 * F.one_hot(labels, self.classes)], 1)
        x = self.linear(z).view(len(z), self.side, self.side, -1).permute(0, 3, 1, 2)
        for block in self.blocks:
            x = block(x, labels)
        return torch.tanh(self.conv(F.relu(self.norm(x))))


class Discriminator(nn.Module):
    def __init__(self, channels, blocks, classes, factor, normalised, head_bias):
        super().__init__()
        wrap = spectral_norm if normalised else lambda layer: layer
        inputs = [channels] + [k for k, _ in blocks]
        hidden = lambda i, c, k: c if normalised and i > 0 else k
        self.blocks = nn.Sequential(
            *(Down(c, hidden(i, c, k), k, pool, i == 0, wrap) for i, (c, (k, pool)) in enumerate(zip(inputs, blocks)))
        )
        self.factor = factor
        self.psi, self.embedding = wrap(nn.Linear(inputs[-1], 1, bias=head_bias)), wrap(nn.Embedding(classes, inputs[-1]))

    def forward(self, x, labels):
        h = self.factor * F.relu(self.blocks(x)).sum((2, 3))
        return self.psi(h)[:, 0] + (self.embedding(labels) * h).sum(1)


def perceptrons():
    def block(c, k, normalise):
        return [nn.Linear(c, k)] + ([nn.BatchNorm1d(k, 0.8)] if normalise else []) + [nn.LeakyReLU(0.2, inplace=True)]

    g = nn.Sequential(
        *block(100, 128, False), *block(128, 256, True), *block(256, 512, True), *block(512, 1024, True),
        nn.Linear(1024, 784), nn.Tanh(),
    )
    d = nn.Sequential(*block(784, 512, False), *block(512, 256, False), nn.Linear(256, 1, bias=False))
    return g, d


def softmax_losses(real, fake):
    everything = torch.cat([real, fake])
    z = torch.logsumexp(everything, 0)
    return z - real.mean(), z - everything.mean()


def hinge_losses(real, fake):
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean(), -fake.mean()


class Step:
    """One training step of a preset, on images that are on the device already."""

    def __init__(self, problem, device, form):
        self.problem, self.device = problem, device
        width, preset = problem.width, problem.preset
        self.losses, betas, self.average, self.latent, shape = softmax_losses, (0.5, 0.9), 0.995, 64, (1, 28, 28)
        self.couples = True
        if preset == "mnist":
            g = Generator(64, 7, [2 * width, 2 * width, width], 1, 10, True)
            d = Discriminator(1, [(width, True), (2 * width, True), (2 * width, False)], 10, 4.0 / 49, False, False)
        elif preset == "softmax-gan":
            g, d = perceptrons()
            betas, self.average, self.latent, shape = (0.5, 0.999), 0.0, 100, (784,)
        else:
            self.losses, betas, self.average, self.latent, self.couples = hinge_losses, (0.0, 0.9), 0.0, 128, False
            if preset == "sngan-projection-32":
                shape, ups, downs = (3, 32, 32), [2, 2, 2, 2], [(1, True), (1, True), (1, False), (1, False)]
            else:
                shape, ups, downs = (3, 64, 64), [16, 8, 4, 2, 1], [(1, True), (2, True), (4, True), (8, True), (16, True)]
            g = Generator(128, 4, [k * width for k in ups], 3, 10, False)
            d = Discriminator(3, [(k * width, pool) for k, pool in downs], 10, 1.0, True, preset != "sngan-projection-32")
        self.convolutional = len(shape) == 3
        layout = dict(memory_format=torch.channels_last) if self.convolutional else {}
        g, d = g.to(device, **layout), d.to(device, **layout)
        self.of_g, self.of_d = list(g.parameters()), list(d.parameters())
        self.parameters = [sum(p.numel() for p in of) for of in (self.of_g, self.of_d)]
        options = dict(fused=True, capturable=True) if device == "cuda" else dict(fused=True)
        self.adam_g, self.adam_d = (torch.optim.Adam(of, 1e-3, betas, **options) for of in (self.of_g, self.of_d))
        self.kept = [p.detach().clone() for p in self.of_g]
        self.g, self.d = (torch.compile(net, dynamic=False) for net in (g, d)) if form == "compile" else (g, d)
        batch = problem.batch
        self.real = []
        for _ in range(problem.n_dis):
            images = torch.rand(batch, *shape, device=device) * 2 - 1
            images = images.contiguous(**layout) if self.convolutional else images
            self.real.append((images, torch.randint(10, (batch,), device=device)))

    def draw(self, fakes):
        return torch.randn(fakes, self.latent, device=self.device), torch.randint(10, (fakes,), device=self.device)

    def autocast(self):
        """Around one forward pass: what is kept of rounded weights ends with it, before they are updated."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.problem.precision == "bf16")

    def generate(self, z, wanted):
        with self.autocast():
            return (self.g(z, wanted) if self.convolutional else self.g(z)).float()

    def judge(self, x, labels):
        with self.autocast():
            return (self.d(x, labels) if self.convolutional else self.d(x)).view(-1).float()

    def backward(self, loss, parameters, keep=False):
        for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters, retain_graph=keep)):
            p.grad = gradient

    def move_d(self, real, fake, wanted):
        (images, labels), n = real, len(real[0])
        f = self.judge(torch.cat([images, fake]), torch.cat([labels, wanted]))
        self.backward(self.losses(f[:n], f[n:])[0], self.of_d)
        self.adam_d.step()

    def move_g(self, fake, wanted):
        images, labels = self.real[0]
        for p in self.of_d:
            p.requires_grad_(False)
        if self.couples:
            f = self.judge(torch.cat([images, fake]), torch.cat([labels, wanted]))
            f_real, f_fake = f[: len(images)], f[len(images) :]
        else:
            f_fake = self.judge(fake, wanted)
            f_real = f_fake.detach()
        self.backward(self.losses(f_real, f_fake)[1], self.of_g)
        for p in self.of_d:
            p.requires_grad_(True)
        self.adam_g.step()

    def run(self):
        problem = self.problem
        z, wanted = self.draw(problem.fakes)
        fake = self.generate(z, wanted)
        if problem.update == "simultaneous":
            (images, labels), n = self.real[0], problem.batch
            f = self.judge(torch.cat([images, fake]), torch.cat([labels, wanted]))
            loss_d, loss_g = self.losses(f[:n], f[n:])
            self.backward(loss_d, self.of_d, keep=True)
            self.backward(loss_g, self.of_g)
            self.adam_d.step()
            self.adam_g.step()
        elif problem.n_dis == 1:
            self.move_d(self.real[0], fake.detach(), wanted)
            self.move_g(fake, wanted)
        else:
            # G first, then every D step with fakes of its own.
            self.move_g(fake, wanted)
            for real in self.real:
                z, wanted = self.draw(problem.batch)
                with torch.no_grad():
                    fake = self.generate(z, wanted)
                self.move_d(real, fake, wanted)
        if self.average:
            torch._foreach_lerp_(self.kept, [p.detach() for p in self.of_g], 1 - self.average)


def captured(run):
    """A function that does the same as one CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def seconds(run, repeat):
    """Of one run, among so many in a row."""
    if asked.device == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(repeat):
            run()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) * 1e-3 / repeat
    start = time.perf_counter()
    for _ in range(repeat):
        run()
    return (time.perf_counter() - start) / repeat


def runner(one, form):
    """What runs a step or an operation, and the parameters of a step's networks."""
    if isinstance(one, Problem):
        step = Step(one, asked.device, form)
        return step.run, step.parameters
    if form != "compile":
        return one.make(asked.device, lambda function: function, *one.numbers), None

    def compiled(function):
        fast = torch.compile(function, mode="max-autotune", dynamic=False)

        def call(*arguments):
            # What its own graphs gave last may be overwritten now.
            torch.compiler.cudagraph_mark_step_begin()
            return fast(*arguments)

        return call

    return one.make(asked.device, compiled, *one.numbers), None


def measure(one, form):
    on_gpu = asked.device == "cuda"
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    elif form == "graph":
        raise RuntimeError("only a GPU has graphs")
    precise = one.precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precise
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(1)
    if form == "compile":
        # It keeps a few forms of a function alone, and would launch the networks of later problems as they are.
        torch._dynamo.reset()
    run, parameters = runner(one, form)
    run = captured(run) if form == "graph" else run
    for _ in range(5):
        run()
    of_step, once = isinstance(one, Problem), seconds(run, 1)
    # Of a short operation on the CPU, as many as last a millisecond.
    repeat = max(1, min(100, int((asked.time / 3 if on_gpu else 1e-3) / once))) if on_gpu or not of_step else 1
    times, start = [], time.perf_counter()
    while len(times) < (3 if on_gpu or asked.tiny else 10) or time.perf_counter() - start < asked.time:
        times.append(seconds(run, repeat))
    times.sort()
    median, quarter = statistics.median(times), len(times) // 4
    measured = {
        "spread": (times[-1 - quarter] - times[quarter]) / median,
        "turns": len(times),
        "memory_bytes": torch.cuda.max_memory_reserved() if on_gpu else None,
    }
    if of_step:
        return {"median_ms": median * 1e3, "steps_per_turn": repeat, "parameters": parameters, **measured}
    return {"median_us": median * 1e6, "runs_per_turn": repeat, **measured}


def said(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def nvidia_smi(properties):
    """The version of the driver, and the clocks."""
    names = {"sm": "clocks.current.sm", "sm_max": "clocks.max.sm", "memory": "clocks.current.memory", "memory_max": "clocks.max.memory"}
    which = getattr(properties, "uuid", None)
    text = said(
        "nvidia-smi", *(["-i", f"GPU-{which}"] if which else []), "--format=csv,noheader,nounits",
        "--query-gpu=driver_version," + ",".join(names.values()),
    )
    if not text:
        return None, None
    driver, *clocks = [field.strip() for field in text.splitlines()[0].split(",")]
    return driver, {name: int(clock) if clock.isdigit() else None for name, clock in zip(names, clocks)}


def provenance():
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    commit = os.path.exists(os.path.join(folder, ".git")) and said("git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    known = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command": sys.argv,
        "commit": commit or None,
        "execution": "cuda" if asked.device == "cuda" else "host",
        "stand_in": False,
        "name": platform.processor() or None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cuda_runtime": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
    }
    if os.path.exists("/proc/cpuinfo"):
        models = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
        known["name"] = models[0] if models else known["name"]
    if asked.device == "cuda" and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        driver, clocks = nvidia_smi(properties)
        known.update(
            name=properties.name, capability=f"{properties.major}.{properties.minor}",
            multiprocessors=properties.multi_processor_count, memory_bytes=properties.total_memory,
            l2_bytes=getattr(properties, "L2_cache_size", None), driver=driver, clocks_mhz=clocks, threads=None,
        )
    return known


def show(result):
    if asked.json:
        return
    name = result.get("step") or f"{result['operation']} {result['sizes']}"
    if result["error"]:
        print(f"{name}, {result['form']}: {result['error']}", flush=True)
        return
    spread = f"+- {100 * result['spread']:.0f} %"
    if "step" in result:
        g, d = result["parameters"]
        print(f"{name}, {result['form']}: {result['median_ms']:.2f} ms {spread}, {g} + {d} parameters", flush=True)
    else:
        print(f"{name}, {result['form']}: {result['median_us']:.1f} us {spread}", flush=True)


def main():
    parts = [(one, form) for form in FORMS if form in asked.form for one in everything]
    results = [{**one.record(), "form": form, "error": LATE} for one, form in parts]
    ended = threading.Lock()

    def end(late):
        # Whoever comes first prints; the other one never gets the lock.
        ended.acquire()
        if asked.json:
            found = {"format": 1, "provenance": provenance(), "caches": "warm"}
            found["operations"] = [result for result in results if "operation" in result]
            found["steps"] = [result for result in results if "step" in result]
            print(json.dumps(found, indent=2))
        elif late:
            print(LATE)
        sys.stdout.flush()
        failed = any(result["error"] not in (None, LATE) for result in results)
        os._exit(1 if failed else 0)

    if asked.time_limit is not None:
        timer = threading.Timer(asked.time_limit, end, [True])
        timer.daemon = True
        timer.start()
    if not asked.json:
        print(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads, on {provenance()['name']}", flush=True)
    for (one, form), result in zip(parts, results):
        try:
            measured = measure(one, form)
            result.update(measured, error=None)
        except Exception as error:
            traceback.print_exc()
            result["error"] = f"{type(error).__name__}: {error}"[:500]
        show(result)
    end(False)


main()
