"""Train one model: the epochs, early stopping, and going on after an interruption.

An epoch's randomness comes from (seed, epoch, rank) alone, so a run that goes on from last.pt does what an
uninterrupted one would have done: on the CPU the weights are equal bit for bit, on a GPU up to the order of
its additions.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from limla.codecs import build_codec
from limla.errors import DataError, LimlaError, SettingsError
from limla.files import exclusive, remove_unfinished
from limla.loaders.base import Loader, LoaderSettings, Reencoding, open_loader
from limla.manifest import Manifest, check_one_source, read_manifest
from limla.models import user
from limla.models.base import SOURCE_DATA_IDS, ModelInfo, build_model, canonical_name, check_output
from limla.models.checkpoint import read_checkpoint, save_checkpoint
from limla.models.memory import keep_large_activations
from limla.paths import AnyPath
from limla.progress import SILENT, Progress
from limla.tasks.classification import Classification
from limla.training.adversary import Adversary
from limla.training.events import epoch_line, tensorboard_events
from limla.training.folder import ROBUST_NAMES, RunFolder, State, decisive_settings
from limla.training.passes import (
    Change,
    Learner,
    Totals,
    check_lone_samples,
    measure_pass,
    norms_of,
    train_pass,
)
from limla.training.settings import TrainResult, TrainSettings
from limla.world import World, joined, torchrun_world


def train(settings: TrainSettings, progress: Progress = SILENT) -> TrainResult:
    """Train a model on one variant of a dataset, or a mix, and leave it in `settings.output_dir`.

    Adam on the mean cross-entropy. After each epoch the model is measured on the val split of the same
    variants; training stops when that loss has not fallen for `patience` epochs. With random qualities each val
    image has one of its own, the same in every epoch; with an adversary the loss is that of attacked val images.
    The test split is never opened. An unfinished run in the folder is continued, a finished one is left as it is.

    Under torchrun the processes share each epoch; `batch_size` is per process and the first one writes.

    Raises a `LimlaError` before any file is written for settings that do not fit each other, the data or the
    folder, and during training for damaged data or a loss that is no longer finite.
    """
    world = torchrun_world(settings.device)
    if not world.is_first:
        progress = SILENT
    with joined(world):
        return _train(settings, world, progress)


def _train(settings: TrainSettings, world: World, progress: Progress) -> TrainResult:
    name = canonical_name(settings.model)
    if user.is_spec(name):
        user.consent(name)
    if settings.amp and world.device.type != "cuda":
        raise SettingsError(
            f"amp (float16) needs a GPU, and this runs on the {world.device.type}: leave --amp out"
        )
    manifests = [_checked_manifest(folder) for folder in settings.folders()]
    source_ids = check_one_source(settings.folders(), manifests)
    decisive = decisive_settings(settings, name, manifests, world.world_size, world.device.type)
    folder = RunFolder(settings.output_dir, decisive)
    # the first process looks, so that none disagrees
    done = world.broadcast(folder.finished(folder.check()) if world.is_first else None)
    if done is not None:
        progress.say(f"{folder.path}: finished already ({done.epochs_run} epochs): nothing to do")
        return done
    if world.is_first:
        folder.check_table(settings.results_csv)
    if world.device.type == "cpu":
        keep_large_activations()
    devices = [world.device] if world.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        run = _prepare(settings, name, manifests[0], source_ids, folder, world, progress)
        with closing(run.train_loader), closing(run.val_loader), _exclusive(folder, world):
            state = _resume(run, progress)
            return _run_epochs(run, state, progress)


def _checked_manifest(folder: AnyPath) -> Manifest:
    manifest = read_manifest(folder)
    for split, why in (("train", "there is nothing to train on"), ("val", "training stops by the val loss")):
        if manifest.num_samples(split) == 0:
            raise DataError(
                f"{folder}: no images in the split '{split}', and {why}; pack the photos again, plain class folders "
                f"with shares (limla pack … --train 0.8 --val 0.1 --test 0.1), folders that are split already with a "
                f"{split}/ folder among them, or with val out of train (limla pack … --val-from-train 0.1)"
            )
    return manifest


@contextmanager
def _exclusive(folder: RunFolder, world: World) -> Iterator[None]:
    """The first process holds the folder; two runs in one folder would spoil each other's files."""
    if world.is_first:
        folder.path.mkdir(parents=True, exist_ok=True)
    with exclusive(folder.path / ".training.lock", "a training run") if world.is_first else nullcontext():
        if world.is_first:
            remove_unfinished(folder.path)
        yield


