"""What a model shows of itself: a few lines where it is printed, a table in Jupyter."""

import pandas as pd

from skillneurons.utilities.results import as_html
from skillneurons.utilities.types import Library


class ShownModel:
    """A model that is printed in a few lines, not as the tree of its modules (which `print(model.blocks)` shows).

    What can be done with it is asked of the model, not of its class.

    Attributes:
        can_reenter: Whether a pass can start at a block, with the stream that enters it.
        has_weights: Whether its weights have TransformerLens's names and shapes, to be read, replaced and copied.
        reads_after_text: Whether the label is read behind the text, as of decoders.
    """

    can_reenter: bool = True
    has_weights: bool = True

    @property
    def reads_after_text(self) -> bool:
        return False

    def __repr__(self) -> str:
        kind, facts = type(self).__name__, facts_of(self)
        lines = "\n".join(f"  {name}: {value}" for name, value in facts.items() if name != "source")
        return f"{kind}({facts['source']})\n{lines}"

    def _repr_html_(self) -> str:
        facts = facts_of(self)
        title = f"{type(self).__name__}({facts.pop('source')})"
        return as_html(title, pd.DataFrame({"": list(facts), " ": list(facts.values())}))


def facts_of(model: Library) -> dict[str, str]:
    """What tells a `HookedEncoder` or `BridgedModel` from others, by name, in the order in which one asks.

    Example:
        >>> from skillneurons import HookedEncoder
        >>> facts_of(HookedEncoder.from_pretrained("bundled"))["neurons"]
        '4 layers of 768'
    """
    cfg = model.cfg
    widths = sorted(set(cfg.d_mlps))
    neurons = f"{widths[0]:,}" if len(widths) == 1 else f"{widths[0]:,} to {widths[-1]:,}"
    heads = f", {cfg.n_heads} heads" if hasattr(cfg, "n_heads") else ""
    trained = " (train mode: dropout is on)" if model.training else ""
    return {
        "source": f"{cfg.source}{f' at {cfg.revision}' if cfg.revision else ''}",
        "neurons": f"{cfg.n_layers} layers of {neurons}",
        "width": f"{cfg.d_model:,}{heads}",
        "tokens": f"{cfg.d_vocab:,}, at most {cfg.n_ctx:,} in a text",
        "parameters": f"{sum(one.numel() for one in model.parameters()):,}",
        "computes": f"{str(model.dtype).removeprefix('torch.')} on {model.device}{trained}",
    }
