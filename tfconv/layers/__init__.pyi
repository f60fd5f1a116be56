"""Types of the layers. Written by `python -m tests.stubs`; their signatures are composed."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from keras.layers import Layer

from tfconv.ops.geometry import Padding

class _Layer(Layer):
    # Arguments and weights are attributes.
    def __getattr__(self, name: str) -> Any: ...

class ChannelShuffle(_Layer):
    def __init__(
        self,
        groups: int,
        data_format: str | None = None,
        inverse: bool = False,
        *,
        activity_regularizer: Any = None,
        name: str | None = ...,
        dtype: Any = ...,
        trainable: bool = ...,
        autocast: bool = ...,
        input_shape: Sequence[int | None] = ...,
    ) -> None: ...
    def __call__(self, inputs: Any, **kwargs: Any) -> Any: ...

class _CondConv(_Layer):
    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        *,
        strides: int | Sequence[int] = 1,
        padding: Padding = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        groups: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        padding_mode: str = "zeros",
        lora_rank: int | None = None,
        lora_alpha: float | None = None,
        num_experts: int = 8,
        routing_activation: Any = "sigmoid",
        routing_initializer: Any = "glorot_uniform",
        routing_bias_initializer: Any = "zeros",
        routing_regularizer: Any = None,
        routing_bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        routing_constraint: Any = None,
        routing_bias_constraint: Any = None,
        execution: str = "auto",
        name: str | None = ...,
        dtype: Any = ...,
        trainable: bool = ...,
        autocast: bool = ...,
        input_shape: Sequence[int | None] = ...,
    ) -> None: ...
    def __call__(
        self,
        inputs: Any,
        routing_weights: Any = None,
        mask: Any = None,
        return_routing_weights: Any = False,
        **kwargs: Any,
    ) -> Any: ...
    def routing_weights(self, inputs: tf.Tensor, mask: Any = None) -> tf.Tensor: ...

class CondConv1D(_CondConv): ...
class CondConv2D(_CondConv): ...
class CondConv3D(_CondConv): ...

class CondDense(_Layer):
    def __init__(
        self,
        units: int,
        activation: Any = None,
        use_bias: bool = True,
        *,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        lora_rank: int | None = None,
        lora_alpha: float | None = None,
        num_experts: int = 8,
        routing_activation: Any = "sigmoid",
        routing_initializer: Any = "glorot_uniform",
        routing_bias_initializer: Any = "zeros",
        routing_regularizer: Any = None,
        routing_bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        routing_constraint: Any = None,
        routing_bias_constraint: Any = None,
        name: str | None = ...,
        dtype: Any = ...,
        trainable: bool = ...,
        autocast: bool = ...,
        input_shape: Sequence[int | None] = ...,
    ) -> None: ...
    def __call__(
        self,
        inputs: Any,
        routing_weights: Any = None,
        mask: Any = None,
        return_routing_weights: Any = False,
        **kwargs: Any,
    ) -> Any: ...
    def routing_weights(self, inputs: tf.Tensor, mask: Any = None) -> tf.Tensor: ...

class _Conv(_Layer):
    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: Padding = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        groups: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        *,
        padding_mode: str = "zeros",
        lora_rank: int | None = None,
        lora_alpha: float | None = None,
        name: str | None = ...,
        dtype: Any = ...,
        trainable: bool = ...,
        autocast: bool = ...,
        input_shape: Sequence[int | None] = ...,
    ) -> None: ...
    def __call__(self, inputs: Any, **kwargs: Any) -> Any: ...

class Conv1D(_Conv): ...

class _ConvTranspose(_Layer):
    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: Padding = "valid",
        output_padding: int | Sequence[int] | None = None,
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        *,
        groups: int = 1,
        padding_mode: str = "zeros",
        lora_rank: int | None = None,
        lora_alpha: float | None = None,
        name: str | None = ...,
        dtype: Any = ...,
        trainable: bool = ...,
        autocast: bool = ...,
        input_shape: Sequence[int | None] = ...,
    ) -> None: ...
    def __call__(self, inputs: Any, **kwargs: Any) -> Any: ...

class Conv1DTranspose(_ConvTranspose): ...
class Conv2D(_Conv): ...
class Conv2DTranspose(_ConvTranspose): ...
class Conv3D(_Conv): ...
class Conv3DTranspose(_ConvTranspose): ...

class _DeformableAggregation(_Layer):
    def __init__(
        self,
        kernel_size: int | Sequence[int] = 3,
        *,
        strides: int | Sequence[int] = 1,
        padding: Padding = "same",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        padding_mode: str = "zeros",
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
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
        offset_initializer: Any = "zeros",
        offset_bias_initializer: Any = "zeros",
        depthwise_initializer: Any = "glorot_uniform",
        gamma_initializer: Any = "ones",
        beta_initializer: Any = "zeros",
        offset_regularizer: Any = None,
        offset_bias_regularizer: Any = None,
        depthwise_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_regularizer: Any = None,
        activity_regularizer: Any = None,
        offset_constraint: Any = None,
        offset_bias_constraint: Any = None,
        depthwise_constraint: Any = None,
        gamma_constraint: Any = None,
        beta_constraint: Any = None,
        name: str | None = ...,
        dtype: Any = ...,
        trainable: bool = ...,
        autocast: bool = ...,
        input_shape: Sequence[int | None] = ...,
    ) -> None: ...
    def __call__(self, inputs: Any, **kwargs: Any) -> Any: ...
    def offsets_and_weights(self, inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]: ...

class DeformableAggregation1D(_DeformableAggregation): ...
class DeformableAggregation2D(_DeformableAggregation): ...
class DeformableAggregation3D(_DeformableAggregation): ...

class _DeformableConv(_Layer):
    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        *,
        strides: int | Sequence[int] = 1,
        padding: Padding = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        groups: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        padding_mode: str = "zeros",
        lora_rank: int | None = None,
        lora_alpha: float | None = None,
        offset_groups: int = 1,
        modulated: bool = True,
        offset_learning_rate_multiplier: float = 1.0,
        mask_scale: float = 2.0,
        offset_initializer: Any = "zeros",
        offset_bias_initializer: Any = "zeros",
        offset_regularizer: Any = None,
        offset_bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        offset_constraint: Any = None,
        offset_bias_constraint: Any = None,
        name: str | None = ...,
        dtype: Any = ...,
        trainable: bool = ...,
        autocast: bool = ...,
        input_shape: Sequence[int | None] = ...,
    ) -> None: ...
    def __call__(
        self,
        inputs: Any,
        offset: Any = None,
        modulation: Any = None,
        **kwargs: Any,
    ) -> Any: ...
    def offsets_and_mask(self, inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]: ...

class DeformableConv1D(_DeformableConv): ...
class DeformableConv2D(_DeformableConv): ...
class DeformableConv3D(_DeformableConv): ...

class _DepthwiseCondConv(_Layer):
    def __init__(
        self,
        kernel_size: int | Sequence[int],
        *,
        strides: int | Sequence[int] = 1,
        padding: Padding = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        padding_mode: str = "zeros",
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        lora_rank: int | None = None,
        lora_alpha: float | None = None,
        num_experts: int = 8,
        routing_activation: Any = "sigmoid",
        routing_initializer: Any = "glorot_uniform",
        routing_bias_initializer: Any = "zeros",
        routing_regularizer: Any = None,
        routing_bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        routing_constraint: Any = None,
        routing_bias_constraint: Any = None,
        execution: str = "auto",
        depth_multiplier: int = 1,
        name: str | None = ...,
        dtype: Any = ...,
        trainable: bool = ...,
        autocast: bool = ...,
        input_shape: Sequence[int | None] = ...,
    ) -> None: ...
    def __call__(
        self,
        inputs: Any,
        routing_weights: Any = None,
        mask: Any = None,
        return_routing_weights: Any = False,
        **kwargs: Any,
    ) -> Any: ...
    def routing_weights(self, inputs: tf.Tensor, mask: Any = None) -> tf.Tensor: ...

class DepthwiseCondConv2D(_DepthwiseCondConv): ...

class _DepthwiseConv(_Layer):
    def __init__(
        self,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: Padding = "valid",
        depth_multiplier: int = 1,
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        activation: Any = None,
        use_bias: bool = True,
        depthwise_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        depthwise_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        depthwise_constraint: Any = None,
        bias_constraint: Any = None,
        *,
        padding_mode: str = "zeros",
        lora_rank: int | None = None,
        lora_alpha: float | None = None,
        name: str | None = ...,
        dtype: Any = ...,
        trainable: bool = ...,
        autocast: bool = ...,
        input_shape: Sequence[int | None] = ...,
    ) -> None: ...
    def __call__(self, inputs: Any, **kwargs: Any) -> Any: ...

class DepthwiseConv1D(_DepthwiseConv): ...
class DepthwiseConv2D(_DepthwiseConv): ...
class DepthwiseConv3D(_DepthwiseConv): ...

class _DynamicConv(_Layer):
    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        *,
        strides: int | Sequence[int] = 1,
        padding: Padding = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        groups: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        padding_mode: str = "zeros",
        lora_rank: int | None = None,
        lora_alpha: float | None = None,
        num_experts: int = 4,
        execution: str = "auto",
        reduction_ratio: int = 4,
        temperature: float = 30.0,
        attention_initializer: Any = "glorot_uniform",
        attention_bias_initializer: Any = "zeros",
        attention_regularizer: Any = None,
        attention_bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        attention_constraint: Any = None,
        attention_bias_constraint: Any = None,
        name: str | None = ...,
        dtype: Any = ...,
        trainable: bool = ...,
        autocast: bool = ...,
        input_shape: Sequence[int | None] = ...,
    ) -> None: ...
    def __call__(
        self,
        inputs: Any,
        mask: Any = None,
        return_attention_scores: Any = False,
        **kwargs: Any,
    ) -> Any: ...
    def attention(self, inputs: tf.Tensor, mask: Any = None) -> tf.Tensor: ...
    def set_temperature(self, temperature: float) -> None: ...

class DynamicConv1D(_DynamicConv): ...
class DynamicConv2D(_DynamicConv): ...
class DynamicConv3D(_DynamicConv): ...

class _FlattenedConv(_Layer):
    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        *,
        strides: int | Sequence[int] = 1,
        padding: Padding = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        groups: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        padding_mode: str = "zeros",
        name: str | None = ...,
        dtype: Any = ...,
        trainable: bool = ...,
        autocast: bool = ...,
        input_shape: Sequence[int | None] = ...,
    ) -> None: ...
    def __call__(self, inputs: Any, **kwargs: Any) -> Any: ...
    def effective_kernel(self) -> Any: ...
    def parameter_count(self, channels: int) -> int: ...

class FlattenedConv1D(_FlattenedConv): ...
class FlattenedConv2D(_FlattenedConv): ...
class FlattenedConv3D(_FlattenedConv): ...

class _GatedConv(_Layer):
    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        *,
        strides: int | Sequence[int] = 1,
        padding: Padding = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        groups: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        padding_mode: str = "zeros",
        gate: str = "glu",
        name: str | None = ...,
        dtype: Any = ...,
        trainable: bool = ...,
        autocast: bool = ...,
        input_shape: Sequence[int | None] = ...,
    ) -> None: ...
    def __call__(self, inputs: Any, **kwargs: Any) -> Any: ...
    def gates(self, inputs: tf.Tensor) -> tf.Tensor: ...

class GatedConv1D(_GatedConv): ...
class GatedConv2D(_GatedConv): ...
class GatedConv3D(_GatedConv): ...

class _GroupConv(_Layer):
    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        *,
        strides: int | Sequence[int] = 1,
        padding: Padding = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        groups: int,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        padding_mode: str = "zeros",
        lora_rank: int | None = None,
        lora_alpha: float | None = None,
        share_kernel: bool = False,
        name: str | None = ...,
        dtype: Any = ...,
        trainable: bool = ...,
        autocast: bool = ...,
        input_shape: Sequence[int | None] = ...,
    ) -> None: ...
    def __call__(self, inputs: Any, **kwargs: Any) -> Any: ...

class GroupConv1D(_GroupConv): ...
class GroupConv2D(_GroupConv): ...
class GroupConv3D(_GroupConv): ...

class _Involution(_Layer):
    def __init__(
        self,
        kernel_size: int | Sequence[int] = 7,
        *,
        strides: int | Sequence[int] = 1,
        padding: Padding = "same",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        padding_mode: str = "zeros",
        activation: Any = None,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        group_channels: int | None = None,
        groups: int | None = None,
        reduction_ratio: int = 4,
        batch_norm_momentum: float = 0.9,
        batch_norm_epsilon: float = 1e-05,
        gamma_initializer: Any = "ones",
        beta_initializer: Any = "zeros",
        gamma_regularizer: Any = None,
        beta_regularizer: Any = None,
        activity_regularizer: Any = None,
        gamma_constraint: Any = None,
        beta_constraint: Any = None,
        name: str | None = ...,
        dtype: Any = ...,
        trainable: bool = ...,
        autocast: bool = ...,
        input_shape: Sequence[int | None] = ...,
    ) -> None: ...
    def __call__(
        self,
        inputs: Any,
        training: Any = None,
        return_kernels: Any = False,
        **kwargs: Any,
    ) -> Any: ...
    def kernels(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor: ...

class Involution1D(_Involution): ...
class Involution2D(_Involution): ...
class Involution3D(_Involution): ...

class _LocalSelfAttention(_Layer):
    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int] = 7,
        num_heads: int = 8,
        *,
        strides: int | Sequence[int] = 1,
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        activation: Any = None,
        use_bias: bool = False,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        seed: int | None = None,
        edges: str = "masked",
        causal: bool | Sequence[bool] = False,
        relative_positions: str | None = "keys",
        embedding_initializer: Any = "glorot_uniform",
        position_bias_initializer: Any = "zeros",
        embedding_regularizer: Any = None,
        position_bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        embedding_constraint: Any = None,
        position_bias_constraint: Any = None,
        name: str | None = ...,
        dtype: Any = ...,
        trainable: bool = ...,
        autocast: bool = ...,
        input_shape: Sequence[int | None] = ...,
    ) -> None: ...
    def __call__(
        self,
        inputs: Any,
        return_attention_scores: Any = False,
        training: Any = None,
        use_causal_mask: Any = False,
        mask: Any = None,
        **kwargs: Any,
    ) -> Any: ...
    def attention(
        self,
        inputs: tf.Tensor,
        use_causal_mask: bool = False,
        mask: Any = None,
    ) -> tf.Tensor: ...

class LocalSelfAttention1D(_LocalSelfAttention): ...
class LocalSelfAttention2D(_LocalSelfAttention): ...
class LocalSelfAttention3D(_LocalSelfAttention): ...

class _LocallyConnected(_Layer):
    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: Padding = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        groups: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        *,
        padding_mode: str = "zeros",
        lora_rank: int | None = None,
        lora_alpha: float | None = None,
        name: str | None = ...,
        dtype: Any = ...,
        trainable: bool = ...,
        autocast: bool = ...,
        input_shape: Sequence[int | None] = ...,
    ) -> None: ...
    def __call__(self, inputs: Any, **kwargs: Any) -> Any: ...

class LocallyConnected1D(_LocallyConnected): ...
class LocallyConnected2D(_LocallyConnected): ...

class _LowRankConv(_Layer):
    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        *,
        strides: int | Sequence[int] = 1,
        padding: Padding = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        groups: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        padding_mode: str = "zeros",
        kernel_rank: int,
        name: str | None = ...,
        dtype: Any = ...,
        trainable: bool = ...,
        autocast: bool = ...,
        input_shape: Sequence[int | None] = ...,
    ) -> None: ...
    def __call__(self, inputs: Any, **kwargs: Any) -> Any: ...
    def effective_kernel(self) -> Any: ...
    def parameter_count(self, channels: int) -> int: ...

class LowRankConv1D(_LowRankConv): ...
class LowRankConv2D(_LowRankConv): ...
class LowRankConv3D(_LowRankConv): ...

class _PointwiseConv(_Layer):
    def __init__(
        self,
        filters: int,
        *,
        strides: int | Sequence[int] = 1,
        padding: Padding = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        groups: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        padding_mode: str = "zeros",
        lora_rank: int | None = None,
        lora_alpha: float | None = None,
        name: str | None = ...,
        dtype: Any = ...,
        trainable: bool = ...,
        autocast: bool = ...,
        input_shape: Sequence[int | None] = ...,
    ) -> None: ...
    def __call__(self, inputs: Any, **kwargs: Any) -> Any: ...

class PointwiseConv1D(_PointwiseConv): ...
class PointwiseConv2D(_PointwiseConv): ...
class PointwiseConv3D(_PointwiseConv): ...

class _SelfAttention(_Layer):
    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        *,
        data_format: str | None = None,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        seed: int | None = None,
        value_dim: int | None = None,
        filters: int | None = None,
        relative_position_bias: bool = False,
        position_bias_initializer: Any = "zeros",
        position_bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        position_bias_constraint: Any = None,
        name: str | None = ...,
        dtype: Any = ...,
        trainable: bool = ...,
        autocast: bool = ...,
        input_shape: Sequence[int | None] = ...,
    ) -> None: ...
    def __call__(
        self,
        inputs: Any,
        attention_mask: Any = None,
        return_attention_scores: Any = False,
        training: Any = None,
        use_causal_mask: Any = False,
        mask: Any = None,
        **kwargs: Any,
    ) -> Any: ...
    def attention(
        self,
        inputs: tf.Tensor,
        attention_mask: Any = None,
        use_causal_mask: bool = False,
        mask: Any = None,
    ) -> tf.Tensor: ...

class SelfAttention1D(_SelfAttention): ...
class SelfAttention2D(_SelfAttention): ...
class SelfAttention3D(_SelfAttention): ...

class _SeparableConv(_Layer):
    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: Padding = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        depth_multiplier: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        depthwise_initializer: Any = "glorot_uniform",
        pointwise_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        depthwise_regularizer: Any = None,
        pointwise_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        depthwise_constraint: Any = None,
        pointwise_constraint: Any = None,
        bias_constraint: Any = None,
        *,
        padding_mode: str = "zeros",
        name: str | None = ...,
        dtype: Any = ...,
        trainable: bool = ...,
        autocast: bool = ...,
        input_shape: Sequence[int | None] = ...,
    ) -> None: ...
    def __call__(self, inputs: Any, **kwargs: Any) -> Any: ...

class SeparableConv1D(_SeparableConv): ...
class SeparableConv2D(_SeparableConv): ...
class SeparableConv3D(_SeparableConv): ...

class SplitTransformMerge(_Layer):
    def __init__(
        self,
        transform: Any,
        groups: int | None = None,
        merge: str = "concat",
        data_format: str | None = None,
        *,
        weighted_sum_initializer: Any = "ones",
        weighted_sum_regularizer: Any = None,
        activity_regularizer: Any = None,
        weighted_sum_constraint: Any = None,
        name: str | None = ...,
        dtype: Any = ...,
        trainable: bool = ...,
        autocast: bool = ...,
        input_shape: Sequence[int | None] = ...,
    ) -> None: ...
    def __call__(
        self,
        inputs: Any,
        training: Any = None,
        mask: Any = None,
        **kwargs: Any,
    ) -> Any: ...

class SqueezeExcite(_Layer):
    def __init__(
        self,
        reduction_ratio: int = 16,
        *,
        activation: Any = "relu",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        gate_activation: Any = "sigmoid",
        squeeze_channels: int | None = None,
        data_format: str | None = None,
        name: str | None = ...,
        dtype: Any = ...,
        trainable: bool = ...,
        autocast: bool = ...,
        input_shape: Sequence[int | None] = ...,
    ) -> None: ...
    def __call__(self, inputs: Any, mask: Any = None, **kwargs: Any) -> Any: ...

class _TuckerConv(_Layer):
    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        *,
        strides: int | Sequence[int] = 1,
        padding: Padding = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        groups: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        padding_mode: str = "zeros",
        ranks: int | Sequence[int],
        name: str | None = ...,
        dtype: Any = ...,
        trainable: bool = ...,
        autocast: bool = ...,
        input_shape: Sequence[int | None] = ...,
    ) -> None: ...
    def __call__(self, inputs: Any, **kwargs: Any) -> Any: ...
    def effective_kernel(self) -> Any: ...
    def parameter_count(self, channels: int) -> int: ...

class TuckerConv1D(_TuckerConv): ...
class TuckerConv2D(_TuckerConv): ...
class TuckerConv3D(_TuckerConv): ...

class WeightedSum(_Layer):
    def __init__(
        self,
        normalization: str | None = None,
        epsilon: float = 0.0001,
        kernel_initializer: Any = "ones",
        kernel_regularizer: Any = None,
        kernel_constraint: Any = None,
        *,
        activity_regularizer: Any = None,
        name: str | None = ...,
        dtype: Any = ...,
        trainable: bool = ...,
        autocast: bool = ...,
        input_shape: Sequence[int | None] = ...,
    ) -> None: ...
    def __call__(self, inputs: Any, **kwargs: Any) -> Any: ...
    def normalized_weights(self) -> tf.Tensor: ...

__all__ = [
    "ChannelShuffle",
    "CondConv1D",
    "CondConv2D",
    "CondConv3D",
    "CondDense",
    "Conv1D",
    "Conv1DTranspose",
    "Conv2D",
    "Conv2DTranspose",
    "Conv3D",
    "Conv3DTranspose",
    "DeformableAggregation1D",
    "DeformableAggregation2D",
    "DeformableAggregation3D",
    "DeformableConv1D",
    "DeformableConv2D",
    "DeformableConv3D",
    "DepthwiseCondConv2D",
    "DepthwiseConv1D",
    "DepthwiseConv2D",
    "DepthwiseConv3D",
    "DynamicConv1D",
    "DynamicConv2D",
    "DynamicConv3D",
    "FlattenedConv1D",
    "FlattenedConv2D",
    "FlattenedConv3D",
    "GatedConv1D",
    "GatedConv2D",
    "GatedConv3D",
    "GroupConv1D",
    "GroupConv2D",
    "GroupConv3D",
    "Involution1D",
    "Involution2D",
    "Involution3D",
    "LocalSelfAttention1D",
    "LocalSelfAttention2D",
    "LocalSelfAttention3D",
    "LocallyConnected1D",
    "LocallyConnected2D",
    "LowRankConv1D",
    "LowRankConv2D",
    "LowRankConv3D",
    "PointwiseConv1D",
    "PointwiseConv2D",
    "PointwiseConv3D",
    "SelfAttention1D",
    "SelfAttention2D",
    "SelfAttention3D",
    "SeparableConv1D",
    "SeparableConv2D",
    "SeparableConv3D",
    "SplitTransformMerge",
    "SqueezeExcite",
    "TuckerConv1D",
    "TuckerConv2D",
    "TuckerConv3D",
    "WeightedSum",
]
