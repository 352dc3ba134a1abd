"""The methods as text for a paper: what was done, from the conditions, manifests and results, with citations.

Pandoc's Markdown: `[@key]` is an entry of the BibTeX block. Nothing is said that the rows do not say.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from limla.analysis.comparisons import Comparison
from limla.analysis.encodings import quality_order
from limla.analysis.limits import DEFAULT_MARGIN
from limla.analysis.subjects import STANDARD, UNKNOWN, Attack, Subject, eps_text
from limla.codecs.matching import BPP
from limla.plans import THREATS
from limla.reporting.analysed import Analysed
from limla.reporting.evidence import points_text
from limla.reporting.references import bibtex
from limla.reporting.sections import Section
from limla.reporting.settings import flatten

_ATTACKS = {
    "fgsm": "FGSM [@goodfellow2015], computed by torchattacks [@kim2020]",
    "pgd": "PGD [@madry2018]",
    "mifgsm": "MI-FGSM [@dong2018]",
    "cw": "the attack of Carlini and Wagner [@carlini2017]",
    "autoattack": "AutoAttack [@croce2020], made of torchattacks' parts [@kim2020]",
    "square": "the Square attack [@andriushchenko2020], computed by torchattacks [@kim2020]",
    "uniform-noise": "uniform noise as a control",
    "gaussian-noise": "Gaussian noise as a control",
}
_THREATS = {
    "static": "one who does not know of it",
    "bpda": "one who runs the real codec forward and takes the identity as its gradient "
    "(BPDA [@athalye2018obfuscated])",
    "differentiable": "one who differentiates a model of the codec by kornia [@riba2020]",
    "eot-bpda": "BPDA with the mean of the logits over all qualities [@athalye2018eot; @athalye2018obfuscated]",
    "eot-differentiable": "a differentiable model of the codec [@riba2020] with the mean of the logits over all "
    "qualities [@athalye2018eot]",
}
_NOT_OF_THE_CODEC = ("codec", "quality", "measure", "seed", "source")
_CODECS = {
    "jpeg": "JPEG [@wallace1992]",
    "jpeg-progressive": "progressive JPEG [@wallace1992]",
    "jpeg2000": "JPEG 2000 [@taubman2002]",
    "webp": "WebP [@rfc2024]",
    "avif": "AVIF (AV1 [@han2021])",
    "h264": "H.264 intra frames [@wiegand2003]",
    "hevc": "HEVC intra frames [@sullivan2012]",
    "av1": "AV1 intra frames [@han2021]",
    "svd": "truncated singular value decompositions [@andrews1976]",
    "lowrank": "quantization-free integer matrix factorization [@ashtari2024]",
    "autoencoder": "a learned convolutional autoencoder with a binary code [@toderici2016]",
    "png": "PNG, without loss",
}
_QP = ("h264", "hevc", "av1")
_STEP = "alpha"
_NORMS = {"linf": "L∞", "l2": "L2", "": "no norm"}


@dataclass(frozen=True)
class Methods:
    """Paragraphs, and the BibTeX entries that they cite."""

    paragraphs: tuple[str, ...]
    bibliography: str


def methods(section: Section, analysed: Analysed, results_dir: Path) -> Methods:
    """What was done in one section."""
    found = tuple(
        filter(
            None,
            (
                _data(section),
                _models(section),
                _attacks(section),
                _defences(section),
                _simulations(section),
                _measures(section, analysed),
                _statistics(analysed),
                _software(section, results_dir),
            ),
        )
    )
    return Methods(found, bibtex(re.findall(r"@([a-z]+\d{4}[a-z]*)", " ".join(found))))


def _listed(parts: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join([*([", ".join(parts[:-1])] if len(parts) > 1 else []), *parts[-1:]])


def _data(section: Section) -> str:
    numbers = sorted({point.num_samples for (_, metric), point in section.points.items() if metric == "loss"})
    count = f" ({' to '.join(f'{n:,}' for n in numbers)} images" if numbers else " ("
    classes = f", {len(section.class_names)} classes" if section.class_names else ""
    text = f"We evaluated on the {section.split} split of {section.dataset}{count}{classes})."
    by_codec: dict[str, list[str]] = defaultdict(list)
    for codec, quality in sorted(section.variants, key=quality_order):
        if quality is not None:
            by_codec[codec].append(str(quality))
    originals = ["on the original files"] if any(quality is None for _, quality in section.variants) else []
    encoded = [f"re-encoded with {_codec_text(codec)} {_listed(q)}" for codec, q in by_codec.items()]
    if originals or encoded:
        text += f" Models were tested {_listed([*originals, *encoded])}."
    for codec in by_codec if section.data else ():
        text += _encoder(section, codec)
    if any(section.rate_bpp(variant) is not None for variant in section.variants):
        text += " Rates are bits per pixel measured on the files, headers included."
    return text


def _codec_text(name: str) -> str:
    """ "JPEG [@wallace1992] at quality"; what its number is where it is a rate."""
    if name.endswith(BPP):
        name = name.removesuffix(BPP)
        return (
            f"{_CODECS.get(name, name)}, each image at the quality nearest to a rate in 0.001 bits per pixel of"
        )
    return f"{_CODECS.get(name, name)} at {'QP' if name in _QP else 'quality'}"


def _encoder(section: Section, codec: str) -> str:
    """Settings and versions of a codec, from the manifest of its first variant."""
    assert section.data is not None
    manifests = [manifest for (name, _), manifest in section.data.manifests.items() if name == codec]
    if not manifests:
        return ""
    own = {name: value for name, value in manifests[0].settings.items() if name not in _NOT_OF_THE_CODEC}
    settings = ", ".join(f"{name} {value}" for name, value in flatten(own))
    versions = ", ".join(f"{name} {value}" for name, value in sorted(manifests[0].versions.items()))
    return f" Settings of {codec}: {settings or 'none'} ({versions or 'versions not recorded'})."


def _models(section: Section) -> str:
    if not section.subjects:
        return ""
    by_model: dict[str, list[Subject]] = defaultdict(list)
    for subject in section.subjects:
        by_model[subject.model].append(subject)
    sentences = [f"{model}: {_listed([_training(one) for one in found])}." for model, found in by_model.items()]
    inputs = sorted({(subject.preprocessing, subject.decoder) for subject in section.subjects})
    read = _listed([f"{_preprocessing(how)} (decoder: {decoder})" for how, decoder in inputs])
    return f"Models and their training – {' '.join(sentences)} Images were {read}, and scaled to [0, 1]."


def _training(subject: Subject) -> str:
    if subject.train_quality == UNKNOWN:
        ids = ", ".join(checkpoint for checkpoint, _ in subject.checkpoints)
        return f"weights that were not trained here ({ids})"
    seeds = [str(seed) for _, seed in subject.checkpoints if seed >= 0]
    told = f" ({'seed' if len(seeds) == 1 else 'seeds'} {_listed(seeds)})" if seeds else ""
    citation = ""
    if subject.train_method != STANDARD:
        attack = next((name for name in _ATTACKS if f"{name} " in f"{subject.train_method} "), None)
        citation = " (adversarial training [@madry2018])" if attack else ""
    return f"trained on {subject.training}{citation}{told}"


def _preprocessing(text: str) -> str:
    match = re.fullmatch(r"shorter(\d+)-crop(\d+)(-aliased)?", text)
    if match is None:
        return (
            f"given in their own size (preprocessing: {text})" if text == "none" else f"preprocessed by {text}"
        )
    aliased = " without antialiasing" if match[3] else ""
    return f"resized{aliased} to {match[1]} pixels at the shorter side and cut to the central {match[2]} × {match[2]}"


def _attacks(section: Section) -> str:
    groups: dict[tuple[str, str, tuple[tuple[str, str], ...]], list[Attack]] = defaultdict(list)
    for attack in section.attacks:
        if not attack.is_none:
            # a step that grows with eps makes no other attack
            others = tuple(item for item in _parameters(attack.attack_settings) if item[0] != _STEP)
            groups[attack.attack, attack.norm, others].append(attack)
    if not groups:
        return ""
    parts: list[str] = []
    for (name, norm, others), attacks in groups.items():
        ordered = sorted(attacks, key=lambda attack: attack.eps)
        sizes = _listed(list(dict.fromkeys(eps_text(attack.eps) for attack in ordered)))
        steps = [dict(_parameters(attack.attack_settings)).get(_STEP) for attack in ordered]
        lengths = _listed(list(dict.fromkeys(step for step in steps if step)))
        parameters = [*([(_STEP, lengths)] if lengths else []), *others]
        told = "".join(f", {key} {value}" for key, value in parameters)
        parts.append(f"{_ATTACKS.get(name, name)} ({_NORMS.get(norm, norm)}, ε = {sizes}{told})")
    return f"Attacks met the images as tested, after compression, with ε on the [0, 1] scale: {_listed(parts)}."


def _parameters(settings: str) -> list[tuple[str, str]]:
    """Name and value as a paper writes them: sizes of pixel values like eps."""
    try:
        found = json.loads(settings or "{}")
    except ValueError:
        return [("settings", settings)]
    written = {name: eps_text(value) if isinstance(value, float) else value for name, value in found.items()}
    return [(name.replace("_", " "), text) for name, text in flatten(written)]


def _defences(section: Section) -> str:
    found = dict.fromkeys(slot.defence for slot in section.defended if slot.defence is not None)
    defences = sorted(found, key=lambda defence: "+" in defence.quality)
    if not defences:
        return ""
    drawn = any("+" in defence.quality for defence in defences)
    threats = {slot.threat for slot in section.defended if slot.threat}
    known = [_THREATS[name] for name in THREATS if name in threats and name in _THREATS]
    known += sorted(threats - set(_THREATS))
    text = (
        "Compression as a defence: every image, attacked or not, was rounded to 8 bits, encoded to a real bitstream "
        f"and decoded before the model saw it ({_listed([defence.label for defence in defences])}"
        f"{'; several qualities: one drawn at random for each image' if drawn else ''})."
    )
    return f"{text} Attackers: {'; '.join(known)}." if known else text


def _simulations(section: Section) -> str:
    loaders = sorted({loader for _, loader in section.simulated})
    if not loaders:
        return ""
    return (
        f"Some qualities were simulated on the fly ({_listed(loaders)}); these results are reported apart, without "
        "bits per pixel."
    )


def _measures(section: Section, analysed: Analysed) -> str:
    parts = ["Accuracy is the share of correct images"]
    if any(not attack.is_none for attack in section.attacks):
        parts.append(
            "robust accuracy that after the attack; attack success is the share of the images right before the attack "
            "(behind the same codec) that are wrong after it"
        )
    text = "; ".join(parts) + "."
    if section.data and any(
        (summary := section.data.summary(variant, section.split)) and summary.num_measured
        for variant in section.encoded_variants()
    ):
        text += " Distortion is PSNR over all values of an image and SSIM on the luma [@wang2004]."
    if analysed.calibration:
        text += " Calibration is the expected calibration error in 15 bins of equal width [@guo2017]."
    return text


def _statistics(analysed: Analysed) -> str:
    text = "Intervals are 95%; shares have Wilson's [@wilson1927]."
    rows = analysed.comparisons
    if rows:
        text += f" {_paired(rows)}"
    if analysed.limits:
        margin = points_text(analysed.limits[0].margin if analysed.limits else DEFAULT_MARGIN)
        text += (
            f" The limit of a codec is the lowest quality whose loss of accuracy against the originals lies below "
            f"{margin} with its whole 95% interval (non-inferiority), judged from the best quality down to the first "
            "that fails, which needs no correction [@westfall2001]."
        )
    if any(row.bd_rate_percent is not None or row.bd_accuracy is not None for row in analysed.differences):
        text += " Rate curves are compared by Bjøntegaard's deltas [@bjontegaard2001] with a bootstrap over the images."
    if any(check.verdict != "not tested" for check in analysed.checks):
        text += " We looked for signs of gradient masking [@athalye2018obfuscated; @carlini2019]."
    return text


def _paired(rows: Sequence[Comparison]) -> str:
    methods_used = {row.result.interval_method for row in rows}
    tests = sorted({row.result.test for row in rows})
    intervals = {
        "bootstrap": "a bootstrap over the images [@efron1993]",
        "score": "Tango's score interval [@tango1998] where few images differ",
    }
    used = [intervals[name] for name in intervals if name in methods_used]
    used += sorted(methods_used - set(intervals))
    named = ["McNemar's [@mcnemar1947]"] if any("McNemar" in test for test in tests) else []
    named += [test for test in tests if "McNemar" not in test]
    seeds = (
        " With several seeds, images and seeds are both drawn at random [@owen2007]."
        if any(row.result.num_seeds > 1 for row in rows)
        else ""
    )
    return (
        f"Conditions were compared on the same images; differences have {_listed(used)}.{seeds} Tests of no "
        f"difference: {_listed(named)}; p-values are corrected by Holm's method [@holm1979] over {rows[0].family}."
    )


def _software(section: Section, results_dir: Path) -> str:
    versions = recorded_versions(results_dir, {cell.cell_id for cell in section.conditions})
    told = _listed([f"{name} {' and '.join(found)}" for name, found in versions.items()])
    return f"Software of the evaluation: {told}." if told else ""


def recorded_versions(results_dir: Path, cells: Iterable[str]) -> dict[str, list[str]]:
    """Package → versions that evaluated the cells, from `timings.jsonl`; empty where there is none."""
    path = results_dir / "timings.jsonl"
    if not path.exists():
        return {}
    wanted = set(cells)
    found: dict[str, set[str]] = defaultdict(set)
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # a line cut short when a run was killed
            continue
        if (
            isinstance(entry, dict)
            and entry.get("cell_id") in wanted
            and isinstance(entry.get("versions"), dict)
        ):
            for name, version in entry["versions"].items():
                found[str(name)].add(str(version))
    return {name: sorted(versions) for name, versions in sorted(found.items())}
