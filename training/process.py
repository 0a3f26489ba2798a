"""What holds for a whole process: how it keeps memory, and what it does not print."""

import ctypes
import logging
import platform

from few_shot.private_parts import do_not_look_for_a_driver_again
from training.experiment import RunOptions
from training.terminal import tidy_warnings


def set_up_process(options: RunOptions) -> None:
    """Prepare this process for an experiment."""
    if options.keep_memory:
        keep_freed_memory()
    do_not_look_for_a_driver_again()
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    tidy_warnings()


def keep_freed_memory() -> None:
    """Have glibc keep freed blocks, which PyTorch asks for again at once; elsewhere do nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if platform.system() == "Linux" else None
    if mallopt is not None:
        trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of malloc.h
        mallopt(trim_threshold, -1)  # never trim the heap
        mallopt(mmap_max, 0)  # take large blocks from the heap too
