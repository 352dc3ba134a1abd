"""Interactive curves: what each shows of a section's points. How a plot is made is `limla.pages.plots`."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from markupsafe import Markup

from limla.analysis.encodings import Variant
from limla.analysis.pairs import Defence
from limla.analysis.subjects import STANDARD, Attack, Subject, eps_text
from limla.manifest import SOURCE
from limla.pages.plots import (
    Panels,
    Place,
    Style,
    categories,
    line,
    linear,
    logarithmic,
    panels,
    percent,
    plot,
)
from limla.plans import THREATS
from limla.reporting.sections import Point, Section, Slot

NO_ATTACK_LABEL, NO_DEFENCE, ORIGINALS = "no attack", "no defence", "the originals"
_BANDS = 3
"""Lines whose intervals can be told apart as bands."""
_BARE = Style(6, hollow=True)


def place(x: float, point: Point, what: str) -> Place:
    """A point of a figure in percent, and what the pointer shows of it."""
    bounds = [None if end is None else 100 * end for end in (point.low, point.high)]
    interval = "" if None in bounds else f" [{bounds[0]:.1f}, {bounds[1]:.1f}]"
    seeds = f", {point.num_runs} seeds" if point.num_runs > 1 else ""
    value = 100 * point.value
    told = f"{what}\n{value:.1f}%{interval}\nn = {point.num_samples}{seeds}"
    return Place(x, value, bounds[0], bounds[1], told)


def accuracy_curves(section: Section, over: str, name: str) -> Panels | None:
    """Accuracy and robust accuracy with their 95% intervals; None where nothing can be drawn.

    One panel per subject with a line per attack; where there are several codecs, one per subject and attack with a line
    per codec. `over` is "quality" (evenly spaced, the originals on the right) or "rate" (mean bits per pixel, log
    scale).
    """
    positions = _positions(section, over)
    if not positions:
        return None
    codecs = sorted({codec for codec, quality in positions if quality is not None})
    if over == "rate":
        x_axis = logarithmic(list(positions.values()), "mean bits per pixel (log scale)")
    else:
        labels = [section.variant_label(variant).replace("original", "orig.") for variant in positions]
        x_axis = categories(labels, "test quality")
    several = len(codecs) > 1
    of_codec = {codec: Style(number) for number, codec in enumerate(codecs)}
    of_attack = {} if several else _attack_styles(section)
    plots: list[Markup] = []
    for subject in section.subjects:
        for attacks in [[attack] for attack in section.attacks] if several else [section.attacks]:
            traces: list[dict[str, Any]] = []
            for attack in attacks:
                for codec in codecs:
                    places = _places(section, subject, attack, _of(codec, positions), positions)
                    style = of_codec[codec] if several else of_attack[attack]
                    traces += line(places, codec if several else attack.label, style, bars=len(codecs) > _BANDS)
                if several and not traces:
                    continue
                places = _places(section, subject, attack, _of(SOURCE, positions), positions)
                name_of, style = (ORIGINALS, _BARE) if several else (attack.label, of_attack[attack])
                traces += line(places, name_of, replace(style, hollow=True), level=True)
            if traces:
                what = "quality" if over == "quality" else "bits per pixel"
                title = panel_title(section, subject)
                if several and len(section.attacks) > 1:
                    title += f", {attacks[0].label}"
                label = f"{title}: share of correct images against {what}"
                plots.append(plot(f"{name}-{len(plots)}", traces, x_axis, percent(), label, title=title))
    entries = [(attack.label, style) for attack, style in of_attack.items()]
    if several:
        entries = [*of_codec.items(), *([(ORIGINALS, _BARE)] if _of(SOURCE, positions) else [])]
    return panels(entries, plots) if plots else None


def _of(codec: str, positions: dict[Variant, float]) -> list[Variant]:
    return [variant for variant in positions if variant[0] == codec]


def panel_title(section: Section, subject: Subject) -> str:
    """ "trained on jpeg q10", or the subject's whole label where that says more."""
    short = section.short_label(subject)
    is_whole = short == subject.label or subject.train_quality == "unknown"
    return short if is_whole else f"trained on {short}"


def _attack_styles(section: Section) -> dict[Attack, Style]:
    # the first colour is that of the clean pass, also where it was not evaluated
    return {attack: Style(number) for number, attack in enumerate(section.attacks, 0 if section.clean else 1)}


def _positions(section: Section, over: str) -> dict[Variant, float]:
    if over == "rate":
        rates = {variant: section.rate_bpp(variant) for variant in section.variants}
        return {variant: rate for variant, rate in rates.items() if rate is not None}
    return {variant: float(number) for number, variant in enumerate(section.variants)}


