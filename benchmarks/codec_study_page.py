"""The section of docs/results.md on codecs and accuracy, and its figure, from benchmarks/results/codec-study.json."""

from __future__ import annotations

import io
from typing import Any

from tables import machine_line, table

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")
_MARKERS = "os^Dv"


def section(data: dict[str, Any]) -> list[str]:
    """Its parts; empty lines go between them."""
    counts = data["num_samples"]
    codecs = list(dict.fromkeys(row["codec"] for row in data["curves"]))
    parts = [
        "## Which codec, at which rate? Flower photos, ten codecs, three seeds",
        f"```\n{data['command']}\n```",
        f"{machine_line(data)}.",
        f"{sum(counts.values())} images ({', '.join(f'{split} {number}' for split, number in counts.items())}), "
        "re-encoded at their own size; "
        f"{', '.join(data['models'])} trained from scratch on the originals at {data['image_size']} pixels, seeds "
        f"{', '.join(map(str, data['seeds']))}; {data['num_cells']} cells. Brackets: 95% intervals over images and "
        "seeds.",
        "![Accuracy against bits per pixel, one line per codec](codec-study.svg)",
        "### What limla's report says, sentence by sentence",
    ]
    for title, sentences in data["findings"].items():
        parts += [f"**{title}**", "\n".join(f"- {text}" for text in sentences)]
    parts += [
        "### Against JPEG: bits at equal accuracy, accuracy at equal bits",
        "BD-rate below 0%: fewer bits than JPEG at equal accuracy. BD-accuracy above 0: more points than JPEG at equal "
        "bits. Only over what both curves reach. Bits at equal PSNR are in the section on rate and distortion.",
        _differences(data),
        "### Accuracy in %, rate and distortion",
        "Accuracy and rate of the test images; PSNR and SSIM of all images, of the learned codec of the test images.",
        _curves(data, codecs),
        *_defences(data),
        "### The codecs",
        table(
            ["codec", "version", "pinned"],
            [
                [
                    codec["codec"],
                    codec["version"],
                    ", ".join(f"{name} {value}" for name, value in codec["settings"].items()),
                ]
                for codec in data["codecs"]
            ],
        ),
    ]
    return parts


def figure(data: dict[str, Any]) -> bytes:
    """Accuracy against mean bits per pixel as SVG."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams.update({"svg.hashsalt": "limla", "svg.fonttype": "none", "font.size": 11})
    drawn, axes = plt.subplots(figsize=(7.6, 3.8), layout="constrained")
    clean = [row for row in data["curves"] if row["attack"] == "no attack"]
    for number, codec in enumerate(dict.fromkeys(row["codec"] for row in clean)):
        rows = sorted((row for row in clean if row["codec"] == codec), key=lambda row: row["rate_bpp"])
        values = [100 * row["value"] for row in rows]
        errors = [
            [100 * (row["value"] - row["low"]) for row in rows],
            [100 * (row["high"] - row["value"]) for row in rows],
        ]
        axes.errorbar(
            # a little aside, so that intervals of equal rates stand beside each other
            [row["rate_bpp"] * 1.012 ** (number - 4.5) for row in rows],
            values,
            errors,
            marker=_MARKERS[number % len(_MARKERS)],
            color=_COLOURS[number % len(_COLOURS)],
            linestyle="-" if number < len(_COLOURS) else "--",
            elinewidth=0.7,
            markersize=4.5,
            label=codec,
        )
    axes.set_xscale("log")
    ticks = (0.125, 0.25, 0.5, 1, 2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("mean bits per pixel (log scale)")
    axes.set_ylabel("accuracy in %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    file = io.BytesIO()
    drawn.savefig(file, metadata={"Date": None})
    plt.close(drawn)
    return file.getvalue()


def _share(row: dict[str, Any]) -> str:
    return f"{100 * row['value']:.1f} [{100 * row['low']:.0f}, {100 * row['high']:.0f}]"


def _curves(data: dict[str, Any], codecs: list[str]) -> str:
    body: list[list[str]] = []
    for codec in codecs:
        rows = [row for row in data["curves"] if row["codec"] == codec and row["attack"] == "no attack"]
        for row in sorted(rows, key=lambda row: row["rate_bpp"]):
            psnr, ssim = row["psnr_db"], row["ssim"]
            body.append(
                [
                    codec,
                    str(row["quality"]),
                    f"{row['rate_bpp']:.3f}",
                    _share(row),
                    "–" if psnr is None else f"{psnr:.2f}",
                    "–" if ssim is None else f"{ssim:.3f}",
                ]
            )
    return table(["codec", "quality", "bits per pixel", "accuracy", "PSNR dB", "SSIM"], body)


def _differences(data: dict[str, Any]) -> str:
    body = [
        [
            row["after"],
            _signed(row["bd_rate_percent"], row["bd_rate_low"], row["bd_rate_high"], 1),
            _signed(row["bd_accuracy"], row["bd_accuracy_low"], row["bd_accuracy_high"], 100),
            f"{row['overlap']:.0%}",
            row["reason"],
        ]
        for row in data["differences"]
        if row["attack"] == "no attack"
    ]
    return table(["codec", "BD-rate %", "BD-accuracy points", "of the accuracies shared", "remark"], body)


def _signed(value: float | None, low: float | None, high: float | None, factor: int) -> str:
    if value is None:
        return "–"
    interval = "" if low is None or high is None else f" [{factor * low:.1f}, {factor * high:.1f}]"
    return f"{factor * value:+.1f}{interval}"


def _defences(data: dict[str, Any]) -> list[str]:
    """One table per attack: clean accuracy behind each codec, and robust accuracy per threat model."""
    parts: list[str] = []
    for attack in dict.fromkeys(row["attack"] for row in data["defences"] if row["eps"]):
        rows = [row for row in data["defences"] if row["attack"] == attack]
        threats = list(dict.fromkeys(row["threat"] for row in rows))
        by_cell = {(row["defence"], row["threat"]): row for row in rows}
        body = [
            ["no defence", "", _share(rows[0]["clean"]), _share(rows[0]["robust"]), *[""] * (len(threats) - 1)]
        ]
        for defence in dict.fromkeys(row["defence"] for row in rows):
            found = [by_cell.get((defence, threat)) for threat in threats]
            any_row = next(row for row in found if row is not None)
            rate = any_row["rate_bpp"]
            body.append(
                [
                    defence,
                    "" if rate is None else f"{rate['value']:.2f}",
                    "" if any_row["clean_defended"] is None else _share(any_row["clean_defended"]),
                    *("" if row is None else _share(row["robust_defended"]) for row in found),
                ]
            )
        parts += [
            f"### Attack, then compress, then the model: {attack}",
            "Robust accuracy in % behind each codec, which here encodes the model's input of "
            f"{data['image_size']} pixels; bits per pixel at that size. static: the attacker does not know of "
            "it, which proves nothing against one who does: see the section on compression and attacks.",
            table(["", "bits per pixel", "clean", *threats], body),
        ]
    return parts
