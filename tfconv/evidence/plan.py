"""The experiments, written down before they run: claims, tasks, networks, and what would show them.

Nothing here depends on results. What is compared has the same images in the same order, the same
epochs, batches, optimizer and schedule, and is tested after the last epoch.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import tfconv
from tfconv._compat import keras
from tfconv.blocks.residual import bottleneck, convolution, involution
from tfconv.evidence.tasks import BENT, CLUTTERED, ENLARGED, PLAIN, Task

SEEDS = 5
SHORT = 10  # epochs, where ten networks would take an hour of a processor with twice as many
Body = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Expectation:
    """What a claim says of two networks.

    Attributes:
        better: The network that it is about.
        than: What it is compared with.
        within: None if it is to be more accurate; else by how many points it may be apart.
    """

    better: str
    than: str
    within: float | None = None

    def __str__(self) -> str:
        if self.within is None:
            return f"{self.better} is more accurate than {self.than}"
        return f"{self.better} is at most {self.within:g} points less accurate than {self.than}"


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A claim and what is run to see whether it shows.

    Attributes:
        name: What it is called.
        claim: In a sentence.
        source: Who makes it.
        task: What is learned.
        networks: What makes the features of each network from an image.
        expectations: What would show the claim.
        epochs: How often the images are seen.
        version: Raised when a network is changed: results of another version do not count.
    """

    name: str
    claim: str
    source: str
    task: Task
    networks: Mapping[str, Body]
    expectations: tuple[Expectation, ...]
    epochs: int = 20
    version: int = 1

    @property
    def baseline(self) -> str:
        """The network that the others are compared with in the table."""
        return next(iter(self.networks))

    @property
    def fingerprint(self) -> str:
        """What results belong to: the plan, without the code of its networks."""
        task = (self.task.name, self.task.about, self.task.size, self.task.count)
        said = [self.name, task, list(self.networks), self.epochs, self.version]
        return hashlib.sha256(repr(said).encode()).hexdigest()[:16]


def build(experiment: tuple[Experiment, str], task: Task, seed: int) -> keras.Model:
    """A network of an experiment: its features, their mean over all pixels, a dense layer."""
    plan, name = experiment
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(task.shape, name="image")
    x = keras.layers.GlobalAveragePooling2D()(plan.networks[name](inputs))
    return keras.Model(inputs, keras.layers.Dense(task.classes)(x))


# Networks.


def _normalized(x: Any) -> Any:
    return keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))


def _conv(x: Any, filters: int, size: int = 3, strides: int = 1) -> Any:
    layer = tfconv.Conv2D(filters, size, strides, padding="same", use_bias=False)
    return _normalized(layer(x))


def _in_the_middle(make: Callable[[], Any], width: int = 32) -> Body:
    """Two strided convolutions, then two of a layer at a quarter of the height and width."""

    def body(x: Any) -> Any:
        x = _conv(_conv(x, 16, strides=2), width, strides=2)
        for _ in range(2):
            x = _normalized(make()(x))
        return x

    return body


def _layer(layer_class: Any, *given: Any, **more: Any) -> Callable[[], Any]:
    shared = {"padding": "same", "use_bias": False}
    return functools.partial(layer_class, *given, **{**shared, **more})


