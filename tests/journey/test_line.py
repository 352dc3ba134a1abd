"""The whole line, as a user types it, on a small folder of photos."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from limla.cli import limla
from limla.manifest import list_variants, read_manifest
from limla.results import read_predictions
from tests.conftest import natural_like


def type_in(*words: object) -> Result:
    """Run one `limla` command line in this process."""
    return CliRunner().invoke(limla, [str(word) for word in words])


@pytest.fixture(scope="module")
def study_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study on the calibration dataset, small enough for seconds."""
    folder = tmp_path_factory.mktemp("line")
    done = type_in("calibration", folder / "photos", "--images", 12, "--image-size", 32)
    assert done.exit_code == 0, done.output
    path = folder / "study.toml"
    path.write_text(
        """
        raw = "photos"
        data_dir = "shards/calibration"
        output_dir = "out"
        qualities = [1, 50]
        measure = 8
        models = ["compact"]
        train = ["source", [1, 50]]
        image_size = 32
        resize = "none"
        loader = "cpu"
        device = "cpu"
        split = { train = 0.5, val = 0.25, test = 0.25 }
        training = { epochs = 2, batch_size = 16 }
        evaluation = { attacks = ["fgsm", "pgd"], eps = ["2/255", "8/255"], steps = 2, batch_size = 5 }
        """,
        encoding="utf-8",
    )
    return path


@pytest.mark.slow
def test_one_command_from_photos_to_a_report(study_file: Path) -> None:
    done = type_in("run", study_file)
    assert done.exit_code == 0, done.output
    folder = study_file.parent
    assert str(folder / "out" / "report.html") in done.output

    data_dir = folder / "shards" / "calibration"
    assert list_variants(data_dir) == ["source", "jpeg-q1", "jpeg-q50"]
    manifests = [read_manifest(data_dir / name) for name in list_variants(data_dir)]
    assert len({manifest.class_names for manifest in manifests}) == 1
    assert [manifest.num_samples("test") for manifest in manifests] == [24, 24, 24]

    predictions = read_predictions(folder / "out" / "results")
    # 2 models × 3 test qualities × (none + fgsm and pgd at two eps)
    assert len(predictions) == 2 * 3 * 5
    keys = {tuple(table["key"].to_pylist()) for _, table in predictions}
    assert len(keys) == 1, "every condition sees the same images in the same order"
    assert {condition.train_quality for condition, _ in predictions} == {"source", "1+50"}

    with (folder / "out" / "metrics.csv").open(encoding="utf-8") as file:
        names = {row["metric"] for row in csv.DictReader(file)}
    assert {"accuracy", "robust_accuracy", "attack_success_rate", "f1_macro"} <= names

    files = {path: path.read_bytes() for path in (folder / "out" / "results" / "predictions").iterdir()}
    report = (folder / "out" / "report.html").read_bytes()
    again = type_in("run", study_file)
    assert again.exit_code == 0, again.output
    assert {path: path.read_bytes() for path in files} == files
    assert (folder / "out" / "report.html").read_bytes() == report


@pytest.mark.slow
def test_a_checkpoint_is_used_by_hand_on_another_quality(study_file: Path) -> None:
    folder = study_file.parent
    if not (folder / "out" / "models").exists():
        assert type_in("run", study_file).exit_code == 0
    (checkpoint,) = (folder / "out" / "models").glob("compact-seed0-source-*/best.pt")
    data_dir = folder / "shards" / "calibration"
    done = type_in("reencode", data_dir, "--quality", "20", "--measure", "none")
    assert done.exit_code == 0, done.output
    done = type_in(
        *("evaluate", "--checkpoint", checkpoint, "--data-dir", data_dir, "--quality", "20"),
        *("--attack", "none", "--output-dir", folder / "by-hand", "--device", "cpu"),
    )
    assert done.exit_code == 0, done.output
    ((condition, table),) = read_predictions(folder / "by-hand")
    assert (condition.test_codec, condition.test_quality, table.num_rows) == ("jpeg", 20, 24)

    photo = next((folder / "photos" / "coarse-vertical").iterdir())
    done = type_in("predict", "--checkpoint", checkpoint, photo, "--quality", "10")
    assert done.exit_code == 0, done.output
    assert "coarse" in done.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run",), "name a study file"),
        (("run", "absent.toml"), "absent.toml: no such file"),
        (("pack", "absent", "out"), "absent"),
        (("reencode", "absent", "--quality", "10"), "absent"),
        (("train", "--data-dir", "absent", "--output-dir", "out"), "absent"),
        (("report", "absent"), "absent"),
        (("evaluate", "--data-dir", "absent", "--output-dir", "out"), "checkpoint"),
        (("fetch", "mnist3d", "out"), "unknown dataset 'mnist3d'"),
        (("export", "absent", "out"), "absent"),
        (("verify", "absent"), "absent"),
        (("predict", "--checkpoint", "absent.pt", "x.jpg"), "absent.pt"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    words: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = type_in(*words)
    assert done.exit_code == 2, done.output
    assert message in done.output
    assert "Traceback" not in done.output
    assert not (tmp_path / "out").exists(), "nothing is left behind"


def test_a_file_where_a_folder_must_go_is_one_line(tmp_path: Path, photo_folder: Path) -> None:
    (tmp_path / "taken").write_text("mine", encoding="utf-8")
    for target in (tmp_path / "taken", tmp_path / "taken" / "below"):
        done = type_in("pack", photo_folder, target)
        assert done.exit_code == 2, done.output
        assert "choose" in done.output
        assert "Traceback" not in done.output
    assert (tmp_path / "taken").read_text(encoding="utf-8") == "mine"


def test_help_lists_every_command_without_importing_torch() -> None:
    script = (
        "import sys\nfrom limla.cli import limla\n"
        "try:\n    limla(['--help'])\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'nvidia.dali', 'pyarrow', 'scipy', 'matplotlib', 'sklearn'} & sys.modules.keys()\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("pack", "reencode", "train", "evaluate", "report", "run"):
        assert f"\n  {name} " in done.stdout


def test_python_in_five_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's Python example, run as it stands there."""
    from PIL import Image

    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    example = readme.split("```python\n")[1].split("```")[0]
    for label, name in enumerate(("cat", "dog")):
        for number in range(12):
            path = tmp_path / "photos" / name / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(natural_like(40, 48, seed=50 * label + number)).save(path, quality=90)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
