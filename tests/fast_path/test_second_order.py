"""Hand-written derivatives against finite differences, and against autograd's own."""

import functools

import pytest
import torch

from few_shot.fast_path.second_order import affine, convolution, moments, pooled_moments

GROUPS, STRIDE, PADDING, DILATION = 2, (2, 1), (1, 0), (1, 2)


def by_geometry(x, filters):
    return convolution(x, filters, (STRIDE, PADDING, DILATION, GROUPS))


#: By name: an operation and the shapes of what it is differentiated by; maps are of odd sizes.
OPERATIONS = {
    "convolution": (by_geometry, [(2, 4, 5, 7), (6, 2, 3, 2)]),
    "affine": (affine, [(2, 4, 5, 7), (4,), (4,)]),
    "moments": (moments, [(2, 4, 5, 7)]),
    "pooled_moments": (pooled_moments, [(2, 4, 5, 7)]),
}
FORMATS = pytest.mark.parametrize("channels_last", [True, False], ids=["channels last", "channels first"])


@pytest.fixture(autouse=True)
def _float64(float64):
    torch.manual_seed(0)


def inputs(shapes, channels_last):
    tensors = [torch.randn(shape) for shape in shapes]
    if channels_last:
        tensors[0] = tensors[0].to(memory_format=torch.channels_last)
    return [t.requires_grad_() for t in tensors]


@FORMATS
@pytest.mark.parametrize("name", OPERATIONS)
def test_both_derivatives(name, channels_last):
    operation, shapes = OPERATIONS[name]
    tensors = inputs(shapes, channels_last)
    assert torch.autograd.gradcheck(operation, tensors)
    assert torch.autograd.gradgradcheck(operation, tensors)


def test_both_derivatives_of_a_convolution_of_images():
    """Images have no gradient, neither the first nor the second time."""
    images, filters = inputs(OPERATIONS["convolution"][1], channels_last=True)
    of_filters = functools.partial(by_geometry, images.detach())
    assert torch.autograd.gradcheck(of_filters, filters)
    assert torch.autograd.gradgradcheck(of_filters, filters)


@FORMATS
@pytest.mark.parametrize("name", OPERATIONS)
def test_equals_plain_pytorch(name, channels_last, monkeypatch):
    """In the value, and in the first, second and third derivative."""
    operation, shapes = OPERATIONS[name]

    def derivatives():
        torch.manual_seed(1)
        tensors = inputs(shapes, channels_last)
        found = operation(*tensors)
        values = list(found if isinstance(found, tuple) else (found,))
        derivatives = values
        for _ in range(3):
            derivatives = torch.autograd.grad(sum(x.sin().sum() for x in derivatives), tensors, create_graph=True)
            values += derivatives
        return values

    found = derivatives()
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(found, derivatives(), rtol=1e-10, atol=1e-10)


def test_sums_in_float32_over_many_samples():
    """The kernels add in float32, here 100 000 values a channel, of a mean far above their deviation."""
    x = (torch.rand(20, 8, 72, 72) + 10).to(memory_format=torch.channels_last).requires_grad_()
    by_x = torch.randn_like(x)

    def gradients(dtype):
        tensors = [x.detach().to(dtype).requires_grad_(), torch.ones(8, dtype=dtype, requires_grad=True)]
        y = affine(*tensors, torch.zeros(8, dtype=dtype))
        return [*moments(tensors[0]), *torch.autograd.grad(y, tensors, by_x.to(dtype))]

    for single, double in zip(gradients(torch.float32), gradients(torch.float64), strict=True):
        assert ((single - double).norm() / double.norm()).item() < 1e-4


def test_statistics_of_half_a_million_samples():
    """As many as a mini-ImageNet query set has in the first layer. Added up one by one, they are off by 0.004."""
    x = torch.randn(75, 32, 84, 84, dtype=torch.float32).relu_().add_(torch.rand(32, 1, 1))
    x = x.to(memory_format=torch.channels_last)
    for found in (moments(x), pooled_moments(x)[1:]):
        for single, double in zip(found, moments(x.double()), strict=True):
            torch.testing.assert_close(single.double(), double, rtol=2e-5, atol=0)


@FORMATS
@pytest.mark.parametrize(
    "shape", [(6, 3, 40, 30), (12, 600, 12, 14), (7, 600, 20, 9), (2, 3000, 3, 3), (5, 2, 1, 1), (3, 1, 1, 7)]
)
def test_statistics_of_every_size(shape, channels_last):
    x = torch.randn(shape) + 3
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    torch.testing.assert_close(moments(x), torch.var_mean(x, (0, 2, 3), correction=0)[::-1], rtol=1e-12, atol=1e-12)
