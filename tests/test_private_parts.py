"""The private parts that are used still do what they are used for."""

import contextlib
import os
import signal
import subprocess
import sys
import threading

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed
from helpers import bare_trainer
from lightning_fabric.strategies.launchers import subprocess_script
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.demos.boring_classes import BoringModel
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.strategies import DDPStrategy
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
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


def test_lightnings_ddp_expects_unused_parameters():
    strategy, told = DDPStrategy(), DDPStrategy(find_unused_parameters=False)
    for each in (strategy, told):
        private_parts.expect_unused_parameters(each)
    assert strategy._ddp_kwargs["find_unused_parameters"] and not told._ddp_kwargs["find_unused_parameters"]


@pytest.mark.parametrize(("strategy", "copies"), [("ddp_spawn", True), ("ddp_fork", True), ("ddp", False)])
def test_a_trainer_that_trains_copies_is_known(strategy, copies):
    trainer = pl.Trainer(accelerator="cpu", devices=2, strategy=strategy, logger=False, enable_checkpointing=False)
    assert private_parts.trains_in_copies(trainer) == copies


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


class Logging(BoringModel):
    def training_step(self, batch, batch_idx):
        loss = self.step(batch)
        self.log("loss", loss)
        return loss


class Miscount(Callback):
    """Counts as Lightning would after a bad resume; corrects it if told to."""

    def __init__(self, correct):
        self.correct = correct

    def on_train_batch_start(self, trainer, *_):
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step + 40
        if self.correct:
            private_parts.correct_update_count(trainer)


@pytest.mark.parametrize(("correct", "steps"), [(False, [40, 41]), (True, [0, 1])])
def test_lightning_numbers_logged_rows_by_the_count_that_is_corrected(correct, steps, tmp_path):
    logger = CSVLogger(str(tmp_path), name="", version="")
    pl.Trainer(
        accelerator="cpu",
        max_steps=2,
        limit_val_batches=0,
        log_every_n_steps=1,
        logger=logger,
        callbacks=[Miscount(correct)],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    ).fit(Logging(), torch.utils.data.DataLoader(torch.rand(4, 32)))
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("step")
    assert [int(line.split(",")[column]) for line in lines[1:]] == steps


class Counting(BoringModel):
    """Validated after every second update; saves a checkpoint before the fourth, with or without what it takes."""

    def __init__(self, path, between):
        super().__init__()
        self.path, self.between, self.validated = path, between, []

    def on_train_batch_start(self, batch, batch_idx):
        if self.trainer.global_step == 3 and self.path is not None:
            with private_parts.between_updates(self.trainer) if self.between else contextlib.nullcontext():
                self.trainer.save_checkpoint(self.path)

    def on_validation_start(self):
        self.validated.append(self.trainer.global_step)


@pytest.mark.parametrize(("between", "validated"), [(True, [4, 6]), (False, [5, 7])])
def test_a_run_resumed_from_before_an_update_validates_as_if_it_had_never_stopped(between, validated, tmp_path):
    def fit(model, checkpoint=None):
        batches = torch.utils.data.DataLoader(torch.rand(9, 32))
        pl.Trainer(
            accelerator="cpu",
            max_steps=7,
            max_epochs=-1,
            val_check_interval=2,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            limit_val_batches=1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        ).fit(model, batches, batches, ckpt_path=checkpoint)
        return model.validated

    assert fit(Counting(tmp_path / "x.ckpt", between)) == [2, 4, 6]
    assert fit(Counting(None, False), tmp_path / "x.ckpt") == validated


@pytest.mark.parametrize("others", [False, True])
def test_lightning_ends_a_training_at_sigterm_unless_others_do(others):
    class Signalled(BoringModel):
        def on_train_batch_start(self, batch, batch_idx):
            if batch_idx == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    noted = []
    before = signal.signal(signal.SIGTERM, lambda *_: noted.append(True))
    trainer = bare_trainer(max_steps=4)
    if others:
        private_parts.leave_stopping_to_others(trainer)
    try:
        trainer.fit(Signalled(), torch.utils.data.DataLoader(torch.rand(9, 32)))
    except SystemExit:
        assert not others
    finally:
        signal.signal(signal.SIGTERM, before)
    assert noted == [True]
    assert trainer.global_step == (4 if others else 2)
    assert callable(trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor)


def test_batch_norms_are_derived_from_the_private_bases():
    for norm in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm):
        assert issubclass(norm, private_parts.BatchNorm) and issubclass(norm, private_parts.NormBase)
    assert issubclass(nn.InstanceNorm2d, private_parts.NormBase)


def test_lightning_has_pytorch_look_for_a_driver_until_told_otherwise():
    program = """
import os, pytorch_lightning, torch
from few_shot.private_parts import do_not_look_for_a_driver_again
assert os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] == "1", "no longer needed"
do_not_look_for_a_driver_again()
assert ("PYTORCH_NVML_BASED_CUDA_CHECK" in os.environ) == torch.cuda.is_available()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_tracing_leaves_open_the_sizes_that_are_to_be_free_and_no_others():
    """``matmul`` and ``flatten`` would fix a size that is traced without the dispatcher in Python."""
    with private_parts.with_free_size([torch.zeros(3, 2), torch.zeros(3)], [True, False]) as (x, weight):
        graph = make_fx(lambda x, weight: (x.flatten()[: x.shape[0]] * weight.sum()) @ x)(x, weight)
    sizes = [tuple(node.meta["val"].shape) for node in graph.graph.nodes if node.op == "placeholder"]
    assert not isinstance(sizes[0][0], int) and sizes[0][1] == 2 and sizes[1] == (3,)
    x, weight = torch.rand(7, 2), torch.rand(3)
    torch.testing.assert_close(graph(x, weight), (x.flatten()[:7] * weight.sum()) @ x)


def test_lightning_kills_the_other_processes_when_one_has_ended_unless_told_not_to():
    for quiet in (False, True):
        observer = subprocess_script._ChildProcessObserver(0, [Ended()], sleep_period=0)
        killed = []
        observer._terminate_all = lambda killed=killed: killed.append(True)
        threads = [observer]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(threading, "enumerate", lambda threads=threads: threads)
            if quiet:
                (taken,) = private_parts.take_over_launched_processes()
                assert isinstance(taken, Ended)
        observer.run()
        assert bool(killed) is not quiet


def test_an_error_in_restoring_is_told_from_others(tmp_path):
    trainer = bare_trainer(max_steps=1)
    trainer.fit(BoringModel())
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    content = torch.load(tmp_path / "x.ckpt", weights_only=True)
    torch.save(content | {"loops": {"fit_loop": 3}}, tmp_path / "x.ckpt")
    with pytest.raises(AttributeError) as in_restoring:
        bare_trainer(max_steps=2).fit(BoringModel(), ckpt_path=tmp_path / "x.ckpt", weights_only=True)
    assert private_parts.came_from_restoring(in_restoring.value)
    with pytest.raises(TypeError) as elsewhere:
        len(3)
    assert not private_parts.came_from_restoring(elsewhere.value)


class Ended:
    """A process that has failed."""

    pid, returncode = 1, 1

    def poll(self):
        """It is known to have."""


def test_storages_are_told_apart_where_they_have_no_address():
    a, b = torch.empty(4, device="meta"), torch.empty(4, device="meta")
    assert a.data_ptr() == b.data_ptr()
    assert private_parts.storage_of(a) == private_parts.storage_of(a[1:]) != private_parts.storage_of(b)
