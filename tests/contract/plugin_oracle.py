"""The plugins by hand: training loops in plain torch, with neither Lightning nor anything of this package.

Processes are explicit: each has batches, random numbers and running statistics of its own, and gradients are averaged.
"""

import contextlib
from dataclasses import dataclass

import tiny
import torch
from torch import nn
from torch.nn.functional import cross_entropy

EPOCHS, STEPS = 2, 3  # optimizer steps of an epoch
MICRO_BATCH, GHOST = 8, 4  # samples
CLIP = 0.1
DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
PER_STEP, OF_PROCESS, OF_MICRO_BATCH = "step", "process", "micro_batch"


@dataclass(frozen=True)
class Cell:
    """One training run of the matrix.

    Attributes:
        method: A key of `METHODS`.
        accumulation: Micro-batches of a process in a step.
        precision: As Lightning calls it.
        processes: That train together.
        norm: "batch" for BatchNorm over a micro-batch, "ghosts" over each half of it.
        clipping: Whether the norm of the final gradient is clipped.
        resumed: The step at which a second run goes on; None for one run at each step.
        shared_by: Whose gradient is changed: that of a step, or each one of its processes or micro-batches.
        static_graph: Whether DistributedDataParallel learns the order of gradients from the first pass.
    """

    method: str
    accumulation: int
    precision: str
    processes: int
    norm: str
    clipping: bool
    resumed: int | None = None
    shared_by: str = PER_STEP
    static_graph: bool = False

    def __str__(self):
        parts = [self.method, f"x{self.accumulation}", self.precision, f"{self.processes}p", self.norm]
        parts += ["clipped"] * self.clipping + [f"per_{self.shared_by}"] * (self.shared_by != PER_STEP)
        parts += [f"resumed_at_{self.resumed}"] * (self.resumed is not None)
        return "-".join([*parts, *["static_graph"] * self.static_graph])

    @property
    def resumed_at(self):
        return [self.resumed] if self.resumed is not None else [*range(1, EPOCHS * STEPS)]

    @property
    def micro_batches(self):
        """Of an epoch of one process."""
        return STEPS * self.accumulation

    @property
    def samples(self):
        """Of an epoch of all processes."""
        return MICRO_BATCH * self.micro_batches * self.processes

    @property
    def dtype(self):
        return torch.float64 if self.precision == "64-true" else torch.float32


class Chunks(nn.BatchNorm1d):
    """Stock BatchNorm on one ghost after the other."""

    def forward(self, x):
        return torch.cat([super(Chunks, self).forward(part) for part in x.split(GHOST)])


def network(norm_layer=nn.BatchNorm1d):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), norm_layer(16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 3))


def optimizer_of(weights):
    return torch.optim.SGD(weights, lr=0.1, momentum=0.9, weight_decay=0.01)


def scaler():
    """One whose scale overflows in float16 at the first step, and again as often as it has grown."""
    return torch.amp.GradScaler("cpu", 2.0**25, growth_factor=2.0**12, backoff_factor=2.0**-12, growth_interval=2)


def seed(process, epoch, step):
    """Of what dropout draws in a step on a process."""
    return 1000 * process + 100 * epoch + step


def batches(cell, process):
    """Of an epoch: all processes cut the same order, and each takes its consecutive part."""
    inputs, targets = tiny.dataset(cell.samples).tensors
    numbers = [(place * cell.processes + process) * MICRO_BATCH for place in range(cell.micro_batches)]
    return [(inputs[i : i + MICRO_BATCH].to(cell.dtype), targets[i : i + MICRO_BATCH]) for i in numbers]


class Loop:
    """A run, step by step."""

    def __init__(self, cell):
        self.cell = cell
        self.net = network(Chunks if cell.norm == "ghosts" else nn.BatchNorm1d).to(cell.dtype)
        self.names, self.weights = map(list, zip(*self.net.named_parameters(), strict=True))
        self.optimizer = optimizer_of(self.weights)
        self.scaler = scaler() if cell.precision == "16-mixed" else None
        self.buffers = [copies(self.net.buffers()) for _ in range(cell.processes)]
        self.batches = [batches(cell, process) for process in range(cell.processes)]
        self.scales = []

    def run(self):
        for epoch in range(EPOCHS):
            for step in range(STEPS):
                self.place = epoch, step
                for own in self.buffers[1:]:  # DistributedDataParallel hands those of the first process to all
                    own[:] = copies(self.buffers[0])
                self.step()
        return {
            "weights": {name: weight.detach().clone() for name, weight in zip(self.names, self.weights, strict=True)},
            "momentum": [self.optimizer.state.get(w, {}).get("momentum_buffer") for w in self.weights],
            "buffers": self.buffers,
            "scale": None if self.scaler is None else self.scaler.get_scale(),
        }

    def step(self):
        self.counts = True  # the first pass alone does, for running statistics
        if self.scaler is not None:
            self.scales.append(self.scaler.get_scale())
        gradients = METHODS[self.cell.method](self)
        for weight, gradient in zip(self.weights, gradients, strict=True):
            weight.grad = gradient * self.scale
        if self.scaler is None:
            self.clip()
            self.optimizer.step()
            return
        self.scaler.unscale_(self.optimizer)
        self.clip()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    @property
    def scale(self):
        return 1.0 if self.scaler is None else self.scaler.get_scale()

    def clip(self):
        if self.cell.clipping:
            nn.utils.clip_grad_norm_(self.weights, CLIP)

    def groups(self):
        """The micro-batches, as (process, number in the step), whose gradient is changed together."""
        each = [[(p, i) for i in range(self.cell.accumulation)] for p in range(self.cell.processes)]
        if self.cell.shared_by == OF_PROCESS:
            return each
        all_of_step = [one for group in each for one in group]
        return [all_of_step] if self.cell.shared_by == PER_STEP else [[one] for one in all_of_step]

    def gradient(self, group, attack=None):
        """The mean over the micro-batches of a group, at the weights as they are, on inputs that ``attack`` moves."""
        dtype = DTYPES.get(self.cell.precision)
        autocast = torch.autocast("cpu", dtype, cache_enabled=False) if dtype else contextlib.nullcontext()
        total = [torch.zeros_like(weight) for weight in self.weights]
        for process, own in enumerate(self.buffers):
            if not self.counts and process not in {process for process, _ in group}:
                continue
            torch.manual_seed(seed(process, *self.place))
            load(self.net.buffers(), own)
            self.net.zero_grad()
            for number in range(self.cell.accumulation):
                inputs, targets = self.batches[process][self.place[1] * self.cell.accumulation + number]

                def loss_on(x, targets=targets):
                    with autocast:
                        loss = cross_entropy(self.net(x), targets) / self.cell.accumulation
                    return loss if self.scaler is None else self.scaler.scale(loss)

                if (process, number) not in group:
                    loss_on(inputs)  # its dropout is drawn
                    continue
                if attack is not None:
                    random = torch.get_rng_state()
                    inputs = attack(loss_on, inputs)
                    torch.set_rng_state(random)
                loss_on(inputs).backward()
            if self.counts:
                own[:] = copies(self.net.buffers())
            for sum_, weight in zip(total, self.weights, strict=True):
                if weight.grad is not None:
                    sum_ += weight.grad
        share = self.scale * len(group) / self.cell.accumulation
        self.counts = False
        return [sum_ / share for sum_ in total]


