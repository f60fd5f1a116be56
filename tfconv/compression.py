"""TensorFlow's Model Optimization Toolkit for models with tfconv's layers.

It prunes, clusters and trains quantization-aware models of Keras 2, and is installed by
`pip install tensorflow-model-optimization`. Its own `prune_low_magnitude` takes tfconv's layers as
they are; for the others there is this module.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

from tfconv import _compat
from tfconv._compat import keras
from tfconv.layers.base import BaseLayer

__all__ = ["cluster_weights", "quantize_annotate_model", "quantize_model"]


def cluster_weights(model: Any, number_of_clusters: int, **kwargs: Any) -> Any:
    """The toolkit's `cluster_weights`, which otherwise knows layers of its own and of Keras only.

    Kernels take as many values as there are clusters; those of layers inside others stay.

    Args:
        model: A layer or model of Keras 2.
        number_of_clusters: How many values a kernel may have.
        **kwargs: Further arguments of the toolkit's function.

    Returns:
        The layer or model, wrapped, as the toolkit's function gives it.

    Raises:
        ValueError: If an argument is not what is described above.
        ImportError: If the toolkit is not installed.

    Source: https://www.tensorflow.org/model_optimization/guide/clustering
    """
    toolkit = _toolkit("cluster_weights")
    return toolkit.clustering.keras.cluster_weights(model, number_of_clusters, **kwargs)


def quantize_annotate_model(model: Any) -> Any:
    """The toolkit's `quantize_annotate_model`, with what it needs to know of tfconv's layers.

    Kernels, those of layers inside too, get one range for each filter, outputs one for all.

    Args:
        model: A functional or sequential model of Keras 2.

    Returns:
        A model for the toolkit's `quantize_apply`, inside its `quantize_scope`.

    Raises:
        ValueError: If the toolkit does not take the model.
        ImportError: If the toolkit is not installed.

    Source: Jacob et al., Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference, arXiv:1712.05877.
    """
    quantization = _toolkit("quantize_annotate_model").quantization.keras

    def annotated(layer: Any) -> Any:
        if not isinstance(layer, BaseLayer):
            return layer
        return quantization.quantize_annotate_layer(layer, _quantize_config()())

    if not isinstance(model, keras.Model):
        raise ValueError(f"`model` must be a Keras model. Received: {type(model)}")
    partly = keras.models.clone_model(model, clone_function=annotated)
    partly.set_weights(model.get_weights())
    return quantization.quantize_annotate_model(partly)


def quantize_model(model: Any) -> Any:
    """The toolkit's `quantize_model`: a copy that trains with what 8-bit integers will cost.

    Args:
        model: A functional or sequential model of Keras 2.

    Returns:
        The model to train. TensorFlow's converter, with ``optimizations``, makes integers of it.

    Raises:
        ValueError: If the toolkit does not take the model.
        ImportError: If the toolkit is not installed.

    Source: Jacob et al., Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference, arXiv:1712.05877.
    """
    annotated = quantize_annotate_model(model)
    quantization = _toolkit("quantize_model").quantization.keras
    with quantization.quantize_scope({"KernelQuantizeConfig": _quantize_config()}):
        return quantization.quantize_apply(annotated)


def _toolkit(wanted: str) -> Any:
    """The toolkit, which now knows the layers that can be clustered."""
    if _compat.KERAS_3:
        raise ImportError(
            f"{wanted} needs Keras 2: TensorFlow's Model Optimization Toolkit has no other. "
            f"Received: Keras {keras.__version__}"
        )
    try:
        toolkit = importlib.import_module("tensorflow_model_optimization")
    except ImportError as error:
        raise ImportError(f"{wanted} needs `pip install tensorflow-model-optimization`") from error
    toolkit.clustering.keras.ClusterableLayer.register(BaseLayer)
    return toolkit


@functools.cache
def _quantize_config() -> type:
    """The class that says what of a layer is quantized; its base is the toolkit's."""
    quantization = _toolkit("quantize_model").quantization.keras
    whole = {"num_bits": 8, "symmetric": False, "narrow_range": False, "per_axis": False}

    class KernelQuantizeConfig(quantization.QuantizeConfig):
        """Kernels by filters, and the output."""

        def get_weights_and_quantizers(self, layer):
            quantizer = quantization.quantizers.LastValueQuantizer
            whole = {"num_bits": 8, "symmetric": True, "narrow_range": True, "per_axis": False}
            return [(kernel, quantizer(**whole)) for kernel in layer.kernels_by_path().values()]

        def set_quantize_weights(self, layer, quantize_weights):
            for path, value in zip(list(layer.kernels_by_path()), quantize_weights):
                *inside, name = path.split(".")
                setattr(functools.reduce(getattr, inside, layer), name, value)

        def get_activations_and_quantizers(self, layer):
            return []

        def set_quantize_activations(self, layer, quantize_activations):
            """There are none."""

        def get_output_quantizers(self, layer):
            return [quantization.quantizers.MovingAverageQuantizer(**whole)]

        def get_config(self):
            return {}

    return KernelQuantizeConfig
