"""The stage: epochs, checkpoints, and the weights file in the end."""

from __future__ import annotations

import json
import math
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limla.codec_training.crops import centred, epoch_batches, middle_crop, whole_image
from limla.codec_training.network import Autoencoder
from limla.codec_training.plan import CodePlan, patches_of, plan_code
from limla.codec_training.settings import CodecTrainResult, CodecTrainSettings
from limla.codecs.autoencoder_network import NUM_QUALITIES, PATCH, UNIT
from limla.errors import DataError, LimlaError, SettingsError
from limla.files import atomic_open, exclusive, file_sha256, write_bytes, write_json
from limla.loaders.source import ShardSource, open_source
from limla.manifest import SOURCE, check_settings, library_versions, read_manifest
from limla.models.device import choose_device
from limla.models.weights import read_file
from limla.progress import SILENT, Progress

FORMAT = "limla-codec-training-1"
_PLANNED_IMAGES = 200
_PATCHES_EACH = 400
_JUDGED_IMAGES = 64
_JUDGED_QUALITIES = (8, 16, 32, 64)
_LAST_RATE = 0.02
_LARGEST_GRADIENT = 1.0
_LIBRARIES = ("torch", "numpy", "constriction", "pillow", "simplejpeg")


@dataclass
class _Run:
    """What stays the same from one epoch to the next."""

    settings: CodecTrainSettings
    identity: dict[str, Any]
    source: ShardSource
    judged: Tensor
    device: torch.device
    plan: CodePlan
    model: Autoencoder
    optimizer: torch.optim.Adam


@dataclass
class _State:
    """How far it is."""

    epoch: int
    best_epoch: int
    best: dict[str, Tensor]
    history: list[dict[str, float]]


def train_codec(settings: CodecTrainSettings, progress: Progress = SILENT) -> CodecTrainResult:
    """Train the autoencoder on the train split of `<data_dir>/source`; the val split chooses the epoch.

    After every epoch a checkpoint stands beside the output, and the same settings go on from it: on one device, with
    as many threads of torch, the weights are those of a run that nothing interrupted.

    Raises `DataError` for shards or a checkpoint that are missing or damaged, `SettingsError` for a checkpoint of
    other settings or library versions, for files of others in the way, and while another process trains into the same
    file, `LimlaError` where training diverges.
    """
    device = choose_device(settings.device)
    manifest = read_manifest(settings.data_dir / SOURCE)
    identity = _identity(settings, [manifest.data_id(split) for split in ("train", "val")], device)
    settings.output.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(settings.output.with_name(f".{settings.output.name}.lock"), "limla codec train"):
        done = _finished(settings, identity)
        if done is not None:
            progress.say(f"nothing to do: {settings.output} is trained")
            return done
        train, val = (open_source([settings.data_dir / SOURCE], split) for split in ("train", "val"))
        with closing(train), closing(val):
            return _train(settings, identity, train, val, device, progress)


def _train(
    settings: CodecTrainSettings,
    identity: dict[str, Any],
    train: ShardSource,
    val: ShardSource,
    device: torch.device,
    progress: Progress,
) -> CodecTrainResult:
    run, state = _begin(settings, identity, train, val, device, progress)
    started, first = time.monotonic(), state.epoch
    while state.epoch < settings.epochs:
        row = _epoch(run, state.epoch + 1, progress)
        state.epoch += 1
        state.history.append(row)
        is_best = row["val_psnr_db"] > max((each["val_psnr_db"] for each in state.history[:-1]), default=-1.0)
        if is_best:
            state.best_epoch = state.epoch
            state.best = {name: value.detach().cpu().clone() for name, value in run.model.state_dict().items()}
        _save(run, state)
        progress.say(
            f"epoch {state.epoch}/{settings.epochs}: loss {row['loss']:.4f}; val PSNR {row['val_psnr_db']:.2f} dB"
            f"{' (best so far)' if is_best else ''}{_left(started, first, state.epoch, settings.epochs)}"
        )
    from limla.codec_training.fitting import finish

    run.model.load_state_dict(state.best)
    weights, rates = finish(run.model.cpu().eval(), run.plan, train, val, settings.seed, progress)
    write_bytes(settings.output, weights)
    _write_record(settings, identity, state, rates)
    _checkpoint_path(settings).unlink(missing_ok=True)
    return CodecTrainResult(settings.output, state.best_epoch, tuple(rates))


