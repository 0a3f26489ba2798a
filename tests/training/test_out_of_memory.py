"""When a GPU's memory runs out, one sentence names the flags that help, with what each would take."""

import pytest
import torch
from helpers import write_random_class_folders

from few_shot.data import MiniImagenet
from few_shot.lit_models import LitIMAML, LitMAML, LitProtoNet
from few_shot.models import Conv4
from training import run_experiment
from training.out_of_memory import advice, batch_on_meta, graph_bytes


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_random_class_folders(tmp_path_factory.mktemp("images"), classes=4, images=4)


@pytest.fixture
def data(images):
    data = MiniImagenet(data_dir=str(images), episode_classes=3, query_samples=1, test_query_samples=1)
    data.setup()
    return data


def learner(cls=LitMAML, **arguments):
    return cls(Conv4((3, 84, 84), 3, width=4), **arguments)


def test_the_estimate_is_what_the_graph_holds(data):
    """On the CPU, where tensors have addresses: the same model, by vmap, which computes alike on all devices."""
    batch = batch_on_meta(data, 2, torch.float32)
    expected = graph_bytes(learner(fast_path=False).to("meta"), batch)
    here = type(batch)(*(torch.zeros_like(x, device="cpu") for x in batch))
    sizes = {}

    def hold(x):
        sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    lit_model = learner(fast_path=False, inner_loop_steps=1)  # one step: nothing is freed on the way
    with torch.autograd.graph.saved_tensors_hooks(hold, lambda x: x):
        lit_model.outer_scores(here)
    of_one_step = graph_bytes(learner(fast_path=False, inner_loop_steps=1).to("meta"), batch)
    assert of_one_step == pytest.approx(sum(sizes.values()), rel=0.02)
    assert expected > 2 * of_one_step
    four = graph_bytes(learner(fast_path=False).to("meta"), batch_on_meta(data, 4, torch.float32))
    assert four == pytest.approx(2 * expected, rel=0.05)


def test_flags_that_do_not_help_are_not_named(data):
    flags = ("--tasks_at_once=1", "--checkpoint_inner_loop", "--first_order", "--precision=bf16")
    assert [flag for flag in flags if flag in advice(learner(), data, 2)] == list(flags)
    assert "--tasks_at_once" not in advice(learner(), data, 1)
    first_order = advice(learner(first_order=True), data, 2)
    assert "--checkpoint_inner_loop" not in first_order and "--first_order" not in first_order
    for lit_model in (learner(LitIMAML, inner_loop_steps=2), learner(LitProtoNet)):
        lit_model.shots = data.support_samples  # as a Trainer sets it
        found = advice(lit_model, data, 2)
        assert "--tasks_at_once=1" in found and "--first_order" not in found and "inner_loop" not in found


def test_a_run_ends_with_the_sentence(images, tmp_path, monkeypatch, capsys):
    def step(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of 1 GiB")

    monkeypatch.setattr(LitMAML, "training_step", step)
    sizes = ["--episode_classes=3", "--query_samples=1", "--test_query_samples=1", "--width=4", "--batch_size=2"]
    with pytest.raises(SystemExit) as exit_:
        run_experiment.main(
            ["--data_class=MiniImagenet", f"--data_dir={images}", "--gpus=0", *sizes, f"--log_dir={tmp_path}"]
        )
    assert exit_.value.code == 1
    *_, said = capsys.readouterr().err.strip().splitlines()
    assert "CUDA out of memory. The graph of an update takes about " in said
    assert " MB with --checkpoint_inner_loop, " in said and "There is no checkpoint yet" in said
