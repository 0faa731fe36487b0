"""HookedEncoder: a BERT-family encoder whose forward pass is built from TransformerLens hook points.

Post-LN blocks or pre-LN ones (`pre_norm`), absolute, relative or rotary positions, a masked-language-model read-out. It
does less work than a general forward pass where less is asked for: logits of a few tokens at one position
(`logits_for`, `logits_at`), the last block only where it is read (`last_block_to`), blocks left out on either side
(`start_at_layer`, `stop_at_layer`), and attention stays fused where that is faster and nobody hooks its scores.

Memory: what one forward pass of the same shape needs; nothing is kept between calls.
"""

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Unpack

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from skillneurons.models.blocks import Block, Embed, ReadOut, RelativeBias, has_hooks
from skillneurons.models.checkpoints import convert, export, read_checkpoint
from skillneurons.models.compiled import check_hooks_when_compiled
from skillneurons.models.config import EncoderConfig
from skillneurons.models.conversion_check import check_conversion
from skillneurons.models.encoder_parts.described import ShownModel
from skillneurons.models.encoder_parts.disentangled import Distances
from skillneurons.models.encoder_parts.files import is_saved_encoder, read_encoder, write_encoder
from skillneurons.models.encoder_parts.input_checks import Shortcuts, check_mask, check_segments, check_tokens
from skillneurons.models.encoder_parts.pre_norm import PreNormBlock
from skillneurons.models.encoder_parts.text import EncoderText, predictions, settle_tokenizer
from skillneurons.utilities.arguments import check_options
from skillneurons.utilities.devices import check_device, to_device
from skillneurons.utilities.fingerprints import fingerprint_of
from skillneurons.utilities.threads import running
from skillneurons.utilities.types import AttentionMask, Library, Tokenizer

# What the weights do not tell of the function they make; attention's scale follows from `d_head`.
BEHAVIOUR = (
    "act_fn",
    "d_head",
    "d_mlps",
    "d_model",
    "d_token_types",
    "eps",
    "n_ctx",
    "n_heads",
    "pad_token_id",
    "position_offset",
    "read_out",
    "tied_embeddings",
)
LATER = (
    "absolute_positions",
    "disentangled",
    "distance_buckets",
    "distance_norm",
    "dropped_token",
    "embed_norm",
    "first_norm",
    "furthest",
    "gated_mlp",
    "head_act_fn",
    "n_distances",
    "pre_norm",
    "relative_positions",
    "rotary_bases",
    "shared_projections",
    "windows",
)


