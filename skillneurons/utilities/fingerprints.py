"""Which model a result belongs to: a digest of its weights and of whatever else decides what it computes."""

import hashlib
import json
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from skillneurons.utilities.types import Json

# Entries of a Hugging Face configuration that say what a model is called, how it is trained, stored or run, or what it
# returns beside its logits.
NO_BEHAVIOUR = {
    "architectures",
    "chunk_size_feed_forward",
    "dtype",
    "id2label",
    "label2id",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "return_dict",
    "task_specific_params",
    "tokenizer_class",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}


def fingerprint_of(parameters: Iterable[tuple[str, Tensor]], behaviour: Mapping[str, Json]) -> str:
    """First 16 hex digits of the SHA-256 of weights, bit by bit, and of the configuration they are used in.

    Args:
        parameters: Names and weights.
        behaviour: What JSON can hold; the order of its keys does not matter.

    Example:
        >>> weights = [("W", torch.zeros(2))]
        >>> fingerprint_of(weights, {"act_fn": "gelu"}) == fingerprint_of(weights, {"act_fn": "relu"})
        False
    """
    digest = hashlib.sha256(json.dumps(behaviour, sort_keys=True).encode())
    for name, parameter in parameters:
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def behaviour_of(hf_config: Mapping[str, Json]) -> dict[str, Json]:
    """The part of a Hugging Face configuration, as a dictionary, on which a model's logits in eval mode may depend.

    What is off is left out, so that an option which a later version of transformers adds changes nothing.

    Example:
        >>> behaviour_of({"hidden_act": "gelu", "hidden_dropout": 0.1, "_name_or_path": "a", "is_decoder": False})
        {'hidden_act': 'gelu'}
    """
    return {
        key: behaviour_of(value) if isinstance(value, Mapping) else value
        for key, value in hf_config.items()
        if value is not None and value is not False and not _is_beside(str(key))
    }


def _is_beside(key: str) -> bool:
    return key in NO_BEHAVIOUR or key.startswith(("_", "initializer")) or "drop" in key
