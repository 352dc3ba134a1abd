"""A batch computed in parts: the same rows, isolated models, errors and Ctrl-C that come through."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn

from limla.models import parts
from limla.models.parts import BatchParts, copy_sharing_parameters, count_parts

IMAGE_BYTES = 3 * 4 * 4 * 4


@pytest.fixture(autouse=True)
def _parts_of_two_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", 2 * IMAGE_BYTES)


class Stateful(nn.Module):
    """Keeps state in an attribute and in a buffer, which a second thread would spoil."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.register_buffer("calls", torch.zeros(1))
        self.last: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        self.calls = self.calls + 1
        self.last = images
        means = self.last.mean(dim=(2, 3)) * self.scale
        assert self.last is images
        return means + self.calls


def images_of(number: int) -> Tensor:
    return torch.rand(number, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def test_rows_are_those_of_the_whole_whatever_state_the_model_keeps() -> None:
    model, images = Stateful(), images_of(9)
    with torch.no_grad():
        found = BatchParts(model).run(lambda part_model, part: part_model(part), images)
        assert float(model.calls) == 0, "the copies work, not the model"
        assert model.last is None
        expected = model(images)
    assert torch.allclose(found, expected, atol=1e-6)
    assert not found.requires_grad, "the caller's grad mode"


def test_parts_depend_on_the_shape_alone() -> None:
    assert [count_parts(images_of(number)) for number in (1, 2, 3, 4, 9)] == [1, 1, 2, 2, 5]
    assert count_parts(torch.zeros(0, 3, 4, 4)) == 1
    assert count_parts(torch.zeros(2, 3, 64, 64)) == 2, "never more parts than images"


def test_several_tensors_are_cut_alike() -> None:
    images, labels = images_of(7), torch.arange(7)

    def work(model: nn.Module, part: Tensor, part_labels: Tensor) -> Tensor:
        assert len(part) == len(part_labels)
        assert torch.equal(part, images[part_labels])
        return part_labels

    assert torch.equal(BatchParts(Stateful()).run(work, images, labels), labels)


def test_copies_share_parameters_and_nothing_else() -> None:
    model = Stateful()
    twin = copy_sharing_parameters(model)
    assert twin.scale is model.scale
    assert twin.calls is not model.calls


@pytest.mark.parametrize("error", [RuntimeError, KeyError, KeyboardInterrupt])
def test_an_error_comes_through_and_the_threads_end(error: type[BaseException]) -> None:
    before, threads = torch.get_num_threads(), threading.active_count()

    def work(model: nn.Module, part: Tensor, number: Tensor) -> Tensor:
        if 4 in number:
            raise error("part")
        for _ in range(1000):
            model(part)
        return number

    with pytest.raises(error, match="part"):
        BatchParts(Stateful()).run(work, images_of(12), torch.arange(12))
    assert torch.get_num_threads() == before
    assert threading.active_count() == threads


def test_ctrl_c_in_the_waiting_thread_stops_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    started = threading.Event()

    def interrupted(*arguments: object, **options: object) -> None:
        assert started.wait(10)
        raise KeyboardInterrupt

    monkeypatch.setattr(parts, "wait", interrupted)

    def work(model: nn.Module, part: Tensor) -> Tensor:
        started.set()
        while True:  # only a stopped model ends it
            model(part)

    with pytest.raises(KeyboardInterrupt):
        BatchParts(Stateful()).run(work, images_of(8))
