"""Moving tensors to where a model is."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device | None) -> Tensor:
    """The tensor there. Neither side waits: copies to a GPU leave from pinned memory."""
    if device is not None and device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
