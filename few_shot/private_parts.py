"""What reaches into private parts of PyTorch and Lightning, and why; a test for each fails when the part is gone."""

import os
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph

# What all batch norms, and all norms with running statistics, are derived from. Correctness: a list of the public
# classes would miss what others derive from these.
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.modules.batchnorm import _NormBase as NormBase

__all__ = [
    "BatchNorm",
    "NormBase",
    "between_updates",
    "came_from_restoring",
    "compiler_pass",
    "correct_update_count",
    "data_module",
    "do_not_look_for_a_driver_again",
    "expect_unused_parameters",
    "is_compiled",
    "is_listened_to",
    "keep_buffers_apart",
    "leave_stopping_to_others",
    "storage_of",
    "take_over_launched_processes",
    "trace_gradients",
    "trainer_of",
    "trains_in_copies",
    "with_free_size",
]


def is_listened_to(module: nn.Module) -> bool:
    """Whether somebody wants to be called when the module is, or in its place.

    Correctness: the fast path does not call a model's modules, so a model with such hooks must not take it.
    """
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def keep_buffers_apart(module: nn.Module) -> None:
    """Have ``DistributedDataParallel`` leave the module's buffers alone.

    Correctness: it would send them to all processes before each forward pass, also in evaluation, where one process
    may have a batch more than another and would wait for ever. They are equal without it: :func:`equal_buffers` makes
    them so, and what a batch norm collects is summed over processes.
    """
    module._ddp_params_and_buffers_to_ignore = [name for name, _ in module.named_buffers()]  # type: ignore[assignment]


def expect_unused_parameters(strategy: Any) -> None:
    """Have Lightning's plain ``ddp`` expect that a loss does not reach all parameters.

    Correctness: the fast path does not read a convolution's bias that batch norm takes off again. The processes would
    wait for its gradient, and not average the others.
    """
    strategy._ddp_kwargs.setdefault("find_unused_parameters", True)


def correct_update_count(trainer: Any) -> None:
    """Set the count by which a Lightning Trainer's loggers number their rows, at the beginning of an update.

    Correctness: Lightning counts one too few after it was resumed from a checkpoint written during validation.
    """
    trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step


def data_module(trainer: Any) -> Any | None:
    """The data module that a Lightning Trainer takes its batches from now; None where it takes a user's own loaders.

    Correctness: ``trainer.datamodule`` is the last one that it was given, also where it has got loaders since.
    """
    selector = trainer._data_connector._datahook_selector
    return selector and selector.datamodule


@contextmanager
def between_updates(trainer: Any) -> Iterator[None]:
    """A checkpoint that is saved in here, at the beginning of an update, is as of before it.

    Correctness: Lightning has counted the update's batch by then. A resumed run would count it again, and validate an
    update too early for ever.
    """
    progress = trainer.fit_loop.epoch_loop.batch_progress
    counts = [(count, count.ready) for count in (progress.total, progress.current)]
    for count, _ in counts:
        count.ready = count.completed
    try:
        yield
    finally:
        for count, ready in counts:
            count.ready = ready


def leave_stopping_to_others(trainer: Any) -> None:
    """Have a Lightning Trainer do nothing on SIGTERM but call the handler that was there before it.

    Correctness: Lightning's handler waits for all processes within the signal, so that a signal to one of them hangs
    the run. Its way to stop ends with status 0 and without a checkpoint. SLURM's signal to requeue stays its own.
    """
    trainer._signal_connector._sigterm_notifier_fn = lambda *_: None
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None


def do_not_look_for_a_driver_again() -> None:
    """Take back what Lightning sets for PyTorch: to look for a GPU's driver whenever it is asked for a GPU.

    Speed: Lightning asks a few times an update. Where there is no driver, that took 0.18 ms of a sinusoid's update of
    2.62 ms, 7 % (best of three interleaved runs).
    """
    if not torch.cuda.is_available():
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)


