"""The families of kernels behind one interface: inputs, what the kernels give, what is right."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tests import reference
from tests.kernels import gradients
from tests.sliding_windows import Geometry

Arrays = dict[str, np.ndarray]

TOLERANCES = {np.dtype(np.float32): 2e-5, np.dtype(np.float64): 1e-12}
OUTSIDE = 1e6  # pixels from every image of these tests


class Case(NamedTuple):
    """Sizes of one test."""

    geometry: Geometry
    batch: int
    groups: int
    width: int  # channels of a group
    filters: int = 1  # of a group
    offset_groups: int = 1
    masked: bool = True

    @property
    def channels(self) -> int:
        return self.groups * self.width

    @property
    def taps(self) -> int:
        return len(self.geometry.window.taps)

    @property
    def rank(self) -> int:
        return len(self.geometry.sizes)

    def outputs(self, *last: int) -> tuple[int, ...]:
        return (self.batch, *self.geometry.outputs, *last)

    @property
    def inputs(self) -> tuple[int, ...]:
        return (self.batch, *self.geometry.sizes, self.channels)

    @property
    def axes(self) -> list[tuple[int, ...]]:
        w = self.geometry.window
        before = [pair[0] for pair in w.pads]
        return list(zip(self.geometry.outputs, w.kernel_size, w.strides, w.dilations, before))


class Involution:
    ranks = (1, 2, 3)

    @staticmethod
    def draw(rng, case: Case) -> Arrays:
        return {
            "x": rng.standard_normal(case.inputs),
            "kernel": rng.standard_normal(case.outputs(case.groups * case.taps)),
            "dy": rng.standard_normal(case.outputs(case.channels)),
        }

    @staticmethod
    def run(kernels, run, case: Case, x, kernel, dy) -> Arrays:
        y = kernels.involution(run, x, kernel, case.axes)
        dx, dkernel = kernels.involution_gradients(run, x, kernel, dy, case.axes)
        return {"y": y, "dx": dx, "dkernel": dkernel}

    @staticmethod
    def expected(case: Case, x, kernel, dy) -> Arrays:
        w = case.geometry.window
        if case.channels == 0:
            return {"y": np.zeros(dy.shape), "dx": np.zeros(x.shape), "dkernel": 0.0 * kernel}
        dx, dkernel = gradients.involution(x, kernel, dy, w)
        return {"y": reference.involution(x, kernel, w), "dx": dx, "dkernel": dkernel}


class SpanInvolution:
    """`Case.filters` are the features."""

    ranks = (1, 2, 3)

    @staticmethod
    def draw(rng, case: Case) -> Arrays:
        columns = case.groups * case.taps
        return {
            "x": rng.standard_normal(case.inputs),
            "features": rng.standard_normal(case.outputs(case.filters)),
            "span": rng.standard_normal((case.filters, columns)) / max(1, case.filters) ** 0.5,
            "bias": rng.standard_normal(columns),
            "dy": rng.standard_normal(case.outputs(case.channels)),
        }

    @staticmethod
    def run(kernels, run, case: Case, dy, **inputs) -> Arrays:
        y = kernels.span_involution(run, **inputs, axes=case.axes)
        results = kernels.span_involution_gradients(run, **inputs, dy=dy, axes=case.axes)
        return {"y": y, **dict(zip(("dx", "dfeatures", "dspan", "dbias"), results))}

    @staticmethod
    def expected(case: Case, x, features, span, bias, dy) -> Arrays:
        features, span = features.astype(np.float64), span.astype(np.float64)
        results = Involution.expected(case, x, features @ span + bias, dy)
        dkernel = results.pop("dkernel")
        positions = tuple(range(features.ndim - 1))
        return {
            **results,
            "dfeatures": dkernel @ span.T,
            "dspan": np.tensordot(features, dkernel, (positions, positions)),
            "dbias": dkernel.sum(positions),
        }


class LocalAttention:
    """`Case.groups` are heads, `Case.filters` the channels of a head's values, which are x.

    The filters also say which kind of bias there is, `Case.offset_groups` what happens at edges.
    """

    ranks = (1, 2, 3)

    @staticmethod
    def axes(case: Case) -> list[reference.Neighbourhood]:
        w = case.geometry.window
        sizes = list(zip(case.geometry.sizes, w.kernel_size, w.dilations))
        causal = [bool(case.offset_groups >> (axis + 1) & 1) for axis in range(len(sizes))]
        fits = all(n >= k * d or n == 0 or c for (n, k, d), c in zip(sizes, causal))
        shifted = fits and case.offset_groups % 2 == 0
        axes = []
        for (n, k, d), s, own in zip(sizes, w.strides, causal):
            s = min(s, k)
            queries = -(-n // s) if case.masked else n
            axes.append(reference.Neighbourhood(n, queries, k, s, d, shifted, own))
        return axes

    @classmethod
    def arguments(cls, case: Case) -> dict:
        axes = [(a.queries, *a[2:]) for a in cls.axes(case)]
        return {"heads": case.groups, "scale": max(1, case.width) ** -0.5, "axes": axes}

    @classmethod
    def draw(cls, rng, case: Case) -> Arrays:
        queries = [axis.queries for axis in cls.axes(case)]
        shape = (case.batch, *queries)
        biases = [None, (case.groups, case.taps), (*shape, case.groups * case.taps)]
        bias = biases[case.filters % 3]
        inputs = (case.batch, *case.geometry.sizes)
        return {
            "query": rng.standard_normal((*shape, case.channels)),
            "key": rng.standard_normal((*inputs, case.channels)),
            "x": rng.standard_normal((*inputs, case.groups * case.filters)),
            "bias": None if bias is None else rng.standard_normal(bias),
            "dy": rng.standard_normal((*shape, case.groups * case.filters)),
        }

    @classmethod
    def run(cls, kernels, run, case: Case, query, key, x, dy, bias=None) -> Arrays:
        inputs, arguments = (query, key, x, bias), cls.arguments(case)
        y = kernels.local_attention(run, *inputs, **arguments)
        found = kernels.local_attention_gradients(run, *inputs, dy, **arguments)
        results = {"y": y, **dict(zip(("dquery", "dkey", "dx", "dbias"), found))}
        return {name: value for name, value in results.items() if value is not None}

    @classmethod
    def expected(cls, case: Case, query, key, x, dy, bias=None) -> Arrays:
        arguments = {**cls.arguments(case), "axes": cls.axes(case)}
        y, _ = reference.local_attention(query, key, x, bias, **arguments)
        found = gradients.local_attention(query, key, x, bias, dy, **arguments)
        results = {"y": y, **dict(zip(("dquery", "dkey", "dx", "dbias"), found))}
        return results if bias is not None else {k: results[k] for k in list(results)[:-1]}


class PerExample:
    ranks = (1, 2, 3)

    @staticmethod
    def draw(rng, case: Case) -> Arrays:
        kernel = (*case.geometry.window.kernel_size, case.width, case.groups * case.filters)
        return {
            "x": rng.standard_normal(case.inputs),
            "filter": rng.standard_normal((case.batch, *kernel)),
            "dy": rng.standard_normal(case.outputs(case.groups * case.filters)),
        }

    @staticmethod
    def run(kernels, run, case: Case, x, filter, dy) -> Arrays:
        y = kernels.per_example_conv(run, x, filter, case.axes)
        dx, dfilter = kernels.per_example_gradients(run, x, filter, dy, case.axes)
        return {"y": y, "dx": dx, "dfilter": dfilter}

    @staticmethod
    def expected(case: Case, x, filter, dy) -> Arrays:
        w = case.geometry.window
        if case.width == 0:
            return {"y": np.zeros(dy.shape), "dx": np.zeros(x.shape), "dfilter": 0.0 * filter}
        dx, dfilter = gradients.per_example_conv(x, filter, dy, w)
        return {"y": reference.per_example_conv(x, filter, w), "dx": dx, "dfilter": dfilter}


class Aggregation:
    """`Case.offset_groups` are the groups."""

    ranks = (1, 2, 3)

    @staticmethod
    def draw(rng, case: Case) -> Arrays:
        count = case.offset_groups * case.taps
        return {
            "x": rng.standard_normal(case.inputs),
            "offset": 2 * rng.standard_normal(case.outputs(count * len(case.geometry.sizes))),
            "weights": rng.uniform(-1, 1, case.outputs(count)),
            "dy": rng.standard_normal(case.outputs(case.channels)),
        }

    @staticmethod
    def run(kernels, run, case: Case, dy, **inputs) -> Arrays:
        y = kernels.aggregation(run, **inputs, axes=case.axes)
        results = kernels.aggregation_gradients(run, **inputs, dy=dy, axes=case.axes)
        return {"y": y, **dict(zip(("dx", "doffset", "dweights"), results))}

    @staticmethod
    def expected(case: Case, x, offset, weights, dy) -> Arrays:
        w = case.geometry.window
        if case.channels == 0:
            zeros = {"y": dy, "dx": x, "doffset": offset, "dweights": weights}
            return {name: np.zeros(value.shape) for name, value in zeros.items()}
        far, undefined = finite_offsets(case, offset)
        y = reference.deformable_aggregation(x, far, weights, w)
        grouped = y.reshape(case.outputs(case.offset_groups, case.channels // case.offset_groups))
        grouped[undefined.any(axis=-1)] = np.nan
        dx, doffset, dweights = gradients.deformable_aggregation(x, far, weights, dy, w)
        own = {"doffset": doffset, "dweights": dweights}
        set_undefined(case, offset, own)
        return {"y": y, "dx": dx, **own}


class DeformableSample:
    ranks = (1, 2, 3)

    @staticmethod
    def draw(rng, case: Case) -> Arrays:
        count = case.offset_groups * case.taps
        inputs = {
            "x": rng.standard_normal(case.inputs),
            "offset": 2 * rng.standard_normal(case.outputs(case.rank * count)),
            "mask": rng.uniform(-1, 1, case.outputs(count)) if case.masked else None,
            "dcolumns": rng.standard_normal(case.outputs(case.taps, case.channels)),
        }
        return inputs

    @staticmethod
    def run(kernels, run, case: Case, x, offset, mask, dcolumns) -> Arrays:
        columns = kernels.deformable_sample(run, x, offset, mask, case.axes)
        dx, doffset, dmask = kernels.deformable_sample_gradients(
            run, x, offset, mask, dcolumns, case.axes
        )
        results = {"columns": columns, "dx": dx, "doffset": doffset, "dmask": dmask}
        return {name: value for name, value in results.items() if value is not None}

    @staticmethod
    def expected(case: Case, x, offset, mask, dcolumns) -> Arrays:
        w = case.geometry.window
        columns, far = columns_of(case, x, offset, mask)
        dx, doffset, dmask = gradients.deformable_sample(x, far, mask, dcolumns, w)
        own = {"doffset": doffset, "dmask": dmask} if case.masked else {"doffset": doffset}
        set_undefined(case, offset, own)
        return {"columns": columns, "dx": dx, **own}


class DeformableConv:
    ranks = (1, 2, 3)

    @staticmethod
    def draw(rng, case: Case) -> Arrays:
        inputs = DeformableSample.draw(rng, case)
        del inputs["dcolumns"]
        kernel = (*case.geometry.window.kernel_size, case.width, case.groups * case.filters)
        inputs["filter"] = rng.standard_normal(kernel)
        inputs["dy"] = rng.standard_normal(case.outputs(case.groups * case.filters))
        return inputs

    @staticmethod
    def run(kernels, run, case: Case, x, offset, mask, filter, dy) -> Arrays:
        y = kernels.deformable_conv(run, x, offset, mask, filter, case.axes)
        dx, doffset, dmask, dfilter = kernels.deformable_conv_gradients(
            run, x, offset, mask, filter, dy, case.axes
        )
        results = {"y": y, "dx": dx, "doffset": doffset, "dmask": dmask, "dfilter": dfilter}
        return {name: value for name, value in results.items() if value is not None}

    @staticmethod
    def expected(case: Case, x, offset, mask, filter, dy) -> Arrays:
        if case.width == 0:
            zeros = {"y": dy, "dx": x, "doffset": offset, "dfilter": filter}
            if case.masked:
                zeros["dmask"] = mask
            return {name: np.zeros(value.shape) for name, value in zeros.items()}
        columns, far = columns_of(case, x, offset, mask)
        dcolumns, dfilter = gradients.of_columns_times_filter(columns, filter, dy)
        dx, doffset, dmask = gradients.deformable_sample(
            x, far, mask, dcolumns, case.geometry.window
        )
        own = {"doffset": doffset, "dmask": dmask} if case.masked else {"doffset": doffset}
        set_undefined(case, offset, own)
        y = gradients.columns_times_filter(columns, filter)
        return {"y": y, "dx": dx, "dfilter": dfilter, **own}


FAMILIES = {
    "involution": Involution,
    "span_involution": SpanInvolution,
    "local_attention": LocalAttention,
    "per_example": PerExample,
    "aggregation": Aggregation,
    "deformable_sample": DeformableSample,
    "deformable_conv": DeformableConv,
}


def tap_positions(case: Case) -> np.ndarray:
    """Where the taps lie without offsets: [*output, 1, taps, rank]."""
    w = case.geometry.window
    positions = np.zeros((*case.geometry.outputs, 1, case.taps, case.rank))
    for at in np.ndindex(*case.geometry.outputs):
        for number, tap in enumerate(w.taps):
            positions[(*at, 0, number)] = w.pixel(at, tap)
    return positions


def as_taps(case: Case, offset: np.ndarray) -> np.ndarray:
    """Offsets as [N, *output, offset groups, taps, rank]."""
    return offset.reshape(case.outputs(case.offset_groups, case.taps, case.rank))


def finite_offsets(case: Case, offset) -> tuple[np.ndarray, np.ndarray]:
    """Finite offsets that mean the same, and where they are NaN: [N, *output, groups, taps].

    Positions are rounded to the offsets' type, as in the kernels: on which side of a pixel they
    lie decides about gradients.
    """
    base = tap_positions(case)
    positions = (base.astype(offset.dtype) + as_taps(case, offset)).astype(np.float64)
    undefined = np.isnan(positions).any(axis=-1)
    positions = np.clip(np.nan_to_num(positions, nan=OUTSIDE), -OUTSIDE, OUTSIDE)
    return (positions - base).reshape(offset.shape), undefined


def columns_of(case: Case, x, offset, mask) -> tuple[np.ndarray, np.ndarray]:
    """The columns, and finite offsets that mean the same. Where an offset is NaN, columns are."""
    far, undefined = finite_offsets(case, offset)
    columns = reference.deformable_sample(x, far, mask, case.geometry.window)
    width = case.channels // case.offset_groups
    grouped = columns.reshape(case.outputs(case.taps, case.offset_groups, width))
    grouped[np.swapaxes(undefined, -1, -2)] = np.nan
    return columns, far


def set_undefined(case: Case, offset, gradients_: Arrays) -> None:
    """The gradients of a tap whose offset is NaN are NaN; where nothing is summed, anything."""
    undefined = np.isnan(as_taps(case, offset)).any(axis=-1)
    for gradient in gradients_.values():
        last = gradient.shape[-1] // (case.offset_groups * case.taps)
        by_taps = gradient.reshape(case.outputs(case.offset_groups, case.taps, last))
        by_taps[undefined] = np.nan


def cast(inputs: Arrays, dtype) -> Arrays:
    return {k: None if v is None else np.ascontiguousarray(v, dtype) for k, v in inputs.items()}


def narrow(tensor: np.ndarray, dtype) -> np.ndarray:
    """Rounded to float16, or cut to bfloat16, of which NumPy knows the bits only."""
    if dtype == np.float16:
        return np.ascontiguousarray(tensor, dtype)
    return (np.ascontiguousarray(tensor, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def rounded(tensor: np.ndarray, dtype) -> np.ndarray:
    """Rounded to float16 or bfloat16, to nearest, ties to even."""
    if dtype == np.float16:
        with np.errstate(over="ignore"):
            return tensor.astype(dtype)
    bits = np.ascontiguousarray(tensor).view(np.uint32).astype(np.uint64)
    up = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(tensor), np.uint16(0x7FC0), up)


def widen(tensor: np.ndarray) -> np.ndarray:
    """The same numbers in float32."""
    if tensor.dtype == np.float16:
        return tensor.astype(np.float32)
    return (tensor.astype(np.uint32) << 16).view(np.float32)


def multiplies_bfloat16(isa: str, inputs: Arrays) -> bool:
    """Whether products are of bfloat16, to which samples are rounded first."""
    return isa in ("avx512bf16", "emulated") and inputs["x"].dtype == np.uint16


def assert_rounded(actual: Arrays, of_float: Arrays, slack: Arrays, dtype, what: str = "") -> None:
    """What float32 gives, rounded to 16 bits, up to a slack."""
    tolerance, smallest = (2**-11, 2**-25) if dtype == np.float16 else (2**-8, 0)
    assert actual.keys() == of_float.keys()
    for name, value in of_float.items():
        assert actual[name].dtype == dtype
        result = widen(actual[name])
        finite = np.isfinite(value) & np.isfinite(result)
        kind = np.isnan(value) + 2 * np.isposinf(value) + 4 * np.isneginf(value)
        other = np.isnan(result) + 2 * np.isposinf(result) + 4 * np.isneginf(result)
        np.testing.assert_array_equal(kind[~finite], other[~finite], f"{name} {what}")
        error = np.abs(result - value)[finite]
        most = tolerance * np.abs(value[finite]) + smallest
        most += np.broadcast_to(slack[name], value.shape)[finite]
        assert np.all(error <= most), f"{name} {what}"


def slack_of_products(family, kernels, case: Case, wide: Arrays, of_float: Arrays) -> Arrays:
    """How far products of bfloat16 may be from those of float32: sums have another order, and the
    samples of a deformable convolution are rounded, each by 2^-8 of itself at most."""
    slack = {}
    for name, value in of_float.items():
        slack[name] = 2e-5 * max(1.0, np.abs(value[np.isfinite(value)]).max(initial=0))
    if family is DeformableConv:
        magnitudes = {
            k: v if k == "offset" else np.abs(v) for k, v in wide.items() if v is not None
        }
        magnitudes = {"mask": None, **magnitudes}
        sums = family.run(kernels, kernels.Run("base"), case, **magnitudes)
        for name in ("y", "dfilter"):
            slack[name] = slack[name] + 2**-8 * sums[name]
    return slack


def assert_matches(actual: Arrays, expected: Arrays, dtype, what: str = "") -> None:
    """Equal, up to rounding, wherever the expected values are finite."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name].shape == value.shape, name
        assert actual[name].dtype == dtype, name
        finite = np.isfinite(value)
        if not finite.any():
            continue
        scale = max(1.0, np.abs(value[finite]).max())
        np.testing.assert_allclose(
            actual[name][finite].astype(np.float64),
            value[finite].astype(np.float64),
            rtol=0,
            atol=TOLERANCES[np.dtype(dtype)] * scale,
            err_msg=f"{name} {what}",
        )


def assert_not_flushed(actual: Arrays, expected: Arrays, dtype, what: str = "") -> None:
    """Results of denormal numbers are these, up to their coarse steps, and not zero."""
    limits = np.finfo(dtype)
    for name, value in expected.items():
        finite = np.isfinite(value)
        scale = np.abs(value[finite]).max(initial=0)
        if scale < limits.tiny:
            atol = 0.02 * scale + 64 * np.float64(limits.smallest_subnormal)
            np.testing.assert_allclose(
                actual[name][finite].astype(np.float64),
                value[finite].astype(np.float64),
                rtol=0,
                atol=atol,
                err_msg=f"{name} {what}",
            )


def assert_same_bits(actual: Arrays, expected: Arrays, what: str) -> None:
    for name, value in expected.items():
        assert actual[name].tobytes() == value.tobytes(), f"{name} depends on {what}"
