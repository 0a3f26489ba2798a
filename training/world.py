"""The processes of a run: who starts them, how many they are, which of them this is, and what the first tells the rest.

``torchrun``, SLURM, ``jsrun`` and ``mpirun`` start all processes themselves, and say how many. Otherwise Lightning
starts them: those of one node from the command that the user gives, and of several nodes from the same command on
each, with ``MASTER_ADDR``, ``MASTER_PORT`` and ``NODE_RANK`` in its environment.
"""

import functools
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

from lightning_fabric.plugins.environments import LSFEnvironment, MPIEnvironment
from pytorch_lightning.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch.distributed import DistError, TCPStore

from few_shot.errors import BadInput

#: In the order in which Lightning asks them.
LAUNCHERS: dict[str, type[ClusterEnvironment]] = {
    "torchrun": TorchElasticEnvironment,
    "SLURM": SLURMEnvironment,
    "jsrun": LSFEnvironment,
    "mpirun": MPIEnvironment,
}

#: Numbers what is told: every process comes by in the same order.
_told = itertools.count()


class Launch(NamedTuple):
    """What started all processes, and how many."""

    name: str
    environment: ClusterEnvironment
    nodes: int
    per_node: int


def launch(num_nodes: int | None) -> Launch | None:
    """What started this process together with others; None where Lightning is to start them.

    Args:
        num_nodes: what the user says; None for what the launcher says.

    Raises:
        BadInput: the user and the launcher disagree, or Lightning cannot use what the launcher has started.
    """
    name = next((name for name, kind in LAUNCHERS.items() if kind.detect()), None)
    if name is None:
        return None
    try:
        environment = LAUNCHERS[name]()
    except RuntimeError as error:  # SLURM was asked in a way that Lightning cannot follow, and it says which
        raise BadInput(" ".join(str(error).split())) from error
    size = environment.world_size()
    nodes = int(os.environ.get({"torchrun": "GROUP_WORLD_SIZE", "SLURM": "SLURM_NNODES"}.get(name, ""), num_nodes or 1))
    if num_nodes not in (None, nodes):
        raise BadInput(f"num_nodes={num_nodes}, but {name} uses {nodes}: leave it out.")
    per_node = size // nodes
    if nodes * per_node != size or per_node != int(os.environ.get("LOCAL_WORLD_SIZE", per_node)):
        raise BadInput(f"{name} has started {size} processes on {nodes} nodes: start as many on every node.")
    return Launch(name, environment, nodes, per_node)


@dataclass(frozen=True)
class World:
    """All processes of a run.

    Args:
        nodes: machines.
        per_node: processes on each of them.
        launch: what started them; None where Lightning does.
    """

    nodes: int
    per_node: int
    launch: Launch | None = None

    def __post_init__(self) -> None:
        if self.launch is None and self.nodes > 1:
            self._check_environment()
        # Who prints and writes. Lightning would find out later.
        rank_zero_only.rank = self.rank  # type: ignore[attr-defined]

    def _check_environment(self) -> None:
        if missing := [name for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK") if name not in os.environ]:
            raise BadInput(
                f"num_nodes={self.nodes} needs the environment variables MASTER_ADDR and MASTER_PORT, an address and a "
                f"free port of the first node, and NODE_RANK, 0 there and 1, … on the others ({missing[0]} is not "
                "set); torchrun sets them by itself."
            )
        if not 0 <= self._environment.node_rank() < self.nodes:
            raise BadInput(f"NODE_RANK={os.environ['NODE_RANK']} is none of num_nodes={self.nodes}, counted from 0.")

    @property
    def size(self) -> int:
        """How many processes there are."""
        return self.nodes * self.per_node

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""
        if self.launch is not None:
            return self.launch.environment.global_rank()
        return self._environment.node_rank() * self.per_node + self._environment.local_rank()

    @property
    def _environment(self) -> ClusterEnvironment:
        return LightningEnvironment() if self.launch is None else self.launch.environment

    def from_first(self, make: Callable[[], str]) -> str:
        """What ``make`` returns in the first process, in every process that somebody else than Lightning has started.

        It works before there is a process group. Processes that Lightning starts later are not waited for.

        Raises:
            BadInput: the first process has failed.
        """
        environment = self._environment
        if self.size == 1 or (self.nodes == 1 and not environment.creates_processes_externally):
            return make()
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun may start all processes anew
        key = f"few_shot/{attempt}/{next(_told)}"
        store = _store(environment.main_address, environment.main_port, self.rank == 0)
        if self.rank == 0:
            value = make()
            store.set(key, value)
            return value
        try:
            store.wait([key], timedelta(days=1))  # the first process may have much to prepare
            return store.get(key).decode()
        except DistError as error:  # it keeps the store
            raise BadInput("The first process has ended: it says why.") from error


@functools.cache  # open until the process ends: the process group meets at the same store
def _store(address: str, port: int, first: bool) -> TCPStore:
    """The store at which the processes meet: torchrun's own, or else the first process's."""
    of_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)
    return TCPStore(address, port, is_master=first and not of_torchrun, wait_for_workers=False, multi_tenant=True)