def _places(
    section: Section,
    subject: Subject,
    attack: Attack,
    variants: Sequence[Variant],
    positions: dict[Variant, float],
    what: str = "",
) -> list[Place]:
    """The known points, from left to right; `what` stands over the values, by default the attack."""
    found: list[Place] = []
    for variant in sorted(variants, key=lambda item: positions[item]):
        point = section.point(subject, variant, attack)
        if point is not None and not math.isnan(point.value):
            rate = section.rate_bpp(variant)
            where = section.variant_label(variant) + (f", {rate:.3g} bpp" if rate is not None else "")
            found.append(place(positions[variant], point, f"{what or attack.label}\n{where}"))
    return found


MATCHED = "trained at the test quality"


def training_curves(section: Section, name: str) -> Panels | None:
    """Training conditions on one grid: a panel per model and attack, a line per subject against test quality.

    A further line joins the points of models trained at just the quality they are tested at. None where no model was
    trained in two ways.
    """
    positions = _positions(section, "quality")
    labels = [section.variant_label(variant).replace("original", "orig.") for variant in positions]
    styles = {subject: Style(number) for number, subject in enumerate(section.subjects)}
    matched_style = Style(6, dash=1, hollow=True)
    plots: list[Markup] = []
    shown: dict[Subject, None] = {}
    for model in dict.fromkeys(subject.model for subject in section.subjects):
        subjects = [subject for subject in section.subjects if subject.model == model]
        if len(subjects) < 2:
            continue
        for attack in section.attacks:
            traces: list[dict[str, Any]] = []
            for subject in subjects:
                places = _places(
                    section, subject, attack, list(positions), positions, section.short_label(subject)
                )
                traces += line(places, subject.label, styles[subject])
                shown |= {subject: None} if places else {}
            matched: list[Place] = []
            for subject in subjects:
                own = [
                    variant
                    for variant in positions
                    if (subject.train_codec, subject.train_quality) == (variant[0], str(variant[1]))
                    and subject.train_method == STANDARD
                ]
                matched += _places(section, subject, attack, own, positions, MATCHED)
            traces += line(sorted(matched, key=lambda item: item.x), MATCHED, matched_style)
            if traces:
                title = f"{model}, {attack.label}"
                label = (
                    f"{title}: share of correct images against test quality, one line per training condition"
                )
                axis = categories(labels, "test quality")
                plots.append(plot(f"{name}-{len(plots)}", traces, axis, percent(), label, title=title))
    entries = [*((subject.label, styles[subject]) for subject in shown), (MATCHED, matched_style)]
    return panels(entries, plots) if plots else None


def eps_curves(section: Section, name: str) -> Panels | None:
    """Robust accuracy against eps, a panel per subject and attack, a line per test quality.

    None where no attack was evaluated at two sizes.
    """
    families: dict[tuple[str, str], list[Attack]] = defaultdict(list)
    for attack in section.attacks:
        if not attack.is_none and math.isfinite(attack.eps) and attack.eps > 0:
            # "PGD-10" of "PGD-10, ε = 8/255": other numbers of steps are another line
            families[attack.label.partition(", ε")[0], attack.norm].append(attack)
    styles = {
        variant: Style(number, hollow=variant[1] is None)
        for number, variant in enumerate(reversed(section.variants))
    }
    plots: list[Markup] = []
    for subject in section.subjects:
        for (attack_name, norm), attacks in families.items():
            if len({attack.eps for attack in attacks}) < 2:
                continue
            traces: list[dict[str, Any]] = []
            for variant, style in styles.items():
                places = _eps_places(section, subject, variant, attacks)
                traces += line(places, section.variant_label(variant), style)
            if not traces:
                continue
            ticks = sorted({(attack.eps, eps_text(attack.eps)) for attack in attacks} | {(0.0, "0")})
            # every other norm is part of the attack's name
            told = f" ({norm or 'no norm'})" if norm in ("linf", "") else ""
            title = f"{attack_name}{told}, {panel_title(section, subject)}"
            x_axis = linear("ε of the attack", ticks)
            label = f"{title}: robust accuracy against the size of the attack"
            plots.append(plot(f"{name}-{len(plots)}", traces, x_axis, percent(), label, title=title))
    entries = [(section.variant_label(variant), style) for variant, style in styles.items()]
    return panels(entries, plots) if plots else None


def _eps_places(section: Section, subject: Subject, variant: Variant, attacks: Sequence[Attack]) -> list[Place]:
    """Rising eps, from the clean accuracy at 0; of two attacks of one eps, both."""
    clean = [section.clean] if section.clean else []
    found: list[Place] = []
    for attack in (*clean, *sorted(attacks, key=lambda item: (item.eps, item.label))):
        point = section.point(subject, variant, attack)
        if point is not None and not math.isnan(point.value):
            found.append(place(attack.eps, point, f"{section.variant_label(variant)}\n{attack.label}"))
    return found if len(found) > 1 else []


