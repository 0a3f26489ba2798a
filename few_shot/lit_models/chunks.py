"""A meta-batch in parts, because the graphs of all its tasks together may not fit in memory."""

from few_shot.episodes import EpisodeBatch

#: Input values of tasks that are computed together on the CPU. Two 1-shot tasks of mini-ImageNet have as many. They
#: fill every cache, so larger chunks take much more memory and hardly less time.
VALUES_AT_ONCE = 5_000_000


def chunks(batch: EpisodeBatch, tasks_at_once: int | None) -> list[EpisodeBatch]:
    """The same episodes, so many tasks at a time.

    None is all tasks at once; on the CPU it is as many as have 5 million input values together.
    """
    if tasks_at_once is None and batch.index.device.type == "cpu":
        of_one = batch.support_x.shape[1:].numel() + batch.query_x.shape[1:].numel()
        tasks_at_once = max(1, VALUES_AT_ONCE // of_one)
    return batch.chunks(tasks_at_once or len(batch.index))
