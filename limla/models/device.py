"""Which device a model runs on."""

from __future__ import annotations

import torch

from limla.errors import SettingsError


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """The device for "auto", "cpu", "cuda" or "cuda:1".

    "auto" and "cuda" are this process's own GPU (`local_rank` under torchrun); "auto" without one is the CPU.
    Raises `SettingsError` for a device that is unknown or not there.
    """
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if num_gpus else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SettingsError(f"unknown device '{name}': choose auto, cpu, cuda or cuda:0") from error
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise SettingsError(f"device '{name}' is not supported: choose auto, cpu, cuda or cuda:0")
    number = local_rank if device.index is None else device.index
    if number >= num_gpus:
        raise SettingsError(
            f"device 'cuda:{number}' is not there: torch sees {num_gpus} GPUs; choose cpu or auto"
        )
    return torch.device("cuda", number)
