"""An encoder's text methods: to token ids and back, by its tokenizer."""

from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Int
from torch import Tensor

from skillneurons.models.config import EncoderConfig
from skillneurons.models.encoder_parts.weights import EncoderWeights
from skillneurons.models.tokenization import read_tokenizer
from skillneurons.utilities.devices import to_device
from skillneurons.utilities.types import Library, Tokenizer

Tokens = int | Sequence[int] | np.ndarray | Tensor


class NoVocabularyError(ValueError, AssertionError):
    """Neither a tokenizer nor its size; an AssertionError too, as in TransformerLens, since code may wait for that."""


def settle_tokenizer(cfg: EncoderConfig, tokenizer: Tokenizer | None) -> Tokenizer | None:
    """The tokenizer, or the one that `cfg` names; `cfg` learns its name and, if it has none, the number of tokens.

    Raises:
        ValueError: Neither a tokenizer nor `cfg.d_vocab`.
    """
    if tokenizer is None and cfg.tokenizer_name:
        tokenizer = read_tokenizer(cfg.tokenizer_name, None, None)
    if tokenizer is not None:
        cfg.tokenizer_name = getattr(tokenizer, "name_or_path", None) or cfg.tokenizer_name
    if cfg.d_vocab == -1:
        if tokenizer is None:
            raise NoVocabularyError(
                "Must provide a tokenizer if d_vocab is not provided: `cfg.d_vocab` is -1. Set it, or pass a tokenizer."
            )
        cfg.d_vocab = max(tokenizer.get_vocab().values()) + 1
    return tokenizer


def predictions(model: Library, input: str | list[str] | Int[Tensor, "batch pos"], logits: Tensor) -> str | list[str]:
    """The likeliest token at each mask token, in reading order; a string for one text with one.

    Raises:
        ValueError: There is no mask token, or these are not logits of all tokens at all positions.
    """
    tokenizer = model._tokenizer()
    tokens = model.to_tokens(input) if isinstance(input, str | list) else to_device(input, logits.device)
    if logits.shape[:-1] != tokens.shape or logits.shape[-1] != model.cfg.d_vocab:
        raise ValueError(
            f"Predictions need logits of all {model.cfg.d_vocab} tokens at all positions, but these are "
            f"{tuple(logits.shape)}. Leave `logits_at`, `logits_for`, `stop_at_layer` and `last_block_to` out."
        )
    where = tokens == tokenizer.mask_token_id
    if not where.any():
        raise ValueError(f"Predictions are of mask tokens; there is none. Put {tokenizer.mask_token!r} in the text.")
    words = [tokenizer.decode([one]) for one in logits[where].argmax(-1).tolist()]
    return words[0] if len(words) == 1 and not isinstance(input, list) else words


class EncoderText(EncoderWeights):
    """The part of a `HookedEncoder` that takes or returns text."""

    tokenizer: Tokenizer

    def _tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise ValueError("The model has no tokenizer. Pass one: HookedEncoder.from_hf(hf_model, tokenizer).")
        return self.tokenizer

    def to_tokens(self, text: str | list[str], *, truncate: bool = True) -> Int[Tensor, "batch pos"]:
        """Right-padded token ids with the tokenizer's special tokens; pair with `attention_mask`."""
        encoded = self._tokenizer()(
            [text] if isinstance(text, str) else list(text),
            padding=True,
            padding_side="right",
            truncation=truncate,
            max_length=self.cfg.n_ctx if truncate else None,
            return_tensors="pt",
        )
        return encoded["input_ids"].to(self.device)

    def attention_mask(self, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
        """1 where `tokens` is not padding."""
        return tokens.ne(self.cfg.pad_token_id).long()

    def to_string(self, tokens: Tokens) -> str | list[str]:
        """Text of one token id or of one row of them (a string), or of several rows (a list)."""
        ids = torch.as_tensor(tokens)
        return self._tokenizer().decode(ids) if ids.ndim <= 1 else self._tokenizer().batch_decode(ids)

    def to_str_tokens(self, text: str | Tokens | list[str]) -> list[str] | list[list[str]]:
        """The tokens of a text, or of a row of token ids, each as a string; of several texts, a list for each.

        Example:
            >>> from skillneurons import HookedEncoder
            >>> HookedEncoder.from_pretrained("bundled").to_str_tokens("a dull film")
            ['<s>', ' a', ' dull', ' film', '</s>']
        """
        if isinstance(text, list | tuple) and text and all(isinstance(one, str) for one in text):
            return [self._str_tokens(self.to_tokens(str(one))[0]) for one in text]
        ids = self.to_tokens(text)[0] if isinstance(text, str) else torch.as_tensor(text)
        if ids.ndim > 1 and len(ids) > 1:
            raise ValueError(
                f"`text` needs to be one row of token ids, but its shape is {tuple(ids.shape)}. Pass one row at a time."
            )
        return self._str_tokens(ids.flatten())

    def _str_tokens(self, ids: Tensor) -> list[str]:
        return [self._tokenizer().decode([one]) for one in ids.tolist()]

    def to_single_token(self, word: str) -> int:
        """Id of `word`, which must be exactly one token."""
        ids = self._tokenizer()(word, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            pieces = self._tokenizer().convert_ids_to_tokens(ids)
            raise ValueError(f"{word!r} needs to be one token, but is {len(ids)}: {pieces}.")
        return ids[0]

    def tokens_to_residual_directions(self, tokens: str | Tokens) -> Tensor:
        """Columns of `W_U`, one for each token id; `[d_model]` for one id, or for a word that is one token."""
        ids = torch.as_tensor(self.to_single_token(tokens) if isinstance(tokens, str) else tokens)
        if not 0 <= int(ids.min()) <= int(ids.max()) < self.cfg.d_vocab:
            raise ValueError(
                f"`tokens` are ids from 0 to {self.cfg.d_vocab - 1}, but run from {int(ids.min())} to {int(ids.max())}."
            )
        return rearrange(self.W_U[:, to_device(ids, self.device)], "d_model ... -> ... d_model")