def _left(started: float, first: int, done: int, epochs: int) -> str:
    """How long the epochs that are left will take, as those of this process did."""
    minutes = (time.monotonic() - started) / (done - first) * (epochs - done) / 60
    return f"; about {max(1, round(minutes))} min left" if done < epochs else ""


def _identity(settings: CodecTrainSettings, data: list[str], device: torch.device) -> dict[str, Any]:
    """All that decides the weights."""
    names = ("epochs", "batch_size", "crop_size", "width", "bits", "learning_rate", "seed")
    return {"data": data, **{name: getattr(settings, name) for name in names}, "device": device.type}


def _record_path(settings: CodecTrainSettings) -> Path:
    return settings.output.with_name(settings.output.name + ".json")


def _checkpoint_path(settings: CodecTrainSettings) -> Path:
    return settings.output.with_name(settings.output.name + ".training.pt")


def _finished(settings: CodecTrainSettings, identity: dict[str, Any]) -> CodecTrainResult | None:
    """The result of an earlier run; None where there is work to do, and nothing of others in its way."""
    path = _record_path(settings)
    if not path.exists():
        if settings.output.exists() and not _checkpoint_path(settings).exists():
            raise SettingsError(f"{settings.output} is there, without {path.name}: choose another output")
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        known, digest = dict(record["settings"]), record["weights_sha256"]
        result = CodecTrainResult(settings.output, record["best_epoch"], tuple(record["rates"]))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is there and is no record of limla codec train, or a damaged one: choose another output, or move "
            "it away"
        ) from error
    check_settings(settings.output, known, identity)
    if not settings.output.exists():
        return None  # the weights were removed: they are made again
    if file_sha256(settings.output) != digest:
        raise DataError(f"{settings.output}: altered since it was trained; remove it and train again")
    return result


def _write_record(
    settings: CodecTrainSettings, identity: dict[str, Any], state: _State, rates: list[dict[str, Any]]
) -> None:
    write_json(
        _record_path(settings),
        {
            "settings": identity,
            "versions": library_versions(_LIBRARIES),
            "weights_sha256": file_sha256(settings.output),
            "best_epoch": state.best_epoch,
            "rates": rates,
            "curve": state.history,
        },
    )


def _begin(
    settings: CodecTrainSettings,
    identity: dict[str, Any],
    train: ShardSource,
    val: ShardSource,
    device: torch.device,
    progress: Progress,
) -> tuple[_Run, _State]:
    """A new run, or the one whose checkpoint is there."""
    path = _checkpoint_path(settings)
    content = _read_checkpoint(path, identity) if path.exists() else None
    plan = _plan(settings, train, progress) if content is None else _plan_from(content["plan"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = Autoencoder(plan, settings.width)
    optimizer = torch.optim.Adam(model.to(device).parameters(), settings.learning_rate)
    state = _State(0, 0, {}, [])
    if content is not None:
        try:
            model.load_state_dict(content["model"])
            optimizer.load_state_dict(content["optimizer"])
            state = _State(**content["state"])
        except (RuntimeError, KeyError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"{path}: damaged ({reason}); remove it and train again") from error
        progress.say(f"going on after epoch {state.epoch} of {settings.epochs}")
    count = min(_JUDGED_IMAGES, val.num_samples)
    places = np.linspace(0, val.num_samples - 1, count).round().astype(int)
    crops = [centred(middle_crop(val, int(index), settings.crop_size)) for index in places]
    return _Run(
        settings, identity, train, torch.from_numpy(np.stack(crops)), device, plan, model, optimizer
    ), state


def _plan(settings: CodecTrainSettings, train: ShardSource, progress: Progress) -> CodePlan:
    """Components and digits, from patches of images drawn by the seed."""
    generator = np.random.default_rng((settings.seed, 0))
    chosen = generator.permutation(train.num_samples)[:_PLANNED_IMAGES]
    found = []
    with progress.stage("principal components", len(chosen)) as advance:
        for index in np.sort(chosen):
            image = whole_image(train, int(index))
            height, width = (max(side, 8) for side in image.shape[:2])
            padded = np.pad(
                image, ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)), mode="edge"
            )
            patches = patches_of(centred(padded), height, width)
            found.append(generator.permutation(patches)[:_PATCHES_EACH])
            advance(1)
    return plan_code(np.concatenate(found), settings.num_digits)


