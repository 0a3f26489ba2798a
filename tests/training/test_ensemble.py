"""The best checkpoints are kept, and their ensemble is tested beside the best of them."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import run_in_a_process
from oracles import adapt_one_task
from torch.func import functional_call

from few_shot.data import Sinusoid
from few_shot.episodes import EpisodeBatch
from few_shot.lit_models import LitProtoNet
from few_shot.lit_models.ensemble import LitEnsemble
from few_shot.models import Conv4, SinusoidMLP
from training import evaluate, run_experiment

QUICK = ["--data_class=Sinusoid", "--gpus=0", "--width=8", "--batch_size=5", "--val_episodes=7", "--test_episodes=6"]
# Steps so large that validation goes up and down.
QUICK += ["--val_check_interval=1", "--outer_lr=0.05", "--test_inner_loop_steps=2", "--precision=64"]


def run(log_dir, *flags):
    summary = run_experiment.main([*QUICK, f"--log_dir={log_dir}", *flags])
    return summary, log_dir / "Sinusoid-LitMAML" / "version_0"


def rows(path):
    return list(csv.DictReader(path.open()))


def validated(folder):
    """Updates with a validation, best first."""
    scores = {int(r["step"]) + 1: float(r["val_mse"]) for r in rows(folder / "metrics.csv") if r["val_mse"]}
    return sorted(scores, key=lambda update: scores[update])


def kept(folder):
    return {int(path.stem.split("=")[1]) for path in (folder / "checkpoints").glob("best-step=*.ckpt")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Eight updates, each validated, and an ensemble of three."""
    return run(tmp_path_factory.mktemp("logs"), "--max_steps=8", "--ensemble=3")


def test_the_best_by_validation_are_kept(finished):
    _, folder = finished
    assert kept(folder) == set(validated(folder)[:3])
    assert kept(folder) != {6, 7, 8}


def test_an_ensemble_is_the_mean_of_models_that_adapt_one_by_one(finished):
    summary, folder = finished
    data = Sinusoid(test_episodes=6)
    batch = data.prepare(data.draw("test", 0, np.arange(6)), "test", torch.float64)
    errors = np.empty((6, 3))
    for episode, (support_x, support_y, query_x, query_y, _) in enumerate(zip(*batch, strict=True)):
        for step in range(3):
            predictions = []
            for update in kept(folder):
                model = SinusoidMLP(width=8).double()
                state = torch.load(folder / "checkpoints" / f"best-step={update}.ckpt", weights_only=True)["state_dict"]
                model.load_state_dict({name.removeprefix("model."): value for name, value in state.items()})
                loss = torch.nn.functional.mse_loss
                weights = adapt_one_task(model, loss, support_x, support_y, step, inner_lr=0.01, first_order=True)
                predictions.append(functional_call(model, weights, (query_x,)))
            errors[episode, step] = (sum(predictions) / 3 - query_y).square().mean().item()
    reported = [float(row["mse"]) for row in rows(folder / "ensemble_episodes.csv")]
    assert reported == pytest.approx(errors.flatten(), rel=1e-10)
    assert summary["ensemble"]["members"] == 3
    assert summary["ensemble"]["mean"] == pytest.approx(errors[:, -1].mean(), rel=1e-10)
    assert summary["ensemble"]["mean"] != pytest.approx(summary["mean"], rel=1e-3)


def test_the_single_model_is_reported_as_without_an_ensemble(finished, tmp_path):
    summary, folder = finished
    alone, lonely_folder = run(tmp_path, "--max_steps=8")
    assert alone == {key: value for key, value in summary.items() if key != "ensemble"}
    assert json.loads((folder / "test_metrics.json").read_text()) == summary
    assert (folder / "test_episodes.csv").read_bytes() == (lonely_folder / "test_episodes.csv").read_bytes()
    assert kept(lonely_folder) == set(validated(folder)[:1])
    # The pictures are of the single model too.
    assert (folder / "fit.png").read_bytes() == (lonely_folder / "fit.png").read_bytes()


def test_an_ensemble_of_one_is_the_single_model(tmp_path, capsys):
    summary, folder = run(tmp_path, "--max_steps=3", "--ensemble=1")
    ensemble = summary.pop("ensemble")
    assert ensemble.pop("members") == 1
    assert ensemble == summary
    assert (folder / "ensemble_episodes.csv").read_bytes() == (folder / "test_episodes.csv").read_bytes()
    assert f"ensemble of 1: {summary['mean']:.4f} ± {summary['ci95']:.4f}" in capsys.readouterr().out


def test_evaluate_tests_the_ensemble_beside_the_checkpoint(finished, tmp_path):
    summary, folder = finished
    best = folder / "checkpoints" / f"best-step={validated(folder)[0]}.ckpt"
    assert evaluate.main([f"--checkpoint={best}", f"--output_dir={tmp_path}"]) == summary
    episodes = (tmp_path / "ensemble_episodes.csv").read_bytes()
    assert episodes == (folder / "ensemble_episodes.csv").read_bytes()
    two = evaluate.main([f"--checkpoint={folder}", "--ensemble=2"])["ensemble"]
    assert two["members"] == 2 and two["mean"] != summary["ensemble"]["mean"]
    assert "ensemble" not in evaluate.main([f"--checkpoint={best}", "--ensemble=0"])


