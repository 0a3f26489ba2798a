"""Episodes as a pure function of (seed, split, index).

Episode ``i`` of a split is drawn from a counter-based generator, so it needs no state: validation and test episodes
are the same for ever, a worker or a rank draws its share by index alone, a resumed run goes on where it stopped, and
two algorithms meet the very same tasks. Whole meta-batches are drawn at once, vectorised over the indices.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from few_shot.errors import BadInput

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

# Streams keep the draws of one episode apart: drawing more images never changes the classes.
CLASS_STREAM, IMAGE_STREAM, WAVE_STREAM, POINT_STREAM, AUGMENT_STREAM, VARIANT_STREAM = range(6)

#: The label of a sample that does not count, as in PyTorch's losses: it is there to fill a task up.
IGNORED = -100

_LOW_32_BITS = np.uint64(0xFFFFFFFF)
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_KEY_INCREMENTS = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)


class EpisodeBatch(NamedTuple):
    """A batch of T episodes; K shots, Q query samples, N ways (1 for regression).

    Class labels are int64 ``[T, n]``; regression targets keep their output dimension, ``[T, n, 1]``. A sample with the
    label ``IGNORED`` fills a task up: it has no loss and is of no class. Batch norm sees it all the same.
    """

    support_x: Tensor  # [T, N*K, ...]
    support_y: Tensor  # [T, N*K] or [T, K, 1]
    query_x: Tensor  # [T, N*Q, ...]
    query_y: Tensor  # [T, N*Q] or [T, Q, 1]
    index: Tensor  # type: ignore[assignment]  # [T], the episodes' numbers in their split

    def chunks(self, tasks: int) -> "list[EpisodeBatch]":
        """The same episodes, so many tasks at a time; the last chunk may have fewer."""
        if tasks >= len(self.index):
            return [self]
        return [EpisodeBatch(*parts) for parts in zip(*(x.split(tasks) for x in self), strict=True)]

    def all_samples(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets of each task's support and query samples together."""
        return torch.cat([self.support_x, self.query_x], dim=1), torch.cat([self.support_y, self.query_y], dim=1)


def number_type(module: Any) -> torch.dtype:
    """That of a LightningModule's weights. Lightning's own record misses a model that had it before."""
    weights = module.parameters() if isinstance(module, nn.Module) else ()
    return next((p.dtype for p in weights if p.is_floating_point()), None) or module.dtype


def as_episodes(batch: Any, dtype: torch.dtype, of_classes: bool | None = None) -> EpisodeBatch:
    """A batch that a person's own data gave: numbers get the model's type, and labels int64.

    Args:
        batch: what the data gave.
        dtype: the model's number type.
        of_classes: whether whole numbers to predict are labels; None if that is not known, and then they are.

    Raises:
        BadInput: it is no :class:`EpisodeBatch` of tensors, its pictures are of bytes, or its labels are no numbers of
            classes.
    """
    if not isinstance(batch, EpisodeBatch) or not all(isinstance(x, Tensor) for x in batch):
        what = type(batch).__name__
        if isinstance(batch, list | tuple):
            what += f" of {', '.join(dict.fromkeys(type(x).__name__ for x in batch))}"
        raise BadInput(
            f"The data gives batches of type {what}: they must be few_shot.episodes.EpisodeBatch, five tensors "
            "(support_x, support_y, query_x, query_y, index)."
        )
    T, names = tuple(batch.index.shape), ("support_x", "support_y", "query_x", "query_y")
    shapes = {name: tuple(getattr(batch, name).shape) for name in names}
    same_samples = all(shapes[f"{part}_x"][1:2] == shapes[f"{part}_y"][1:2] != () for part in ("support", "query"))
    if len(T) != 1 or any(shape[:1] != T for shape in shapes.values()) or not same_samples:
        raise BadInput(
            f"The data gives a batch of shapes {', '.join(f'{k} {list(v)}' for k, v in shapes.items())}, index "
            f"{list(T)}: all five begin with the T tasks, and all but index go on with a task's samples, as many x as "
            "y. A DataLoader that gives whole batches needs batch_size=None."
        )
    if empty := [part for part in ("support", "query") if shapes[f"{part}_y"][1] == 0]:
        raise BadInput(f"The data gives tasks without a {empty[0]} sample: each needs at least one.")
    if torch.uint8 in (batch.support_x.dtype, batch.query_x.dtype):
        raise BadInput("The data gives inputs of type uint8: pictures are numbers from 0 to 1, so divide them by 255.")
    of_labels = of_classes or (of_classes is None and not batch.query_y.is_floating_point())
    for name in ("support_y", "query_y") if of_labels else ():
        if (y := getattr(batch, name)).dim() != 2 or y.is_floating_point():
            raise BadInput(
                f"The data gives {name} {list(y.shape)} of type {str(y.dtype).removeprefix('torch.')}: labels of "
                "classes are whole numbers [T, n], one for each sample."
            )
    targets = dtype if of_classes is False else torch.int64
    types = {"support_y": targets, "query_y": targets}
    found = {
        name: x.to(dtype if x.is_floating_point() else types.get(name, x.dtype)) for name, x in batch._asdict().items()
    }
    return EpisodeBatch(**found)


