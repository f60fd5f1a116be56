"""What is held against what, and the targets."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterator

from benchmarks.cases import Case, Rival

SHAPES = ((8, 64, 56), (8, 128, 28), (8, 256, 14))
SHAPES_PER_EXAMPLE = ((8, 64, 28), (32, 64, 28), (32, 128, 14))
SHAPES_3D = ((2, 64, 28),)
DEPTHS = {"deformable_3d": 8}
KERNEL = {
    **{"involution": 7, "attention": 7, "aggregation": 3, "deformable": 3},
    **{"deformable_3d": 3, "per_example": 3, "condconv": 3},
}
STOCK = {
    "involution": "tf.nn.depthwise_conv2d",
    "attention": "involution",
    "aggregation": "involution",
    "deformable": "tf.nn.conv2d",
    "deformable_3d": "tf.nn.conv3d",
    "per_example": "tf.nn.conv2d",
    "condconv": "tf.nn.conv2d",
}
WORK = {
    "involution": "involution",
    "attention": "local attention",
    "aggregation": "aggregation",
    "deformable": "deformable v2",
    "deformable_3d": "deformable v2 in 8 planes",
    "per_example": "per example",
    "condconv": "8 experts mixed",
}
# Whoever is measured, and what the times of forward and forward+backward over the peer's may be.
PEERS = {
    "involution": {
        "tf.nn.depthwise_conv2d": (1.2, 1.0),
        "tf.image.extract_patches": (1 / 25, 1 / 8),
        "torch unfold": None,
        "portable twin": None,
    },
    "attention": {
        "involution": (3.0, 4.0),
        "torch, windows unfolded": None,
        "portable twin": None,
    },
    "aggregation": {
        "involution": (3.0, 4.0),
        "torch grid_sample": (1 / 8, 1 / 8),
        "portable twin": None,
    },
    "deformable": {
        "tf.nn.conv2d": (1.35, 3.0),
        "torchvision deform_conv2d": (1 / 5, 1 / 12),
        "portable twin": None,
    },
    "deformable_3d": {
        "tf.nn.conv3d": (1.6, 3.0),
        "portable twin": (1 / 4, 1 / 4),
    },
    "per_example": {
        "tf.nn.conv2d": (1.2, 1.6),
        "split loop": (1.0, 1.0),
        "torch, batch in groups": None,
        "portable twin": None,
    },
    "condconv": {
        "tf.nn.conv2d": (1.2, 1.6),
        "split loop": (1.0, 1.0),
        "torch, batch in groups": None,
    },
}
# Families of images; the others' products are too many for their sizes.
OF_IMAGES = ("involution", "attention", "aggregation", "deformable")
SCALING = (1.8, 1.7)
# Of what a family's memory is held against: the columns or, with the outputs, one output.
EXTRA_MEMORY = {"attention": (2.0, 4.0), "deformable": (1 / 8, 1 / 4)}
IN_OUTPUTS = ("attention",)
NO_CLIFF = 2.0


@dataclasses.dataclass(frozen=True)
class Row:
    """A comparison.

    Attributes:
        section: The table that it belongs to, a key of `SECTIONS`.
        work: What is done, in words.
        rival: Whose figure stands above the line.
        base: Whose stands below; None for the best of the group.
        against: What the base is, in words.
        target: Bound of the ratio, if there is one.
        at_least: Whether the bound is a lower one.
        per_multiply_add: Whether times are taken per multiply-add.
    """

    section: str
    work: str
    rival: Rival
    base: Rival | None
    against: str
    target: float | None = None
    at_least: bool = False
    per_multiply_add: bool = False

    @property
    def memory(self) -> bool:
        """Whether the figure is memory: `measuring` says of what and over what."""
        return self.rival.engine == "memory"

    @property
    def name(self) -> str:
        """What `--only` is matched with."""
        case = self.rival.case
        shape = f"{case.batch},{case.channels},{case.size}"
        return f"{self.section}: {self.work} {shape} {case.direction} / {self.against}"


# A group's rows are measured in the same rounds.
Group = list[Row]

SECTIONS = {
    "peers": "Against peers",
    "shapes": "Growth without cliffs: time per multiply-add over the best of the same kind",
    "types": "Half and bfloat16 over float32",
    "threads": "Time on one thread over the time on two",
    "memory": "Memory above inputs and outputs, over the size of the columns; of attention above "
    "inputs only, over the size of one output",
}


def engine_of(peer: str) -> str:
    return "torch" if peer.startswith("torch") else "tensorflow"


def have_torch() -> bool:
    return all(importlib.util.find_spec(name) for name in ("torch", "torchvision"))


def shapes_of(family: str) -> tuple[tuple[int, int, int], ...]:
    if family in DEPTHS:
        return SHAPES_3D
    return SHAPES if family in OF_IMAGES else SHAPES_PER_EXAMPLE


def work_of(case: Case) -> str:
    return f"{WORK[case.family]} {'x'.join([str(case.kernel)] * len(case.sizes))}"


def groups() -> Iterator[Group]:
    """All rows, by what is measured together."""
    yield from _against_peers()
    yield from _shapes()
    yield from _types()
    yield from _threads()
    yield from _memory()


def _cases(family: str, **changes) -> Iterator[Case]:
    """A family's cases: every shape, forward and then with the backward pass."""
    for backward in (False, True):
        for shape in shapes_of(family):
            depth = DEPTHS.get(family, 0)
            yield Case(family, *shape, KERNEL[family], backward=backward, depth=depth, **changes)


