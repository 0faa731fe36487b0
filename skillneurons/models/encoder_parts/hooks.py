"""An encoder's hooks and caches: TransformerLens's methods, with names that are checked before anything runs."""

import difflib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from skillneurons.models.config import EncoderConfig
from skillneurons.models.encoder_parts.cache import EncoderCache
from skillneurons.utilities.threads import changing
from skillneurons.utilities.types import AttentionMask, FwdHooks, HookName, Library

# Hook points that cost a pass time and memory, and the setting that puts them there.
OPTIONAL = {
    "hook_result": "use_attn_result",
    "hook_q_input": "use_split_qkv_input",
    "hook_k_input": "use_split_qkv_input",
    "hook_v_input": "use_split_qkv_input",
    "hook_mlp_in": "use_hook_mlp_in",
}


class EncoderHooks(HookedRootModule):
    """The part of a `HookedEncoder` that adds hooks and keeps what they see."""

    cfg: EncoderConfig

    bound_mask: AttentionMask | None = None
    _points: Mapping[str, HookPoint] = {}

    def setup(self) -> None:
        """TransformerLens's: names all modules and hook points."""
        super().setup()
        self._points = dict(self.hook_dict)
        self._show()

    def hook_points(self) -> Library:
        """All of them, also those that are not there now: hooks that are left on one are taken away with the others."""
        return self._points.values()

    def _show(self) -> None:
        # What the settings leave out has no name, so that whoever goes through the names finds what a pass has.
        self.hook_dict = {name: point for name, point in self._points.items() if self._is_there(name)}

    def _is_there(self, name: str) -> bool:
        flag = OPTIONAL.get(name.rsplit(".", 1)[-1])
        return flag is None or getattr(self.cfg, flag)

    @contextmanager
    def hooks(  # pyright: ignore[reportIncompatibleMethodOverride]  # any sequence is taken, not lists alone
        self,
        fwd_hooks: FwdHooks = (),
        bwd_hooks: FwdHooks = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
    ) -> Iterator["EncoderHooks"]:
        """TransformerLens's context manager; an unknown hook name is an error that lists the nearest ones.

        Raises:
            ValueError: The model has no such hook point, or its configuration leaves it out.
            RuntimeError: Another thread is using the model: hooks belong to the model, not to a thread.
        """
        forward, backward = ([(self._named(name), hook) for name, hook in both] for both in (fwd_hooks, bwd_hooks))
        with changing(self), super().hooks(forward, backward, reset_hooks_end, clear_contexts):
            yield self

    def add_hook(self, name: HookName, hook: Library, *args: Library, **kwargs: Library) -> None:
        """As in TransformerLens; an unknown hook name is an error that lists the nearest ones."""
        super().add_hook(self._named(name), hook, *args, **kwargs)

    def run_with_cache(self, *args: Library, return_cache_object: bool = True, **kwargs: Library) -> Library:
        """As in TransformerLens: `(output, EncoderCache)`; an unknown name in `names_filter` is an error."""
        names = kwargs.get("names_filter")
        if isinstance(names, str | list | tuple):
            kwargs["names_filter"] = [self._named(name) for name in ([names] if isinstance(names, str) else names)]
        with changing(self):
            output, cache = super().run_with_cache(*args, **kwargs)
        if not return_cache_object:
            return output, cache
        return output, EncoderCache(cache, self, has_batch_dim=not kwargs.get("remove_batch_dim", False))

    @contextmanager
    def masked(self, attention_mask: AttentionMask) -> Iterator["EncoderHooks"]:
        """Inside, passes over tokens without a mask use this one: for functions that pass on tokens alone.

        Example:
            >>> from skillneurons import HookedEncoder
            >>> model = HookedEncoder.from_pretrained("bundled")
            >>> tokens = model.to_tokens(["a dull film", "great"])
            >>> with model.masked(model.attention_mask(tokens)):
            ...     print(model.run_with_hooks(tokens, fwd_hooks=[]).shape)
            torch.Size([2, 5, 8192])
        """
        before = self.bound_mask
        with changing(self):
            self.bound_mask = attention_mask
            try:
                yield self
            finally:
                self.bound_mask = before

    def hook_alias(self, name: str) -> str:
        """This encoder's name of a hook point that TransformerLens's own encoder or bridge calls `name`."""
        if name in self._points:
            return name
        if re.fullmatch(r"embed\.hook_(embed|pos_embed|token_type_embed)", name):
            return name.removeprefix("embed.")
        if name.startswith("ln_final."):
            return f"read_out.{name}"
        return re.sub(r"^(blocks\.\d+)\.(hook_[qkv]_input)$", r"\1.attn.\2", re.sub(r"^mlm_head\.", "read_out.", name))

    def _named(self, name: HookName) -> Library:
        if not isinstance(name, str):
            return name  # a choice among the names
        found = self.hook_alias(name)
        if found in self._points and not self._is_there(found):
            flag = OPTIONAL[found.rsplit(".", 1)[-1]]
            raise ValueError(f"{name!r} is computed only where it is asked for. Call model.set_{flag}(True) before.")
        if found not in self._points:
            near = difflib.get_close_matches(found, self.hook_dict, n=3, cutoff=0.3) or list(self.hook_dict)[:3]
            raise ValueError(f"The model has no hook point {name!r}. Nearest: {', '.join(near)}.")
        return found

    # What is computed on request

    def set_use_attn_result(self, use_attn_result: bool) -> None:
        """Whether `attn.hook_result`, what each head writes, is there to look at and to change."""
        self.cfg.use_attn_result = use_attn_result
        self._show()

    def set_use_split_qkv_input(self, use_split_qkv_input: bool) -> None:
        """Whether `attn.hook_q_input` (k, v) are there: each head's own copy of the stream that it reads."""
        self.cfg.use_split_qkv_input = use_split_qkv_input
        self._show()

    def set_use_hook_mlp_in(self, use_hook_mlp_in: bool) -> None:
        """Whether `hook_mlp_in` is there: the MLP's own copy of what it reads."""
        self.cfg.use_hook_mlp_in = use_hook_mlp_in
        self._show()

    def set_use_attn_in(self, use_attn_in: bool) -> None:
        """Only False: heads have inputs of their own, but no shared copy of the stream."""
        if use_attn_in:
            raise ValueError("There is no `hook_attn_in`. Use set_use_split_qkv_input(True) and hook_q_input, k and v.")
