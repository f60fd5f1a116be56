"""GoogLeNet and Xception."""

from __future__ import annotations

from tfconv.blocks.convolution import Convention, conv_norm, max_pool
from tfconv.blocks.inception import inception, separable_norm, xception_module
from tfconv.models.network import network

GOOGLE = Convention(epsilon=1e-3)
# Filters of the Inception modules by name, in order; a number is a max pooling of that size.
MODULES = {
    "inception3a": (64, 96, 128, 16, 32, 32),
    "inception3b": (128, 128, 192, 32, 96, 64),
    "maxpool3": 3,
    "inception4a": (192, 96, 208, 16, 48, 64),
    "inception4b": (160, 112, 224, 24, 64, 64),
    "inception4c": (128, 128, 256, 24, 64, 64),
    "inception4d": (112, 144, 288, 32, 64, 64),
    "inception4e": (256, 160, 320, 32, 128, 128),
    "maxpool4": 2,
    "inception5a": (256, 160, 320, 32, 128, 128),
    "inception5b": (384, 192, 384, 48, 128, 128),
}


@network(dropout=0.2, normalization="tf")
def GoogLeNet(x):
    """GoogLeNet (Inception v1) with batch normalization and without auxiliary classifiers.

    6,624,904 parameters, 1.50 G multiply-adds at 224 x 224. Its large kernels are 3x3, as in
    torchvision's weights. With those, images are normalized to ``2 x - 1`` of values from 0 to 1.

    Args:
        {common}

    Source: Szegedy et al., Going Deeper with Convolutions, arXiv:1409.4842, table 1. Weights:
    torchvision ``googlenet``.

    Example:
        >>> model = tfconv.models.GoogLeNet(include_top=False, input_shape=(64, 64, 3))
        >>> tuple(model.output_shape)
        (None, 2, 2, 1024)
    """

    def conv(x, filters, size, strides, name):
        names = (f"{name}.conv", f"{name}.bn")
        return conv_norm(x, filters, size, strides, convention=GOOGLE, names=names)

    x = max_pool(conv(x, 64, 7, 2, "conv1"), ceil=True)
    x = conv(conv(x, 64, 1, 1, "conv2"), 192, 3, 1, "conv3")
    x = max_pool(x, ceil=True)
    for name, filters in MODULES.items():
        if isinstance(filters, int):
            x = max_pool(x, filters, ceil=True)
        else:
            x = inception(x, filters, convention=GOOGLE, name=name)
    return x


@network(size=299, normalization="tf")
def Xception(x):
    """Xception: a chain of separable convolutions with residual connections.

    22,855,952 parameters, 8.36 G multiply-adds at 299 x 299.

    Args:
        {common}

    Source: Chollet, Xception, arXiv:1610.02357, figure 5. Weights: timm ``legacy_xception``.

    Example:
        >>> model = tfconv.models.Xception(include_top=False, input_shape=(71, 71, 3))
        >>> tuple(model.output_shape)
        (None, 3, 3, 2048)
    """
    x = conv_norm(x, 32, 3, 2, padding="valid", names=("conv1", "bn1"))
    x = conv_norm(x, 64, 3, padding="valid", names=("conv2", "bn2"))
    x = xception_module(x, (128, 128), 2, start_with_relu=False, name="block1")
    x = xception_module(x, (256, 256), 2, name="block2")
    x = xception_module(x, (728, 728), 2, name="block3")
    for number in range(4, 12):
        x = xception_module(x, (728, 728, 728), name=f"block{number}")
    x = xception_module(x, (728, 1024), 2, name="block12")
    x = separable_norm(x, 1536, activation="relu", names=("conv3", "bn3"))
    return separable_norm(x, 2048, activation="relu", names=("conv4", "bn4"))
