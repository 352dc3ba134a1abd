"""Rows whose numbers are known, the report's page as text and tags, for the suites of the report."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from limla.manifest import Manifest, variant_name
from limla.results import Condition, EncodingRow, PredictionRow, encoding_table, write_predictions, write_table
from limla.shards import ShardEntry

QUALITIES = (1, 10, 50)
HOSTILE = ("<script>alert(1)</script>", r"$\frac{$ & \"quoted\"", "日本の花")
NUM_IMAGES = 60
RATES = {1: 0.25, 10: 0.5, 50: 1.0, None: 4.0}
NONE = ("none", "", 0.0, "{}")
PGD = ("pgd", "linf", 8 / 255, '{"alpha":0.0078,"random_start":true,"steps":10}')
# images of 60 that are right, by (attack, test quality)
CORRECT = {
    ("none", None): 54,
    ("none", 50): 54,
    ("none", 10): 48,
    ("none", 1): 21,
    ("pgd", None): 6,
    ("pgd", 50): 6,
    ("pgd", 10): 30,
    ("pgd", 1): 18,
}


class Reader(HTMLParser):
    """Collects what the tests ask about, and refuses badly nested HTML."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.stack, f"</{tag}> closes nothing"
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.stack):
            self.text.append(data)


def read_page(path: Path) -> Reader:
    """What `Reader` collects of a page; every tag must be closed."""
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    assert reader.stack == []
    return reader


def without_plotly(path: Path) -> str:
    """The page's HTML without the scripts that run; the data of plots stays."""
    return re.sub(r"<script>.*?</script>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def plots_of(path: Path) -> dict[str, Any]:
    """What each plot is given, by the id of its element."""
    blocks = re.findall(
        r'<script type="application/json" id="([^"]*)-data">(.*?)</script>', path.read_text(encoding="utf-8")
    )
    return {name: json.loads(text) for name, text in blocks}


def text_of(path: Path) -> str:
    """The page's text, its white space single."""
    return " ".join(" ".join(read_page(path).text).split())


def write_data(folder: Path, dataset: str = "flowers", names: Sequence[str] = HOSTILE) -> Path:
    """Shard folders as far as a report reads them: manifests and encodings."""
    for quality in (None, *QUALITIES):
        codec = "source" if quality is None else "jpeg"
        variant = folder / variant_name(codec, quality)
        shard = ShardEntry("test-000000.tar", "test", NUM_IMAGES, 1000, f"sha-{dataset}-{quality}")
        audit = {
            "warnings": ["JPEG quality of the sources depends on the class"],
            "all": {"converted": {"orientation": 3, "alpha": 1}},
            "notes": {"ICC profile that is not sRGB": 4},
        }
        summary = {"found": 62, "packed": 60, "quarantined": 2, "skipped": 0, "audit": audit}
        manifest = Manifest(
            dataset,
            codec,
            quality,
            tuple(names),
            (shard,),
            {"subsampling": "420"},
            {"simplejpeg": "1.9"},
            summary,
        )
        psnr = math.inf if quality is None else 20.0 + quality / 10
        rows = [
            EncodingRow(
                f"test/{number}",
                "test",
                codec,
                quality,
                80,
                100,
                round(RATES[quality] * 1000),
                RATES[quality],
                psnr if number < 20 and quality is not None else None,
                0.9 if number < 20 and quality is not None else None,
            )
            for number in range(NUM_IMAGES)
        ]
        write_table(variant / "encoding.parquet", encoding_table(rows))
        manifest.write(variant)
    return folder


def condition(quality: int | None, attack: tuple[str, str, float, str] = NONE, **changes: object) -> Condition:
    """The flowers' cell of one test quality (None: the originals); `changes` are fields of it."""
    dataset = str(changes.pop("dataset", "flowers"))
    shard_sha = f"sha-{dataset}-{quality}"
    shard = ShardEntry("test-000000.tar", "test", NUM_IMAGES, 1000, shard_sha)
    data_id = Manifest(dataset, "jpeg", quality, HOSTILE, (shard,), {}, {}).data_id("test")
    base = Condition(
        dataset=dataset,
        data_id=data_id,
        split="test",
        task="classification",
        model="MobileNetV2",
        checkpoint_id="c0ffee0000000000",
        seed=0,
        train_codec="source",
        train_quality="source",
        train_method="standard",
        test_codec="source" if quality is None else "jpeg",
        test_quality=quality,
        simulation="",
        preprocessing="shorter73-crop64",
        attack=attack[0],
        norm=attack[1],
        eps=attack[2],
        attack_settings=attack[3],
        threat="",
        defence_codec="",
        defence_quality="",
        decoder="cpu",
        precision="float32",
        batch_size=32,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def rows_with(num_correct: int) -> list[PredictionRow]:
    """60 images of three classes of which the first `num_correct` are right."""
    return [
        PredictionRow(
            f"test/{number}", number % 3, (number + (number >= num_correct)) % 3, number < num_correct, 0.5, 0.8
        )
        for number in range(NUM_IMAGES)
    ]


def write_results(folder: Path, attacks: Sequence[tuple[str, str, float, str]] = (NONE, PGD)) -> Path:
    """One cell per attack and quality, with the `CORRECT` images right."""
    for attack in attacks:
        for quality in (None, *QUALITIES):
            write_predictions(folder, condition(quality, attack), rows_with(CORRECT[attack[0], quality]))
    return folder


def read_csv(path: Path) -> list[dict[str, str]]:
    """One dict per line."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
