"""Pictures of what a model's layers do to an image: samples, kernels, routing, what an output sees.

Every function runs the model once and gives a result with NumPy arrays, whose `plot` draws it with
Matplotlib. `docs/show.md` shows and explains the pictures.
"""

from tfconv.visual.calls import NoSuchLayer
from tfconv.visual.field import EffectiveField, effective_receptive_field
from tfconv.visual.kernels import InvolutionKernels, LayerKernels, involution_kernels
from tfconv.visual.routing import LayerRouting, RoutingWeights, routing_weights
from tfconv.visual.sampling import LayerSamples, SamplingPoints, sampling_points

__all__ = [
    "EffectiveField",
    "InvolutionKernels",
    "LayerKernels",
    "LayerRouting",
    "LayerSamples",
    "NoSuchLayer",
    "RoutingWeights",
    "SamplingPoints",
    "effective_receptive_field",
    "involution_kernels",
    "routing_weights",
    "sampling_points",
]
