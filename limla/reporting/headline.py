"""The first paragraph: plain sentences made from points and their intervals, and nothing beyond them."""

from __future__ import annotations

import math

from limla.analysis.encodings import Variant
from limla.analysis.subjects import Attack, Subject
from limla.reporting.sections import Point, Section

_MAX_MODELS, _MAX_ATTACKS = 3, 3


def headline(section: Section) -> list[str]:
    """Up to three short paragraphs (quality, attacks, training) for each of at most three models.

    An interval is said to lie below, to lie above or to overlap, each only where the two 95% intervals do so.
    """
    models = list(dict.fromkeys(map(_group, section.subjects)))
    paragraphs = [text for model in models[:_MAX_MODELS] for text in _of_model(section, model)]
    if len(models) > _MAX_MODELS:
        paragraphs.append(
            f"{len(models) - _MAX_MODELS} more models: see the figures and the table of all metrics."
        )
    return [text for text in paragraphs if text]


def _group(subject: Subject) -> str:
    """Training conditions of one model are told together; models that limla did not train each alone."""
    return subject.label if subject.train_quality == "unknown" else subject.model


def percent(point: Point | None) -> str:
    """ "91.2% [88.0, 93.6]"; a dash where it is not known."""
    if point is None or math.isnan(point.value):
        return "–"
    if point.low is None or point.high is None:
        return f"{100 * point.value:.1f}%"
    return f"{100 * point.value:.1f}% [{100 * point.low:.1f}, {100 * point.high:.1f}]"


def _of_model(section: Section, model: str) -> list[str]:
    subjects = [subject for subject in section.subjects if _group(subject) == model]
    subject = subjects[0]
    sentences: list[str] = []
    clean = section.clean
    if clean is not None:
        known = [variant for variant in section.variants if section.point(subject, variant, clean)]
        if known:
            sentences.append(_reference_sentence(section, subject, clean, known[-1]))
            sentences += _falling_sentences(section, subject, clean, known)
    attacked: list[str] = []
    for attack in [attack for attack in section.attacks if not attack.is_none][-_MAX_ATTACKS:]:
        attacked += _attack_sentences(section, subject, attack)
    if attacked and not sentences:
        attacked.insert(0, f"{_trained(subject)}:")
    training = _training_sentence(section, subjects, clean) if clean is not None and len(subjects) > 1 else []
    return [" ".join(part) for part in (sentences, attacked, training)]


def _trained(subject: Subject) -> str:
    text = subject.training
    if subject.train_quality == "unknown":
        return subject.label.replace(f" · {text}", "")
    return f"{subject.model} trained on {'the originals' if subject.train_quality == 'source' else text}"


def _at(section: Section, variant: Variant, *details: str) -> str:
    """ "on the originals (2.31 bpp)" or "at q10 (0.45 bpp, 80.0% [75.1, 84.2])"."""
    rate = section.rate_bpp(variant)
    inside = ", ".join((*([f"{rate:.3g} bpp"] if rate is not None else []), *details))
    where = "on the originals" if variant[1] is None else f"at {section.variant_label(variant)}"
    return f"{where} ({inside})" if inside else where


