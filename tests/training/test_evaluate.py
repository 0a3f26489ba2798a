"""A checkpoint is tested again; a published result says so where the pictures are others, or in another order."""

import json
import shutil

import pytest
from helpers import write_random_class_folders

from few_shot import MAML, load
from few_shot.models import SinusoidMLP
from training import evaluate, run_experiment


def test_a_learner_without_a_run_is_tested_from_python(tmp_path, capsys):
    MAML(SinusoidMLP(width=4)).save(path := tmp_path / "m.ckpt")
    with pytest.raises(SystemExit):
        evaluate.main([f"--checkpoint={path}"])
    said = " ".join(capsys.readouterr().err.split())
    assert f"{path} does not say a run's flags: in Python, few_shot.load('{path}').score(data) tests it." in said


@pytest.mark.usefixtures("no_pictures")
def test_a_published_result_is_got_again_on_its_own_pictures_alone(tmp_path, capsys):
    images = write_random_class_folders(tmp_path / "images", classes=3, images=4)
    flags = ["--episode_classes=2", "--query_samples=2", "--test_query_samples=2", "--width=4", "--test_episodes=3"]
    flags += ["--data_class=MiniImagenet", f"--data_dir={images}", f"--log_dir={tmp_path}", "--gpus=0"]
    summary = run_experiment.main([*flags, "--max_steps=1", "--val_episodes=2"])
    assert len(summary["pictures"]) == 16

    run, published = tmp_path / "MiniImagenet-LitMAML" / "version_0", tmp_path / "published"
    published.mkdir()
    shutil.copy(run / "config.yaml", published)
    load(run).save(published / "weights.safetensors")
    (published / "test_2query.json").write_text(json.dumps(summary))
    capsys.readouterr()
    assert evaluate.main([f"--checkpoint={published}"]) == summary
    assert "another order" not in capsys.readouterr().out

    (images / "test" / "test0" / "0.png").rename(images / "test" / "test0" / "9.png")
    other = evaluate.main([f"--checkpoint={published}"])
    assert other["pictures"] != summary["pictures"]
    assert f"{published} is of other pictures than those in {images}, or of the same in another order" in (
        " ".join(capsys.readouterr().out.split())
    )
    evaluate.main([f"--checkpoint={published}", "--split=val"])
    assert "another order" not in capsys.readouterr().out
