"""The private parts that are used still do what they are used for."""

import subprocess
import sys

import pytest
import torch
import torch.distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from few_shot import private_parts


@pytest.fixture
def one_process():
    """A process group of this process alone."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_buffers_are_not_sent_around(one_process):
    for apart in (False, True):
        model = nn.BatchNorm1d(3)
        if apart:
            private_parts.keep_buffers_apart(model)
        assert DistributedDataParallel(model).will_sync_module_buffers() is not apart


def test_a_module_that_is_listened_to_is_known():
    for register in (nn.Module.register_forward_hook, nn.Module.register_forward_pre_hook):
        layer = nn.Linear(1, 1)
        assert not private_parts.is_listened_to(layer)
        handle = register(layer, lambda *_: None)
        assert private_parts.is_listened_to(layer)
        handle.remove()
        assert not private_parts.is_listened_to(layer)


def test_a_gradient_within_compiled_code_is_refused_unless_it_is_traced():
    """In a process of its own, where nothing else has set it."""
    program = """
import torch
from few_shot.private_parts import trace_gradients
def slope(x):
    return torch.autograd.grad(x.square().sum(), x)[0]
x = torch.ones(3, requires_grad=True)
compiled = torch.compile(slope, fullgraph=True, backend="aot_eager")
try:
    compiled(x)
    raise SystemExit("no longer needed")
except torch._dynamo.exc.Unsupported:
    pass
trace_gradients()
torch._dynamo.reset()
assert compiled(x).tolist() == [2.0, 2.0, 2.0]
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_compiler_calls_the_pass_and_its_cache_tells_passes_apart():
    graphs = []
    rewrite = private_parts.compiler_pass(graphs.append, __file__)
    compiled = torch.compile(torch.sin, options={"post_grad_custom_pre_pass": rewrite, "fx_graph_cache": False})
    assert torch.equal(compiled(torch.zeros(2)), torch.zeros(2))
    assert graphs
    assert rewrite.uuid() != private_parts.compiler_pass(graphs.append, private_parts.__file__).uuid()
