"""An encoder's text methods: to token ids and back, by its tokenizer."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Int
from torch import Tensor

from skillneurons.models.encoder_parts.weights import EncoderWeights
from skillneurons.utilities.devices import to_device

Tokens = int | Sequence[int] | np.ndarray | Tensor


class EncoderText(EncoderWeights):
    """The part of a `HookedEncoder` that takes or returns text."""

    tokenizer: Any

    def _tokenizer(self) -> Any:
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
