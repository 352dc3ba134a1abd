"""Mistakes in a study file are found at their line."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from limla.cli import limla
from limla.errors import LimlaError
from limla.plans import AttackPlan
from limla.running import run
from limla.running.stages import dataset_stages, evaluations
from limla.study import read_settings, read_study, study_from
from limla.study.lines import line_of

_TEXT = """\
# a study
output_dir = "out"            # 2
models = [
  "compact",  # a ] in a comment
  "MobileNetV2",
]
training.epochs = 3           # 7

[[datasets]]                  # 9
raw = "photos [1]"

[[datasets]]                  # 12
raw = "others"

[ evaluation ]                # 15
steps = 5
[[evaluation.attacks]]        # 17
name = "fgsm"
[[evaluation.attacks]]        # 19
name = "pgd"
eps = ["1/255", "2/255"]      # 21
[evaluation.attacks.more]     # 22
deep = 1
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("output_dir",), 2),
        (("models",), 3),
        (("models", 1), 3),
        (("training", "epochs"), 7),
        (("training",), 7),
        (("datasets",), 9),
        (("datasets", 0), 9),
        (("datasets", 1, "raw"), 13),
        (("datasets", 1, "missing"), 12),
        (("evaluation",), 15),
        (("evaluation", "steps"), 16),
        (("evaluation", "attacks"), 17),
        (("evaluation", "attacks", 0, "name"), 18),
        (("evaluation", "attacks", 1), 19),
        (("evaluation", "attacks", 1, "eps", 1), 21),
        (("evaluation", "attacks", 1, "more", "deep"), 23),
        (("nowhere",), None),
        ((), None),
    ],
)
def test_an_entry_is_found_at_its_line(path: tuple[str | int, ...], line: int | None) -> None:
    assert line_of(_TEXT, path) == line


