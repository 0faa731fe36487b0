"""NextSentencePrediction: BERT's pooler and the head that tells whether two sentences follow, on a `HookedEncoder`."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from skillneurons.models.encoder_parts.cache import EncoderCache
from skillneurons.utilities.types import Json, Library


class Pooler(nn.Module):
    """A dense layer and tanh on the first position."""

    def __init__(self, dense: nn.Linear) -> None:
        super().__init__()
        self.dense = dense

    def forward(self, resid: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch d_model"]:
        return torch.tanh(self.dense(resid[:, 0]))


class NextSentencePrediction(nn.Module):
    """An encoder with BERT's pooler and next-sentence head: logits of "follows" and "does not".

    Args:
        model: A `HookedEncoder` whose checkpoint has a pooler and such a head (BertForPreTraining's has).

    Example:
        >>> import torch
        >>> from transformers import BertConfig, BertForPreTraining
        >>> from skillneurons import HookedEncoder
        >>> from skillneurons.models.encoder_parts.next_sentence import NextSentencePrediction
        >>> sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 12}
        >>> bert = BertForPreTraining(BertConfig(vocab_size=20, **sizes)).eval()
        >>> follows = NextSentencePrediction(HookedEncoder.from_hf(bert))
        >>> follows(torch.tensor([[5, 7, 9]]), token_type_ids=torch.tensor([[0, 0, 0]])).shape
        torch.Size([1, 2])
    """

    def __init__(self, model: Library) -> None:
        super().__init__()
        if not hasattr(model, "pooler") or not hasattr(model, "nsp_head"):
            raise ValueError(
                f"Pooler and next-sentence head are needed, but {model.cfg.source} ({model.cfg.hf_class}) lacks them. "
                "Make the encoder from a BertForPreTraining."
            )
        self.model, self.pooler, self.nsp_head = model, model.pooler, model.nsp_head

    def to_tokens(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Token ids, segments and mask of two sentences."""
        if len(sentences) != 2:
            raise ValueError(
                f"Next sentence prediction task requires exactly two sentences, but there are {len(sentences)}."
            )
        encoded = self.model._tokenizer()(
            *sentences,
            return_tensors="pt",
            return_token_type_ids=True,
            return_attention_mask=True,
            truncation=True,
            max_length=self.model.cfg.n_ctx,
        )
        names = ("input_ids", "token_type_ids", "attention_mask")
        tokens, types, mask = (encoded[name].to(self.model.device) for name in names)
        return tokens, types, mask

    def forward(
        self,
        input: Sequence[str] | Tensor,
        attention_mask: Tensor | None = None,
        *,
        token_type_ids: Tensor | None = None,
    ) -> Float[Tensor, "batch 2"]:
        """Logits, the first of "the second sentence follows"."""
        return self.nsp_head(self.pooler(self.model(**self._inputs(input, attention_mask, token_type_ids))))

    def run_with_cache(self, input: Sequence[str] | Tensor, **kwargs: Json) -> tuple[Tensor, EncoderCache]:
        """Logits, and the encoder's cache with `pooler.hook_pooler_out` and `nsp_head.hook_nsp_out` beside."""
        inputs = self._inputs(input, kwargs.pop("attention_mask", None), kwargs.pop("token_type_ids", None))
        resid, cache = self.model.run_with_cache(**inputs, **kwargs)
        pooled = self.pooler(resid)
        logits = self.nsp_head(pooled)
        cache.cache_dict |= {"pooler.hook_pooler_out": pooled.detach(), "nsp_head.hook_nsp_out": logits.detach()}
        return logits, cache

    def _inputs(self, input: Sequence[str] | Tensor, mask: Tensor | None, types: Tensor | None) -> dict[str, Json]:
        if not isinstance(input, Tensor):
            input, types, mask = self.to_tokens(input)
        elif types is None:
            raise ValueError(
                "You are using the NSP task without specifying token_type_ids, which tell the two sentences apart. "
                "Pass `token_type_ids=`, 0 for the first and 1 for the second."
            )
        n_layers = self.model.cfg.n_layers
        return {"input": input, "attention_mask": mask, "token_type_ids": types, "stop_at_layer": n_layers}