def _against_peers() -> Iterator[Group]:
    torch = have_torch()
    for family, peers in PEERS.items():
        for case in _cases(family):
            yield [
                Row(
                    "peers",
                    work_of(case),
                    Rival("tfconv", case),
                    Rival(peer, case, engine_of(peer)),
                    peer,
                    targets and targets[case.backward],
                )
                for peer, targets in peers.items()
                if torch or engine_of(peer) != "torch"
            ]


def _shapes() -> Iterator[Group]:
    """A shape of which one size grows; the targets are for involution and for batches."""
    middle = {
        "involution": (8, 128, 28),
        "attention": (8, 128, 28),
        "aggregation": (8, 128, 28),
        "deformable": (8, 128, 28),
        "per_example": (32, 64, 28),
    }
    sweeps = {
        "batch": (1, 4, 16, 64),
        "size": (14, 28, 56),
        "channels": (64, 128, 256),
        "stride": (1, 2),
        "kernel": (3, 5, 7, 9),
    }
    for family, (batch, channels, size) in middle.items():
        for backward in (False, True):
            case = Case(family, batch, channels, size, KERNEL[family], backward=backward)
            for field, values in sweeps.items():
                strict = field in ("batch", "stride") or (
                    field == "kernel" and family in ("involution", "attention")
                )
                yield _sweep(case, field, values, NO_CLIFF if strict else None)
            if family == "involution":
                divisible = dataclasses.replace(case, channels=192)
                yield _sweep(divisible, "group_channels", (1, 3, 8, 16, 64), NO_CLIFF)


def _sweep(case: Case, field: str, values: tuple[int, ...], target: float | None) -> Group:
    words = field.replace("_", " ")
    return [
        Row(
            "shapes",
            f"{WORK[case.family]}, {words} {value}",
            Rival("tfconv", dataclasses.replace(case, **{field: value})),
            None,
            f"best {words}",
            target,
            per_multiply_add=True,
        )
        for value in values
    ]


def _types() -> Iterator[Group]:
    for family in ("involution", "deformable", "per_example"):
        for case in _cases(family):
            yield [
                Row(
                    "types",
                    f"{work_of(case)}, {dtype}",
                    Rival("tfconv", dataclasses.replace(case, dtype=dtype)),
                    Rival("tfconv", case),
                    "float32",
                    1.0,
                )
                for dtype in ("float16", "bfloat16")
            ]


def _threads() -> Iterator[Group]:
    """TensorFlow's ops stand beside ours, to show what the machine gives."""
    for family in ("involution", "deformable", "per_example"):
        for case in _cases(family):
            yield [
                Row(
                    "threads",
                    work_of(case) if name == "tfconv" else name,
                    Rival(name, case, threads=1),
                    Rival(name, case),
                    "two threads",
                    SCALING[case.backward] if name == "tfconv" else None,
                    at_least=True,
                )
                for name in ("tfconv", STOCK[family])
            ]


def _memory() -> Iterator[Group]:
    for family in (*OF_IMAGES, "per_example"):
        for case in _cases(family):
            bounds = EXTRA_MEMORY.get(family)
            yield [
                Row(
                    "memory",
                    f"{work_of(case)}, {name}",
                    Rival(name, case, "memory"),
                    None,
                    "one output" if family in IN_OUTPUTS else "columns",
                    bounds[case.backward] if bounds and name == "tfconv" else None,
                )
                for name in ("tfconv", "portable twin")
            ]
