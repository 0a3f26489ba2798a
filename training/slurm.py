"""A job of SLURM that is put into the queue again before its time is over, and goes on when it starts anew.

``sbatch --requeue --signal=USR1@90`` has SLURM send SIGUSR1 ninety seconds before the end.
"""

import os
import subprocess


def job() -> str | None:
    """The number of the job that this process is a part of, the same each time it starts; None outside of SLURM."""
    return os.environ.get("SLURM_JOB_ID")


def has_started_before() -> bool:
    """Whether this job was in the queue again since it first started."""
    return job() is not None and int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0


def requeue() -> str:
    """Have SLURM queue this job again; a sentence on what has become of it."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{part}") for part in ("JOB_ID", "TASK_ID"))
    name = f"{array}_{task}" if array else str(job())
    try:
        done = subprocess.run(["scontrol", "requeue", name], capture_output=True, text=True, check=False)
    except OSError as error:
        return f"Job {name} is not in the queue again: scontrol cannot be run ({error.strerror})."
    if done.returncode:
        return f"Job {name} is not in the queue again: scontrol says {done.stderr.strip() or done.returncode}."
    return f"Job {name} is in the queue again, and goes on by itself."
