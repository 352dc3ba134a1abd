"""What DALI cannot read, said before it is tried; and what its errors mean, which name neither shard nor sample."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from limla.codecs.decoding import decode_image
from limla.errors import DataError, SettingsError
from limla.loaders.decodable import DALI_CPU_DECODES, DALI_DECODES
from limla.loaders.source import ShardSource


def decoded_extensions(device: str, wanted: Iterable[str]) -> tuple[str, ...]:
    """The extensions that DALI decodes as their codecs do, on "cpu" or "cuda".

    Raises `SettingsError` where one of `wanted`, which the shards hold or re-encoding makes, is not among them.
    """
    decoded = DALI_DECODES if device == "cuda" else DALI_CPU_DECODES
    for extension in wanted:
        if extension not in decoded:
            place = " on a GPU" if extension in DALI_CPU_DECODES else ""
            what = f".{extension} files" if extension else "files of a codec that this limla does not know"
            raise SettingsError(f"DALI does not decode {what}{place}: choose the cpu loader")
    return decoded


def explain(error: Exception, source: ShardSource, waiting: list[npt.NDArray[np.int64]]) -> DataError | None:
    """The damaged sample or shard behind one of DALI's errors; None when it is no fault of the data.

    `waiting`: the sample indices of each batch that may have been in the making.
    """
    for index in (index for indices in waiting for index in indices.tolist()):
        record = source.read(index)
        try:
            decode_image(record.image, record.extension)
        except DataError as damage:
            return DataError(f"{record.tar_path}: sample '{record.key}': {damage}")
    text = str(error)
    if "decoders" in text and waiting:
        first, last = (source.read(int(index)).key for index in (waiting[0][0], waiting[-1][-1]))
        return DataError(
            f"{source.describe()}: DALI cannot decode an image between '{first}' and '{last}', "
            "though other decoders can; choose the cpu loader"
        )
    if "readers" in text:
        lines = text.splitlines()
        reason = next((line for mark in ("S3 ", "]") for line in lines if mark in line), lines[-1])
        remedy = (
            "; without verification it reads S3 itself, by the AWS_* variables and ~/.aws alone: check these, or "
            "leave verification on"
            if "S3 " in reason
            else ""
        )
        return DataError(f"{source.describe()}: DALI cannot read the shards: {reason.rstrip(':. ')}{remedy}")
    return None