def take_over_launched_processes() -> list[Any]:
    """The processes that Lightning has launched, as ``subprocess.Popen``; it no longer watches over them.

    Correctness: five seconds after one has ended with an error, it kills all others, and says nothing. Whoever calls
    this watches them, and says who is gone.
    """
    found: list[Any] = []
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            found, thread._child_processes = thread._child_processes, []  # type: ignore[attr-defined]
    return found


def trainer_of(hooked: Any) -> Any | None:
    """The Trainer that a LightningModule or a LightningDataModule belongs to, if it belongs to one.

    Correctness: a module that belongs to none raises where it is asked for it.
    """
    return hooked._trainer if hasattr(hooked, "_trainer") else hooked.trainer


def trains_in_copies(trainer: Any) -> bool:
    """Whether a Lightning Trainer trains copies of the module, in processes of its own, and gives back weights alone.

    Correctness: what else a learner has come to know in its training stays in those processes.
    """
    kinds = type(trainer.strategy.launcher).__mro__
    return any(kind.__name__ == "_MultiProcessingLauncher" for kind in kinds)


def is_compiled(lit_model: Any) -> bool:
    """Whether a LightningModule came to its Trainer within what ``torch.compile`` returned.

    Kindness: its step would be compiled for minutes, and then fail. Lightning unwraps it, and says so nowhere else.
    """
    return lit_model._compiler_ctx is not None


def came_from_restoring(error: BaseException) -> bool:
    """Whether an error was raised while a Lightning Trainer restored a checkpoint.

    Correctness: Lightning raises whatever the damage leads to, of no type of its own. Its functions' names tell.
    """
    return any(part.name.startswith("restore_") for part in traceback.extract_tb(error.__traceback__))


def storage_of(tensor: Tensor) -> int:
    """A number for the memory that a tensor lies in, with whatever else lies there.

    Correctness: on the meta device nothing has an address, by which one would tell.
    """
    return tensor.untyped_storage()._cdata


def trace_gradients() -> None:
    """Let ``torch.compile`` trace ``torch.autograd.grad``, which it refuses otherwise.

    Correctness: the inner loop and the outer gradient are made of it.
    """
    import torch._dynamo.config as dynamo  # here, because it takes a second

    dynamo.trace_autograd_ops = True


def compiler_pass(rewrite: Callable[[Graph], None], file: str) -> Any:
    """A function that rewrites a graph, in the form that ``torch.compile``'s cache takes; it is kept with ``file``.

    Speed: a function alone is taken too, but then nothing is cached, and each run compiles anew, for half a minute.
    """
    from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files  # here: it takes seconds

    class Pass(CustomGraphPass):
        def __call__(self, graph: Graph) -> None:
            rewrite(graph)

        def uuid(self) -> bytes:
            return get_hash_for_files((file,))

    return Pass()


@contextmanager
def with_free_size(tensors: Sequence[Tensor], free: Sequence[bool]) -> Iterator[list[Tensor]]:
    """Tensors without content for ``make_fx``, of which some have a first size that tracing leaves open.

    Speed: ``make_fx`` by itself leaves all sizes open, those of weights and pictures too. That took 15 s instead of 5 s
    for one step of Conv4. It also takes equal sizes for the same one, so that a layer could fix the number of samples.
    """
    from torch._dispatch.python import enable_python_dispatcher  # here: these take seconds
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

    mode = FakeTensorMode(shape_env=ShapeEnv())

    def fake(x: Tensor, is_free: bool) -> Tensor:
        sizes = [DimDynamic.DYNAMIC if is_free and d == 0 else DimDynamic.STATIC for d in range(x.dim())]
        return mode.from_tensor(x, symbolic_context=StatelessSymbolicContext(sizes))

    with enable_python_dispatcher(), mode:  # in C++, matmul and others would fix the open sizes
        yield [fake(x, is_free) for x, is_free in zip(tensors, free, strict=True)]
