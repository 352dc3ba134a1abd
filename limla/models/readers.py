"""Which layer of a model reads which other's result, told from the autograd graph of one batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

MODEL_ERRORS = (
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    IndexError,
    AssertionError,
    NotImplementedError,
)
"""What a stranger's forward may raise when a layout or a changed layer does not suit it."""


@dataclass
class _Call:
    """What one call of a layer left in the autograd graph."""

    node: Any
    count: int = 0


def reader_pairs(
    model: nn.Module, images: Tensor, read: tuple[type[nn.Module], ...], reading: tuple[type[nn.Module], ...]
) -> list[tuple[str, str]]:
    """Names of (layer of a type in `read`, layer in `reading`) where the second is all that reads the first's output.

    Runs `images` through `model` once, watched by hooks that are then removed. [] when the model cannot be
    watched (no gradient reaches its output).
    """
    sources, readers = (candidates(model, kinds, lambda layer: True) for kinds in (read, reading))
    calls = {name: _Call(None) for name in sources | readers}

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            del module, arguments
            calls[name].node = output.grad_fn
            calls[name].count += 1

        return hook

    handles = [layer.register_forward_hook(watch(name)) for name, layer in (sources | readers).items()]
    try:
        with torch.enable_grad():
            logits = model(images.detach().requires_grad_(True))
    except MODEL_ERRORS:
        return []
    finally:
        for handle in handles:
            handle.remove()
    once = {name: call.node for name, call in calls.items() if call.count == 1 and call.node is not None}
    source_of_node = {once[name]: name for name in sources if name in once}
    num_readers = _count_readers(logits.grad_fn)
    pairs: list[tuple[str, str]] = []
    for name in readers:
        if name not in once:
            continue
        node = once[name].next_functions[0][0] if once[name].next_functions else None
        source = source_of_node.get(node)
        if source is not None and num_readers[node] == 1:
            pairs.append((source, name))
    return pairs


def candidates(
    model: nn.Module, kinds: tuple[type[nn.Module], ...], suits: Callable[[Any], bool]
) -> dict[str, nn.Module]:
    """Layers of exactly these kinds that stand at one place, own their parameters, and have no hooks."""
    places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    owners = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    return {
        name: module
        for name, module in model.named_modules()
        # a subclass may compute something else; a parametrised or pruned layer is one
        if type(module) in kinds
        and name
        and places[id(module)] == 1
        and not _has_hooks(module)
        and all(owners[id(parameter)] == 1 for parameter in module.parameters(recurse=False))
        and (type(module) is not nn.Conv2d or isinstance(module._parameters.get("weight"), nn.Parameter))
        and suits(module)
    }


def _has_hooks(module: nn.Module) -> bool:
    """Whether anything watches or changes what goes in and out of this layer."""
    return any(
        bool(getattr(module, table))
        for table in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    )


def _count_readers(root: Any) -> Counter[Any]:
    """How many edges of the autograd graph lead to each node."""
    readers: Counter[Any] = Counter()
    waiting = [root] if root is not None else []
    seen = set(waiting)
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if node is None:
                continue
            readers[node] += 1
            if node not in seen:
                seen.add(node)
                waiting.append(node)
    return readers


def neighbours(model: nn.Module, kind: type[nn.Module]) -> set[tuple[str, str]]:
    """Names of (layer of this type, the next one), where nothing that could look at what passes stands between.

    That is so inside `nn.Sequential` and what inherits its forward, nested or not, without hooks: with code of its
    own a module may do another thing with another image, which no single batch shows.
    """
    inside = {
        id(child) for module in model.modules() if _is_plain_sequential(module) for child in module.children()
    }
    found: set[tuple[str, str]] = set()
    for name, module in model.named_modules():
        if not _is_plain_sequential(module) or id(module) in inside:
            continue
        before: str | None = None
        for place, layer in _leaves(name, module):
            if isinstance(layer, kind):
                if before is not None:
                    found.add((before, place))
                before = place
            elif type(layer) not in _PASSING or _has_hooks(layer):
                before = None
    return found


_PASSING = (nn.Identity, nn.Dropout, nn.Dropout2d)
"""What does nothing in eval mode."""


def _is_plain_sequential(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and (
        type(module).forward is nn.Sequential.forward
        and type(module).__call__ is nn.Module.__call__
        and not _has_hooks(module)
    )


def _leaves(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    if not _is_plain_sequential(module):
        yield name, module
        return
    for child_name, child in module._modules.items():  # `named_children` leaves out what stands there twice
        assert child is not None
        yield from _leaves(f"{name}.{child_name}" if name else child_name, child)


def replace_layer(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Put `layer` in the place of the layer of this name."""
    parent, _, last_name = name.rpartition(".")
    setattr(model.get_submodule(parent), last_name, layer)
