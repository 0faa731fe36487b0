"""An encoder's text methods: to token ids and back, by its tokenizer."""

from typing import Any

from einops import rearrange
from jaxtyping import Int
from torch import Tensor

from skillneurons.models.encoder_parts.weights import EncoderWeights


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

    def to_string(self, tokens: Tensor) -> str | list[str]:
        """Text of one row of token ids (a string) or of several (a list)."""
        if tokens.ndim <= 1:
            return self._tokenizer().decode(tokens)
        return self._tokenizer().batch_decode(tokens)

    def to_single_token(self, word: str) -> int:
        """Id of `word`, which must be exactly one token."""
        ids = self._tokenizer()(word, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            pieces = self._tokenizer().convert_ids_to_tokens(ids)
            raise ValueError(f"{word!r} needs to be one token, but is {len(ids)}: {pieces}.")
        return ids[0]

    def tokens_to_residual_directions(self, tokens: Tensor) -> Tensor:
        """Columns of `W_U` for the given token ids."""
        return rearrange(self.W_U[:, tokens], "d_model ... -> ... d_model")
