"""The NumPy references give what was recorded from public implementations."""

import numpy as np
import pytest

from tests import recorded, reference


@pytest.mark.parametrize("number", range(len(recorded.cases("involution"))))
def test_involution(number):
    case = recorded.cases("involution")[number]
    window = reference.window(
        case.x.shape[1:-1],
        case.kernel_size,
        case.stride,
        recorded.pairs(case.padding),
        case.dilation,
    )
    np.testing.assert_allclose(
        reference.involution(case.x, case.kernel, window), case.out, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("number", range(len(recorded.cases("deform_conv2d"))))
def test_deformable_conv2d(number):
    case = recorded.cases("deform_conv2d")[number]
    window = reference.window(
        case.x.shape[1:-1],
        case.weight.shape[:2],
        case.stride,
        recorded.pairs(case.padding),
        case.dilation,
    )
    y = reference.deformable_conv(case.x, case.offset, case.weight, case.mask, case.bias, window)
    np.testing.assert_allclose(y, case.out, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("number", range(len(recorded.cases("condconv2d"))))
def test_per_example_conv(number):
    case = recorded.cases("condconv2d")[number]
    window = reference.window(
        case.x.shape[1:-1],
        case.weight.shape[1:3],
        case.stride,
        recorded.pairs(case.padding),
        case.dilation,
    )
    kernels = np.einsum("ne,e...->n...", case.routing.astype(np.float64), case.weight)
    bias = case.routing.astype(np.float64) @ case.bias
    y = reference.per_example_conv(case.x, kernels, window, case.groups) + bias[:, None, None]
    np.testing.assert_allclose(y, case.out, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "padding, pads",
    [
        ("same", ((1, 2), (0, 1))),
        ("valid", ((0, 0), (0, 0))),
        ("full", ((4, 4), (1, 1))),
        (3, ((3, 3), (3, 3))),
        (((1, 0), (2, 3)), ((1, 0), (2, 3))),
    ],
)
def test_window_spells_out_paddings(padding, pads):
    window = reference.window((6, 4), (3, 2), (2, 1), padding, (2, 1))
    assert window.pads == pads
