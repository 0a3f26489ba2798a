"""What surrounds a step: episodes out of the data module, and the Trainer's loop. Entries of a race."""

import contextlib
import os
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch.utils.data import TensorDataset

from benchmarks.machine import seconds
from few_shot.data import MiniImagenet
from few_shot.data.image_store import Source, ensure_store
from few_shot.data.mini_imagenet import find_mini_imagenet
from few_shot.episodes import EpisodeBatch
from training.callbacks import RunRecord
from training.command_line import parse
from training.devices import world_of
from training.process import keep_freed_memory, set_up_process
from training.run_folder import RunFolder
from training.trainer import build_trainer

Rival = tuple[dict[str, Any], Callable[[], float]]

EPISODES = 640  # a turn draws so many
UPDATES, WARM_UP = 600, 100  # a turn trains so long, and what of it is not counted


def episode_rivals(data_dir: str, device: str) -> dict[str, tuple[Callable, tuple]]:
    """Seconds an episode: mini-ImageNet 5-way 1-shot, 15 queries, as uint8 images."""
    return {
        "ours, rows of the store": (our_episodes, (data_dir, None)),
        "ours, images gathered on the CPU": (our_episodes, (data_dir, "cpu")),
        **({} if device == "cpu" else {"ours, images gathered on the GPU": (our_episodes, (data_dir, device))}),
        "learn2learn, images": (learn2learn_episodes, (data_dir,)),
    }


def our_episodes(data_dir: str, device: str | None) -> Rival:
    """Meta-batches of four through the data module's own loader, with the images on a device or without them."""
    keep_freed_memory()
    data = MiniImagenet(data_dir=data_dir, query_samples=15)
    data.setup()
    store = data.stores["train"]
    store.images.max()  # in memory and mapped, as the peer's images are
    batches = iter(data.train_dataloader())

    def draw() -> None:
        batch = next(batches)
        if device is not None:
            for rows in (batch.support_x, batch.query_x):
                store.gather(rows.to(device))

    def take_turn() -> float:
        return seconds(draw, device or "cpu", EPISODES // data.batch_size) / data.batch_size

    take_turn()
    return {}, take_turn


def learn2learn_episodes(data_dir: str) -> Rival:
    """learn2learn's usual transforms on the same images, which it has in memory, decoded."""
    import learn2learn as l2l
    from learn2learn.data.transforms import ConsecutiveLabels, FusedNWaysKShots, LoadData, RemapLabels

    data = MiniImagenet(data_dir=data_dir)
    data.setup()
    store = data.stores["train"]
    labels = torch.from_numpy(np.repeat(np.arange(len(store.class_sizes)), store.class_sizes))
    dataset = l2l.data.MetaDataset(TensorDataset(torch.from_numpy(np.array(store.images)), labels))
    transforms = [
        FusedNWaysKShots(dataset, n=5, k=16),
        LoadData(dataset),
        RemapLabels(dataset),
        ConsecutiveLabels(dataset),
    ]
    tasks = l2l.data.Taskset(dataset, transforms, num_tasks=20_000)
    random.seed(0)
    support = torch.arange(5 * 16) % 16 == 0

    def draw() -> None:
        x, y = tasks.sample()
        _ = x[support], y[support], x[~support], y[~support]

    def take_turn() -> float:
        return seconds(draw, "cpu", EPISODES)

    take_turn()
    return {}, take_turn


@contextlib.contextmanager
def mini_imagenet_or_noise(data_dir: Path):
    """A folder with mini-ImageNet's images, or with as many classes of noise where there are none; and which."""
    if find_mini_imagenet(data_dir) is not None:
        data = MiniImagenet(data_dir=str(data_dir))
        data.prepare_data()
        yield str(data_dir), "mini-ImageNet"
        return
    with tempfile.TemporaryDirectory() as scratch:
        build_noise_store(Path(scratch), "mini_imagenet", (3, 84, 84), classes=64, images=60)
        yield scratch, "64 classes of 60 generated images"


def build_noise_store(data_dir: Path, name: str, image_shape: tuple[int, int, int], classes: int, images: int) -> None:
    """Build the store that a data set would find in ``data_dir``, with so many classes a split of so many images."""
    rng = np.random.default_rng(0)
    noise = Source(
        form="noise",
        fingerprint={},
        classes=lambda split: {f"{split}{i}": images for i in range(classes)},
        read=lambda split, name: rng.integers(0, 256, (images, *image_shape), dtype=np.uint8),
    )
    ensure_store(data_dir, name, image_shape, find=lambda: noise, download=lambda: None)


def loop_rivals(device: str) -> dict[str, tuple[Callable, tuple]]:
    """Seconds an outer update of the sinusoid, drawing and Adam included."""
    flags = ("--data_class=Sinusoid", f"--gpus={1 if device == 'cuda' else 0}")
    return {
        name: (entry, (own, device))
        for compiled, own in (("", flags), (", --compile", (*flags, "--compile")))
        for name, entry in ((f"bare loop{compiled}", bare_loop), (f"a run{compiled}", whole_run))
    }


def bare_loop(flags: tuple[str, ...], device: str) -> Rival:
    """Draw, step, Adam, and nothing else."""
    experiment = parse(flags, "benchmark")
    set_up_process(experiment.options)
    data, lit_model = experiment.build()
    lit_model.to(device)
    optimizer = lit_model.configure_optimizers()
    batches = iter(data.train_dataloader())

    def update() -> None:
        batch = EpisodeBatch(*(x.to(device) for x in next(batches)))
        batch = data.prepare(batch, "train", torch.float32)
        optimizer.zero_grad()
        lit_model.training_scores(batch).loss.mean().backward()
        optimizer.step()

    def take_turn() -> float:
        seconds(update, device, WARM_UP)
        return seconds(update, device, UPDATES - WARM_UP)

    return {}, take_turn


def whole_run(flags: tuple[str, ...], device: str) -> Rival:
    """Trainer.fit as a run has it: CSV and TensorBoard, the progress bar, checkpoints; without validation."""
    as_long = ("--limit_val_batches=0", "--log_every_n_steps=50")  # a short run by itself would log more often
    experiment = parse([*flags, f"--max_steps={UPDATES}", *as_long], "benchmark")
    set_up_process(experiment.options)
    data, lit_model = experiment.build()

    def take_turn() -> float:
        stopwatch = _Stopwatch()
        with tempfile.TemporaryDirectory() as scratch, open(os.devnull, "w") as nowhere:
            folder = RunFolder.start(scratch, "run")
            record = RunRecord(folder, experiment.config, partial(folder.record, experiment.config, device), False)
            with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
                trainer = build_trainer(experiment, world_of(experiment), folder, data.metric, record=record)
                trainer.callbacks.append(stopwatch)  # type: ignore[attr-defined]
                trainer.fit(lit_model, datamodule=data)
        return stopwatch.seconds / (UPDATES - WARM_UP)

    return {}, take_turn


class _Stopwatch(Callback):
    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, i: int) -> None:
        if i == WARM_UP:
            self.started = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seconds = time.perf_counter() - self.started if hasattr(self, "started") else float("nan")
