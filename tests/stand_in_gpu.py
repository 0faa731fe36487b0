"""A device that stands in for a GPU where there is none: `pytest -p stand_in_gpu -m gpu`, with `tests` on the path.

Kernels run on the CPU, so nothing is learnt about a GPU's numbers or speed. But what would fail on a GPU because of
where tensors are fails here: an operation on tensors of two devices raises, and within `nothing_waits` so does whatever
would keep the host waiting. Stands on torch's Python backends, which one process can register once and never take back.
"""

from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from helpers import unchecked
from torch.utils._device import _device_constructors
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "standin"
aten = torch.ops.aten
READS = {aten._local_scalar_dense.default, aten.equal.default, aten.nonzero.default, aten.masked_select.default}
INDEXES = {
    aten.index.Tensor: 1,
    aten._unsafe_index.Tensor: 1,
    aten.index_put.default: 1,
    aten.index_put_.default: 1,
    aten._index_put_impl_.default: 1,
}
CROSSES = {aten.copy_.default, aten._to_copy.default}
_state: dict[str, Any] = {"strict": False, "registered": False}


class Waiting(RuntimeError):
    """The host would wait for the device."""


class There(torch.Tensor):
    """A tensor on the device; `raw` holds its values on the CPU, and views of it are views of these."""

    raw: torch.Tensor
    __torch_function__: ClassVar[Any] = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, raw):
        layout = {"strides": raw.stride(), "storage_offset": raw.storage_offset()}
        device = torch.device(f"{NAME}:0")
        made = torch.Tensor._make_wrapper_subclass(cls, raw.shape, dtype=raw.dtype, device=device, **layout)
        made.raw = raw
        return made

    def __repr__(self, *, tensor_contents=None):
        return f"There({self.raw})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def registered() -> bool:
    """Whether this process has the device."""
    return _state["registered"]


@contextmanager
def nothing_waits(device: str):
    """Raise where the host would wait for the device, a GPU or its stand-in."""
    if device != NAME:
        torch.cuda.set_sync_debug_mode("error")
    _state["strict"] = True
    try:
        yield
    finally:
        _state["strict"] = False
        if device != NAME:
            torch.cuda.set_sync_debug_mode("default")


def _run(func, args, kwargs):
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    ours = [tensor for tensor in tensors if isinstance(tensor, There)]
    asked = kwargs.get("device")
    goes_there = bool(ours) if asked is None else torch.device(asked).type == NAME
    if func in CROSSES:
        _check_crossing(func, args, kwargs, goes_there)
    else:
        _check_places(func, args, tensors)
    if _state["strict"]:
        _check_waiting(func, args, ours)
    known = {id(tensor.raw if isinstance(tensor, There) else tensor): tensor for tensor in tensors}
    kwargs = {key: value for key, value in kwargs.items() if key != "pin_memory"}
    if asked is not None:
        kwargs["device"] = torch.device("cpu")
    with torch.no_grad():
        result = func(*tree_map(_raw, args), **tree_map(_raw, kwargs))

    def placed(value):
        if not isinstance(value, torch.Tensor):
            return value
        if func is aten._to_copy.default:
            value = value.clone()
        elif id(value) in known:  # what was changed in place
            return known[id(value)]
        return There(value) if goes_there else value

    return tree_map(placed, result)


def _raw(value):
    return value.raw if isinstance(value, There) else value


def _check_crossing(func, args, kwargs, goes_there) -> None:
    """A copy to the CPU has to wait for its values; one to the device need not."""
    if func is aten.copy_.default:
        to, source = args[:2]
        goes_there, without_waiting = isinstance(to, There), len(args) > 2 and args[2]
    else:
        source, without_waiting = args[0], False
    without_waiting = without_waiting or kwargs.get("non_blocking")
    if isinstance(source, There) == goes_there or not source.dim():
        return
    if without_waiting and not goes_there:
        raise RuntimeError(f"{func} to the CPU does not wait: its values could be read before they are there")
    if _state["strict"] and not without_waiting:
        raise Waiting(f"{func} from one device to the other")


def _check_places(func, args, tensors) -> None:
    """Single numbers may come from the CPU, and indices; all else must be in one place."""
    indices = {id(leaf) for leaf in tree_leaves(args[INDEXES[func]])} if func in INDEXES else set()
    places = {type(tensor) is There for tensor in tensors if tensor.dim() and id(tensor) not in indices}
    if len(places) > 1:
        raise RuntimeError(f"{func} was given tensors of two devices: {[tuple(tensor.shape) for tensor in tensors]}")
    host_indexed = func in INDEXES and not isinstance(args[0], There)
    if host_indexed and any(isinstance(tensor, There) for tensor in tensors):
        raise RuntimeError(f"{func}: a tensor on the CPU was indexed by one on the device")


def _check_waiting(func, args, ours) -> None:
    if func in READS and ours:
        raise Waiting(f"{func} reads values")
    if func in INDEXES:
        for index in tree_leaves(args[INDEXES[func]]):
            if isinstance(index, torch.Tensor) and (not isinstance(index, There) or index.dtype == torch.bool):
                raise Waiting(f"{func}: an index of {index.dtype} on {index.device}")


def pytest_configure(config) -> None:
    """Register the device, before anything is run; a GPU's tests then run on it."""
    _setup_privateuseone_for_python_backend(NAME)
    _state["registered"], _state["library"] = True, torch.library.Library("_", "IMPL")
    _state["library"].fallback(lambda func, *args, **kwargs: _run(func, args, kwargs), "PrivateUse1")
    _device_constructors()  # remembers them, so that `with torch.device(...)` still knows `torch.tensor`
    tensor, generator = torch.tensor, unchecked(torch.Generator)

    def tensor_there(data, *, device=None, **options):
        made = tensor(data, **options)
        return made if device is None else made.to(device)

    class GeneratorThere(generator):
        def __new__(cls, device="cpu"):
            return generator.__new__(cls, "cpu")

    # These reach the device by ways that a Python backend does not see.
    torch.tensor, torch.Generator = tensor_there, GeneratorThere
