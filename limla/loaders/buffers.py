"""Memory for batches that is used again, since fresh memory costs as much as resizing the images.

A batch of 32 images of 224×224 is 19 MB. Memory of that size comes from the system as pages that are zeroed at
their first write; done anew for each batch, that took a good part of the time of decoding.
"""

from __future__ import annotations

import math
import weakref

import numpy as np
import torch


class BatchBuffers:
    """Gives out float32 tensors; the memory of one that nobody holds any more serves the next.

    A tensor, and every view or NumPy array made of it, stays valid for as long as it is held. Not for calls
    from several threads at once.
    """

    def __init__(self, num_kept: int) -> None:
        """Keep at most `num_kept` unused buffers."""
        self._num_kept = num_kept
        self._free: list[np.ndarray] = []

    def take(self, shape: tuple[int, ...]) -> torch.Tensor:
        """A float32 tensor of this shape with values of no meaning."""
        num = math.prod(shape)
        buffer = self._free.pop() if self._free else np.empty(num, np.float32)
        if buffer.size < num:
            buffer = np.empty(num, np.float32)
        # torch holds this view, and the view the buffer: it dies with the last tensor or array made of it
        view = buffer[:num]
        weakref.finalize(view, _give_back, self._free, self._num_kept, buffer).atexit = False
        return torch.from_numpy(view).view(shape)

    def clear(self) -> None:
        """Let go of unused memory."""
        self._free.clear()


def _give_back(free: list[np.ndarray], num_kept: int, buffer: np.ndarray) -> None:
    if len(free) < num_kept:
        free.append(buffer)
