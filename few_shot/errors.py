"""What is raised for a user's mistake and for a run that cannot go on."""


class BadInput(ValueError):
    """What the user gave cannot be used.

    The message is one sentence that names the flag or the file and says what to do. The command line prints it
    without a traceback and exits with status 2.
    """


class TrainingDiverged(RuntimeError):
    """The loss or its gradient is no longer finite; the message names the update, the tasks and the last checkpoint."""


def at_least(least: int, value: int, flag: str) -> int:
    """Return ``value``, or raise BadInput with the flag's name."""
    if value < least:
        raise BadInput(f"--{flag}={value} is too small: it must be at least {least}.")
    return value


def above_zero(flag: str, value: float | None) -> None:
    """Raise BadInput with the flag's name unless the value is above zero, or None."""
    if value is not None and not value > 0:
        raise BadInput(f"--{flag}={value} must be above 0.")
