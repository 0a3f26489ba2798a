"""What runs are called where several are shown together."""

from collections.abc import Mapping, Sequence
from typing import Any

#: Algorithms whose class's name, without its Lit, is not their name.
NAMES = {
    "LitMetaSGD": "Meta-SGD",
    "LitMAMLPlusPlus": "MAML++",
    "LitIMAML": "iMAML",
    "LitProtoMAML": "Proto-MAML",
    "LitJoint": "joint training",
    "LitRandom": "random initialisation",
}
#: What says where a run is and how it computes, not what it is.
ELSEWHERE = {"log_dir", "data_dir", "gpus", "num_workers", "num_processes", "keep_memory", "wandb", "profile"}


def algorithm_name(config: Mapping[str, Any]) -> str:
    """The algorithm of a run's config, as papers write it."""
    name = str(config.get("lit_model_class", "a run")).rpartition(".")[2]
    if name == "LitMAML" and config.get("first_order"):
        return "FOMAML"
    return NAMES.get(name, name.removeprefix("Lit"))


def run_names(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each of several runs: its algorithm; where two have the same, what differs, or else a number."""
    algorithms = [algorithm_name(config) for config in configs]
    found: list[str] = []
    for config, algorithm in zip(configs, algorithms, strict=True):
        alike = [c for c, other in zip(configs, algorithms, strict=True) if other == algorithm]
        flags = sorted(set().union(*alike) - (ELSEWHERE - {"data_dir"} if _has_own_pictures(config) else ELSEWHERE))
        differing = [flag for flag in flags if any(c.get(flag) != config.get(flag) for c in alike)]
        name = ", ".join([algorithm, *(f"{flag}={config.get(flag)}" for flag in differing[:3])])
        again = sum(other == name or other.startswith(f"{name} (") for other in found)
        found.append(f"{name} ({again + 1})" if again else name)
    return found


def _has_own_pictures(config: Mapping[str, Any]) -> bool:
    """Whether the folder says which pictures they are."""
    return str(config.get("data_class")).rpartition(".")[2] == "ImageFolders"
