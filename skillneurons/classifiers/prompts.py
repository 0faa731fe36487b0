"""Soft prompts and where they go.

An encoder's input is `[MASK] p_1 … p_P <s> text </s>`: the mask at position 0, the soft prompt behind it, right-padded
text. A prompt of PEFT's may stand in front of all else, `p_1 … p_P <s> text </s>`; without a vector in it this is the
text alone, which a fine-tuned model's own head reads at `<s>`. A decoder's input is `text p_1 … p_P`, without padding,
since a position sees only what is before it. The prompt's vectors replace the word embeddings of placeholder tokens at
`hook_embed`, before positions and LayerNorm.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from einops import repeat
from jaxtyping import Float, Int
from torch import Tensor

from skillneurons.classifiers.verbalizer import Verbalizer as Verbalizer  # where it was in earlier releases
from skillneurons.classifiers.verbalizer import check_label_words as check_label_words
from skillneurons.models.bridge import AnyModel, as_classifiable
from skillneurons.models.encoder import HookedEncoder
from skillneurons.utilities import store
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.checks import check_whole
from skillneurons.utilities.devices import to_device
from skillneurons.utilities.results import Result
from skillneurons.utilities.types import AtHook, Hook, Json, Tokenizer

MASK_POSITION = 0


@checked
@dataclass(frozen=True, eq=False)
class SoftPrompt(Result):
    """`prompt` vectors in the word-embedding space of one model.

    Args:
        vectors: The prompt.
        model: `fingerprint()` of the model it belongs to.
        origin: How it came about: `"random"`, `"tuned"` or `"written: …"`.
        seed: Of the draw or the tuning; None for written prompts.
        in_front: Whether it stands in front of all else, without a mask, as PEFT's prompts do; see `Layout`.

    Example:
        >>> from skillneurons import SoftPrompt, load_example
        >>> one, two = (load_example(seed=seed)[0].prompt for seed in (0, 1))
        >>> SoftPrompt((one.vectors + two.vectors) / 2, one.model, "mean of two")
        SoftPrompt(16 vectors of 192, mean of two, seed None)
    """

    vectors: Float[Tensor, "prompt d_model"]
    model: str
    origin: str
    seed: int | None = None
    in_front: bool = False

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or not (len(self.vectors) or self.in_front):
            raise ValueError(f"`vectors` needs shape [prompt, d_model], but has {tuple(self.vectors.shape)}.")
        store.check_finite("vectors", self.vectors, "Tune the prompt again with a lower `lr`.")

    def __len__(self) -> int:
        return len(self.vectors)

    def __repr__(self) -> str:
        return f"SoftPrompt({len(self)} vectors of {self.vectors.shape[1]}, {self.origin}, seed {self.seed})"

    def to_dataframe(self) -> pd.DataFrame:
        """One row: the number of vectors, their width and mean length, and where the prompt comes from."""
        n_prompt, d_model = self.vectors.shape
        mean_norm = self.vectors.norm(dim=1).mean().item() if n_prompt else 0.0
        columns = {"n_prompt": n_prompt, "d_model": d_model, "mean_norm": mean_norm}
        return pd.DataFrame([columns | {"origin": self.origin, "seed": self.seed, "model": self.model}])

    def save(self, path: str | Path) -> Path:
        """Write `path.safetensors` and `path.json`."""
        return store.save(path, "SoftPrompt", {"vectors": self.vectors}, {"model": self.model} | self.described())

    def described(self) -> dict[str, Json]:
        """What a file says of it besides its vectors and its model."""
        # Only where it is so: files of other prompts stay as earlier releases read them.
        return {"origin": self.origin, "seed": self.seed} | ({"in_front": True} if self.in_front else {})

    @classmethod
    def load(cls, path: str | Path) -> "SoftPrompt":
        """Read what `save` wrote."""
        tensors, meta = store.load(path, "SoftPrompt")
        return cls(tensors["vectors"], **meta)


@checked
def random_prompt(model: AnyModel, n_prompt: int = 16, seed: int = 0) -> SoftPrompt:
    """`n_prompt` word vectors of the model, drawn at random without replacement.

    Where tuning starts, and the untuned control of finding F7.

    Example:
        >>> from skillneurons import HookedEncoder
        >>> random_prompt(HookedEncoder.from_pretrained("bundled"), 3, seed=0).vectors.shape
        torch.Size([3, 192])
    """
    generator = torch.Generator().manual_seed(seed)
    model = as_classifiable(model)
    W_E = model.W_E.detach()
    check_whole("n_prompt", n_prompt, low=1, high=len(W_E))
    chosen = torch.randperm(len(W_E), generator=generator)[:n_prompt]
    return SoftPrompt(W_E[chosen.to(W_E.device)].clone(), model.fingerprint(), "random", seed)


@checked
def written_prompt(model: AnyModel, text: str) -> SoftPrompt:
    """The word vectors of `text` as a prompt (the paper's hand-written control, section 4.4).

    Example:
        >>> from skillneurons import HookedEncoder, written_prompt
        >>> written_prompt(HookedEncoder.from_pretrained("bundled"), "The film is")
        SoftPrompt(3 vectors of 192, written: The film is, seed None)
    """
    model = as_classifiable(model)
    tokens = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    if not tokens:
        raise ValueError("`text` has no tokens; write at least one word.")
    vectors = model.W_E.detach()[to_device(torch.tensor(tokens), model.W_E.device)].clone()
    return SoftPrompt(vectors, model.fingerprint(), f"written: {text}")


def no_prompt(model: HookedEncoder) -> SoftPrompt:
    """A prompt without a vector: the text alone, for a model that is read by its own head. It counts as seed 0.

    Example:
        >>> from skillneurons import HookedEncoder
        >>> from skillneurons.classifiers.prompts import no_prompt
        >>> no_prompt(HookedEncoder.from_pretrained("bundled"))
        SoftPrompt(0 vectors of 192, none, seed 0)
    """
    return SoftPrompt(model.W_E.detach()[:0].clone(), model.fingerprint(), "none", 0, in_front=True)


@checked
@dataclass(frozen=True)
class Layout:
    """Where mask, prompt and text go, for a prompt of `n_prompt` vectors.

    Args:
        n_prompt: Its length.
        after_text: `text p_1 … p_P` instead of `[MASK] p_1 … p_P text`: for decoders. The label is then read at `p_P`,
            and positions are counted from the end.
        in_front: `p_1 … p_P text`, as PEFT has it for encoders. The label is then read at `p_1`, where PEFT's
            classifiers read it too; or, without a vector, at the text's first token, which is then in the prompt's
            place: `"prompt"` means it, as `"first"` does, and `"text"` what follows.

    Example:
        >>> from skillneurons import Layout
        >>> Layout(16).positions("prompt"), Layout(16).label_position
        (slice(1, 17, None), 0)
        >>> Layout(16, after_text=True).positions("prompt")
        slice(-16, None, None)
    """

    n_prompt: int
    after_text: bool = False
    in_front: bool = False

    @property
    def n_prefix(self) -> int:
        """Positions before the text."""
        return 0 if self.after_text else self.start + self.n_prompt

    @property
    def n_added(self) -> int:
        """Positions besides those of the text."""
        return self.n_prompt if self.after_text else self.n_prefix

    @property
    def start(self) -> int:
        """Position of the prompt's first vector."""
        return -self.n_prompt if self.after_text else int(not self.in_front)

    @property
    def label_position(self) -> int:
        """Where the label is read."""
        return -1 if self.after_text else MASK_POSITION

    @property
    def added(self) -> str:
        """Name of all positions besides those of the text."""
        return "prompt" if self.after_text or self.in_front else "mask_and_prompt"

    def varies(self, which: str) -> bool:
        """Whether rows of different lengths have different numbers of these positions."""
        self.positions(which)
        return which in ("text", "all")

    def positions(self, which: str = "prompt") -> slice:
        """Positions of the soft prompt, of the mask, of both (as the authors' code counts them), of the text, or all.

        `"text"` and `"all"` differ in number from batch to batch, and include padding. A prompt behind
        the text, or in front of all else, has no mask.
        """
        if self.after_text:
            end = slice(-self.n_prompt, None)
            table = {"prompt": end, "text": slice(0, -self.n_prompt), "all": slice(0, None)}
        elif self.in_front and not self.n_prompt:
            first = slice(0, 1)
            table = {"first": first, "prompt": first, "text": slice(1, None), "all": slice(0, None)}
        elif self.in_front:
            table = {"prompt": slice(0, self.n_prompt), "text": slice(self.n_prompt, None), "all": slice(0, None)}
        else:
            table = {
                "prompt": slice(1, self.n_prefix),
                "mask": slice(MASK_POSITION, 1),
                "mask_and_prompt": slice(0, self.n_prefix),
                "text": slice(self.n_prefix, None),
                "all": slice(0, None),
            }
        if which not in table:
            where = " for a prompt behind the text" if self.after_text else ""
            where = " for a prompt in front of all else" if self.in_front else where
            raise ValueError(f"`positions` is one of {', '.join(map(repr, table))}{where}, not {which!r}.")
        return table[which]

    def prefix(self, tokenizer: Tokenizer) -> Int[Tensor, " prefix"]:
        """Token ids before the text. The mask also holds the prompt's places, since padding there would not be seen."""
        if not self.n_prefix:
            return torch.zeros(0, dtype=torch.long)
        if tokenizer is None or tokenizer.mask_token_id is None:
            raise ValueError("The model's tokenizer needs a mask token, where the label is read.")
        return torch.full((self.n_prefix,), tokenizer.mask_token_id, dtype=torch.long)

    def suffix(self) -> Int[Tensor, " suffix"] | None:
        """Token ids that hold the prompt's places behind the text. Any will do, where nothing is padding."""
        return torch.zeros(self.n_prompt, dtype=torch.long) if self.after_text else None


def splice(vectors: Float[Tensor, "prompt d_model"], start: int = 1) -> Hook:
    """A hook that puts `vectors` in the place of the word embeddings from position `start` on.

    A negative `start` counts from the end; see `Layout.start`.
    """

    def replace(embed: Float[Tensor, "batch pos d_model"], hook: AtHook = None) -> Float[Tensor, "batch pos d_model"]:
        begin = start if start >= 0 else embed.shape[1] + start
        end = begin + len(vectors)
        if begin < 0 or embed.shape[1] < end or embed.shape[2] != vectors.shape[1]:
            raise ValueError(
                f"A prompt of shape {tuple(vectors.shape)} goes to positions {begin} to {end - 1}, but the embeddings "
                f"are {tuple(embed.shape)}. Use a prompt made for this model, in the place its layout gives it."
            )
        prompt = repeat(vectors.to(embed.dtype), "prompt d_model -> batch prompt d_model", batch=len(embed))
        return torch.cat([embed[:, :begin], prompt, embed[:, end:]], dim=1)

    return "hook_embed", replace
