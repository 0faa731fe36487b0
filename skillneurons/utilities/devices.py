"""Where a model may be and in which precision, and moving tensors there."""

import torch
from torch import Tensor

from skillneurons.utilities.checks import NO_MPS

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def check_device(device: str | torch.device | None) -> None:
    """Raise `ValueError` where torch has no such device, and say which it has."""
    try:
        asked = torch.device("cpu" if device is None else device)
    except RuntimeError as error:
        raise ValueError(f"`device` is 'cpu', 'cuda', 'cuda:1' and the like, not {device!r}.") from error
    if asked.type == "mps":
        raise ValueError(f"`device` is {str(device)!r}. {NO_MPS}")
    if asked.type == "meta":
        raise ValueError(f"`device` is {str(device)!r}, but it holds no numbers. Pass 'cpu' or 'cuda'.")
    n_gpus = torch.cuda.device_count()
    if asked.type == "cuda" and (asked.index or 0) >= n_gpus:
        raise ValueError(
            f"`device` is {str(device)!r}, but torch {torch.__version__} finds {n_gpus} GPUs here. Pass 'cpu', or "
            "install a torch that is built for the GPU."
        )


def as_dtype(dtype: str | torch.dtype, argument: str = "dtype") -> torch.dtype:
    """The type of a name such as `"bfloat16"`. Raises `ValueError` where it is none that a model can be in.

    The message calls it `argument`.
    """
    found = DTYPES.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise ValueError(f"`{argument}` is one of {', '.join(DTYPES)}, not {str(dtype)!r}.")
    return found


def to_device(tensor: Tensor, device: torch.device | None) -> Tensor:
    """The tensor there. On the way to a GPU neither side waits: the copy leaves from pinned memory."""
    if device is not None and device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    # The host has to wait for what comes back: it could read the copy before it is whole.
    return tensor.to(device, non_blocking=device is not None and device.type != "cpu")
