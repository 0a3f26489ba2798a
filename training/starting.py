"""What a script does before its imports, which take seconds."""

import os

from training.stopping import end_while_importing

#: How many times a thread that waits for work looks for it before it sleeps: a tenth of what GNU OpenMP takes itself.
#: A thread that spins for longer keeps its core from another program, which may be what it waits for.
SPINS = 30_000


def start() -> None:
    """Have a signal end the program with a sentence from now on, and have waiting threads leave their cores soon.

    It comes before PyTorch is imported, for OpenMP looks at the environment then. A ``GOMP_SPINCOUNT`` or an
    ``OMP_WAIT_POLICY`` that is set already counts.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
    end_while_importing()
