"""An encoder's hooks and caches: TransformerLens's methods, with names that are checked before anything runs."""

import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from transformer_lens import HookedRootModule

from skillneurons.models.config import EncoderConfig
from skillneurons.models.encoder_parts.cache import EncoderCache
from skillneurons.utilities.threads import changing
from skillneurons.utilities.types import FwdHooks


class EncoderHooks(HookedRootModule):
    """The part of a `HookedEncoder` that adds hooks and keeps what they see."""

    cfg: EncoderConfig

    @contextmanager
    def hooks(
        self,
        fwd_hooks: FwdHooks = (),
        bwd_hooks: FwdHooks = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
    ) -> Iterator["EncoderHooks"]:
        """TransformerLens's context manager; an unknown hook name is an error that lists the nearest ones.

        Raises:
            ValueError: The model has no such hook point.
            RuntimeError: Another thread is using the model: hooks belong to the model, not to a thread.
        """
        self._check_names([name for name, _ in [*fwd_hooks, *bwd_hooks] if isinstance(name, str)])
        with changing(self), super().hooks(list(fwd_hooks), list(bwd_hooks), reset_hooks_end, clear_contexts):
            yield self

    def run_with_cache(self, *args: Any, return_cache_object: bool = True, **kwargs: Any) -> Any:
        """As in TransformerLens: `(output, EncoderCache)`; an unknown name in `names_filter` is an error."""
        names = kwargs.get("names_filter")
        self._check_names([names] if isinstance(names, str) else names if isinstance(names, list | tuple) else [])
        with changing(self):
            output, cache = super().run_with_cache(*args, **kwargs)
        if not return_cache_object:
            return output, cache
        return output, EncoderCache(cache, self, has_batch_dim=not kwargs.get("remove_batch_dim", False))

    def _check_names(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self.hook_dict:
                near = difflib.get_close_matches(name, self.hook_dict, n=3, cutoff=0.3)
                raise ValueError(f"The model has no hook point {name!r}. Nearest: {', '.join(near)}.")

    def hook_alias(self, name: str) -> str:
        """This encoder's name of a hook point that TransformerLens's own encoder or bridge calls `name`."""
        if name in self.hook_dict:
            return name
        if re.fullmatch(r"embed\.hook_(embed|pos_embed|token_type_embed)", name):
            return name.removeprefix("embed.")
        return re.sub(r"^(blocks\.\d+)\.(hook_[qkv]_input)$", r"\1.attn.\2", re.sub(r"^mlm_head\.", "read_out.", name))
