"""The catalogues of plugs: one line here and one file make a codec, attack, model, loader or engine known.

A plug is named by "module:attribute" and imported only when it is asked for, so listing names costs no
import of torch or of an optional codec.
"""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass, field
from typing import Any

from limla.errors import MissingDependencyError, UnknownNameError


@dataclass(frozen=True)
class Catalogue:
    """A lazy table from plug name to "module:attribute".

    Attributes:
        kind: what the plugs are ("codec"), for error messages.
        plugs: name → "module:attribute".
        extras: name → the extra of `pip install 'limla[extra]'` that brings its optional dependency.
    """

    kind: str
    plugs: dict[str, str]
    extras: dict[str, str] = field(default_factory=dict)

    def names(self) -> list[str]:
        """The known names, in catalogue order."""
        return list(self.plugs)

    def check(self, name: str) -> str:
        """Return `name` if it is known, else raise `UnknownNameError` listing the known names."""
        if name in self.plugs:
            return name
        close = difflib.get_close_matches(name, self.plugs, n=1)
        guess = f" Did you mean '{close[0]}'?" if close else ""
        raise UnknownNameError(f"unknown {self.kind} '{name}'; known: {', '.join(self.plugs)}.{guess}")

    def load(self, name: str) -> Any:
        """Import and return the plug (a class or function).

        Raises `UnknownNameError` for an unknown name and `MissingDependencyError` when an optional package
        is missing, naming the extra that installs it.
        """
        module_name, attribute = self.plugs[self.check(name)].split(":")
        try:
            return getattr(importlib.import_module(module_name), attribute)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".")[0] == "limla":
                raise
            extra = self.extras.get(name)
            remedy = f"pip install 'limla[{extra}]'" if extra else f"pip install {error.name}"
            raise MissingDependencyError(
                f"{self.kind} '{name}' needs the package '{error.name}', which is not installed: {remedy}"
            ) from error


CODECS = Catalogue(
    "codec",
    {
        "jpeg": "limla.codecs.jpeg:JpegCodec",
        "jpeg-progressive": "limla.codecs.jpeg_progressive:ProgressiveJpegCodec",
        "jpeg2000": "limla.codecs.jpeg2000:Jpeg2000Codec",
        "webp": "limla.codecs.webp:WebpCodec",
        "avif": "limla.codecs.avif:AvifCodec",
        "h264": "limla.codecs.h264:H264Codec",
        "hevc": "limla.codecs.hevc:HevcCodec",
        "av1": "limla.codecs.av1:Av1Codec",
        "svd": "limla.codecs.svd:SvdCodec",
        "lowrank": "limla.codecs.lowrank:LowrankCodec",
        "autoencoder": "limla.codecs.autoencoder:AutoencoderCodec",
        "png": "limla.codecs.png:PngCodec",
    },
)

DIFFERENTIABLE = Catalogue(
    "differentiable model of a codec", {"jpeg": "limla.defences.jpeg:differentiable_jpeg"}
)
"""Of codecs, for attackers who differentiate through a defence: (images, quality) → what the codec makes of them.

images: (N, 3, H, W) float32 in [0, 1], as what it returns. It stands for the codec with its default settings.
"""

ENGINES = Catalogue(
    "engine",
    {"local": "limla.engines.local:LocalEngine", "spark": "limla.engines.spark:SparkEngine"},
    extras={"spark": "spark"},
)

LOADERS = Catalogue(
    "loader",
    {
        "cpu": "limla.loaders.cpu:CpuLoader",
        "dali": "limla.loaders.dali:DaliLoader",
        "webdataset": "limla.loaders.webdataset:WebDatasetLoader",
    },
)

SIMULATIONS = Catalogue(
    "simulation",
    {
        "cpu": "limla.loaders.simulation_cpu:CpuSimulation",
        "dali": "limla.loaders.simulation_dali:DaliSimulation",
    },
)
"""Of test qualities on the fly, from the packed originals."""

ATTACKS = Catalogue(
    "attack",
    {
        "none": "limla.attacks.none:NoAttack",
        "uniform-noise": "limla.attacks.uniform_noise:UniformNoise",
        "gaussian-noise": "limla.attacks.gaussian_noise:GaussianNoise",
        "fgsm": "limla.attacks.fgsm:Fgsm",
        "mifgsm": "limla.attacks.mifgsm:MiFgsm",
        "pgd": "limla.attacks.pgd:Pgd",
        "cw": "limla.attacks.cw:CarliniWagner",
        "autoattack": "limla.attacks.autoattack:AutoAttack",
        "square": "limla.attacks.square:Square",
    },
)
