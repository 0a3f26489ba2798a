"""What every dataset shares: batches of episodes, the same for any number of workers and processes."""

import functools
import itertools
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler

from few_shot.data.augment import OF_PHOTOS, augment
from few_shot.data.class_folders import some
from few_shot.data.image_store import ImageStore
from few_shot.data.pictures import Preprocessing, preprocessing
from few_shot.episodes import SPLITS, EpisodeBatch, Split, draw_classification, number_type
from few_shot.errors import BadInput, at_least, true_or_false
from few_shot.files import given_path, same_spelling


class EpisodeDataModule(pl.LightningDataModule):
    """Batches of episodes. A dataset implements :meth:`draw` and names its sizes, loss and metric.

    Args:
        support_samples: samples per class (points per sine wave) a task is adapted on, K.
        query_samples: samples per class a training task is judged on; None for as many as support samples.
        test_query_samples: samples per class a validation or test task is judged on; None for as many as in training.
        batch_size: tasks in one outer update, over all processes together (the meta-batch).
        val_episodes: episodes in one validation.
        test_episodes: episodes in the test.
        seed: drives the training episodes.
        eval_seed: drives the validation and test episodes, so that they are the same in every run.
        num_workers: processes that draw batches ahead of the step; 0 draws within the step, which takes microseconds
            unless a dataset of yours does more than to choose.

    Raises:
        BadInput: a number is out of its range.
    """

    metric: Literal["accuracy", "mse"]
    loss: str  # the name of the default loss in torch.nn.functional
    input_shape: tuple[int, ...]  # of one sample, as the model gets it
    updates_at_once = 1  # how many updates' episodes draw() gets to draw: more where that takes hardly longer

    def __init__(
        self,
        support_samples: int = 1,
        query_samples: int | None = None,
        test_query_samples: int | None = 15,
        batch_size: int = 4,
        val_episodes: int = 200,
        test_episodes: int = 600,
        seed: int = 0,
        eval_seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.support_samples = at_least(1, support_samples, "support_samples")
        query_samples = support_samples if query_samples is None else query_samples
        self.query_samples = at_least(1, query_samples, "query_samples")
        test_query_samples = query_samples if test_query_samples is None else test_query_samples
        self.test_query_samples = at_least(1, test_query_samples, "test_query_samples")
        self.batch_size = at_least(1, batch_size, "batch_size")
        self.val_episodes = at_least(1, val_episodes, "val_episodes")
        self.test_episodes = at_least(1, test_episodes, "test_episodes")
        self.seed = at_least(0, seed, "seed")
        self.eval_seed = at_least(0, eval_seed, "eval_seed")
        self.num_workers = at_least(0, num_workers, "num_workers")
        #: Where trainer.test() draws its episodes. On "train" they are like the test's, and nothing may be trained.
        self.test_split: Split = "test"

    @property
    def output_size(self) -> int:
        """How many numbers the model puts out for one sample."""
        raise NotImplementedError

    def record(self) -> dict:
        """What a run's record is to say of the data, after :meth:`setup`: plain values alone."""
        return {}

    def refuse_trained_classes(self, record: dict) -> None:
        """Refuse a test on what was trained on, after :meth:`setup`; here nothing is known that could be.

        Args:
            record: the :meth:`record` of the run that trained.
        """

    def pictures(self, split: Split) -> str | None:
        """Tells the pictures of a split, in their order, from others, so that the same digest means the same episodes.

        None where episodes are drawn from no pictures.
        """
        return None

    def draw(self, split: Split, seed: int, index: NDArray) -> EpisodeBatch:
        """Draw the episodes ``index`` ``[T]`` of a split: a pure function of its arguments."""
        raise NotImplementedError

    def queries(self, split: Split) -> int:
        """Query samples per class in an episode of the split."""
        return self.query_samples if self._trains_on(split) else self.test_query_samples

    def _trains_on(self, split: Split) -> bool:
        return split == "train" and self.test_split != "train"

    def train_dataloader(self) -> DataLoader:
        """Endless meta-batches from the update the run has reached; this process gets its share of each."""
        rank, world_size = self._place()
        if world_size > self.batch_size:
            raise BadInput(
                f"batch_size={self.batch_size} is fewer tasks than the {world_size} processes that share them: "
                "give every process at least one."
            )
        before = getattr(getattr(self.trainer, "lightning_module", None), "episodes_before", 0)
        mine = before + np.asarray(share(self.batch_size, rank, world_size))
        numbers = functools.partial(_numbers, mine, self.batch_size)
        batches = MetaBatches(self, "train", self.seed, numbers, self.updates_at_once)
        return self._loader(batches, _UpdatesFromNow(self))

    def val_dataloader(self) -> DataLoader:
        return self._evaluation_loader("val", self.val_episodes, "limit_val_batches")

    def test_dataloader(self) -> DataLoader:
        return self._evaluation_loader(self.test_split, self.test_episodes, "limit_test_batches")

    def predict_dataloader(self) -> DataLoader:
        return self._evaluation_loader(self.test_split, self.test_episodes, "limit_predict_batches")

    def _evaluation_loader(self, split: Split, episodes: int, limit: str) -> DataLoader:
        """This process's share of a split's episodes, after the Trainer's ``limit`` on batches."""
        rank, world_size = self._place()
        if world_size > episodes:
            flag = "val_episodes" if split == "val" else "test_episodes"
            raise BadInput(f"{flag}={episodes} is fewer than the {world_size} processes that share them.")
        batches_at_most = getattr(self.trainer, limit, None)
        if isinstance(batches_at_most, int):  # Lightning's own limit holds for each process, not for all together
            episodes = min(episodes, max(batches_at_most * self.batch_size, world_size))
        mine = np.asarray(share(episodes, rank, world_size))
        batches = [mine[i : i + self.batch_size] for i in range(0, len(mine), self.batch_size)]
        return self._loader(MetaBatches(self, split, self.eval_seed, batches.__getitem__), _InOrder(len(batches)))

    def __getstate__(self) -> dict:
        """A worker process that is spawned gets everything but the trainer, which cannot be pickled."""
        return {**self.__dict__, "trainer": None}

    def _place(self) -> tuple[int, int]:
        """This process's rank, and the number of processes."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _loader(self, dataset: "MetaBatches", sampler: Sampler) -> DataLoader:
        return DataLoader(
            dataset,
            batch_size=None,
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            worker_init_fn=_leave_signals_to_the_run,
            pin_memory=self.num_workers > 0 and torch.cuda.is_available(),  # row numbers are not worth it
        )

    def transfer_batch_to_device(self, batch: EpisodeBatch, device: torch.device, dataloader_idx: int) -> EpisodeBatch:
        """What Lightning does too, but for a search through whatever else a batch could hold, which takes longer."""
        return EpisodeBatch(*(x.to(device, non_blocking=device.type == "cuda") for x in batch))

    def on_after_batch_transfer(self, batch: EpisodeBatch, dataloader_idx: int = 0) -> EpisodeBatch:
        """Bring inputs and regression targets to the model's number type, on its device."""
        assert self.trainer is not None, "a Trainer moves batches; by hand, call prepare()"
        of_test = self.trainer.testing or self.trainer.predicting
        split: Split = "train" if self.trainer.training else self.test_split if of_test else "val"
        return self.prepare(batch, split, number_type(self.trainer.lightning_module))

    def prepare(self, batch: EpisodeBatch, split: Split, dtype: torch.dtype) -> EpisodeBatch:
        """The part of drawing that is done in batch, on the device."""
        return EpisodeBatch(*(x.to(dtype) if x.is_floating_point() else x for x in batch))


class ImageEpisodes(EpisodeDataModule):
    """N-way K-shot episodes out of a store of decoded images. A dataset implements :meth:`build_store`.

    Args:
        data_dir: folder that holds the data set, in any form named in the README. It is downloaded to the default
            folder, and to one that exists and is empty or holds a folder of the data set's name.
        episode_classes: classes in an episode, N (ways).
        train_episode_classes: classes in a training episode; None for as many as in testing.
        train_classes: use only so many of the training split's classes, the first in sorted order; None for all.
        shuffle_labels: whether a class takes any label in each episode; off, an episode's classes are
            labelled in sorted order, so that the first class of all is always 0.
        augment: whether each training image is shifted by up to a tenth of its size, mirrored, and changed in
            brightness, contrast and saturation by up to 40 percent, at random. Omniglot's drawings are shifted too, and
            turned by up to 11°; they are neither mirrored nor changed in brightness.
    """

    metric = "accuracy"
    loss = "cross_entropy"
    updates_at_once = 16
    augmentation = OF_PHOTOS  # what augment=True does
    variants = 1  # how many classes are the same thing; an episode has at most one of them

    def __init__(
        self,
        data_dir: str = "data",
        episode_classes: int = 5,
        train_episode_classes: int | None = None,
        train_classes: int | None = None,
        shuffle_labels: bool = True,
        augment: bool = False,
        **base,
    ) -> None:
        super().__init__(**base)
        self.data_dir = given_path(data_dir, "data_dir")
        self.episode_classes = at_least(2, episode_classes, "episode_classes")
        train_ways = episode_classes if train_episode_classes is None else train_episode_classes
        self.train_episode_classes = at_least(2, train_ways, "train_episode_classes")
        self.train_classes = None if train_classes is None else at_least(1, train_classes, "train_classes")
        self.shuffle_labels = true_or_false(shuffle_labels, "shuffle_labels")
        self.augment = true_or_false(augment, "augment")
        self.stores: dict[str, ImageStore] = {}
        self._index_on_host: Tensor | None = None

    @property
    def output_size(self) -> int:
        return max(self.episode_classes, self.train_episode_classes)

    @property
    def preprocessing(self) -> Preprocessing:
        """How the images were made of the pictures on the disk, and how a new picture must be: see ``pictures``."""
        return preprocessing(self.input_shape)

    def record(self) -> dict:
        """The classes of each split that is open."""
        return {"classes": {split: store.class_names for split, store in self.stores.items()}}

    def pictures(self, split: Split) -> str:
        """The digest of a split that is open; see :meth:`few_shot.data.image_store.ImageStore.digest`."""
        return self.stores[split].digest()

    def refuse_trained_classes(self, record: dict) -> None:
        """Refuse a test on classes that were trained on, which makes a false number; after :meth:`setup`.

        Args:
            record: the :meth:`record` of the run that trained. Its data may have changed, and their split with them.

        Raises:
            BadInput: a class of the test was trained on, and the test is not on the training split by intention.
        """
        trained = {same_spelling(name) for name in record.get("classes", {}).get("train", ())}
        both = sorted(name for name in self.stores[self.test_split].class_names if same_spelling(name) in trained)
        if both and self.test_split != "train":
            raise BadInput(
                f"The model was trained on {some(both)} of the {self.test_split} split: the classes in "
                f"{self.data_dir} are split in another way than they were, or others have the same names. Test on the "
                "pictures as they were, or rename the folders of the others."
            )

    def build_store(self) -> Path:
        """Find or download the images, decode them once, and return the store's folder; does nothing when built."""
        raise NotImplementedError

    def open_store(self, folder: Path, split: Split) -> ImageStore:
        """Open a split of the store."""
        return ImageStore.open(folder, split)

    def prepare_data(self) -> None:
        """Build the store, unless it is open: what is open needs its folder no more, should that be gone."""
        if not self.stores:
            self.build_store()

    def setup(self, stage: str | None = None) -> None:
        """Open the stores.

        Raises:
            BadInput: there are not as many classes to train on as asked for, or an episode asks for more classes, or
                more images of a class, than a split has.
        """
        wanted: Sequence[Split] = [self.test_split] if stage in ("test", "predict") else SPLITS
        opened = {split: self.stores[split] for split in wanted if split in self.stores}
        if new := [split for split in wanted if split not in opened]:
            folder = self.build_store()
            self.keep({split: self.open_store(folder, split) for split in new})
        for split, store in opened.items():  # since when the sizes of episodes may be others
            self._check_sizes(split, store)

    def keep(self, stores: dict[Split, ImageStore]) -> None:
        """Check that these splits fill the episodes, and draw from them from now on.

        Raises:
            BadInput: as in :meth:`setup`.
        """
        for split, store in stores.items():
            if split == "train" and self.train_classes is not None:
                store = store.first(self.train_classes)
            self._check_sizes(split, store)
            self.stores[split] = store

    def _check_sizes(self, split: Split, store: ImageStore) -> None:
        ways = self.ways(split)
        there = len(store.class_names) // self.variants
        if ways > there:
            flag = "episode_classes" if ways == self.episode_classes else "train_episode_classes"
            raise BadInput(f"{flag}={ways} is more than the {there} classes of the {split} split.")
        query_flag = "query_samples" if self._trains_on(split) else "test_query_samples"
        smallest = int(store.class_sizes.argmin())
        if self.support_samples + self.queries(split) > store.class_sizes[smallest]:
            raise BadInput(
                f"support_samples={self.support_samples} and {query_flag}={self.queries(split)} together are "
                f"more than the {store.class_sizes[smallest]} images of class {store.class_names[smallest]} "
                f"in the {split} split."
            )

    @property
    def shots_of_every_class(self) -> int:
        """How many support samples every class of every episode has; where they differ, there is no such property."""
        return self.support_samples

    def ways(self, split: Split) -> int:
        """Classes in an episode of the split."""
        return self.train_episode_classes if self._trains_on(split) else self.episode_classes

    def draw(self, split: Split, seed: int, index: NDArray) -> EpisodeBatch:
        """Draw T episodes: for images their rows in the split's store, int64 ``[T, N*K]``, class by class."""
        store, ways, shots = self.stores[split], self.ways(split), self.support_samples
        classes, samples = draw_classification(
            seed,
            split,
            index,
            store.class_sizes,
            ways,
            shots + self.queries(split),
            self.shuffle_labels,
            self.variants,
        )
        rows = store.class_starts[classes][:, :, None] + samples  # [T, N, K+Q]

        def part(rows: NDArray) -> tuple[Tensor, Tensor]:
            labels = torch.arange(ways).repeat_interleave(rows.shape[2]).repeat(len(index), 1)
            return torch.from_numpy(rows.reshape(labels.shape)), labels

        return EpisodeBatch(*part(rows[:, :, :shots]), *part(rows[:, :, shots:]), torch.as_tensor(index))

    def on_before_batch_transfer(self, batch: EpisodeBatch, dataloader_idx: int = 0) -> EpisodeBatch:
        """Keep the episodes' numbers, from which the augmentation is drawn, on the host."""
        self._index_on_host = batch.index
        return batch

    def on_after_batch_transfer(self, batch: EpisodeBatch, dataloader_idx: int = 0) -> EpisodeBatch:
        """The same, and augment the images in training if asked to: a test on training classes sees them plain."""
        batch = super().on_after_batch_transfer(batch, dataloader_idx)
        if not (self.augment and self.trainer is not None and self.trainer.training):
            return batch
        index = batch.index if self._index_on_host is None else self._index_on_host
        support_x, query_x = augment((batch.support_x, batch.query_x), self.seed, index, self.augmentation)
        return batch._replace(support_x=support_x, query_x=query_x)

    def prepare(self, batch: EpisodeBatch, split: Split, dtype: torch.dtype) -> EpisodeBatch:
        """Gather the images, ``[T, N*K, C, H, W]``, and scale them to [0, 1]."""
        gather = self.stores[split].gather
        support_x, query_x = (gather(rows).to(dtype).div_(255) for rows in (batch.support_x, batch.query_x))
        return batch._replace(support_x=support_x, query_x=query_x)


def _leave_signals_to_the_run(worker: int) -> None:
    """A terminal sends Ctrl-C to workers too, and a batch system SIGTERM: the run stops in order, and they with it."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)


class MetaBatches(Dataset):
    """Item ``i`` is a whole batch of episodes: those that ``numbers(i)`` says.

    A call of numpy takes nearly as long for one episode as for a hundred, so that the items that probably come next
    are drawn with it, ``at_once`` in all.
    """

    def __init__(
        self, data: EpisodeDataModule, split: Split, seed: int, numbers: Callable[[int], NDArray], at_once: int = 1
    ) -> None:
        self.data, self.split, self.seed, self.numbers, self.at_once = data, split, seed, numbers, at_once
        self._drawn: dict[int, EpisodeBatch] = {}

    def __getitem__(self, i: int) -> EpisodeBatch:
        if i not in self._drawn:
            numbers = [self.numbers(j) for j in range(i, i + self.at_once)]
            episodes = self.data.draw(self.split, self.seed, np.concatenate(numbers))
            self._drawn = dict(enumerate(episodes.chunks(len(numbers[0])), start=i))
        return self._drawn[i]


class _Share(DistributedSampler):
    """The batches of this process. Lightning would share them out once more, but leaves samplers of this kind alone."""

    def __init__(self) -> None:  # the base class asks for a data set to share out
        pass


class _InOrder(_Share):
    """0, 1, …, as many as there are."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.batches))

    def __len__(self) -> int:
        return self.batches


class _UpdatesFromNow(_Share):
    """The update that the run has reached, the next, … without an end."""

    def __init__(self, data: EpisodeDataModule) -> None:
        self.data = data

    def __iter__(self) -> Iterator[int]:
        return itertools.count(0 if self.data.trainer is None else self.data.trainer.global_step)

    def __len__(self) -> int:
        raise TypeError("training has no end")


def _numbers(mine: NDArray, batch_size: int, update: int) -> NDArray:
    """The episodes of an outer update that fall to this process."""
    return update * batch_size + mine


def share(total: int, rank: int, world_size: int) -> range:
    """The numbers below ``total`` that fall to a process: contiguous, as even as can be."""
    return range(total * rank // world_size, total * (rank + 1) // world_size)
