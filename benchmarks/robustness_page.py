"""The section of docs/results.md about attacks on compressed images, from benchmarks/results/robustness.json."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tables import machine_line, table

_THREATS = ("static", "bpda", "differentiable", "eot-bpda", "eot-differentiable")


def _share(measured: dict[str, float] | None) -> str:
    if measured is None:
        return "–"
    return f"{100 * measured['value']:.0f} [{100 * measured['low']:.0f}, {100 * measured['high']:.0f}]"


def _defence_table(rows: list[dict[str, Any]]) -> str:
    """One line per defence: clean accuracy behind it, and robust accuracy per threat model."""
    threats = [threat for threat in _THREATS if any(row["threat"] == threat for row in rows)]
    by_cell = {(row["defence"], row["threat"]): row for row in rows}
    first = rows[0]
    body = [["no defence", _share(first["clean"]), _share(first["robust"]), *[""] * (len(threats) - 1), ""]]
    for defence in dict.fromkeys(row["defence"] for row in rows):
        found = [by_cell.get((defence, threat)) for threat in threats]
        any_row = next(row for row in found if row is not None)
        rate = any_row["rate_bpp"]
        body.append(
            [
                defence,
                _share(any_row["clean_defended"]),
                *("" if row is None else _share(row["robust_defended"]) for row in found),
                "" if rate is None else f"{rate['value']:.2f}",
            ]
        )
    return table(["", "clean", *threats, "bpp at the input"], body)


def _answer(data: dict[str, Any], subject: str) -> str:
    """What JPEG leaves of an iterative attack, against one who does not know of it and one who differentiates it."""
    body: list[list[str]] = []
    rows = [row for row in data["defences"] if row["subject"] == subject and row["attack"].startswith("PGD")]
    for attack in dict.fromkeys(row["attack"] for row in rows):
        of_attack = [row for row in rows if row["attack"] == attack]
        # only defences that met both kinds of attacker
        both = {row["defence"] for row in of_attack if row["threat"] == "differentiable"}
        line = [attack, _share(of_attack[0]["clean"]), _share(of_attack[0]["robust"])]
        for threat in ("static", "differentiable"):
            found = [row for row in of_attack if row["threat"] == threat and row["defence"] in both]
            best = max(found, key=lambda row: row["robust_defended"]["value"])
            worst = min(found, key=lambda row: row["robust_defended"]["value"])
            line += [f"{_share(row['robust_defended'])} ({row['defence']})" for row in (best, worst)]
        body.append(line)
    header = [
        "",
        "clean",
        "no defence",
        "static: best",
        "static: worst",
        "differentiable: best",
        "differentiable: worst",
    ]
    return table(header, body)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min"


def section(data: dict[str, Any]) -> list[str]:
    """The section's paragraphs."""
    counts = data["num_samples"]
    starts = "; ".join(
        f"{start['cells_before']} to {start['cells_after']} cells in {_minutes(start['seconds'])}, {start['end']}"
        for start in data["starts"]
    )
    parts = [
        "## Compression and attacks: flower photos, two training conditions, three seeds",
        f"```\n{data['command']}\n```",
        f"{machine_line(data)}.",
        f"{sum(counts.values())} images ({', '.join(f'{split} {number}' for split, number in counts.items())}); "
        f"{', '.join(data['models'])} at {data['image_size']} pixels, seeds {', '.join(map(str, data['seeds']))}; "
        f"{data['num_cells']} cells. The study was killed once with SIGKILL and went on: {starts}. Training took "
        f"{_minutes(data['seconds_training'])}, attacks and models {_minutes(data['seconds_attacks_and_models'])}.",
        "### Does JPEG defend?",
        "Robust accuracy in %, with 95% intervals over images and seeds: the best and the worst of the JPEG qualities "
        "that met both an attacker who does not know of the codec (static) and one who differentiates a model of it.",
    ]
    for subject in dict.fromkeys(row["subject"] for row in data["defences"]):
        parts += [f"**{subject}**", _answer(data, subject)]
    parts.append("### What limla's report says, sentence by sentence")
    for title, sentences in data["findings"].items():
        parts += [f"**{title}**", "\n".join(f"- {text}" for text in sentences)]
    parts.append(
        "### Robust accuracy behind JPEG, in %, with 95% intervals over images and seeds\n\n"
        'Columns: what the attacker knows of the codec. The line "no defence" is the attack on the bare model; clean: '
        "without attack."
    )
    rows = [row for row in data["defences"] if row["eps"]]
    groups = dict.fromkeys((row["subject"], row["attack"]) for row in rows)
    for subject, attack in groups:
        chosen = [row for row in rows if (row["subject"], row["attack"]) == (subject, attack)]
        parts += [f"**{subject}: {attack}**", _defence_table(chosen)]
    verdicts = Counter((check["name"], check["verdict"]) for check in data["checks"])
    names = dict.fromkeys(check["name"] for check in data["checks"])
    parts += [
        "### Checks for gradient masking",
        table(
            ["", "holds", "breached", "not tested"],
            [
                [name, *(str(verdicts[name, verdict]) for verdict in ("holds", "breached", "not tested"))]
                for name in names
            ],
        ),
    ]
    return parts