def defence_curves(section: Section, name: str) -> Panels | None:
    """Robust accuracy by the defence's quality, a panel per subject, test quality and attack, a line per threat.

    On the left, and as a dashed level line, the same attack on the undefended model. None where no attack met a
    defence.
    """
    slots = [slot for slot in section.defended if not slot.attack.is_none]
    threats = sorted({slot.threat for slot in slots}, key=_threat_order)
    styles = {threat: Style(number) for number, threat in enumerate(threats, 1)}
    found = dict.fromkeys(slot.defence for slot in section.defended if slot.defence is not None)
    defences = sorted(found, key=lambda defence: "+" in defence.quality)  # one quality before several
    plots: list[Markup] = []
    panel_slots = dict.fromkeys((slot.subject, slot.variant, slot.attack) for slot in slots)
    for slot in sorted(panel_slots, key=lambda slot: _panel_order(section, slot)):
        subject, variant, attack = slot
        traces: list[dict[str, Any]] = []
        if section.clean is not None:
            clean = (subject, variant, section.clean)
            traces += _defence_line(section, clean, "", defences, Style(0))
        for threat, style in styles.items():
            traces += _defence_line(section, slot, threat, defences, style)
        bare = section.point(*slot)
        if bare is not None:
            traces += line([place(0.0, bare, f"no defence\n{attack.label}")], NO_DEFENCE, _BARE, level=True)
        labels = ["none", *(_short(defence, defences) for defence in defences)]
        title = f"{attack.label}, on {section.variant_label(variant)}, {panel_title(section, subject)}"
        label = f"{title}: robust accuracy by the quality of the defence, one line per threat model"
        axis = categories(labels, "quality of the defence")
        plots.append(plot(f"{name}-{len(plots)}", traces, axis, percent(), label, title=title))
    entries = [(NO_ATTACK_LABEL, Style(0)), *styles.items(), (NO_DEFENCE, _BARE)]
    return panels(entries, plots) if plots else None


def _threat_order(threat: str) -> tuple[int, str]:
    known = list(THREATS)
    return (known.index(threat) if threat in known else len(known), threat)


def _panel_order(section: Section, slot: Slot) -> tuple[int, ...]:
    """The best test quality first, then by subject and attack."""
    subject, variant, attack = slot
    return (
        -section.variants.index(variant),
        section.subjects.index(subject),
        section.attacks.index(attack),
    )


def _short(defence: Defence, among: Sequence[Defence]) -> str:
    """ "q50", or the whole label where there are several codecs or settings."""
    short = [f"q{other.quality}" for other in among]
    return f"q{defence.quality}" if len(set(short)) == len(short) else defence.label


def _defence_line(
    section: Section, slot: Slot, threat: str, defences: Sequence[Defence], style: Style
) -> list[dict[str, Any]]:
    """The line of one threat model over the defences of one quality, and points for those that draw one."""
    found: list[tuple[Defence, Place]] = []
    for number, defence in enumerate(defences, 1):
        point = section.behind(*slot, defence, threat)
        if point is not None:
            what = f"{threat or NO_ATTACK_LABEL}, behind {defence.label}\n{slot[2].label}"
            found.append((defence, place(float(number), point, what)))
    fixed = [item for defence, item in found if "+" not in defence.quality]
    drawn = [item for defence, item in found if "+" in defence.quality]
    name = threat or NO_ATTACK_LABEL
    return line(fixed, name, style) + [trace for item in drawn for trace in line([item], name, style)]


def rate_distortion(section: Section, name: str) -> Panels | None:
    """Mean PSNR and SSIM against mean bits per pixel; None where they were not measured."""
    assert section.data is not None
    found = [
        (variant, summary)
        for variant in section.encoded_variants()
        if variant[1] is not None
        and (summary := section.data.summary(variant, section.split))
        and summary.num_measured
    ]
    if not found:
        return None
    codecs = sorted({variant[0] for variant, _ in found})
    styles = {codec: Style(number) for number, codec in enumerate(codecs)}
    x_axis = logarithmic([summary.mean_rate_bpp for _, summary in found], "mean bits per pixel (log scale)")
    plots: list[Markup] = []
    for measure, title in (("mean_psnr_db", "PSNR (dB)"), ("mean_ssim", "SSIM (luma)")):
        traces: list[dict[str, Any]] = []
        for codec, style in styles.items():
            places = [
                Place(
                    summary.mean_rate_bpp,
                    value,
                    None,
                    None,
                    f"{variant[0]} q{variant[1]}\n{value:.4g}, {summary.mean_rate_bpp:.3g} bpp\n"
                    f"n = {summary.num_measured}",
                )
                for variant, summary in found
                if variant[0] == codec and (value := getattr(summary, measure)) is not None
            ]
            traces += line(sorted(places, key=lambda item: item.x), codec, style)
        if traces:
            label = f"Mean {title} against mean bits per pixel, one point per quality"
            plots.append(plot(f"{name}-{len(plots)}", traces, x_axis, linear(title), label, title=title))
    return panels(list(styles.items()), plots) if plots else None