@dataclass
class _Run:
    """Everything a run works with."""

    settings: TrainSettings
    world: World
    folder: RunFolder
    info: ModelInfo
    learner: Learner
    train_loader: Loader
    val_loader: Loader
    adversary: Adversary | None

    @property
    def deciding(self) -> str:
        """The metric that decides about best.pt and when to stop: measured on what the model is trained for."""
        return "val_loss" if self.adversary is None else "val_robust_loss"

    def change_in_training(self, epoch: int) -> Change | None:
        """What is done to each batch before the model learns from it."""
        if (adversary := self.adversary) is None:
            return None
        return lambda batch, number: adversary.in_training(self.learner.model, batch, epoch, number)

    def change_in_validation(self) -> Change | None:
        """What is done to each batch before the model is judged on it besides."""
        if (adversary := self.adversary) is None:
            return None
        return lambda batch, number: adversary.in_validation(self.learner.model, batch, number)


def _prepare(
    settings: TrainSettings,
    name: str,
    manifest: Manifest,
    source_ids: dict[str, str],
    folder: RunFolder,
    world: World,
    progress: Progress,
) -> _Run:
    """Open the data and build the model; writes nothing."""
    num_classes = len(manifest.class_names)
    crops = settings.preprocessing.resize == "crop"
    torch.manual_seed(_epoch_seed(settings.seed, 0, 0))
    model = build_model(
        *(name, num_classes, settings.weights, settings.freeze_backbone, settings.mean, settings.std),
        image_size=settings.preprocessing.image_size if crops else None,
        progress=progress,
    )
    train_loader = _open(settings, "train", world)
    val_loader = _open(settings, "val", world)
    side = settings.preprocessing.image_size
    shape = (side, side) if crops else _own_size(train_loader)
    if not crops:
        check_output(model, name, num_classes, shape)
    check_lone_samples(model, train_loader.num_samples, settings.batch_size)
    learner = _learner(settings, model, world)
    adversary = None
    if settings.adversary is not None:
        adversary = Adversary(settings.adversary, settings.seed, world.rank, world.world_size)
        adversary.check(learner.model, *shape, world.device)
        if adversary.caution:
            progress.say(adversary.caution)
    mean, std = (tuple(model.get_buffer(f"normalise.{part}").flatten().tolist()) for part in ("mean", "std"))
    info = ModelInfo(
        name, num_classes, manifest.class_names, settings.preprocessing, mean, std, manifest.dataset,
        settings.train_codec, settings.train_quality, settings.train_method, settings.seed,
        extra={"decoder": train_loader.decoder, SOURCE_DATA_IDS: source_ids, **_method_record(settings, adversary)},
    )  # fmt: skip
    return _Run(settings, world, folder, info, learner, train_loader, val_loader, adversary)


def _method_record(settings: TrainSettings, adversary: Adversary | None) -> dict[str, Any]:
    """What `train_method` says, in full: for the checkpoint."""
    found: dict[str, Any] = {}
    if settings.random_qualities:
        codec = build_codec(settings.codec)
        pinned = {**codec.settings(), "version": codec.version()}
        found["random_quality"] = {"codec": codec.name, "qualities": list(settings.random_qualities), **pinned}
    if adversary is not None:
        found["adversary"] = adversary.describe()
    return found


def _open(settings: TrainSettings, split: str, world: World) -> Loader:
    training = split == "train"
    return open_loader(
        settings.loader,
        settings.folders(),
        split,
        LoaderSettings(
            preprocessing=settings.preprocessing,
            batch_size=settings.batch_size,
            training=training,
            augment=training and settings.augment,
            reencoding=Reencoding(settings.codec, settings.random_qualities)
            if settings.random_qualities
            else None,
            seed=settings.seed,
            rank=world.rank,
            world_size=world.world_size,
            num_threads=settings.num_threads,
            device=str(world.device),
        ),
    )


def _own_size(loader: Loader) -> tuple[int, int]:
    """(height, width) of images taken at their own size, which only the data knows."""
    height, width = next(iter(loader)).images.shape[2:]
    return height, width


def _learner(settings: TrainSettings, model: nn.Module, world: World) -> Learner:
    model.to(world.device)
    # NHWC, parameter by parameter: `Module.to(memory_format=…)` refuses models that also hold 5-D ones
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise SettingsError(f"model '{settings.model}' has no parameter to train")
    norms = norms_of(model) if settings.freeze_backbone else ()
    return Learner(
        model=model,
        # a stranger's forward may go another way in each step
        wrapped=world.wrap(model, may_leave_unused=user.is_spec(settings.model)),
        optimizer=torch.optim.Adam(trained, lr=settings.learning_rate, fused=True),
        task=Classification(),
        scaler=torch.amp.GradScaler("cuda") if settings.amp else None,
        frozen_norms=tuple(norm for norm in norms if not any(p.requires_grad for p in norm.parameters())),
    )