def philox_4x32(counter: tuple[Any, ...], key: tuple[np.uint64, np.uint64]) -> tuple[NDArray, ...]:
    """Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), vectorised.

    Args:
        counter: four broadcastable uint64 arrays that hold 32-bit words.
        key: two uint64 scalars that hold 32-bit words.

    Returns:
        Four uint64 arrays that hold random 32-bit words.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1 = (product1 >> 32) ^ c1 ^ k0, product1 & _LOW_32_BITS
        c2, c3 = (product0 >> 32) ^ c3 ^ k1, product0 & _LOW_32_BITS
        k0, k1 = (k0 + _KEY_INCREMENTS[0]) & _LOW_32_BITS, (k1 + _KEY_INCREMENTS[1]) & _LOW_32_BITS
    return c0, c1, c2, c3


def random_words(seed: int, split: Split, index: NDArray, stream: int, n: int) -> NDArray[np.uint64]:
    """``n`` random 32-bit words for every episode in ``index`` ``[T]``; returns uint64 ``[T, n]``."""
    index = np.asarray(index, dtype=np.uint64)[:, None]
    blocks = np.arange(-(-n // 4), dtype=np.uint64)[None, :]
    counter = (blocks, index & _LOW_32_BITS, index >> np.uint64(32), np.uint64(stream))
    words = philox_4x32(counter, (np.uint64(seed % 2**32), np.uint64(SPLITS.index(split))))
    return np.stack(np.broadcast_arrays(*words), axis=-1).reshape(len(index), -1)[:, :n]


def uniform(seed: int, split: Split, index: NDArray, stream: int, n: int) -> NDArray[np.float64]:
    """``n`` uniform numbers in (0, 1) for every episode in ``index`` ``[T]``; returns ``[T, n]``."""
    return (random_words(seed, split, index, stream, n) + 0.5) / 2**32


def sample_without_replacement(words: NDArray, population: NDArray | int) -> NDArray[np.int64]:
    """Draw k different numbers below ``population``, in random order, for each of B rows at once.

    Floyd's algorithm (Bentley & Floyd, CACM 1987) chooses, a second set of random words orders. A number is taken
    from a 32-bit word by multiplication, which favours none by more than ``population`` / 2**32.

    Args:
        words: random 32-bit words, ``[B, 2k]``.
        population: how many there are to choose from, one number or ``[B]``, at least k.

    Returns:
        ``[B, k]``.
    """
    k = words.shape[1] // 2
    last = np.broadcast_to(np.reshape(population, (-1, 1)) + np.arange(-k, 0), (len(words), k))
    chosen = ((words[:, :k] * (last + 1).astype(np.uint64)) >> np.uint64(32)).astype(np.int64)
    ordered = np.sort(chosen, axis=1)
    for row in np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1)):  # where a number comes up again
        taken: dict[int, None] = {}
        for candidate, instead in zip(chosen[row].tolist(), last[row].tolist(), strict=True):
            taken[instead if candidate in taken else candidate] = None
        chosen[row] = list(taken)
    return np.take_along_axis(chosen, np.argsort(words[:, k:], axis=1), axis=1)


def draw_classification(
    seed: int,
    split: Split,
    index: NDArray,
    class_sizes: NDArray[np.int64],
    ways: int,
    samples: int,
    shuffle_labels: bool = True,
    variants: int = 1,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose the classes and the samples of T episodes.

    Args:
        index: the episodes' numbers, ``[T]``.
        class_sizes: how many samples each class of the split has, ``[C]``.
        ways: classes in an episode, N <= C.
        samples: samples per class, support and query together; at most the smallest class.
        shuffle_labels: whether a class takes any label; otherwise labels follow the order of the split's classes.
        variants: how many classes are the same thing, such as a character and its rotations; an episode has at most
            one of them. The first C / variants classes are the first variants, the next C / variants the second ones.

    Returns:
        classes ``[T, N]``, where the position is the label, and samples ``[T, N, samples]``, numbers within a class.
    """
    tasks = len(index)
    things = len(class_sizes) // variants
    classes = sample_without_replacement(random_words(seed, split, index, CLASS_STREAM, 2 * ways), population=things)
    if variants > 1:
        words = random_words(seed, split, index, VARIANT_STREAM, ways)
        classes += things * ((words * np.uint64(variants)) >> np.uint64(32)).astype(np.int64)
    if not shuffle_labels:
        classes.sort(axis=1)
    words = random_words(seed, split, index, IMAGE_STREAM, ways * 2 * samples)
    chosen = sample_without_replacement(words.reshape(tasks * ways, -1), population=class_sizes[classes.ravel()])
    return classes, chosen.reshape(tasks, ways, samples)
