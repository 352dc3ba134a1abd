"""benchmarks/codecs_rd.py on two small photos, and that the page's section and figure hold what it gave."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

ROOT = Path(__file__).parents[2]


def test_the_command_writes_the_json_that_the_page_is_made_of(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    script, page, choosing = map(
        importlib.import_module, ("codecs_rd", "codecs_page", "limla.comparison.choosing")
    )
    found = choosing.contenders(["webp"])[0], {"absent": "not installed"}
    monkeypatch.setattr(
        script, "contenders", lambda texts: found if texts is None else choosing.contenders(texts)
    )
    words = [str(photo_folder), "--images", "2", "--qualities", "4", "--codec", "jpeg:subsampling=444"]
    words += ["--output-dir", str(tmp_path / "out"), "--output", str(tmp_path / "found.json")]
    done = CliRunner().invoke(script.main, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    data = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert [codec["codec"] for codec in data["codecs"]] == ["jpeg", "webp", "jpeg:subsampling=444"]
    assert {row["codec"] for row in data["differences"]} == {"webp", "jpeg:subsampling=444"}
    assert data["num_images"] == 2
    rows = pq.read_table(tmp_path / "out" / "rows.parquet").to_pylist()
    needed = sum(row["encode_cpu_s"] + row["decode_cpu_s"] for row in rows)
    assert data["codec_cpu_seconds"] == pytest.approx(needed, abs=0.06)
    text = "\n\n".join(page.section(data))
    for row in data["differences"]:
        assert f"| {row['codec']} | {row['bd_rate_percent']:+.1f} |" in text
    assert "Left out: absent: not installed." in text
    assert page.figure(data) == page.figure(data)
    assert b"jpeg:subsampling=444" in page.figure(data)
    # a second session has nothing to measure: what the parts took stays, its own times do not
    assert CliRunner().invoke(script.main, words, catch_exceptions=False).exit_code == 0
    again = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert again["codec_cpu_seconds"] == data["codec_cpu_seconds"]
    for own in ("last_session_seconds", "last_session_cpu_seconds"):
        del again[own], data[own]
    assert again == data