def _one_after_the_other(*makers: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: keras.Sequential([make() for make in makers])


def _residual(middle: Callable[..., Any]) -> Body:
    """Three stages of a bottleneck each, around 3x3 convolutions or 7x7 involutions."""

    def body(x: Any) -> Any:
        x = _conv(x, 16, strides=2)
        for width, strides in ((16, 1), (32, 2), (32, 1)):
            x = bottleneck(x, width, strides, middle=middle)
        return x

    return body


def _mobile(make: Callable[[int, int], Any]) -> Body:
    """MobileNet's plan, small: five convolutions, two of them strided."""

    def body(x: Any) -> Any:
        x = _conv(x, 16, strides=2)
        for filters, strides in ((32, 1), (32, 2), (64, 1), (64, 2), (64, 1)):
            x = _normalized(make(filters, strides)(x))
        return x

    return body


def _experts(count: int) -> Body:
    width = 12  # narrow, so that kernels are what there is too little of
    layer = _layer(tfconv.CondConv2D, width, 3, num_experts=count)
    return _in_the_middle(_layer(tfconv.Conv2D, width, 3) if count == 1 else layer, width)


_CONV = _layer(tfconv.Conv2D, 32, 3)

EXPERIMENTS = (
    Experiment(
        "deformable",
        "Deformable convolutions follow scale, rotation and bending: for the same multiply-adds "
        "they are more accurate on what is deformed.",
        "Dai et al. 2017, arXiv:1703.06211; Zhu et al. 2018, arXiv:1811.11168",
        BENT,
        {
            "Conv 3x3": _in_the_middle(_CONV),
            "Conv 3x3, wider": _in_the_middle(_layer(tfconv.Conv2D, 50, 3)),
            "Conv 5x5": _in_the_middle(_layer(tfconv.Conv2D, 32, 5)),
            "DeformableConv 3x3": _in_the_middle(_layer(tfconv.DeformableConv2D, 32, 3)),
        },
        (
            Expectation("DeformableConv 3x3", "Conv 3x3"),
            Expectation("DeformableConv 3x3", "Conv 3x3, wider"),
            Expectation("DeformableConv 3x3", "Conv 5x5"),
        ),
    ),
    *(
        Experiment(
            name,
            "Involution needs fewer weights and products than convolution for the same accuracy.",
            "Li et al. 2021, arXiv:2103.06255",
            task,
            {"ResNet's plan": _residual(convolution), "RedNet's plan": _residual(involution)},
            (Expectation("RedNet's plan", "ResNet's plan", within=0.5),),
        )
        for name, task in (("involution", PLAIN), ("involution56", ENLARGED))
    ),
    Experiment(
        "experts",
        "More experts of CondConv give more accuracy for about the same products.",
        "Yang et al. 2019, arXiv:1904.04971",
        CLUTTERED,
        {
            "Conv": _experts(1),
            "CondConv, 2 experts": _experts(2),
            "CondConv, 4 experts": _experts(4),
            "CondConv, 8 experts": _experts(8),
        },
        (
            Expectation("CondConv, 2 experts", "Conv"),
            Expectation("CondConv, 8 experts", "Conv"),
            Expectation("CondConv, 8 experts", "CondConv, 2 experts"),
        ),
        epochs=SHORT,
    ),
    Experiment(
        "separable",
        "Separable convolutions need eight to nine times fewer products; the accuracy is close.",
        "Howard et al. 2017, arXiv:1704.04861",
        PLAIN,
        {
            "Conv": _mobile(lambda filters, strides: _layer(tfconv.Conv2D, filters, 3, strides)()),
            "SeparableConv": _mobile(
                lambda filters, strides: _layer(tfconv.SeparableConv2D, filters, 3, strides)()
            ),
        },
        (Expectation("SeparableConv", "Conv", within=1.0),),
    ),
    Experiment(
        "further",
        "Gates, squeeze-and-excitation, dynamic kernels, local attention and aggregation are more "
        "accurate than a convolution in their place.",
        "Yu et al. 2018, Hu et al. 2018, Chen et al. 2020, Ramachandran et al. 2019, "
        "Wang et al. 2022",
        BENT,
        {
            "Conv 3x3": _in_the_middle(_CONV),
            "SqueezeExcite behind Conv": _in_the_middle(
                _one_after_the_other(_CONV, lambda: tfconv.SqueezeExcite(reduction_ratio=4))
            ),
            "GatedConv": _in_the_middle(_layer(tfconv.GatedConv2D, 32, 3, gate="feature")),
            "DynamicConv": _in_the_middle(_layer(tfconv.DynamicConv2D, 32, 3, num_experts=4)),
            "LocalSelfAttention 5x5": _in_the_middle(
                lambda: tfconv.LocalSelfAttention2D(32, 5, num_heads=4)
            ),
            "DeformableAggregation": _in_the_middle(
                lambda: tfconv.DeformableAggregation2D(3, group_channels=8)
            ),
        },
        tuple(
            Expectation(name, "Conv 3x3")
            for name in (
                "SqueezeExcite behind Conv",
                "GatedConv",
                "DynamicConv",
                "LocalSelfAttention 5x5",
                "DeformableAggregation",
            )
        ),
        epochs=SHORT,
    ),
)


def experiments(names: Any = ()) -> list[Experiment]:
    """The experiments of these names, in order; none for all.

    Raises:
        ValueError: If there is no experiment of such a name.
    """
    known = [each.name for each in EXPERIMENTS]
    for name in names:
        if name not in known:
            raise ValueError(f"`names` must be among {', '.join(known)}. Received: {name!r}")
    return [each for each in EXPERIMENTS if not names or each.name in names]
