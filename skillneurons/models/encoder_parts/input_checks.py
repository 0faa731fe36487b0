"""What an encoder asks of its input."""

from collections.abc import Callable, Sequence
from typing import TypedDict

from torch import Tensor

from skillneurons.models.config import EncoderConfig


class Shortcuts(TypedDict, total=False):
    """Keywords of a pass that spare it work; see `HookedEncoder.forward`."""

    last_block_to: int | None
    check_input: bool
    read_by: Callable[[Tensor], Tensor]


def check_tokens(tokens: Tensor, mask: Tensor | None, cfg: EncoderConfig) -> None:
    """Raise unless `tokens` are ids of this model, `[batch pos]`, with a mask where some are padding."""
    if tokens.ndim != 2 or tokens.is_floating_point():
        raise ValueError(
            f"`input` needs token ids of shape [batch, pos], but is {tokens.dtype} of shape {tuple(tokens.shape)}. "
            "To enter with a residual stream, pass `start_at_layer`."
        )
    if tokens.shape[1] > cfg.n_ctx:
        raise ValueError(f"`input` has {tokens.shape[1]} positions, but the model has {cfg.n_ctx}. Truncate the text.")
    check_ids(tokens, cfg.d_vocab)
    if mask is None:
        if bool((tokens == cfg.pad_token_id).any()):
            raise ValueError(
                f"`input` contains padding (id {cfg.pad_token_id}) but no `attention_mask` was passed, so "
                "padding would be attended to. Pass `attention_mask=model.attention_mask(tokens)`."
            )


def check_ids(tokens: Tensor, d_vocab: int) -> None:
    """Raise unless all ids are of this vocabulary."""
    if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < d_vocab:
        raise ValueError(
            f"Token ids must lie in 0 to {d_vocab - 1}, but run from {int(tokens.min())} to "
            f"{int(tokens.max())}. Was another model's tokenizer used?"
        )


def check_segments(segments: Tensor, shape: Sequence[int], n: int) -> None:
    """Raise unless `segments` has this shape and each is one of the model's `n`; 0 is none in a model without."""
    if segments.shape != shape:
        came = tuple(segments.shape)
        raise ValueError(f"`token_type_ids` needs the shape of the input, {tuple(shape)}, but has {came}.")
    most = max(n - 1, 0)
    if segments.numel() and not 0 <= int(segments.min()) <= int(segments.max()) <= most:
        raise ValueError(
            f"`token_type_ids` must lie in 0 to {most}, since the model has {n} segments, but run from "
            f"{int(segments.min())} to {int(segments.max())}. Leave them out for a model without segments."
        )


def check_mask(mask: Tensor, shape: Sequence[int]) -> None:
    """Raise unless `mask` has this shape and pads on the right only."""
    if mask.shape != shape:
        raise ValueError(f"`attention_mask` needs the shape of the input, {tuple(shape)}, but has {tuple(mask.shape)}.")
    real = mask.bool()
    bad = ~real[:, 0] | (~real[:, :-1] & real[:, 1:]).any(dim=1)
    if bool(bad.any()):
        raise ValueError(
            f"`attention_mask` has padding before a token, or nothing else, in row {int(bad.int().argmax())}. "
            "Pad on the right (`tokenizer.padding_side = 'right'`): positions are counted from the left."
        )
