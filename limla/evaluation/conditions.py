"""The condition of each cell: all that its rows record of what was evaluated."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from limla.codecs import codec_label
from limla.evaluation.grid import CellPlan, plan_cells
from limla.evaluation.inputs import Origin, inputs_of
from limla.evaluation.settings import EvaluateSettings, read_variants
from limla.files import canonical_json
from limla.loaders.base import LoaderSettings
from limla.manifest import Manifest
from limla.models.base import ModelInfo
from limla.models.checkpoint import checkpoint_id, read_checkpoint
from limla.models.device import choose_device
from limla.results import Condition
from limla.tasks.classification import Classification


def planned_conditions(settings: EvaluateSettings, checkpoint: Path) -> list[Condition]:
    """The conditions that `evaluate` computes of one checkpoint, in its order; reads no image and builds no model.

    Raises a `LimlaError` for a checkpoint or variants that cannot be read.
    """
    info, model_id = read_checkpoint(checkpoint)[0], checkpoint_id(checkpoint)
    device = str(choose_device(settings.device))
    loader_settings = LoaderSettings(
        info.preprocessing,
        settings.batch_size,
        device=device,
        verify_contents=False,
        reading=settings.reading,
    )
    found: list[Condition] = []
    plans = plan_cells(settings)
    for inputs in inputs_of(settings, read_variants(settings)):
        with closing(inputs.open(settings, loader_settings)) as streams:
            found += [
                condition_of(settings, info, model_id, inputs.manifest, plan, origin)
                for origin in streams.origins
                for plan in plans
            ]
    return found


def condition_of(
    settings: EvaluateSettings,
    info: ModelInfo,
    checkpoint_id: str,
    manifest: Manifest,
    plan: CellPlan,
    origin: Origin,
) -> Condition:
    """The condition of one cell of a grid, for the model of `info` and the images of `origin`."""
    attack, defence = plan.attack, plan.defence
    parameters: dict[str, Any] = attack.settings()
    if attack.uses_seed or (defence is not None and len(defence.plan.qualities) > 1):
        parameters["seed"] = settings.seed
    if defence is not None:
        parameters["defence"] = defence.settings()
    if origin.simulation:
        parameters["simulation"] = dict(origin.settings)
    return Condition(
        dataset=manifest.dataset,
        data_id=manifest.data_id(settings.split),
        split=settings.split,
        task=Classification.name,
        model=info.model,
        checkpoint_id=checkpoint_id,
        seed=info.seed,
        train_codec=info.train_codec,
        train_quality=info.train_quality,
        train_method=info.train_method,
        test_codec=origin.test_codec,
        test_quality=origin.test_quality,
        simulation=origin.simulation,
        preprocessing=settings.reading.preprocessing_text(info.preprocessing),
        attack=attack.name,
        norm=attack.norm,
        eps=attack.eps,
        attack_settings=canonical_json(parameters),
        threat=plan.threat,
        defence_codec="" if defence is None else codec_label(defence.plan.codec),
        defence_quality="" if defence is None else defence.plan.quality,
        decoder=origin.decoder,
        precision=settings.precision,
        batch_size=settings.batch_size,
    )