class HookedEncoder(ShownModel, EncoderText):
    """A BERT-family encoder with TransformerLens hook names.

    Make one with `HookedEncoder.from_pretrained` or `HookedEncoder.from_hf`. It satisfies TransformerLens's
    `TransformerLensModel` protocol, so `ActivationCache` and the utilities built on it work.

    Args:
        cfg: Shape of the model. Weights are random until a checkpoint is loaded.
        tokenizer: A Hugging Face tokenizer, needed only by the methods that take or return text. Default: the one that
            `cfg.tokenizer_name` names, if any. Without `cfg.d_vocab` there are as many tokens as it has.

    Example:
        >>> import torch
        >>> from skillneurons.models.config import EncoderConfig
        >>> from skillneurons.models.encoder import HookedEncoder
        >>> cfg = EncoderConfig(d_model=8, d_head=4, n_layers=2, n_ctx=16, d_mlp=12, d_vocab=20, act_fn="gelu")
        >>> encoder = HookedEncoder(cfg)
        >>> tokens = torch.tensor([[0, 5, 7, 2]])
        >>> encoder(tokens).shape
        torch.Size([1, 4, 20])
        >>> encoder(tokens, logits_at=0, logits_for=[5, 7]).shape
        torch.Size([1, 2])
    """

    cfg: EncoderConfig

    def __init__(self, cfg: EncoderConfig, tokenizer: Tokenizer | None = None) -> None:
        super().__init__()
        # A copy: `half` and `to` write to it, and the caller's may be another model's.
        self.cfg = cfg = copy.copy(cfg)
        self.tokenizer = settle_tokenizer(cfg, tokenizer)
        self.embed = Embed(cfg)
        block = PreNormBlock if cfg.pre_norm else Block
        self.blocks = nn.ModuleList(block(cfg, layer) for layer in range(cfg.n_layers))
        self.relative_bias = RelativeBias(cfg.n_heads) if cfg.relative_positions else None
        self.distances = Distances(cfg) if cfg.disentangled else None
        if self.distances is not None:
            for one in self.blocks:
                one.attn.disentangled.distances = (self.distances,)
        self.read_out = ReadOut(cfg)
        self.hook_embed, self.hook_pos_embed, self.hook_token_type_embed = HookPoint(), HookPoint(), HookPoint()
        self.hook_full_embed = HookPoint()
        if cfg.dropped_token is not None:
            self.hook_embed_scale = HookPoint()
        scale = getattr(self, "hook_embed_scale", HookPoint())
        self.embed.points = (self.hook_embed, self.hook_pos_embed, self.hook_token_type_embed, scale)
        self.unused_weights: dict[str, Tensor] = {}
        self.setup()
        self.eval()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        torch_dtype: torch.dtype | None = None,
        tokenizer: Tokenizer | None = None,
        hf_model: Library = None,
    ) -> "HookedEncoder":
        """An encoder with its tokenizer, from the bundled model, a folder or the model hub.

        Args:
            name_or_path: `"bundled"`, a folder in hub layout or written by `save`, or a hub id such as
                `"FacebookAI/roberta-base"`.
            revision: Branch, tag or commit on the hub.
            device: Default: the CPU.
            dtype: Of the weights and the computation.
            torch_dtype: Another name of `dtype`, which TransformerLens took.
            tokenizer: In place of the checkpoint's.
            hf_model: Deprecated: `HookedEncoder.from_hf(hf_model, tokenizer)`.

        Raises:
            ValueError: The checkpoint asks for remote code (which is never run), is not a supported
                architecture, or lacks weights; or there is no such device.
            FileNotFoundError: No such folder, and the hub does not have it or cannot be reached.

        Example:
            >>> from skillneurons import HookedEncoder
            >>> HookedEncoder.from_pretrained("bundled").cfg.source
            'bundled'
        """
        check_device(device)
        source = str(name_or_path)
        if hf_model is not None:
            warnings.warn(
                "`hf_model=` goes in the next release. Use HookedEncoder.from_hf(hf_model, tokenizer).",
                DeprecationWarning,
                stacklevel=2,
            )
            encoder = cls.from_hf(hf_model, tokenizer)
        elif is_saved_encoder(name_or_path):
            cfg, weights, unused, own = read_encoder(name_or_path)
            encoder = cls.from_weights(cfg, weights, tokenizer=tokenizer or own, unused=unused)
        else:
            hf_model, own, source = read_checkpoint(name_or_path, revision=revision)
            encoder = cls.from_hf(hf_model, tokenizer or own)
        encoder.cfg.source = source
        return encoder.to(device=device, dtype=torch_dtype or dtype)

    @classmethod
    def from_hf(cls, hf_model: Library, tokenizer: Tokenizer | None = None) -> "HookedEncoder":
        """An encoder with a copy of an in-memory Hugging Face model's weights.

        Takes the masked-language models of RoBERTa, XLM-R, CamemBERT, BERT, MPNet, DistilBERT, ELECTRA, Ernie,
        Data2VecText, ModernBERT, DeBERTa-v2 and ESM, their headless base models and classifiers, and ELECTRA's
        discriminator; a headless model is read out by its own word embeddings (`encoder.cfg.read_out == "tied"`). Two
        tokens through both must give the same; hooks of one's own on the model see them.

        Raises:
            ValueError: The architecture is not one of these, a weight is not finite, or the model computes something
                else than its weights and configuration say: an adapter, a pruning mask, an exchanged activation.
        """
        cfg, weights, unused = convert(hf_model)
        encoder = cls.from_weights(cfg, weights, tokenizer=tokenizer, unused=unused)
        check_conversion(encoder, hf_model)
        return encoder

    @classmethod
    def from_weights(
        cls,
        cfg: EncoderConfig,
        weights: Mapping[str, Tensor],
        *,
        tokenizer: Tokenizer | None = None,
        unused: Mapping[str, Tensor] | None = None,
    ) -> "HookedEncoder":
        """An encoder of the given configuration with copies of the given weights, by our parameter names.

        Raises:
            RuntimeError: A weight is missing, unknown or of another shape.
        """
        with torch.device("meta"):
            encoder = cls(cfg, tokenizer)
        copies = {name: weight.detach().clone() for name, weight in weights.items()}
        encoder.load_state_dict(copies, assign=True)
        encoder.unused_weights = dict(unused or {})
        return encoder.to(encoder.device)

    def copy_in(self, dtype: torch.dtype) -> "HookedEncoder":
        """A copy of its own in another precision, in eval mode and without hooks; nothing of this encoder changes.

        Example:
            >>> import torch
            >>> from skillneurons import HookedEncoder
            >>> model = HookedEncoder.from_pretrained("bundled")
            >>> model.copy_in(torch.bfloat16).dtype, model.dtype
            (torch.bfloat16, torch.float32)
        """
        weights = dict(self.named_parameters())
        copied = type(self).from_weights(self.cfg, weights, tokenizer=self.tokenizer, unused=self.unused_weights)
        return copied.to(dtype)

    def save(self, folder: str | Path) -> Path:
        """Write weights, configuration and tokenizer, of a pruned encoder too; `from_pretrained(folder)` reads them."""
        return write_encoder(folder, self.cfg, dict(self.named_parameters()), self.unused_weights, self.tokenizer)

    def to_hf(self) -> Library:
        """A Hugging Face model of the class this encoder came from, with a copy of its weights.

        Raises:
            ValueError: The encoder's layers have different widths (after pruning), which Hugging Face cannot hold.
        """
        return export(self.cfg, dict(self.named_parameters()), self.unused_weights)

    # Forward pass

    def __call__(
        self,
        *args: Library,
        return_type: str | None = "logits",
        one_zero_attention_mask: Tensor | None = None,
        **kwargs: Library,
    ) -> Library:
        """`forward`, with two names that TransformerLens's encoder has: its mask, and `return_type`.

        With `return_type="predictions"` the likeliest word at each mask token: a string for a text with one, else a
        list; with None nothing, which is enough for hooks.
        """
        if return_type not in ("logits", "predictions", None):
            raise ValueError(f"`return_type` is 'logits', 'predictions' or None, not {return_type!r}.")
        if one_zero_attention_mask is not None:
            if len(args) > 1 or "attention_mask" in kwargs:
                raise ValueError("`one_zero_attention_mask` is `attention_mask` by another name: pass one of them.")
            kwargs["attention_mask"] = one_zero_attention_mask
        if torch.compiler.is_dynamo_compiling():
            return super().__call__(*args, **kwargs)
        with running(self):
            logits = super().__call__(*args, **kwargs)
        if return_type == "predictions":
            return predictions(self, args[0] if args else kwargs["input"], logits)
        return logits if return_type else None

    def forward(
        self,
        input: str | list[str] | Int[Tensor, "batch pos"] | Float[Tensor, "batch pos d_model"],
        attention_mask: AttentionMask | None = None,
        *,
        token_type_ids: Int[Tensor, "batch pos"] | None = None,
        logits_at: int | Int[Tensor, " batch"] | None = None,
        logits_for: Sequence[int] | Int[Tensor, " label"] | None = None,
        start_at_layer: int | None = None,
        stop_at_layer: int | None = None,
        **shortcuts: Unpack[Shortcuts],
    ) -> Tensor:
        """Logits, `[batch pos d_vocab]` unless asked for less.

        Args:
            input: Right-padded token ids; with `start_at_layer`, the residual stream entering that block. Text is
                tokenized, and padding masked. What is not on the model's device is taken there.
            attention_mask: 1 for tokens, 0 for padding. Needed where the tokens contain padding.
            token_type_ids: Segment of each token; 0 everywhere by default.
            logits_at: One position, or one for each example: the result loses its `pos` axis.
            logits_for: Token ids: the last axis holds their logits, in this order, instead of the vocabulary's.
            start_at_layer: First block to run.
            stop_at_layer: First block not to run: the result is the residual stream that would enter it.
            shortcuts: `last_block_to`: number of leading positions for which the last block is computed (its keys and
                values always cover all). Default: up to `logits_at` where that is a number and the last block carries
                no hooks, else all. Hooks of the last block see these positions only. `check_input`: False where ids,
                mask and indices are known to be good: on a GPU, looking at them waits for the device. `read_by`: what
                reads the final residual stream in place of the unembedding, a `Head` for example.

        Returns:
            Logits, or with `stop_at_layer` the residual stream `[batch pos d_model]`.

        Raises:
            ValueError: The input is too long, has padding without a mask or on the left, an id out of range, or a
                layer or position that the model or input does not have.

        Example:
            >>> import torch
            >>> from skillneurons import HookedEncoder
            >>> model = HookedEncoder.from_pretrained("bundled")
            >>> tokens = model.to_tokens("a dull film")
            >>> resid = model(tokens, stop_at_layer=1)
            >>> torch.equal(model(resid, start_at_layer=1), model("a dull film"))
            True
        """
        check_options(shortcuts, Shortcuts)
        check_hooks_when_compiled()
        check_input = shortcuts.get("check_input", True)
        n_layers = self.cfg.n_layers
        start = 0 if start_at_layer is None else self._layer(start_at_layer, "start_at_layer", n_layers)
        stop = n_layers if stop_at_layer is None else self._layer(stop_at_layer, "stop_at_layer", n_layers + 1)
        if stop < start:
            raise ValueError(f"`stop_at_layer` is {stop_at_layer}, before `start_at_layer`, which is {start_at_layer}.")
        if logits_for is not None and shortcuts.get("read_by") is not None:
            raise ValueError("`read_by` reads the stream in place of the words that `logits_for` asks for: pass one.")
        if stop_at_layer is not None and (logits_at is not None or logits_for is not None):
            raise ValueError(
                f"With `stop_at_layer` ({stop_at_layer}) there are no logits. Leave it out, or `logits_…`."
            )
        if isinstance(input, str | list):
            if attention_mask is not None or start_at_layer is not None:
                raise ValueError("`input` is text, which comes without `attention_mask` and `start_at_layer`.")
            input = self.to_tokens(input)
            attention_mask = self.attention_mask(input)
        attention_mask = self.bound_mask if attention_mask is None else attention_mask
        if start_at_layer is None:
            if check_input:
                check_tokens(input, attention_mask, self.cfg)
                if token_type_ids is not None:
                    check_segments(token_type_ids, input.shape, self.cfg.d_token_types)
            resid = self.hook_full_embed(self.embed(to_device(input, self.device), token_type_ids))
        else:
            if input.ndim != 3 or input.shape[-1] != self.cfg.d_model:
                raise ValueError(
                    f"With `start_at_layer`, `input` is a residual stream [batch, pos, {self.cfg.d_model}], "
                    f"but its shape is {tuple(input.shape)}. Get one from `stop_at_layer`."
                )
            resid = to_device(input, self.device)
        n_pos, mask = resid.shape[1], None
        if attention_mask is not None:
            if check_input:
                check_mask(attention_mask, resid.shape[:2])
            mask = rearrange(to_device(attention_mask, self.device).bool(), "batch pos -> batch 1 1 pos")
        if self.relative_bias is not None:
            mask = self.relative_bias.scores(n_pos, mask)
        last_block_to = self._last_block_to(shortcuts.get("last_block_to"), logits_at, n_pos)

        for layer in range(start, stop):
            resid = self.blocks[layer](resid, mask, last_block_to if layer == n_layers - 1 else None)
        if stop_at_layer is not None:
            return resid
        if isinstance(logits_at, int):
            resid = resid[:, logits_at]
        elif logits_at is not None:
            if check_input and not 0 <= int(logits_at.min()) <= int(logits_at.max()) < resid.shape[1]:
                raise ValueError(
                    f"`logits_at` runs from {int(logits_at.min())} to {int(logits_at.max())}, but the last block's "
                    f"positions from 0 to {resid.shape[1] - 1}."
                )
            resid = resid[torch.arange(len(resid), device=resid.device), logits_at]
        read_by = shortcuts.get("read_by")
        return self.unembed(resid, logits_for) if read_by is None else read_by(self.read_out.final(resid))

    def unembed(
        self, resid: Float[Tensor, "*batch d_model"], logits_for: Sequence[int] | Int[Tensor, " label"] | None = None
    ) -> Float[Tensor, "*batch d_vocab_out"]:
        """The read-out alone: final residual stream to logits of all tokens, or of those in `logits_for`."""
        features = self.read_out(resid)
        if logits_for is None:
            return F.linear(features, *self._unembedding())
        chosen = torch.as_tensor(logits_for)
        if not 0 <= int(chosen.min()) <= int(chosen.max()) < self.cfg.d_vocab:
            raise ValueError(f"`logits_for` are token ids from 0 to {self.cfg.d_vocab - 1}, but has {logits_for}.")
        return F.linear(features, *self._unembedding(to_device(chosen, resid.device)))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "HookedEncoder":
        # What `to`, `half` and `cuda` come down to.
        super()._apply(fn, recurse)
        self.cfg.dtype, self.cfg.device = self.dtype, str(self.device)
        return self

    def _last_block_to(self, asked: int | None, logits_at: int | Tensor | None, n_pos: int) -> int | None:
        if isinstance(logits_at, int) and not 0 <= logits_at < n_pos:
            raise ValueError(f"`logits_at` is {logits_at}, but the input has positions 0 to {n_pos - 1}.")
        if asked is None:
            if not isinstance(logits_at, int) or self._last_block_has_hooks():
                return None
            return logits_at + 1
        if not 0 < asked <= n_pos or (isinstance(logits_at, int) and logits_at >= asked):
            raise ValueError(
                f"`last_block_to` is {asked}; it must cover `logits_at` ({logits_at}) and be at most the input's "
                f"{n_pos} positions."
            )
        return asked

    def _last_block_has_hooks(self) -> bool:
        return any(has_hooks(module) for module in self.blocks[-1].modules())

    def _layer(self, layer: int, argument: str, n: int) -> int:
        if not -self.cfg.n_layers <= layer < n:
            raise ValueError(f"`{argument}` is {layer}, but the model has layers 0 to {self.cfg.n_layers - 1}.")
        return layer if layer >= 0 else layer + self.cfg.n_layers

    def fingerprint(self) -> str:
        """16 hex digits of all weights and of what they are used in: the identity of the model in every saved result.

        Name, source and tokenizer are no part of it. Computed at each call (0.3 s for roberta-base): torch does not
        tell of weights written through `.data`.
        """
        behaviour = {name: getattr(self.cfg, name) for name in BEHAVIOUR}
        # Only where it is so: models that were there before a setting was keep their fingerprints.
        usual = {one.name: one.default for one in fields(EncoderConfig) if one.name in LATER}
        usual |= {"d_embed": self.cfg.d_model}
        behaviour |= {name: getattr(self.cfg, name) for name in usual if getattr(self.cfg, name) != usual[name]}
        return fingerprint_of(self.named_parameters(), behaviour)