def _plan_from(values: dict[str, Any]) -> CodePlan:
    return CodePlan(
        components=values["components"].numpy(),
        spreads=values["spreads"].numpy(),
        order=tuple((int(channel), int(power)) for channel, power in values["order"]),
        lengths=values["lengths"].numpy(),
        distortions=values["distortions"].numpy(),
        slopes=values["slopes"].numpy(),
    )


def _read_checkpoint(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    content = read_file(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path}: not a checkpoint of limla codec train; remove it, or choose another output")
    check_settings(path, content["identity"], identity)
    check_settings(path, content.get("versions", {}), library_versions(_LIBRARIES))
    return content


def _save(run: _Run, state: _State) -> None:
    plan = {
        name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for name, value in run.plan.as_dict().items()
    }
    content = {
        "format": FORMAT,
        "identity": run.identity,
        "versions": library_versions(_LIBRARIES),
        "plan": plan,
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "state": vars(state),
    }
    with atomic_open(_checkpoint_path(run.settings)) as file:
        torch.save(content, file)


def _epoch(run: _Run, epoch: int, progress: Progress) -> dict[str, float]:
    """One pass over the crops, then the val crops."""
    settings = run.settings
    steps = math.ceil(run.source.num_samples / settings.batch_size)
    errors = torch.tensor(run.plan.distortions, dtype=torch.float32)
    slopes = torch.tensor(run.plan.slopes, dtype=torch.float32)
    draws = torch.Generator().manual_seed(int(np.random.default_rng((settings.seed, epoch, 1)).integers(2**62)))
    total = 0.0
    run.model.train()
    with progress.stage(f"epoch {epoch}/{settings.epochs}", run.source.num_samples) as advance:
        batches = epoch_batches(run.source, settings.crop_size, settings.batch_size, settings.seed, epoch)
        for number, batch in enumerate(batches):
            share = ((epoch - 1) * steps + number) / (settings.epochs * steps)
            rate = _LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * share)) / 2
            for group in run.optimizer.param_groups:
                group["lr"] = settings.learning_rate * rate
            qualities = torch.randint(1, NUM_QUALITIES + 1, (len(batch),), generator=draws)
            pixels = batch.to(run.device)
            decoded, bits = run.model(pixels, qualities.to(run.device))
            error = PATCH * ((decoded - pixels) ** 2).mean(dim=(1, 2, 3))
            weighted = error + slopes[qualities].to(run.device) * bits
            loss = (weighted / errors[qualities].to(run.device)).mean()
            run.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(run.model.parameters(), _LARGEST_GRADIENT)
            run.optimizer.step()
            total += float(loss.detach()) * len(batch)
            advance(len(batch))
    if not math.isfinite(total):
        raise LimlaError(f"training diverged in epoch {epoch}: the loss is {total}; lower --learning-rate")
    return {"epoch": epoch, "loss": total / run.source.num_samples, "val_psnr_db": _judge(run)}


@torch.inference_mode()
def _judge(run: _Run) -> float:
    """The mean PSNR over val crops and qualities, in dB."""
    run.model.eval()
    found = []
    for batch in run.judged.split(run.settings.batch_size):
        pixels = batch.to(run.device)
        numbers = run.model.analyse(pixels)
        for quality in _JUDGED_QUALITIES:
            qualities = torch.full((len(batch),), quality, device=run.device)
            decoded = run.model.synthesise(run.model.quantise(numbers, qualities), qualities)
            error = ((decoded - pixels) ** 2).mean(dim=(1, 2, 3)) * UNIT**2
            found.append(10 * torch.log10(255**2 / error.clamp(min=1e-9)).double().cpu())
    return float(torch.cat(found).mean())
