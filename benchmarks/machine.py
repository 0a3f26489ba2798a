"""The machine: what it is, the most it can do, and what a step takes of it."""

import os
import platform
import resource
import statistics
import subprocess
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from training.process import keep_freed_memory

#: Images, channels, height and width of 3x3 convolutions: sizes at which some machine does its best.
CONVOLUTIONS = [(8, 64, 56, 56), (16, 128, 28, 28), (32, 256, 14, 14), (80, 32, 42, 42), (128, 256, 28, 28)]


def description(device: str) -> dict[str, Any]:
    """Hardware, versions and commit."""
    packages = ("torch", "pytorch-lightning", "numpy", "learn2learn", "higher", "jax")
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    names = [line.partition(": ")[2] for line in _read("/proc/cpuinfo").splitlines() if line.startswith("model name")]
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "cpu": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": " ".join([platform.system(), platform.machine(), *platform.libc_ver()]).strip(),
        "python": platform.python_version(),
        "versions": {name: found for name in packages if (found := _version(name))},
        "commit": commit.stdout.strip() or None,
    }


def peaks(device: str) -> tuple[dict[str, Any], Callable[[], float]]:
    """GFLOP/s of the best convolution and matrix product, GB/s of a copy (read and write), as an entry of a race."""
    if device == "cpu":
        keep_freed_memory()
    gflops = []
    for n, c, h, w in CONVOLUTIONS:
        x, kernel = torch.randn(n, c, h, w, device=device), torch.randn(c, c, 3, 3, device=device)
        seconds_each = _best(partial(F.conv2d, x, kernel, padding=1), device)
        gflops.append(2 * 9 * n * c * c * h * w / 1e9 / seconds_each)
    size = 2048 if device == "cpu" else 8192
    a, b = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    product = 2 * size**3 / 1e9 / _best(lambda: a @ b, device)
    source = torch.randn(2**26, device=device)  # 256 MB, more than caches hold
    target = torch.empty_like(source)
    copy = 2 * 4 * 2**26 / 1e9 / _best(lambda: target.copy_(source), device)
    return {"convolution_gflops": max(gflops), "matmul_gflops": product, "copy_gbs": copy}, lambda: 0.0


class OpCount(TorchDispatchMode):
    """Counts the operations that reach PyTorch's kernels, backward included."""

    def __init__(self) -> None:
        super().__init__()
        self.ops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ops += 1
        return func(*args, **(kwargs or {}))


class PeakMemory:
    """Bytes that a block of code took at its peak: the device's own count, or growth of the process on the CPU.

    On the CPU it needs a process that has not had more before: its peak cannot be reset.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.bytes = 0

    def __enter__(self) -> "PeakMemory":
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self.before = self._peak()
        return self

    def __exit__(self, *_: Any) -> None:
        self.bytes = self._peak() - self.before

    def _peak(self) -> int:
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated()
        unit = 1 if platform.system() == "Darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def seconds(function: Callable[[], Any], device: str, times: int = 1) -> float:
    """Mean seconds of a call, waiting for the device."""
    _wait(device)
    started = time.perf_counter()
    for _ in range(times):
        function()
    _wait(device)
    return (time.perf_counter() - started) / times


def _best(function: Callable[[], Any], device: str) -> float:
    """Median of the faster half of seconds a call, over about a third of a second."""
    first = max(seconds(function, device) for _ in range(2))
    runs = sorted(seconds(function, device) for _ in range(max(5, min(100, int(0.3 / first)))))
    return statistics.median(runs[: len(runs) // 2 + 1])


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _read(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
