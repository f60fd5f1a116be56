"""Trained convolutions as products of smaller ones."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tfconv import layers as our_layers
from tfconv._compat import config_of, is_graph, keras, quantization_of
from tfconv.analysis import Row, profile
from tfconv.analysis.rules.sizes import spatial
from tfconv.surgery import rank_choice
from tfconv.surgery.decompositions import FORMS, Form, Positions, Rank
from tfconv.surgery.factorize_report import FactorizedLayer, FactorizeReport
from tfconv.surgery.rebuilding import rebuild, require_graph

CONVOLUTIONS = {
    *(getattr(keras.layers, f"Conv{rank}D") for rank in (1, 2, 3)),
    *(
        getattr(our_layers, f"{kind}Conv{rank}D")
        for kind in ("", "Pointwise")
        for rank in (1, 2, 3)
    ),
}
_SAVES_NOTHING = "its factors would save no multiply-adds"
# What a factorized layer takes over from a convolution.
_SHARED = (
    "name",
    "dtype",
    "filters",
    "strides",
    "padding",
    "padding_mode",
    "data_format",
    "dilation_rate",
    "activation",
    "use_bias",
    "bias_initializer",
    "bias_regularizer",
    "activity_regularizer",
    "bias_constraint",
)


def factorize(
    model: keras.Model,
    method: str,
    rank: Any = None,
    energy: float | None = None,
    speedup: float | None = None,
    layers: Sequence[str] | Callable[[Any], bool] | None = None,
    input_shape: Any = None,
    report: Callable[[FactorizeReport], Any] | None = None,
) -> keras.Model:
    """A model with convolutions whose kernels are products of smaller ones, near to the trained.

    A kernel K gives way to factors with a product K' that makes ``sum((K - K')**2)`` small:

    - "separable": `SeparableConv2D`; the rank is its ``depth_multiplier``. No K' is nearer.
    - "flattened": `FlattenedConv2D`; it has no other rank than 1.
    - "low_rank": `LowRankConv2D`; the rank is its ``kernel_rank``.
    - "tucker": `TuckerConv2D`; the ranks are its ``ranks``. Needs the package tensorly.

    The same in one and three dimensions. Bias, activation, strides, padding, dilation, names,
    dtypes and regularizers stay; the kernel's regularizer is that of every factor. Convolutions
    stay that have groups, a constrained kernel, or fewer multiply-adds than their factors: the
    report says which. Some training afterwards mends most of what is lost.

    Exactly one of ``rank``, ``energy`` and ``speedup`` says how large the factors are.

    Args:
        model: A functional model, or a sequential one that is built. The models inside it are
            factorized too. It is not changed, and shares nothing with the new one.
        method: "separable", "flattened", "low_rank" or "tucker".
        rank: The rank of all layers: an integer, two for "tucker", or a float up to 1 for a share
            of the full rank; or a dictionary of them by the names of layers, and others stay.
        energy: Each layer has the cheapest rank that keeps this share of ``sum(K**2)``.
        speedup: The model, all of its layers counted, has so many times fewer multiply-adds. The
            ranks of the layers, some of which may stay, are those for which the sum over the layers
            of ``sum((K - K')**2) / sum(K**2)`` is small.
        layers: Names of the convolutions to replace, or a function that says of a layer
            whether to. None: all.
        input_shape: For models whose input's sizes are not known: the shape for which to count
            multiply-adds, as `tfconv.analysis.profile` takes it.
        report: Called with the `FactorizeReport`, which has the error of each layer and of all:
            ``print``, or a list's ``append``.

    Returns:
        The new model, not compiled.

    Raises:
        ValueError: If an argument is not what is described above, a kernel is not finite, or no
            ranks make the model as fast as ``speedup`` says.
        ImportError: If tensorly is needed and not installed.

    Source: Guo et al., arXiv:1808.05517 (separable); Jin et al., arXiv:1412.5474 (flattened);
    Lebedev et al., arXiv:1412.6553 (low_rank); Kim et al., arXiv:1511.06530 (tucker).

    Example:
        >>> layers = [tf.keras.Input((8, 8, 16)), tf.keras.layers.Conv2D(32, 3, name="conv")]
        >>> model = tf.keras.Sequential(layers)
        >>> reports = []
        >>> small = tfconv.surgery.factorize(model, "separable", rank=2, report=reports.append)
        >>> type(small.get_layer("conv")).__name__, reports[0].multiply_adds
        ('SeparableConv2D', (165888, 47232))
    """
    require_graph(model)
    _check(method, rank, energy, speedup)
    cost = profile(model, input_shape)
    found = _convolutions(model, cost.rows)
    _check_names("layers", layers, found)
    _check_names("rank", rank if isinstance(rank, Mapping) else None, found)
    forms: dict[str, Form] = {}
    left: dict[str, str] = {}
    for name, convolution in found.items():
        if why := _hindrance(name, convolution.layer, layers, rank):
            left[name] = why
        else:
            forms[name] = convolution.form(name, FORMS[method])
    with _progress() as progress:
        ranks = _ranks(forms, rank, energy, speedup, cost.multiply_adds, progress)
        left.update({name: why for name, why in ranks.items() if isinstance(why, str)})
        ranks = {name: chosen for name, chosen in ranks.items() if name not in left}
        for name, chosen in progress.track(ranks.items(), description="decomposing"):
            forms[name].factors(chosen)
    rows: dict[str, FactorizedLayer] = {}
    names = {id(found[name].layer): name for name in ranks}

    def new_layer(layer):
        name = names.get(id(layer))
        return None if name is None else _new_layer(layer, forms[name], ranks[name])

    def finish(layer, made):
        name = names[id(layer)]
        rows[name] = _filled(name, layer, made[0], forms[name], ranks[name])

    made = rebuild(model, new_layer, finish)
    if report is not None:
        saved = sum(row.multiply_adds[0] - row.multiply_adds[1] for row in rows.values())
        done = FactorizeReport(
            method=method,
            rows=[rows[name] for name in found if name in rows],
            left={name: left[name] for name in found if name in left},
            multiply_adds=(cost.multiply_adds, cost.multiply_adds - saved),
            parameters=(model.count_params(), made.count_params()),
        )
        report(done)
    return made


# What is asked for.


def _check(method: Any, rank: Any, energy: Any, speedup: Any) -> None:
    if method not in FORMS:
        raise ValueError(
            f"`method` must be one of {', '.join(map(repr, FORMS))}. Received: method={method!r}"
        )
    if sum(given is not None for given in (rank, energy, speedup)) != 1:
        raise ValueError(
            "Exactly one of `rank`, `energy` and `speedup` must be given. "
            f"Received: rank={rank!r}, energy={energy!r}, speedup={speedup!r}"
        )
    if energy is not None and not (isinstance(energy, numbers.Real) and 0 < energy < 1):
        raise ValueError(f"`energy` must lie between 0 and 1. Received: energy={energy!r}")
    if speedup is not None and not (isinstance(speedup, numbers.Real) and speedup > 1):
        raise ValueError(f"`speedup` must be larger than 1. Received: speedup={speedup!r}")


def _check_names(argument: str, given: Any, found: Mapping[str, Any]) -> None:
    """Raises ValueError unless ``given`` is None, a function, or names of what was found."""
    if given is None or callable(given):
        return
    known = isinstance(given, (list, tuple, Mapping)) and all(name in found for name in given)
    if not known:
        raise ValueError(
            f"`{argument}` must name convolutions of the model, which are {list(found)}. "
            f"Received: {argument}={given!r}"
        )


def _hindrance(name: str, layer: Any, layers: Any, rank: Any) -> str | None:
    """Why a convolution stays, whatever its rank; None if it need not."""
    chosen = layers is None or (layers(layer) if callable(layers) else name in layers)
    if not chosen or (isinstance(rank, Mapping) and name not in rank):
        return "it was not chosen"
    if layer.groups > 1:
        return "it has groups"
    if quantization_of(layer):
        return "it is quantized"
    if layer.kernel_constraint is not None:
        return "its kernel is constrained"
    if not np.any(layer.kernel.numpy()):
        return "its kernel is zero"
    return None


# The convolutions.


@dataclasses.dataclass(frozen=True)
class _Convolution:
    """A convolution of a model.

    Attributes:
        layer: The layer.
        rows: What each of its calls costs.
    """

    layer: Any
    rows: list[Row]

    def form(self, name: str, kind: type[Form]) -> Form:
        kernel = self.layer.kernel.numpy().astype(np.float64)
        if not np.all(np.isfinite(kernel)):
            raise ValueError(
                "The kernels of `model` must be finite. "
                f"Received: a kernel of the layer {name!r} that is not"
            )
        calls = [
            tuple(
                spatial(self.layer, (None, *shapes[0]))
                for shapes in (row.input_shapes, row.output_shapes)
            )
            for row in self.rows
        ]
        return kind(kernel, Positions.of(calls))


def _convolutions(model: keras.Model, rows: Sequence[Row]) -> dict[str, _Convolution]:
    """The convolutions that a model calls, by the first name under which each is called."""
    found: dict[int, tuple[str, _Convolution]] = {}
    for name, layer in _named(model):
        calls = [row for row in rows if row.name == name]
        first = found.setdefault(id(layer), (name, _Convolution(layer, [])))
        first[1].rows.extend(calls)
    # Keras 2 also has layers that are a model's attributes, and called by nobody.
    return {name: convolution for name, convolution in found.values() if convolution.rows}


def _named(model: keras.Model, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The convolutions of a model and of those inside it, with their names in its profile."""
    for layer in model.layers:
        name = f"{prefix}{layer.name}"
        if isinstance(layer, keras.Model) and is_graph(layer):
            yield from _named(layer, f"{name}/")
        elif type(layer) in CONVOLUTIONS:
            yield name, layer


# Their ranks.


def _ranks(
    forms: Mapping[str, Form],
    rank: Any,
    energy: float | None,
    speedup: float | None,
    total: int,
    progress: Progress,
) -> dict[str, Rank | str]:
    """The rank of each form, or why there is none."""
    steps = progress.track(forms.items(), description="choosing ranks")
    if speedup is not None:
        curves = {name: rank_choice.choices(form) for name, form in steps}
        return _within(curves, total, speedup)
    ranks: dict[str, Rank | str] = {}
    for name, form in steps:
        if energy is None:
            given = rank[name] if isinstance(rank, Mapping) else rank
            chosen = rank_choice.of_given(form, given)
            saves = form.products(chosen) < form.products_of_kernel
            ranks[name] = chosen if saves else _SAVES_NOTHING
        elif form.ranks:
            chosen = rank_choice.of_energy(form, energy)
            ranks[name] = chosen or f"no rank that saves multiply-adds keeps {energy:g} of it"
        else:
            ranks[name] = _SAVES_NOTHING
    return ranks


def _within(
    curves: Mapping[str, list[rank_choice.Choice]], total: int, speedup: float
) -> dict[str, Rank | str]:
    """The ranks of forms with which a model of ``total`` multiply-adds has few enough."""
    others = total - sum(curve[0].products for curve in curves.values())
    chosen = rank_choice.within(list(curves.values()), math.floor(total / speedup) - others)
    if chosen is None:
        least = others + sum(min(choice.products for choice in curve) for curve in curves.values())
        raise ValueError(
            f"`speedup` is too large for this model and method: the smallest ranks make it "
            f"{total / max(least, 1):.2f} times as fast. Received: speedup={speedup!r}"
        )
    return {
        name: choice.rank or (_SAVES_NOTHING if len(curve) == 1 else "less is lost in the others")
        for (name, curve), choice in zip(curves.items(), chosen)
    }


# The layers in their place.


def _new_layer(layer: Any, form: Form, rank: Rank) -> Any:
    """The layer, without weights, that takes a convolution's place."""
    kind = getattr(our_layers, f"{form.family}{len(form.size)}D")
    config = config_of(layer)
    regularized = ("depthwise", "pointwise") if form.family == "SeparableConv" else ("kernel",)
    return kind.from_config(
        {
            **{name: config[name] for name in _SHARED if name in config},
            **{f"{name}_regularizer": config["kernel_regularizer"] for name in regularized},
            "kernel_size": layer.kernel_size,
            **form.arguments(rank),
        }
    )


def _filled(name: str, old: Any, new: Any, form: Form, rank: Rank) -> FactorizedLayer:
    """Gives a layer its factors and bias, and says what they cost and how near they come."""
    factors = form.factors(rank)
    for weight, value in factors.items():
        getattr(new, weight).assign(value)
    if new.bias is not None:
        new.bias.assign(old.bias)
    held = {weight: getattr(new, weight).numpy().astype(np.float64) for weight in factors}
    return FactorizedLayer(
        name=name,
        rank=rank,
        error=form.error(held),
        norm=float(np.linalg.norm(form.kernel)),
        multiply_adds=(form.products_of_kernel, form.products(rank)),
        parameters=(old.count_params(), new.count_params()),
    )


def _progress() -> Progress:
    """A progress bar for the layers, on terminals."""
    console = Console(stderr=True)
    return Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
