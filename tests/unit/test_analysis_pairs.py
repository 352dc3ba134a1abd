"""Cells aligned image by image: orders of keys, seeds, defences, versions of the data, and what does not fit."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from limla.analysis.pairs import Runs, collect, common_runs, runs_by_seed
from limla.errors import DataError
from tests.unit.cells import FGSM, Cell, cell, evidence
from tests.unit.reported import NONE, PGD

SEEDED = ("fgsm", "linf", 8 / 255, '{"seed":0}')


def runs_of(quality: int | None, *cells: Cell) -> Runs:
    """The runs at one quality, of one subject without attack or defence."""
    found = evidence(*cells)
    (runs,) = [runs for slot, runs in found.runs.items() if slot.is_plain and slot.variant[1] == quality]
    return runs


def defended(quality: str, settings: str, attack: str = "none", threat: str = "") -> dict[str, str]:
    """The fields of a defended condition."""
    return {
        "defence_codec": "jpeg",
        "defence_quality": quality,
        "attack_settings": settings,
        "attack": attack,
        "threat": threat,
    }


def test_seeds_become_rows_by_rising_seed() -> None:
    runs = runs_of(10, cell(10, "1100", seed=2), cell(10, "1111", seed=0), cell(10, "0001", seed=1))
    assert runs.seeds == (0, 1, 2)
    assert runs.correct().tolist() == [[1, 1, 1, 1], [0, 0, 0, 1], [1, 1, 0, 0]]
    assert runs.correct().dtype == np.bool_
    assert runs.predictions().tolist() == [[0, 1, 2, 0], [1, 2, 0, 0], [0, 1, 0, 1]]
    assert runs.losses()[1] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert runs.confidences().shape == (3, 4)
    assert runs.labels().tolist() == [0, 1, 2, 0]
    assert runs.num_images == 4


def test_another_order_of_images_is_brought_into_the_common_one() -> None:
    found = evidence(cell(1, "1000"), cell(10, "0011", keys="dcba"), cell(None, "1010", keys="badc"))
    by_quality = {slot.variant[1]: runs for slot, runs in found.runs.items()}
    assert [runs.orders[0] is None for runs in by_quality.values()] == [True, False, False]
    for runs in by_quality.values():
        assert runs.keys().to_pylist() == ["test/a", "test/b", "test/c", "test/d"]
        assert runs.labels().tolist() == [0, 1, 2, 0]
        assert runs.losses()[0] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert by_quality[1].correct().tolist() == [[1, 0, 0, 0]]
    assert by_quality[10].correct().tolist() == [[1, 1, 0, 0]]
    assert by_quality[None].correct().tolist() == [[0, 1, 0, 1]]


@pytest.mark.parametrize(
    ("keys", "problem"),
    [("abce", "different images"), ("abc", "different images"), ("abcde", "different images")],
)
def test_other_images_are_refused_and_both_cells_named(keys: str, problem: str) -> None:
    cells = [cell(1, "1111"), cell(10, "1" * len(keys), keys=keys)]
    with pytest.raises(DataError, match=problem) as caught:
        evidence(*cells)
    for condition, _ in cells:
        assert condition.cell_id in str(caught.value)


def test_an_image_that_stands_twice_is_refused_in_the_first_cell_and_in_a_later_one() -> None:
    with pytest.raises(DataError, match="holds an image twice"):
        evidence(cell(1, "1111", keys="abca"))
    # as many rows, but one image missing
    with pytest.raises(DataError, match="different images"):
        evidence(cell(1, "1111"), cell(10, "1111", keys="abca"))


def test_equal_images_with_other_labels_are_refused() -> None:
    right, (condition, table) = cell(1, "1111"), cell(10, "1111")
    place = table.column_names.index("label")
    changed = table.set_column(place, table.schema.field("label"), pa.array([0, 1, 2, 1], pa.int32()))
    with pytest.raises(DataError, match="different labels"):
        evidence(right, (condition, changed))


def test_simulated_cells_are_no_evidence() -> None:
    found = evidence(cell(1, "1100"), cell(1, "0000", simulation="dali"), cell(5, "0000", simulation="cpu"))
    assert [slot.variant for slot in found.runs] == [("jpeg", 1)]
    assert found.runs[next(iter(found.runs))].correct().tolist() == [[1, 1, 0, 0]]
    assert collect([cell(1, "1100", simulation="dali")], {}) == []


def test_runs_pair_by_checkpoint_and_those_that_miss_are_left_out() -> None:
    found = evidence(
        *(cell(None, "1111", seed=seed) for seed in (0, 1, 2)),
        cell(10, "0110", seed=2),
        cell(10, "1100", seed=0),
        cell(50, "1000", seed=1),
    )
    runs = {slot.variant[1]: runs for slot, runs in found.runs.items()}
    pair = common_runs(runs[None], runs[10])
    assert pair is not None
    assert pair[0].seeds == pair[1].seeds == (0, 2)
    assert pair[1].correct().tolist() == [[1, 1, 0, 0], [0, 1, 1, 0]]
    assert common_runs(runs[10], runs[50]) is None


def test_two_subjects_pair_by_seed_or_else_in_order() -> None:
    def runs(train_quality: str, *seeds: int) -> Runs:
        return runs_of(
            10,
            *(
                cell(
                    10,
                    f"{seed:04b}",
                    seed=seed,
                    train_quality=train_quality,
                    checkpoint_id=f"{train_quality}{seed}",
                )
                for seed in seeds
            ),
        )

    before, after = runs_by_seed(runs("source", 0, 1, 2), runs("10", 2, 1, 5))
    assert (before.seeds, after.seeds) == ((1, 2), (1, 2))
    before, after = runs_by_seed(runs("source", 0, 1, 2), runs("10", 7, 8))
    assert (before.seeds, after.seeds) == ((0, 1), (7, 8))


def test_one_attack_is_one_slot_axis_with_and_without_a_defence() -> None:
    draws = '{"defence":{"version":"1"},"seed":0}'
    found = evidence(
        cell(None, "1111"),
        cell(None, "1111", **defended("10+50", draws)),
        cell(None, "1111", **defended("50", '{"defence":{"version":"1"}}')),
        cell(None, "1110", FGSM),
        cell(None, "1100", FGSM, **defended("10+50", draws, "fgsm", "static")),
        cell(None, "1000", FGSM, **defended("50", '{"defence":{"version":"1"}}', "fgsm", "bpda")),
    )
    said = [
        (slot.attack.label, slot.defence.label if slot.defence else "", slot.threat, int(runs.correct().sum()))
        for slot, runs in found.runs.items()
    ]
    assert said == [
        ("no attack", "", "", 4),
        ("no attack", "jpeg q10+50 at random", "", 4),
        ("no attack", "jpeg q50", "", 4),
        ("FGSM, ε = 8/255", "", "", 3),
        ("FGSM, ε = 8/255", "jpeg q10+50 at random", "static", 2),
        ("FGSM, ε = 8/255", "jpeg q50", "bpda", 1),
    ]


def test_an_attack_that_draws_keeps_its_seed_behind_a_defence_that_draws() -> None:
    defence = '{"alpha":0.0078,"defence":{},"random_start":true,"seed":0,"steps":10}'
    start = (*PGD[:3], '{"alpha":0.0078,"random_start":true,"seed":0,"steps":10}')
    found = evidence(
        cell(1, "1"), cell(1, "1", start), cell(1, "0", start, **defended("10+50", defence, "pgd", "static"))
    )
    assert len({slot.attack for slot in found.runs if not slot.attack.is_none}) == 1
    assert "seed" in [slot.attack.attack_settings for slot in found.runs][-1]


def test_two_versions_of_a_defence_are_told_apart() -> None:
    found = evidence(
        cell(1, "1", **defended("50", '{"defence":{"version":"1"}}')),
        cell(1, "1", **defended("50", '{"defence":{"version":"2"}}')),
    )
    labels = [slot.defence.label for slot in found.runs if slot.defence]
    assert len(set(labels)) == 2
    assert all(label.startswith("jpeg q50 (") for label in labels)


def test_a_slot_is_the_float32_cell_of_the_largest_batch() -> None:
    runs = runs_of(
        1,
        cell(1, "0000", precision="bfloat16", batch_size=64),
        cell(1, "1100", batch_size=16),
        cell(1, "1110", batch_size=32),
    )
    assert runs.correct().tolist() == [[1, 1, 1, 0]]


def test_how_a_model_was_trained_tells_subjects_apart() -> None:
    found = evidence(
        cell(1, "1"),
        cell(1, "0", train_method="pgd linf eps 8/255", checkpoint_id="madry"),
        cell(1, "1", NONE, seed=1),
    )
    assert [(subject.label, len(subject.checkpoints)) for subject in found.subjects] == [
        ("MobileNetV2 · originals", 2),
        ("MobileNetV2 · originals, pgd linf eps 8/255", 1),
    ]
    assert [subject.is_clean_trained for subject in found.subjects] == [True, False]


def test_splits_are_never_mixed() -> None:
    found = collect([cell(1, "11"), cell(1, "10", split="val"), cell(1, "11", dataset="animals")], {})
    assert [(item.dataset, item.split, len(item.runs)) for item in found] == [
        ("animals", "test", 1),
        ("flowers", "test", 1),
        ("flowers", "val", 1),
    ]


def test_two_versions_of_the_shards_are_refused_where_nothing_tells_which_is_meant() -> None:
    with pytest.raises(DataError, match="2 different versions"):
        evidence(cell(1, "11"), cell(1, "10", data_id="older", seed=1))


def test_cells_of_several_precisions_are_noted() -> None:
    alike = evidence(cell(None, "111"), cell(10, "110"), cell(10, "100", precision="bfloat16"))
    assert alike.notes == []  # there is a float32 cell of each
    mixed = evidence(cell(None, "111"), cell(10, "110", precision="bfloat16"))
    assert mixed.notes == [
        "MobileNetV2 · originals: some of its cells were evaluated in bfloat16 and some in float32; "
        "differences between them are partly those of the arithmetic."
    ]