def _resume(run: _Run, progress: Progress) -> State:
    """The state of last.pt, loaded into the learner; a new one for a new folder."""
    is_there = run.folder.last.is_file()
    if run.world.broadcast(is_there) != is_there:
        raise SettingsError(
            f"{run.folder.last}: not the same for every process; --output-dir must be a folder that all of them share"
        )
    if not is_there:
        if run.world.is_first:
            run.folder.start(run.info.class_names)
        return State()
    _, weights, training = read_checkpoint(run.folder.last)
    learner = run.learner
    try:
        state = State.from_dict(training["state"])
        learner.model.load_state_dict(weights)
        learner.optimizer.load_state_dict(training["optimizer"])
        if learner.scaler is not None:
            learner.scaler.load_state_dict(training["scaler"])
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{run.folder.last}: damaged ({reason}); remove {run.folder.path} and train again"
        ) from error
    progress.say(f"{run.folder.path}: going on after epoch {state.epoch} of {run.settings.epochs}")
    if run.world.is_first:
        run.folder.write_history(state.history)
        if state.best_epoch == state.epoch:
            # killed between last.pt and best.pt: this epoch's weights are the best ones
            save_checkpoint(run.folder.best, learner.model, _best_info(run, state))
    return state


def _run_epochs(run: _Run, state: State, progress: Progress) -> TrainResult:
    folder = run.folder.path / "tensorboard" if run.settings.tensorboard and run.world.is_first else None
    with tensorboard_events(folder, state.epoch) as write_events:
        while not state.is_over(run.settings):
            row = _epoch(run, state.epoch + 1, progress)
            is_best = state.record(row, run.settings.min_delta, run.deciding)
            if run.world.is_first:
                _save(run, state, is_best)
                write_events(row)
            progress.say(epoch_line(row, run.settings.epochs, is_best))
    if state.epoch < run.settings.epochs:
        progress.say(f"stopped: no lower validation loss in {state.epochs_without} epochs")
    if run.world.is_first:
        return run.folder.finish(state, run.info.dataset, run.info.train_method, run.settings.results_csv)
    return TrainResult(run.folder.best, run.folder.best_metrics(state), state.epoch)


def _epoch(run: _Run, epoch: int, progress: Progress) -> dict[str, float]:
    """Train on the train split and measure on the val split; returns the row of history.csv."""
    world, learner = run.world, run.learner
    torch.manual_seed(_epoch_seed(run.settings.seed, epoch, world.rank))
    run.train_loader.set_epoch(epoch)
    seen = Totals(run.info.num_classes, world.device)
    measured = Totals(run.info.num_classes, world.device)
    # all processes go in step, so the first one's progress is that of all
    num_images = world.world_size * (run.train_loader.num_samples + run.val_loader.num_samples)
    started = time.monotonic()
    with progress.stage(f"epoch {epoch}/{run.settings.epochs}", num_images) as advance_all:

        def advance(number: int) -> None:
            advance_all(number * world.world_size)

        train_pass(learner, run.train_loader, seen, advance, run.change_in_training(epoch))
        metrics = seen.metrics(world, "train_")
        num_trained = seen.num_samples(world)
        train_seconds = time.monotonic() - started
        _check_finite(metrics["train_loss"], epoch, run)
        world.share_buffers(learner.model)
        change = run.change_in_validation()
        robust = None if change is None else (Totals(run.info.num_classes, world.device), change)
        measure_pass(learner, run.val_loader, measured, advance, robust)
        metrics |= measured.metrics(world, "val_")
        if robust is not None:
            found = robust[0].metrics(world, "val_robust_")
            metrics |= {name: found[name] for name in ROBUST_NAMES}
    _check_finite(metrics[run.deciding], epoch, run)
    return {
        "epoch": epoch,
        **metrics,
        "seconds": round(time.monotonic() - started, 3),
        "images_per_s": round(num_trained / max(train_seconds, 1e-9), 2),
    }


def _check_finite(loss: float, epoch: int, run: _Run) -> None:
    if not math.isfinite(loss):
        remedy = "lower --learning-rate" + (" or leave --amp out" if run.settings.amp else "")
        raise LimlaError(
            f"training diverged: the loss is {loss} in epoch {epoch}; {remedy}, into another output folder"
        )


def _save(run: _Run, state: State, is_best: bool) -> None:
    """last.pt first: if the process ends before best.pt is written, `_resume` writes it."""
    learner = run.learner
    training: dict[str, Any] = {"state": state.as_dict(), "optimizer": learner.optimizer.state_dict()}
    if learner.scaler is not None:
        training["scaler"] = learner.scaler.state_dict()
    save_checkpoint(run.folder.last, learner.model, run.info, training)
    if is_best:
        save_checkpoint(run.folder.best, learner.model, _best_info(run, state))
    run.folder.write_history(state.history)


def _best_info(run: _Run, state: State) -> ModelInfo:
    best = state.history[state.best_epoch - 1]
    extra = {**run.info.extra, "epoch": state.best_epoch, "val_loss": best["val_loss"]}
    extra |= {name: best[name] for name in ROBUST_NAMES if name in best}
    return ModelInfo(**{**vars(run.info), "extra": extra})


def _epoch_seed(seed: int, epoch: int, rank: int) -> int:
    """In [0, 2**63): initial weights are drawn with epoch 0."""
    digest = hashlib.sha256(f"limla {seed} {epoch} {rank}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
