"""Splits by hash, keys that every tool can carry."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limla.errors import SettingsError
from limla.packing import PackSettings
from limla.packing.discovery import Discovery, SourceFile, discover
from limla.packing.splitting import class_slugs, file_keys, plan, split_counts
from limla.pictures.walking import printable
from limla.shards import check_key


def found(**classes: int) -> Discovery:
    files = [
        SourceFile(f"{name}/photo{number}.jpg", "", name, f"photo{number}.jpg", 1)
        for name, count in classes.items()
        for number in range(count)
    ]
    return Discovery(class_names=tuple(sorted(classes)), files=files)


def splits(what: Discovery, settings: PackSettings) -> dict[str, str]:
    return {one.file.path: one.split for one in plan(what, settings)[0]}


@pytest.mark.parametrize(
    ("num_images", "fractions", "expected"),
    [
        (10, (0.8, 0.1, 0.1), (8, 1, 1)),
        (120, (0.8, 0.1, 0.1), (96, 12, 12)),
        (100, (0.29, 0.57, 0.14), (29, 57, 14)),
        (3, (0.8, 0.1, 0.1), (1, 1, 1)),
        (2, (0.8, 0.1, 0.1), (1, 1, 0)),
        (1, (0.8, 0.1, 0.1), (1, 0, 0)),
        (5, (0.5, 0.0, 0.5), (3, 0, 2)),
        (7, (0.0, 0.0, 1.0), (0, 0, 7)),
    ],
)
def test_counts(num_images: int, fractions: tuple[float, ...], expected: tuple[int, ...]) -> None:
    counts = split_counts(num_images, dict(zip(("train", "val", "test"), fractions, strict=True)))
    assert tuple(counts.values()) == expected


@given(st.integers(0, 2000), st.integers(0, 100), st.integers(0, 100))
def test_counts_add_up_and_stay_near_the_fractions(num_images: int, first: int, second: int) -> None:
    train = first / 100
    val = (1 - train) * second / 100
    fractions = {"train": train, "val": val, "test": 1 - train - val}
    counts = split_counts(num_images, fractions)
    assert sum(counts.values()) == num_images
    # one for the rounding, and at most two given away to splits that would be empty
    assert all(abs(counts[split] - num_images * share) <= 3 for split, share in fractions.items())
    wanted = [split for split, share in fractions.items() if share > 1e-6]
    assert num_images < len(wanted) or all(counts[split] for split in wanted)


def test_other_classes_do_not_move_an_image() -> None:
    alone = splits(found(cat=50), PackSettings())
    together = splits(found(ant=7, cat=50, dog=30), PackSettings())
    assert {path: split for path, split in together.items() if path.startswith("cat/")} == alone
    assert splits(found(cat=50), PackSettings(seed=1)) != alone
    keys_alone = {one.file.path: one.key for one in plan(found(cat=50), PackSettings())[0]}
    keys_together = {one.file.path: one.key for one in plan(found(ant=7, cat=50), PackSettings())[0]}
    assert keys_alone.items() <= keys_together.items()


def test_a_small_class_is_told() -> None:
    _, warnings = plan(found(cat=50, rare=2), PackSettings())
    assert warnings == ["class 'rare' has 2 images and none of them in test"]
    assert plan(found(cat=50, rare=2), PackSettings(train=0.5, val=0, test=0.5))[1] == []


def test_the_split_is_independent_of_the_label_order() -> None:
    planned, _ = plan(found(b=30, a=30), PackSettings())
    train = [one.label for one in planned if one.split == "train"]
    assert sorted(train) == [0] * 24 + [1] * 24
    assert train != sorted(train)


@pytest.mark.parametrize(
    "fractions",
    [(0.8, 0.1, 0.2), (0.5, 0.1, 0.1), (1.2, -0.1, -0.1), (math.nan, 0.5, 0.5), (math.inf, 0, 0), (0, 0, 0)],
)
def test_fractions_that_are_none(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(SettingsError, match="fraction"):
        PackSettings(train=fractions[0], val=fractions[1], test=fractions[2])


name_text = st.text(min_size=1, max_size=120).filter(
    lambda text: not set(text) & {"/", "\0"} and text not in (".", "..")
)


@settings(deadline=None)
@given(
    st.lists(name_text, min_size=1, max_size=12, unique=True),
    st.lists(name_text, min_size=1, max_size=5, unique=True),
)
def test_keys_are_valid_and_differ_whatever_the_names(stems: list[str], class_names: list[str]) -> None:
    slugs = class_slugs(class_names)
    keys: list[str] = []
    for class_name in class_names:
        files = [
            SourceFile(f"{class_name}/{stem}{suffix}", "", class_name, f"{stem}{suffix}", 1)
            for stem in stems
            for suffix in (".jpg", ".PNG")
        ]
        found_keys = file_keys(slugs[class_name], files)
        assert found_keys == file_keys(slugs[class_name], files[::-1])
        keys += found_keys.values()
    for key in keys:
        check_key(key)
    assert len({key.lower() for key in keys}) == len(keys)


def test_a_forged_hash_makes_no_collision() -> None:
    files = [SourceFile("c/a b.jpg", "", "c", "a b.jpg", 1)]
    (key,) = file_keys("c", files).values()
    forged = SourceFile(f"{key}.jpg", "", "c", f"{key[2:]}.jpg", 1)
    keys = file_keys("c", [*files, forged])
    assert keys[forged.path] == key
    assert len(set(keys.values())) == 2


def test_class_names_that_differ_in_case_or_accents_only() -> None:
    slugs = class_slugs(["Cat", "cat", "café", "cafe"])
    assert slugs["cafe"] == "cafe"
    assert len({slug.lower() for slug in slugs.values()}) == 4


def test_one_class_in_two_unicode_spellings(tmp_path: Path) -> None:
    for folder in ("train/caf\u00e9", "test/cafe\u0301"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.jpg").touch()
    what = discover(tmp_path)
    assert what.class_names == ("caf\u00e9",)
    assert len({one.key for one in plan(what, PackSettings())[0]}) == 2


def test_names_are_shown_on_one_line() -> None:
    assert printable("żółw 🐢.jpg") == "żółw 🐢.jpg"
    assert printable("a\nb\x1b[31m.jpg") == "a\\nb\\x1b[31m.jpg"
    assert printable(b"latin\xe9".decode("utf-8", "surrogateescape")) == "latin\\xe9"
