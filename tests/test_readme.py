"""The README is right: its commands run, its table is its records', its picture is there."""

import re
import runpy
import shlex
import subprocess
from pathlib import Path

import pytest
from helpers import write_random_class_folders

import few_shot.lit_models
from benchmarks.pipeline import build_noise_store
from training import evaluate, report, run_experiment, visualize
from training.command_line import parse

pytestmark = pytest.mark.usefixtures("no_pictures")

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()]
RUNS = [c for c in COMMANDS if c.startswith("python training/")]
TABLE_RUNS = re.findall(r"`(python training/run_experiment\.py [^`]*)` \|", README)


@pytest.fixture(scope="module")
def generated_data(tmp_path_factory):
    """Five classes of twenty small images a split, as mini-ImageNet's class folders."""
    return write_random_class_folders(tmp_path_factory.mktemp("data"), classes=5, images=20)


@pytest.fixture(scope="module")
def generated_stores(tmp_path_factory):
    """Built stores of Omniglot and CIFAR-FS, eighty classes of twenty images a split; their sources are gone."""
    root = tmp_path_factory.mktemp("stores")
    for name, shape in (("omniglot_binary", (1, 28, 28)), ("cifar_fs", (3, 32, 32))):
        build_noise_store(root, name, shape, classes=80, images=20)
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What the README's first command leaves."""
    logs = tmp_path_factory.mktemp("logs")
    run_experiment.main(
        ["--data_class=Sinusoid", "--gpus=0", "--max_steps=1", "--test_episodes=5", f"--log_dir={logs}"]
    )
    return logs / "Sinusoid-LitMAML" / "version_0"


def test_there_are_commands():
    assert len(RUNS) >= 9
    assert len(TABLE_RUNS) >= 3


@pytest.mark.parametrize("command", [*RUNS, *TABLE_RUNS])
def test_command_runs_for_one_step(command, generated_data, generated_stores, run, tmp_path):
    script, *flags = shlex.split(command.replace("logs/Sinusoid-LitMAML/version_0", str(run)))[1:]
    if script.endswith(("visualize.py", "report.py")):
        main = visualize.main if script.endswith("visualize.py") else report.main
        main([*flags, f"--output={tmp_path / 'picture.png'}"])
        assert (tmp_path / "picture.png").stat().st_size > 10_000
        return
    small = ["--test_episodes=2", "--gpus=0"]
    if script.endswith("evaluate.py"):
        evaluate.main([*flags, *small])
        return
    small.append("--val_episodes=2")
    resuming = any(f.startswith("--resume") for f in flags)
    experiment = parse(flags, "test")
    if experiment.classes["data_class"].__name__ in ("Omniglot", "CifarFS"):
        small += [f"--data_dir={generated_stores}", "--width=4", "--batch_size=1"]
    elif experiment.classes["data_class"].__name__ == "MiniImagenet":
        small += [f"--data_dir={generated_data}", "--inner_loop_steps=1", "--test_inner_loop_steps=1"]
        small += ["--query_samples=1", "--test_query_samples=1", "--width=4", "--batch_size=1"]
    where = ["--max_steps=2"] if resuming else [f"--log_dir={tmp_path}", "--max_steps=1"]
    run_experiment.main([*flags, *small, *where])


@pytest.mark.parametrize(
    "target", ["train", "test", "gradcheck", "compare", "overfitting", "bench", "lint", "format", "install", "clean"]
)
def test_make_targets_parse(target):
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_make_train_is_a_command_the_parser_takes():
    printed = subprocess.run(["make", "-n", "train"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    command = next(line for line in printed.splitlines() if "run_experiment.py" in line)
    assert parse(shlex.split(command)[2:], "test").options.max_steps == 15_000


def test_table_is_that_of_the_records():
    table = runpy.run_path(str(ROOT / "benchmarks" / "results_table.py"))["table"]()
    assert f"--write -->\n{table}\n<!-- end -->" in README


def test_table_of_speed_is_that_of_the_records():
    tables = runpy.run_path(str(ROOT / "benchmarks" / "speed_table.py"))["tables"]()
    assert f"--write -->\n{tables}\n<!-- end -->" in (ROOT / "docs" / "speed.md").read_text()


def test_links_and_pictures_exist():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{target} on {page}"


def test_every_flag_of_the_table_exists():
    flags = set(re.findall(r"`--(\w+)", README))
    known = set()
    for data_class in ("Sinusoid", "Omniglot", "MiniImagenet"):
        known |= set(parse([f"--data_class={data_class}"], "test").config)
    known |= set(parse(["--data_class=ImageFolders", "--model_class=Timm"], "test").config)
    for algorithm in few_shot.lit_models.__all__:
        known |= set(parse(["--data_class=Omniglot", f"--lit_model_class={algorithm}"], "test").config)
    of_scripts = {"checkpoint", "device", "output", "output_dir", "picture", "steps", "write"}
    assert flags - known - of_scripts - {"config", "resume", "help"} == set()