def test_a_resumed_run_keeps_the_best_of_the_whole(finished, tmp_path):
    whole, _ = finished
    _, folder = run(tmp_path, "--max_steps=4", "--ensemble=3")
    moved = shutil.copytree(folder, tmp_path / "version_0")
    shutil.rmtree(folder / "checkpoints")
    assert run_experiment.main([f"--resume={moved / 'checkpoints' / 'last.ckpt'}", "--max_steps=8"]) == whole
    assert kept(moved) == set(validated(moved)[:3])


def test_a_resumed_run_may_keep_more_or_fewer(tmp_path):
    _, folder = run(tmp_path, "--max_steps=3", "--ensemble=3")
    resume = f"--resume={folder / 'checkpoints' / 'last.ckpt'}"
    for updates, members in ((6, 1), (9, 2)):
        best = validated(folder)[0]
        summary = run_experiment.main([resume, f"--max_steps={updates}", f"--ensemble={members}"])
        assert summary["ensemble"]["members"] == members
        # Of those before, the best had been kept; those that came since are all known.
        candidates = [u for u in validated(folder) if u == best or u > updates - 3]
        state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]
        models = next(s["best_k_models"] for s in state.values() if s.get("best_k_models"))
        assert {f"best-step={u}" for u in candidates[:members]} == {Path(path).stem for path in models}


def test_with_fewer_checkpoints_the_ensemble_is_of_those(tmp_path, capsys):
    summary, _ = run(tmp_path, "--max_steps=2", "--ensemble")
    assert summary["ensemble"]["members"] == 2
    assert "--ensemble=5: the run kept 2 validated checkpoints" in capsys.readouterr().err


def refused(capsys, main, *flags):
    with pytest.raises(SystemExit) as exit_:
        main(list(flags))
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_what_makes_no_ensemble_is_one_sentence(tmp_path, capsys, finished):
    assert "--ensemble=-1 must not be negative" in refused(capsys, run_experiment.main, *QUICK, "--ensemble=-1")
    unvalidated = [*QUICK, f"--log_dir={tmp_path}", "--max_steps=1", "--limit_val_batches=0"]
    assert "--limit_val_batches=0 is none" in refused(capsys, run_experiment.main, *unvalidated, "--ensemble=2")
    alone = tmp_path / "alone.ckpt"
    alone.write_bytes((finished[1] / "checkpoints" / "last.ckpt").read_bytes())
    sentence = refused(capsys, evaluate.main, f"--checkpoint={alone}")
    assert "--ensemble=3 finds no validated checkpoints" in sentence and "--ensemble=0" in sentence


def test_prototypes_too_and_of_classes_the_logits_are_averaged(float64):
    torch.manual_seed(0)
    support_y, query_y = (torch.arange(3).repeat_interleave(n).expand(2, -1) for n in (2, 3))
    images = torch.rand(2, 6, 3, 16, 16), torch.rand(2, 9, 3, 16, 16)
    batch = EpisodeBatch(images[0], support_y, images[1], query_y, torch.arange(2))
    lit_model = LitProtoNet(Conv4((3, 16, 16), 3, width=4))
    logits, members = [], []
    for _ in range(2):
        for p in lit_model.parameters():
            torch.nn.init.normal_(p)
        members.append({name: value.clone() for name, value in lit_model.state_dict().items()})
        logits.append(lit_model.logits(batch, transductive=True))
    (scores,) = LitEnsemble(lit_model, members).step_scores(batch, [0])
    mean = (logits[0] + logits[1]) / 2
    torch.testing.assert_close(scores.metric, (mean.argmax(-1) == batch.query_y).double().mean(-1))
    losses = torch.stack([torch.nn.functional.cross_entropy(m, y) for m, y in zip(mean, batch.query_y, strict=True)])
    torch.testing.assert_close(scores.loss, losses)


def test_two_processes_are_one(finished, tmp_path):
    """Six episodes over two processes, each of which loads the members."""
    summary, folder = finished
    checkpoint = f"--checkpoint={folder / 'checkpoints' / 'last.ckpt'}"
    for processes in (1, 2):
        flags = [f"--output_dir={tmp_path / str(processes)}", f"--num_processes={processes}"]
        run_in_a_process(checkpoint, *flags, script="evaluate.py")
    one, two = (json.loads((tmp_path / n / "test_metrics.json").read_text())["ensemble"] for n in ("1", "2"))
    assert two["mean"] == pytest.approx(one["mean"], rel=1e-12)
    assert two["mean"] == pytest.approx(summary["ensemble"]["mean"], rel=1e-12)
    assert (two["episodes"], two["members"]) == (6, 3)