def _reference_sentence(section: Section, subject: Subject, clean: Attack, best: Variant) -> str:
    point = section.point(subject, best, clean)
    assert point is not None
    seeds = f" (mean over {point.num_runs} seeds)" if point.num_runs > 1 else ""
    return (
        f"{_capital(_at(section, best))}, {_trained(subject)} is right on {percent(point)} of the "
        f"{point.num_samples} {section.split} images{seeds}."
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _place(point: Point, reference: Point) -> str:
    """Where the point's 95% interval lies: "below" the reference's, "above" it, or it "overlaps"."""
    # a share of correct images always has an interval: there is at least one image
    assert point.low is not None
    assert point.high is not None
    assert reference.low is not None
    assert reference.high is not None
    if point.high < reference.low:
        return "below"
    return "above" if point.low > reference.high else "overlaps"


def _falling_sentences(section: Section, subject: Subject, clean: Attack, known: list[Variant]) -> list[str]:
    """Down to which quality the interval overlaps with the reference's, and where it lies below or above."""
    reference = section.point(subject, known[-1], clean)
    assert reference is not None
    if len({codec for codec, quality in known if quality is not None}) > 1:
        return [_of_several_codecs(section, subject, clean, known, reference)]
    codec = known[-2][0] if len(known) > 1 else ""
    falling: list[tuple[Variant, Point]] = []
    for variant in reversed(known[:-1]):
        point = section.point(subject, variant, clean)
        if variant[0] == codec and point is not None:
            falling.append((variant, point))
    if not falling:
        return []
    places = [_place(point, reference) for _, point in falling]
    num_held = next((n for n, place in enumerate(places) if place != "overlaps"), len(places))
    lowest, lowest_point = falling[-1]
    if num_held == len(places):
        return [
            f"Its interval overlaps with that at every tested quality, down to "
            f"{_at(section, lowest, percent(lowest_point)).removeprefix('at ')}."
        ]
    if set(places[num_held:]) != {"below"}:  # not a plain fall: every quality is named with what it shows
        sentences = [_comparison(section, known[-1], falling, reference)]
        return [*sentences, f"{_capital(_at(section, lowest))} it is {percent(lowest_point)}."]
    variant, point = falling[num_held]
    on = ", as at every lower tested quality" if variant != lowest else ""
    if num_held:
        held, held_point = falling[num_held - 1]
        sentences = [
            f"Down to {_at(section, held, percent(held_point)).removeprefix('at ')} its interval overlaps with that; "
            f"{_at(section, variant, percent(point))} it lies below{on}."
        ]
    else:
        sentences = [f"Already {_at(section, variant, percent(point))} its interval lies below that{on}."]
    if variant != lowest:
        sentences.append(f"{_capital(_at(section, lowest))} it is {percent(lowest_point)}.")
    return sentences


def _of_several_codecs(
    section: Section, subject: Subject, clean: Attack, known: list[Variant], reference: Point
) -> str:
    """At how many of all codecs' qualities the interval lies below the reference's, and where accuracy is least."""
    points = [(variant, section.point(subject, variant, clean)) for variant in known[:-1]]
    found = [(variant, point) for variant, point in points if point is not None]
    codecs = len({variant[0] for variant, _ in found})
    num_below = sum(_place(point, reference) == "below" for _, point in found)
    lowest, lowest_point = min(found, key=lambda item: item[1].value)
    where = f"{_at(section, lowest, percent(lowest_point)).removeprefix('at ')}"
    if num_below:
        text = (
            f"Its interval lies below that at {num_below} of {len(found)} tested qualities of {codecs} codecs"
        )
    else:
        text = (
            f"Its interval overlaps with that at every one of {len(found)} tested qualities of {codecs} codecs"
        )
    return f"{text}; the least is {where}."


def _comparison(section: Section, best: Variant, others: list[tuple[Variant, Point]], reference: Point) -> str:
    """ "Against the originals, the interval overlaps at q90 and q50, lies above at q30, lies below at q1." """
    labels: dict[str, list[str]] = {"overlaps": [], "above": [], "below": []}
    for variant, point in others:
        labels[_place(point, reference)].append(section.variant_label(variant))
    parts = [
        f"{'overlaps' if place == 'overlaps' else f'lies {place}'} at "
        f"{'every other tested quality' if len(found) == len(others) > 1 else _listed(found)}"
        for place, found in labels.items()
        if found
    ]
    where = "the originals" if best[1] is None else section.variant_label(best)
    return f"Against {where}, the interval {', '.join(parts)}."


def _listed(names: list[str]) -> str:
    return " and ".join([*([", ".join(names[:-1])] if len(names) > 1 else []), names[-1]])


def _attack_sentences(section: Section, subject: Subject, attack: Attack) -> list[str]:
    """What the attack leaves at the best quality, where it leaves most, and how the others compare."""
    known: list[tuple[Variant, Point]] = []
    for variant in section.variants:
        point = section.point(subject, variant, attack)
        if point is not None:
            known.append((variant, point))
    if not known:
        return []
    best, reference = known[-1]
    text = f"{attack.label[:1].upper()}{attack.label[1:]}, leaves {percent(reference)} correct {_at(section, best)}"
    if len(known) == 1:
        return [f"{text}."]
    others = known[-2::-1]
    top, top_point = max(others, key=lambda pair: pair[1].value)
    if _place(top_point, reference) == "above":
        text += f", and most {_at(section, top)}: {percent(top_point)}, an interval above that"
        if len(others) == 1:
            return [f"{text}."]
    return [f"{text}.", _comparison(section, best, others, reference)]


def _training_sentence(section: Section, subjects: list[Subject], clean: Attack) -> list[str]:
    """Whether training on re-encoded images pays at the lowest quality."""
    lowest = section.variants[0]
    if lowest[1] is None:
        return []
    points: list[tuple[Subject, Point]] = []
    for subject in subjects:
        point = section.point(subject, lowest, clean)
        if point is not None:
            points.append((subject, point))
    if len(points) < 2 or points[0][0] != subjects[0]:
        return []
    base = points[0][1]
    best, point = max(points[1:], key=lambda pair: pair[1].value)
    verdict = {
        "above": "an interval above",
        "below": "an interval below",
        "overlaps": "intervals that overlap",
    }[_place(point, base)]
    return [
        f"{_capital(_at(section, lowest))} the best of the other training conditions, {best.label}, "
        f"reaches {percent(point)} against {percent(base)}: {verdict}."
    ]