def copies(tensors):
    return [tensor.clone() for tensor in tensors]


def load(tensors, values):
    with torch.no_grad():
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)


def norm_of(tensors):
    return torch.sqrt(sum(tensor.double().square().sum() for tensor in tensors))


def mean_over_groups(loop, change):
    changed = [change(lambda attack=None, g=group: loop.gradient(g, attack)) for group in loop.groups()]
    return [sum(parts) / len(changed) for parts in zip(*changed, strict=True)]


def moved_gradient(loop, gradient, added):
    """The gradient at weights to which something is added; they are put back."""
    before = copies(loop.weights)
    load(loop.weights, [weight + each for weight, each in zip(before, added, strict=True)])
    found = gradient()
    load(loop.weights, before)
    return found


def sharpness_aware(loop, gradient, *, rho, eta=None):
    first = gradient()
    scales = [
        torch.ones_like(w) if eta is None or name.endswith("bias") else w.detach().abs() + eta
        for name, w in zip(loop.names, loop.weights, strict=True)
    ]
    along = [scale * slope for scale, slope in zip(scales, first, strict=True)]
    norm = norm_of(along)
    if not norm.isfinite():
        return first  # the step will be skipped
    added = [rho * scale * each / norm.to(each) for scale, each in zip(scales, along, strict=True)]
    return moved_gradient(loop, gradient, added)


def penalised(loop, gradient, *, strength=0.3, length=0.01):
    first = gradient()
    norm = norm_of(first)
    if not norm.isfinite():
        return first
    ahead = moved_gradient(loop, gradient, [length * slope / norm.to(slope) for slope in first])
    factor = (strength * norm / length).to(first[0])
    return [here + factor * (there - here) for here, there in zip(first, ahead, strict=True)]


def adversarial(gradient, *, epsilon=0.2, clean=0.5):
    def fast_gradient_sign(loss_on, inputs):
        inputs = inputs.clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss_on(inputs), [inputs])
        return inputs.detach() + epsilon * slope.nan_to_num(nan=0, posinf=0, neginf=0).sign()

    first, second = gradient(), gradient(fast_gradient_sign)
    return [clean * one + (1 - clean) * other for one, other in zip(first, second, strict=True)]


def conservative(loop, *, strength=0.5, inner_steps=3):
    """The last inner gradient; the steps before it are taken here."""
    (group,) = loop.groups()
    anchor = copies(loop.weights)

    def proximal():
        slopes = loop.gradient(group)
        return [s + strength * (w.detach() - a) for s, w, a in zip(slopes, loop.weights, anchor, strict=True)]

    for _ in range(inner_steps - 1):
        slopes = proximal()
        if not norm_of(slopes).isfinite():
            return slopes  # the step will be skipped
        for weight, slope in zip(loop.weights, slopes, strict=True):
            weight.grad = slope
        loop.clip()
        loop.optimizer.step()
    return proximal()


METHODS = {
    "sam": lambda loop: mean_over_groups(loop, lambda gradient: sharpness_aware(loop, gradient, rho=0.2)),
    "asam": lambda loop: mean_over_groups(loop, lambda gradient: sharpness_aware(loop, gradient, rho=0.5, eta=0.01)),
    "conservative": conservative,
    "penalty": lambda loop: mean_over_groups(loop, lambda gradient: penalised(loop, gradient)),
    "adversarial": lambda loop: mean_over_groups(loop, adversarial),
    "adversarial then sam": lambda loop: mean_over_groups(
        loop, lambda gradient: sharpness_aware(loop, lambda: adversarial(gradient), rho=0.2)
    ),
}


def train(cell):
    """The weights, running statistics of each process, momentum and scale at the end, and the scale of each step."""
    loop = Loop(cell)
    return {**loop.run(), "scales": loop.scales}
