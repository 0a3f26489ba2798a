"""Notices at once when one of a run's processes is gone, and ends the others with one sentence.

Without it, a killed process leaves the others in a collective: on the CPU they end in a traceback that does not say who
is missing, on GPUs they wait for ten minutes. Every process holds a connection to the first, which breaks when the
process ends, however that happens. A process that leaves in order, or because of an error, says so before.
"""

import atexit
import contextlib
import functools
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from pytorch_lightning.strategies import DDPStrategy

from few_shot.errors import BadInput, TrainingDiverged
from few_shot.lit_models.processes import gather
from few_shot.private_parts import take_over_launched_processes

#: Last words of a process that has done its work.
BYE = "bye"
#: Seconds for the other processes to fail alike, after one has said why it fails.
GRACE = 5.0


class RollCall:
    """This process's connections, until :meth:`leave`. All processes of the process group make one together.

    Args:
        note: where the run stands, a sentence to add when it ends.
    """

    def __init__(self, note: Callable[[], str]) -> None:
        self.note = note
        self.rank = torch.distributed.get_rank()
        self._left = False
        server = None
        if self.rank == 0:
            six = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if six else socket.AF_INET
            server = socket.create_server(("", 0), family=family, dualstack_ipv6=six, backlog=1024)
        port = None if server is None else server.getsockname()[1]
        told = gather((socket.gethostname(), port, os.urandom(16)), torch.distributed.get_world_size())
        self.hosts = [host for host, *_ in told]
        _, port, secret = told[0]  # the secret keeps out who finds the port
        self._connections: dict[int, socket.socket] = {}
        if server is None:
            connection = socket.create_connection((os.environ["MASTER_ADDR"], port), timeout=60)
            connection.settimeout(None)
            connection.sendall(secret + self.rank.to_bytes(4))
            self._connections[0] = connection
            listen = threading.Thread(target=self._listen_to_the_first, daemon=True)
        else:
            listen = threading.Thread(target=self._listen_to_all, args=(server, secret), daemon=True)
        self._thread = listen
        self._thread.start()

    def leave(self, words: str = BYE) -> None:
        """Go, in order, or because of an error that the others should hear of."""
        if not self._left:
            self._left = True
            self._send(words if self.rank or words == BYE else f"0 {words}")

    def wait(self) -> None:
        """Stay until it is known whether another process is gone, which then ends this one."""
        self._thread.join(2 * GRACE)

    def _send(self, words: str) -> None:
        for connection in list(self._connections.values()):
            with contextlib.suppress(OSError):  # it is gone too
                connection.sendall(words.encode())
                connection.shutdown(socket.SHUT_WR)

    def _listen_to_the_first(self) -> None:
        words = _last_words(self._connections[0])
        if words != BYE:
            gone, _, words = words.partition(" ")
            self._end(int(gone or 0), words)

    def _listen_to_all(self, server: socket.socket, secret: bytes) -> None:
        with selectors.DefaultSelector() as selector, server:
            selector.register(server, selectors.EVENT_READ)
            waiting = set(range(1, len(self.hosts)))
            while waiting:
                for key, _ in selector.select():
                    if key.data is None:
                        rank, connection = _let_in(server, secret)
                        if connection is not None:
                            self._connections[rank] = connection
                            selector.register(connection, selectors.EVENT_READ, rank)
                        continue
                    selector.unregister(key.fileobj)
                    waiting.discard(key.data)
                    words = _last_words(self._connections.pop(key.data))
                    if words != BYE and not self._left:
                        self._send(f"{key.data} {words}")
                        self._end(key.data, words)

    def _end(self, gone: int, words: str) -> None:
        """End this process, unless it is about to end by itself."""
        if words:
            time.sleep(GRACE)
        if self._left:
            return
        if self.rank == (1 if gone == 0 else 0):  # one speaks for all
            why = words or "it was killed, or its machine or the network failed."
            where = f"Rank {gone} of {len(self.hosts)} (on {self.hosts[gone]})"
            print(f"\n{where} is gone: {why} {self.note()}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(1)  # the main thread may wait for the lost process in a collective, which nothing interrupts


def _let_in(server: socket.socket, secret: bytes) -> tuple[int, socket.socket | None]:
    """The next process that connects, with its rank; None for a stranger."""
    connection, _ = server.accept()
    connection.settimeout(GRACE)
    hello = b""
    with contextlib.suppress(OSError):
        while len(hello) < len(secret) + 4 and (part := connection.recv(len(secret) + 4 - len(hello))):
            hello += part
    connection.settimeout(None)
    if hello[:-4] != secret:
        connection.close()
        return 0, None
    return int.from_bytes(hello[-4:]), connection


def _last_words(connection: socket.socket) -> str:
    """What a process says before its connection ends: nothing, if it did not come to that."""
    said = b""
    with contextlib.suppress(OSError), connection:
        while part := connection.recv(4096):
            said += part
    return said.decode(errors="replace")


@functools.cache
def _close_the_process_group_at_exit() -> None:
    """Lightning does so on GPUs. With gloo, PyTorch's threads sometimes abort a process that ends without it."""
    atexit.register(lambda: torch.distributed.is_initialized() and torch.distributed.destroy_process_group())


@contextmanager
def _waiting_for(launched: Sequence[Any], note: Callable[[], str]) -> Iterator[None]:
    """End this process, with a sentence, if one that it has launched ends in here, before there is a roll call.

    Args:
        launched: the processes, as ``subprocess.Popen``, in the order of their ranks.
        note: a sentence to add.
    """
    all_there = threading.Event()

    def watch() -> None:
        while not all_there.wait(0.2):
            if (gone := next((i for i, process in enumerate(launched) if process.poll()), None)) is None:
                continue
            if launched[gone].returncode > 0 and all_there.wait(GRACE):  # this one fails alike, and says why
                return
            how = _how_it_ended(launched[gone].returncode)
            print(f"\nProcess {gone + 2} of this machine is gone: {how} {note()}", file=sys.stderr, flush=True)
            for process in launched:
                process.kill()
            os._exit(1)  # the main thread waits for it, which nothing interrupts

    if launched:
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        all_there.set()


def _how_it_ended(status: int) -> str:
    return f"it ended with status {status}." if status > 0 else f"it was killed ({signal.Signals(-status).name})."


class WatchedDDP(DDPStrategy):
    """Data parallelism whose processes notice when one of them is gone.

    Args:
        note: where the run stands, a sentence to add then.
        options: as for ``DDPStrategy``.
    """

    def __init__(self, note: Callable[[], str], **options: Any) -> None:
        super().__init__(**options)
        self._note = note
        self._roll_call: RollCall | None = None

    def setup_environment(self) -> None:
        with _waiting_for(take_over_launched_processes(), self._note):
            super().setup_environment()
            _close_the_process_group_at_exit()
            self._roll_call = RollCall(self._note)

    def on_exception(self, exception: BaseException) -> None:
        super().on_exception(exception)
        if self._roll_call is None:
            return
        if not isinstance(exception, Exception):  # somebody wants the run to end
            self._roll_call.leave()
            return
        first_line = (str(exception).splitlines() or [""])[0]
        if isinstance(exception, BadInput | TrainingDiverged | torch.OutOfMemoryError):
            self._roll_call.leave(first_line)
            return
        if isinstance(exception, RuntimeError):  # it may come from the loss of another process
            self._roll_call.wait()
        self._roll_call.leave(f"{type(exception).__name__}: {first_line}")

    def teardown(self) -> None:
        if self._roll_call is not None:
            self._roll_call.leave()
        super().teardown()