_STUDY = """\
output_dir = "out"
models = ["compact"]
[[datasets]]
raw = "photos"
[[codecs]]
qualities = [10, 50]
[[train]]
name = "clean"
[[train]]
name = "drawn"
random_quality = "10-90:40"
[evaluation]
eps = "2/255"
attacks = ["fgsm"]
[[evaluation.defences]]
qualities = [10, 50]
threats = ["static", "bpda"]
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('models = ["compact"]', "modles = []", "line 2: unknown entry 'modles'; known: data_dir"),
        ("[10, 50]\n[[train]]", "[10, 500]\n[[train]]", "line 6: quality 500 is out of range"),
        ('raw = "photos"', 'raw = "photos"\nname = "a/b"', "line 3: dataset name 'a/b': use letters"),
        ('raw = "photos"', 'name = "x"', "line 3: a dataset needs 'raw'"),
        (
            'raw = "photos"',
            'raw = "photos"\nraws = 1',
            "line 5: unknown entry 'datasets.0.raws'; known: data_dir",
        ),
        (
            'name = "clean"',
            "on = 70",
            "line 7: train names quality 70, which is not re-encoded; known: source, 10, 50",
        ),
        ('name = "clean"', "on = [10, 10]", "line 7: a quality is named twice"),
        ('name = "clean"', "epoch = 1", "line 8: unknown entry 'train.0.epoch'; known: on, name, epochs"),
        ('name = "clean"', 'epochs = "many"', "line 8: 'train.0.epochs' is 'many'"),
        ('name = "drawn"', 'name = "clean"', "train names an entry twice"),
        ('name = "clean"', "epochs = true", "line 8: 'train.0.epochs' is True: expected a whole number"),
        (
            'output_dir = "out"',
            'output_dir = "out"\nimage_size = true',
            "line 2: 'image_size' is True: expected a whole",
        ),
        (
            'output_dir = "out"',
            'output_dir = "out"\nseeds = ["1"]',
            "line 2: 'seeds' is ['1']: expected a list of whole",
        ),
        (
            "qualities = [10, 50]\n[[train]]",
            "qualities = [true]\n[[train]]",
            "expected a list of whole numbers",
        ),
        ('eps = "2/255"', 'eps = "2/0"', "line 13: '2/0' is not a number"),
        ('eps = "2/255"', 'alpha = "fast"', "line 13: 'fast' is not a number"),
        ('eps = "2/255"', f"eps = 1{'0' * 400}", "line 13: 1000"),
        ('["fgsm"]', '["fgsn"]', "line 14: unknown attack 'fgsn'"),
        ('["fgsm"]', '"fgsm"', "line 14: 'evaluation.attacks' is 'fgsm': expected a list"),
        (
            '["fgsm"]',
            f'[{{ name = "pgd", steps = 1{"0" * 400} }}]',
            "line 14: steps of attack 'pgd' are out of",
        ),
        ('["fgsm"]', f'[{{ name = "pgd", alpha = 1{"0" * 400} }}]', "line 14: 1000"),
        ('eps = "2/255"', 'attacked = ["source", 10, 10]', "line 13: evaluation.attacked names an entry twice"),
        ('eps = "2/255"', 'defended = ["source", 20]', "line 13: evaluation.defended names quality 20"),
        ('models = ["compact"]', 'models = ["a", "a"]', "line 2: models names an entry twice"),
        ('models = ["compact"]', "seeds = [-1]", "line 2: seed -1 is out of range: choose 0 to"),
        ('models = ["compact"]', f"seeds = [{2**63}]", "line 2: seed 9223372036854775808 is out of range"),
        ('models = ["compact"]', 'loader = "dal\\ni"', "line 2: unknown loader 'dal i'; known: cpu, dali"),
        ('models = ["compact"]', "image_size = 0", "line 2: image size 0 is out of range"),
        ('models = ["compact"]', "measure = -1", "line 2: measure -1: choose a number of images"),
        ("qualities = [10, 50]\n[[train]]", 'subsampling = "410"\n[[train]]', "line 6: unknown chroma"),
        ('raw = "photos"', 'raw = "~nobody-here/photos"', "line 4: '~nobody-here/photos': no such user's home"),
        ('raw = "photos"', 'raw = "pho\\u0000tos"', "line 4: 'pho\\x00tos' holds a null character"),
        ('raw = "photos"', 'raw = "s3://bucket/photos"', "line 4: raw is the URL s3://bucket/photos"),
        ('["fgsm"]', '[{ name = "pgd", step = 3 }]', "line 14: attack 'pgd' takes no step; it takes eps"),
        ('["fgsm"]', "[3]", "line 14: 3: expected an attack's name, or a table"),
        ('threats = ["static", "bpda"]', 'threats = ["statik"]', "line 15: unknown threat model 'statik'"),
        (
            'threats = ["static", "bpda"]',
            'threat = "static"',
            "line 17: unknown entry 'evaluation.defences.0.threat'",
        ),
        (
            'threats = ["static", "bpda"]',
            'threats = ["bpda"]\nrandom = true',
            "line 15: threat model 'bpda' is for",
        ),
        ("[[codecs]]", 'codec = "jpeg"\n[[codecs]]', "line 5: unknown entry 'datasets.0.codec'"),
        (
            'output_dir = "out"',
            'output_dir = "out"\nraw = "x"',
            "line 2: 'raw' and 'datasets' are two ways to say it",
        ),
        ('output_dir = "out"', 'output_dir = "out"\nmargin = 0', "line 2: margin 0 is out of range"),
        ('output_dir = "out"', 'output_dir = "out"\nmargin = 100', "line 2: margin 100 is out of range"),
    ],
)
def test_a_mistake_in_a_file_names_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "study.toml"
    assert _STUDY.count(old) == 1
    path.write_text(_STUDY.replace(old, new), encoding="utf-8")
    with pytest.raises(LimlaError) as caught:
        read_study(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[evaluation]", "[training]\nepochs = 0\n[evaluation]", "line 12: epochs 0 is out of range"),
        ('name = "clean"', "learning_rate = nan", "line 7: learning rate nan is out of range"),
        ('"10-90:40"', '"10-900:40"', "line 9: quality list '10-900:40': 900"),
        ('random_quality = "10-90:40"', 'adversary = "pdg:eps=0.1"', "line 9: unknown attack 'pdg'"),
        ("[evaluation]", "[split]\ntrain = 2\n[evaluation]", "line 12: "),
        ('eps = "2/255"', "batch_size = 0", "line 12: batch size 0 is out of range"),
        ('eps = "2/255"', "eps = 2", "line 12: eps 2 of attack 'fgsm' is out of range"),
    ],
)
def test_a_mistake_that_a_stage_finds_names_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "study.toml"
    assert _STUDY.count(old) == 1
    path.write_text(_STUDY.replace(old, new), encoding="utf-8")
    settings, file = read_settings(path)
    with pytest.raises(LimlaError) as caught:
        run(study_from(settings, file), file=file)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["a = 1" + "0" * 5000, "a = " + "[" * 5000, "a = 1\na = 2"])
def test_what_the_toml_parser_refuses_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "study.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(LimlaError, match=r"study\.toml: not valid TOML: .+"):
        read_study(path)


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(_STUDY, encoding="utf-8-sig")
    assert read_study(path).models == ("compact",)


def test_attacks_may_all_be_for_the_bare_model(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(_STUDY.replace('["fgsm"]', '[{ name = "fgsm", undefended_only = true }]'), encoding="utf-8")
    study = read_study(path)
    defended, attacked, _ = evaluations(study, dataset_stages(study)[0], (tmp_path,))
    assert (defended.attacks, [plan.label for plan in defended.defences]) == (("none",), ["jpeg:10", "jpeg:50"])
    assert attacked.attacks == (AttackPlan("fgsm"),)


def test_the_file_as_it_is_has_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(_STUDY, encoding="utf-8")
    study = read_study(path)
    assert [condition.label for condition in study.train_conditions()] == ["clean", "drawn"]
    assert [defence.label for defence in study.evaluation.defences] == ["jpeg:10", "jpeg:50"]
    assert study.defended_variants() == (("source", None),)
    folder = study.data_dir(study.datasets[0])
    assert folder.parent.parent == tmp_path / "out" / "shards"
    assert folder.name == "photos"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data_dir = 5", "'data_dir' is 5"),
        ("raw = 5", "'raw' is 5"),
        ('data_dir = "shards"\nevaluation = 5', "line 2: 'evaluation' is 5"),
        ('data_dir = "shards"\ntraining = 5', "line 2: 'training' is 5"),
    ],
)
def test_options_beside_a_file_with_a_mistake(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "study.toml"
    path.write_text(text, encoding="utf-8")
    done = CliRunner().invoke(limla, ["run", str(path), "--attack", "fgsm", "--epochs", "1"])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output
    assert message in done.stderr
