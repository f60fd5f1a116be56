"""Deformable aggregation: weighted samples, both made from the input. DCNv3 and DCNv4."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfconv import ops
from tfconv.layers import depthwise_conv
from tfconv.layers.arguments import boolean, optional, positive_int, positive_number
from tfconv.layers.kernels import KernelArguments
from tfconv.layers.masking import without_mask
from tfconv.layers.spatial import SpatialLayer
from tfconv.ops.dispatch import in_float32
from tfconv.ops.geometry import Padding, spatial_sizes
from tfconv.ops.windows import product

EPSILON = 1e-6  # of the features' normalization, as in the authors' code


class DeformableAggregation(KernelArguments, SpatialLayer):
    """Deformable aggregation of any rank: DCNv3 and, with three arguments, DCNv4.

    ``y[p, c] = sum_t w[p, g(c), t] * v(p * strides - pad + centre + offset_scale * (t * dilation -
    centre + o[p, g(c), t]), c)`` with values ``v = W x + b``, offsets o and weights w for each
    group of channels g(c), and linear interpolation in which every corner outside the image counts
    as zero. The output is ``W' y + b'``.

    Offsets (in pixels) and weights are 1x1 convolutions of features of the input at the window's
    centre: ``gelu(layer_norm(depthwise(x)))``. Their kernels start at zero, so that a new layer
    takes the mean of its window. DCNv4 has neither the normalization nor the softmax, and mostly
    no depthwise convolution either: ``depthwise_kernel_size=None, normalize_features=False,
    softmax=False``. Its weights start at zero, and so do its outputs.

    Args:
        padding: "valid", "same", "full", "causal" (1-D), an int, or one (before, after) pair
            per spatial axis.
        group_channels: Channels that share offsets and weights; must divide the input's channels.
        groups: Instead of ``group_channels``: how many groups of channels there are.
        depthwise_kernel_size: Of the depthwise convolution that makes features; None for none.
        normalize_features: Whether features are normalized (over their channels) and activated.
        softmax: Whether the weights of a window are positive and sum to 1.
        offset_scale: Factor of offsets, and of the distances between taps.
        remove_center: Whether windows have no tap at their centre; kernel sizes must be odd.
        center_feature_scale: Whether outputs are mixed with the values at their windows' centres:
            ``y * (1 - s) + v * s``, where ``s = sigmoid(W'' f + b'')`` for each group is made from
            the features f.
        project_inputs, project_outputs: Whether there are the 1x1 convolutions W and W'. Without
            W, values are the input; without W', the output is y.
        filters: Output channels, which W' makes; None for the input's.
        kernel_initializer, bias_initializer: Initializers of these two convolutions; the depthwise
            one's bias is as theirs.
        offset_initializer, offset_regularizer, offset_constraint: Of the kernels that make offsets,
            weights and s.
        offset_bias_initializer, offset_bias_regularizer, offset_bias_constraint: Of their biases.
        depthwise_initializer, depthwise_regularizer, depthwise_constraint: Of the depthwise kernel.
        gamma_initializer, gamma_regularizer, gamma_constraint: Of the normalization's scale.
        beta_initializer, beta_regularizer, beta_constraint: Of its shift.

    Output shape: [N, *output spatial, filters].

    Weights:
        input_projection: a 1x1 convolution C -> C.
        output_projection: a 1x1 convolution C -> filters.
        depthwise: a depthwise convolution with bias.
        gamma, beta: [C] each.
        offset_projection: a 1x1 convolution C -> groups * taps * axes.
        weight_projection: a 1x1 convolution C -> groups * taps.
        scale_projection: a 1x1 convolution C -> groups.

    Raises:
        ValueError: If an argument is not what is described above, or the channels cannot be
            put into groups.

    Source: Wang et al., InternImage, arXiv:2211.05778, section 3.1; Xiong et al., Efficient
    Deformable ConvNets (DCNv4), arXiv:2401.06197, section 3.
    """

    by_position = 1
    weight_arguments = {
        "offset": "zeros",
        "offset_bias": "zeros",
        "depthwise": "glorot_uniform",
        "gamma": "ones",
        "beta": "zeros",
    }

    def __init__(
        self,
        kernel_size: int | Sequence[int] = 3,
        *,
        padding: Padding = "same",
        group_channels: int | None = None,
        groups: int | None = None,
        depthwise_kernel_size: int | Sequence[int] | None = 3,
        normalize_features: bool = True,
        softmax: bool = True,
        offset_scale: float = 1.0,
        remove_center: bool = False,
        center_feature_scale: bool = False,
        project_inputs: bool = True,
        project_outputs: bool = True,
        filters: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(kernel_size=kernel_size, padding=padding, **kwargs)
        if group_channels is not None and groups is not None:
            raise ValueError(
                "Give `group_channels` or `groups`, not both. "
                f"Received: group_channels={group_channels}, groups={groups}"
            )
        if groups is None and group_channels is None:
            group_channels = 16
        self.take(optional(positive_int), group_channels=group_channels, groups=groups)
        self.take(optional(self._per_axis), depthwise_kernel_size=depthwise_kernel_size)
        self.take(boolean, normalize_features=normalize_features, softmax=softmax)
        self.take(positive_number, offset_scale=offset_scale)
        self.take(
            boolean,
            remove_center=remove_center,
            center_feature_scale=center_feature_scale,
            project_inputs=project_inputs,
            project_outputs=project_outputs,
        )
        self.take(optional(positive_int), filters=filters)
        if filters is not None and not project_outputs:
            raise ValueError(
                "`filters` needs the projection of outputs. "
                f"Received: filters={filters}, project_outputs={project_outputs}"
            )
        taps = self.geometry.taps
        if self.remove_center and (taps % 2 == 0 or taps == 1):
            raise ValueError(
                "`remove_center` needs odd kernel sizes, and taps besides that at the centre. "
                f"Received: remove_center={remove_center}, kernel_size={kernel_size}"
            )

    @property
    def sampled_taps(self) -> int:
        """How many taps each window samples."""
        return self.geometry.taps - self.remove_center

    def output_channels(self, channels: int | None) -> int | None:
        return self.filters or channels

    def groups_of(self, channels: int) -> int:
        """How many groups there are for a number of channels."""
        return self.groups or channels // self.group_channels

    def build(self, input_shape):
        count = self.input_channels(input_shape)
        name, instead = ("groups", "") if self.groups else ("group_channels", "groups")
        self.require_divisor(name, count, input_shape, instead=instead)
        groups = self.groups_of(count)
        first, last, between = self.arguments_inside(3)
        if self.project_inputs:
            self.pointwise_sublayer("input_projection", count, count, **first)
        if self.depthwise_kernel_size is not None:
            self.sublayer(
                "depthwise",
                getattr(depthwise_conv, f"DepthwiseConv{self.rank}D"),
                (*[None] * (self.rank + 1), count),
                kernel_size=self.depthwise_kernel_size,
                strides=self.strides,
                padding="same" if self._is_centred else "valid",
                data_format="channels_last",
                **{name: value for name, value in between.items() if name.startswith("bias_")},
                **{f"depthwise_{k}": value for k, value in self.arguments_of("depthwise").items()},
            )
        if self.normalize_features:
            self.gamma, self.beta = (
                self.add_like((count,), name, name) for name in ("gamma", "beta")
            )
        made = {"offset": groups * self.sampled_taps * self.rank}
        made["weight"] = groups * self.sampled_taps
        if self.center_feature_scale:
            made["scale"] = groups
        of_sampling = self.arguments_inside(len(made), "offset", "offset_bias")
        for (name, filters), arguments in zip(made.items(), of_sampling):
            self.pointwise_sublayer(f"{name}_projection", count, filters, **arguments)
        if self.project_outputs:
            self.pointwise_sublayer("output_projection", count, self.output_channels(count), **last)
        self.built = True

    def call(self, inputs):
        x = self.padded(without_mask(self.fitting(inputs)))
        features = self._features(x)
        offset, weights = self._sampling(features)
        value = self.made_by(self.input_projection, x) if self.project_inputs else x
        y = ops.deformable_aggregation(
            value, offset, weights, self.kernel_size, **self.geometry_arguments
        )
        if self.center_feature_scale:
            scale = tf.sigmoid(self.made_by(self.scale_projection, features))
            y = _mixed(y, self._at_centres(value, (1,) * self.rank, self.strides), scale)
        if self.project_outputs:
            y = self.made_by(self.output_projection, y)
        return self.finish(y)

    def offsets_and_weights(self, inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The offsets and weights that the layer makes for inputs.

        As `tfconv.ops.deformable_aggregation` takes them, ``offset_scale`` and a removed centre
        included; channels first if the inputs are.
        """
        x = self.padded(self.fitting(self.entered(inputs)))
        offset, weights = self._sampling(self._features(x))
        return self.restored(offset), self.restored(weights)

    @property
    def _is_centred(self) -> bool:
        """Whether a depthwise convolution with padding "same" has the layer's windows' centres."""
        return self.padding == "same" and self.padding_mode == "zeros" and max(self.strides) == 1

    def _features(self, x: tf.Tensor) -> tf.Tensor:
        """What offsets and weights are made from: [N, *output spatial, C]."""
        size = self.depthwise_kernel_size
        if size is None:
            x = self._at_centres(x, (1,) * self.rank, self.strides)
        else:
            if not self._is_centred:
                x = self._at_centres(x, size, (1,) * self.rank)
            x = self.made_by(self.depthwise, x)
        if not self.normalize_features:
            return x
        with tf.name_scope("normalization"):
            return in_float32(_normalized, x, self.computed(self.gamma), self.computed(self.beta))

    def _at_centres(self, x: tf.Tensor, size: Sequence[int], steps: Sequence[int]) -> tf.Tensor:
        """The pixels of windows of another ``size`` with the layer's windows' centres and strides.

        Args:
            x: A channels-last input, `padded`.
            size: Taps per spatial axis.
            steps: Of these pixels, every how many-th.
        """
        geometry = self.padded_geometry
        sizes = spatial_sizes(x)
        crops, pads = [slice(None)], [[0, 0]]
        for axis, (before, _) in enumerate(geometry.pad_amounts(sizes)):
            first = (geometry.extent[axis] - 1) // 2 - (size[axis] - 1) // 2 - before
            outputs = geometry.output_size(sizes[axis], axis)
            length = (outputs - 1) * geometry.strides[axis] + size[axis]
            start = _at_least_zero(first)
            pads.append([_at_least_zero(-first), _at_least_zero(first + length - sizes[axis])])
            crops.append(slice(start, start + length, steps[axis]))
        if any(not isinstance(n, int) or n for pair in pads for n in pair):
            x = tf.pad(x, [*pads, [0, 0]])
        return x[tuple(crops)]

    def _sampling(self, features: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Offsets and weights from features."""
        taps, rank = self.sampled_taps, self.rank
        offset = self.made_by(self.offset_projection, features)
        weights = self.made_by(self.weight_projection, features)
        if self.softmax:
            weights = _reshaped(lambda w: in_float32(tf.nn.softmax, w), weights, [taps])
        if self.remove_center:
            offset = _reshaped(_with_centre, offset, [taps, rank])
            weights = _reshaped(_with_centre, weights, [taps, 1])
        if self.offset_scale != 1:
            geometry = self.geometry
            places = np.stack(np.indices(geometry.kernel_size), axis=-1).reshape(-1, rank)
            centres = [(extent - 1) // 2 for extent in geometry.extent]
            apart = (self.offset_scale - 1) * (places * geometry.dilation_rate - centres)
            groups = offset.shape[-1] // apart.size
            apart = tf.constant(np.tile(apart.reshape(-1), groups), offset.dtype)
            offset = self.offset_scale * offset + apart
        return offset, weights


def _at_least_zero(size: Any) -> Any:
    return max(size, 0) if isinstance(size, int) else tf.maximum(size, 0)


def _normalized(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> tf.Tensor:
    """Normalized over its channels, and activated."""
    x -= tf.reduce_mean(x, axis=-1, keepdims=True)
    variance = tf.reduce_mean(tf.square(x), axis=-1, keepdims=True)
    y = x * tf.math.rsqrt(variance + EPSILON) * gamma + beta
    return 0.5 * y * (1 + tf.math.erf(y * 2**-0.5))  # tf.nn.gelu's Erfc is not everywhere


def _reshaped(
    function: Callable[[tf.Tensor], tf.Tensor], t: tf.Tensor, last: Sequence[int]
) -> tf.Tensor:
    """``function`` of t as [samples, *last], at most three axes, and back."""
    sizes = spatial_sizes(t)
    y = function(tf.reshape(t, [-1, *last]))
    count = t.shape[-1] // product(last) * product(y.shape[1:])
    return tf.reshape(y, [-1, *sizes, count])


def _with_centre(t: tf.Tensor) -> tf.Tensor:
    """Zeros for the tap at the centre: [N, taps - 1, n] -> [N, taps, n]."""
    before, after = tf.split(t, 2, axis=1)
    return tf.concat([before, tf.zeros_like(t[:, :1]), after], axis=1)


def _mixed(y: tf.Tensor, value: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """``y * (1 - s) + value * s`` with one s for each group of channels."""
    sizes = spatial_sizes(y)
    channels, groups = y.shape[-1], scale.shape[-1]
    y, value, scale = (
        tf.reshape(t, [-1, groups, t.shape[-1] // groups]) for t in (y, value, scale)
    )
    return tf.reshape(y + (value - y) * scale, [-1, *sizes, channels])


class DeformableAggregation1D(DeformableAggregation, rank=1):
    """Deformable aggregation of sequences.

    Example:
        >>> tfconv.DeformableAggregation1D(3, groups=2)(tf.zeros([2, 10, 8])).shape
        TensorShape([2, 10, 8])
    """


class DeformableAggregation2D(DeformableAggregation, rank=2):
    """Deformable aggregation of images.

    Example:
        >>> tfconv.DeformableAggregation2D(3)(tf.zeros([1, 14, 10, 64])).shape
        TensorShape([1, 14, 10, 64])
    """


class DeformableAggregation3D(DeformableAggregation, rank=3):
    """Deformable aggregation of volumes.

    Example:
        >>> tfconv.DeformableAggregation3D(3, groups=1)(tf.zeros([1, 4, 6, 6, 8])).shape
        TensorShape([1, 4, 6, 6, 8])
    """
