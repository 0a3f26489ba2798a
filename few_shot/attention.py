"""Attention in a form that has a second derivative, whatever the model's layers choose by themselves."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def plain_attention() -> Iterator[None]:
    """In here attention is matrix products and a softmax.

    PyTorch's fused kernels have no second derivative. What ``nn.MultiheadAttention`` and ``nn.TransformerEncoderLayer``
    take in evaluation has not even a first.
    """
    shortcut = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(shortcut)
