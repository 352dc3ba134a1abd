"""Batches' memory is used again, and never while somebody still looks at it."""

from __future__ import annotations

import gc

import numpy as np
import torch

from limla.loaders.buffers import BatchBuffers


def test_memory_serves_again_when_nobody_holds_it() -> None:
    buffers = BatchBuffers(num_kept=2)
    first = buffers.take((4, 3, 5, 5))
    assert first.shape == (4, 3, 5, 5)
    assert first.dtype == torch.float32
    assert first.is_contiguous()
    place = first.data_ptr()
    assert buffers.take((4, 3, 5, 5)).data_ptr() != place
    del first
    gc.collect()
    places = {buffers.take((4, 3, 5, 5)).data_ptr() for _ in range(3)}
    assert place in places


def test_every_kind_of_view_keeps_the_memory() -> None:
    """A slice, a reshaped tensor, a NumPy array, a DLPack copy of the handle, a storage."""
    buffers = BatchBuffers(num_kept=4)
    views = (
        lambda images: images[1:2],
        lambda images: images.view(-1)[3:].detach(),
        lambda images: images.numpy()[0][::2],
        lambda images: np.asarray(images)[1],
        lambda images: torch.from_dlpack(images)[0],
        lambda images: images.untyped_storage(),
    )
    held = []
    for view in views:
        images = buffers.take((2, 3, 4, 4))
        images.fill_(len(held))
        held.append(view(images))
        del images
        gc.collect()
    for _ in range(8):
        buffers.take((2, 3, 4, 4)).fill_(99)
    for number, view in enumerate(held[:-1]):
        assert (np.asarray(view) == number).all()
    assert held[-1].tolist()[:4] == list(np.float32(5).tobytes())


def test_smaller_batches_fit_and_larger_ones_get_more() -> None:
    buffers = BatchBuffers(num_kept=1)
    place = buffers.take((4, 3, 2, 2)).data_ptr()
    small = buffers.take((1, 3, 2, 2))
    assert (small.data_ptr(), small.shape) == (place, (1, 3, 2, 2))
    del small
    large = buffers.take((9, 3, 2, 2))
    large.fill_(1)
    assert large.shape == (9, 3, 2, 2)


def test_only_so_much_is_kept() -> None:
    buffers = BatchBuffers(num_kept=2)
    batches = [buffers.take((2, 3, 2, 2)) for _ in range(10)]
    assert len({batch.data_ptr() for batch in batches}) == 10
    del batches
    gc.collect()
    assert len(buffers._free) == 2
    late = buffers.take((2, 3, 2, 2))
    buffers.clear()
    late.fill_(3)
    assert (late == 3).all()
