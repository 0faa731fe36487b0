"""A checkpoint's tokenizer, as its tokenizer.json says: transformers rebuilds parts of it by the tokenizer's class.

What is rebuilt may split or change texts otherwise (lower case, a space in front, Unicode forms, digits). So a few
texts go through both, and where they come out otherwise, the file's own parts are used.
"""

from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoTokenizer
from transformers.utils import cached_file

from skillneurons.models.checkpoint_files import short
from skillneurons.utilities.types import Library

VOCABULARIES = {"tokenizer.json", "vocab.json", "vocab.txt"}
PARTS = ("normalizer", "pre_tokenizer", "model", "decoder")
# Case, accents (composed and not), spaces, digits, contractions, symbols with other Unicode forms, scripts.
PROBES = (
    "A clever film.",
    " It's DULL, and they'll know: don't!",
    "Naïve cafe\u0301 ÀÉÎ straße İstanbul",
    "two  spaces\tand\ttabs\nlines\r\n  end  ",
    "1234567 3.14 1,000 20th x2y A1B2",
    "\ufb01ne ½ ① ² ™ … ﬀ \uff26\uff55\uff4c\uff4c",
    "漢字 かな 한국어 привет العربية ไทย",
    "well-known foo_bar CamelCase (a/b) e-mail@x.org #1 100% $5 a~b ``q'' “q”",
    "zero\u200bwidth no\u00a0break soft\u00adhyphen \U0001f600\U0001f468\u200d\U0001f469",
)


def read_tokenizer(location: str, revision: str | None, pad_token_id: int | None) -> Library:
    """The checkpoint's tokenizer; None for a folder without one, where transformers would make up an empty one.

    Args:
        location: A folder or hub id.
        revision: Branch, tag or commit on the hub.
        pad_token_id: The model's; None where the model is not known yet.

    Raises:
        ValueError: It is damaged, or another model's.
    """
    folder = Path(location)
    if folder.is_dir() and not any(path.name in VOCABULARIES or path.suffix == ".model" for path in folder.iterdir()):
        return None
    try:
        tokenizer = AutoTokenizer.from_pretrained(location, revision=revision, trust_remote_code=False)
    except Exception as error:  # whatever transformers and tokenizers make of a damaged file
        raise ValueError(f"The tokenizer in {location!r} cannot be read: {short(error)}") from error
    if pad_token_id is not None and tokenizer.pad_token_id != pad_token_id:
        raise ValueError(
            f"The tokenizer in {location!r} pads with id {tokenizer.pad_token_id}, but the model with {pad_token_id}. "
            "Put the model's own tokenizer beside it."
        )
    return as_in_file(tokenizer, location, revision)


def as_in_file(tokenizer: Library, location: str, revision: str | None = None) -> Library:
    """The tokenizer, with the parts of its tokenizer.json in place of those that transformers made otherwise.

    Raises:
        ValueError: Texts come out otherwise all the same.

    Example:
        >>> from importlib.resources import files
        >>> from transformers import AutoTokenizer
        >>> folder = str(files("skillneurons") / "bundled" / "model")
        >>> as_in_file(AutoTokenizer.from_pretrained(folder), folder)("A film.")["input_ids"]
        [0, 262, 373, 18, 2]
    """
    loaded = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(loaded, Tokenizer):
        return tokenizer
    path = cached_file(
        location,
        "tokenizer.json",
        revision=revision,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if path is None:
        return tokenizer
    own = Tokenizer.from_file(path)
    for one in (own, loaded):  # transformers sets both anew at each call
        one.no_padding()
        one.no_truncation()
    if _first_difference(loaded, own) is None:
        return tokenizer
    for part in PARTS:
        setattr(loaded, part, getattr(own, part))
    text = _first_difference(loaded, own)
    if text is not None:
        ours, theirs = (one.encode(text, add_special_tokens=False).tokens for one in (loaded, own))
        raise ValueError(
            f"The tokenizer in {location!r} makes {ours} of {text!r}, but its tokenizer.json {theirs}. Save both anew, "
            "by `tokenizer.save_pretrained`."
        )
    return tokenizer


def _first_difference(loaded: Tokenizer, own: Tokenizer) -> str | None:
    """The first of the probes that the two treat otherwise."""
    return next((text for text in PROBES if _steps(loaded, text) != _steps(own, text)), None)


def _steps(tokenizer: Tokenizer, text: str) -> tuple[object, ...]:
    """What becomes of a text: changed, split, and as ids. Ids alone would not tell where words are unknown."""
    changed = text if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str(text)
    split = None if tokenizer.pre_tokenizer is None else tokenizer.pre_tokenizer.pre_tokenize_str(changed)
    pieces = [changed] if split is None else [piece for piece, _ in split]
    return changed, pieces, tokenizer.encode(text, add_special_tokens=False).ids
