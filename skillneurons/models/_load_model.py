"""load_model: by name, whatever a classifier can be made of; load_tokenizer: its tokenizer alone."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel

from skillneurons.models.architectures import what_is_taken
from skillneurons.models.bridge import BridgedModel, Model, as_classifiable
from skillneurons.models.checkpoint_files import read_config, short
from skillneurons.models.checkpoints import ARCHITECTURES
from skillneurons.models.encoder import HookedEncoder
from skillneurons.models.encoder_parts.files import is_saved_encoder
from skillneurons.models.tokenization import read_tokenizer
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.devices import as_dtype, check_device
from skillneurons.utilities.types import Library, Tokenizer

BRIDGED = "A TransformerBridge is made of decoders (GPT-2, Llama, Qwen) and encoder-decoders (T5)."


@checked
def load_model(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str = torch.float32,
) -> Model:
    """A `HookedEncoder` where the checkpoint is of an architecture that it takes, else a checked TransformerBridge.

    Which of the two is decided by the checkpoint's configuration alone, so that other processes, and those who open a
    run again, get the same. It never runs a checkpoint's own code.

    Args:
        name_or_path: `"bundled"`, a folder, or a hub id such as `"openai-community/gpt2"`.
        revision: Branch, tag or commit on the hub.
        device: Default: the CPU.
        dtype: Of the weights and the computation, or its name. Statistics are in float32 or wider in any case.

    Raises:
        ValueError: What `HookedEncoder.from_pretrained` or `as_classifiable` refuse, or there is no such device
            or dtype.
        FileNotFoundError: No such folder, and the hub does not have it or cannot be reached.

    Example:
        >>> from skillneurons import load_model
        >>> type(load_model("bundled")).__name__
        'HookedEncoder'
    """
    check_device(device)
    dtype = as_dtype(dtype)
    if not is_saved_encoder(name_or_path):
        config, location = read_config(name_or_path, revision=revision)
        named = (getattr(config, "architectures", None) or ["(none)"])[0]
        if named not in ARCHITECTURES:
            options = {"revision": revision, "device": device or "cpu", "dtype": dtype}
            try:
                bridge = TransformerBridge.boot_transformers(location, **options)
            except Exception as error:  # TransformerLens lists all it knows, in 4,000 letters
                known = named in SUPPORTED_ARCHITECTURES
                why = f": {short(error)}" if known else f" here. {what_is_taken(named)} {BRIDGED}"
                raise ValueError(
                    f"{location!r} holds a {named}, of which no HookedEncoder and no TransformerBridge can be made{why}"
                ) from error
            model = cast(BridgedModel, as_classifiable(bridge.eval()))
            return replace(model, cfg=replace(model.cfg, source=str(name_or_path), revision=revision))
    return HookedEncoder.from_pretrained(name_or_path, revision=revision, device=device, dtype=dtype)


def load_tokenizer(name_or_path: str | Path, *, revision: str | None = None) -> Tokenizer | None:
    """The tokenizer that the model of this name has, read in less than a second and without the model.

    Args:
        name_or_path: As for `load_model`.
        revision: Likewise.

    Returns:
        None where there is none or it cannot be read; what is wrong there, `load_model` says.

    Example:
        >>> from skillneurons.models._load_model import load_tokenizer
        >>> load_tokenizer("bundled")("A film.")["input_ids"]
        [0, 262, 373, 18, 2]
    """
    try:
        saved = is_saved_encoder(name_or_path)
        location = str(name_or_path) if saved else read_config(name_or_path, revision=revision)[1]
        return read_tokenizer(location, revision, None)
    except (ValueError, OSError):
        return None


def as_own_encoder(model: Library, tokenizer: Tokenizer | None) -> HookedEncoder:
    """The encoder of a fine-tuned model, whatever it is passed as."""
    if isinstance(model, str | Path):
        return HookedEncoder.from_pretrained(model, tokenizer=tokenizer)
    if isinstance(model, HookedEncoder):
        return model
    if isinstance(model, PreTrainedModel):
        return HookedEncoder.from_hf(model, tokenizer)
    raise TypeError(
        "`model` is a sequence classifier of Hugging Face, its name or folder, or a HookedEncoder made of it, not a "
        f"{type(model).__name__}."
    )
