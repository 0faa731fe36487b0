"""Verbalizer: the words that answers are read as, each one token of the model's vocabulary."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from skillneurons.tasks.class_words import alike
from skillneurons.tasks.task import Task
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.types import Library, Tokenizer

# How vocabularies spell the space in front of a word.
SPACES = "Ġ▁"

# Answers that are single tokens in most English vocabularies: what an error suggests.
COMMON_WORDS = (
    "good",
    "bad",
    "great",
    "terrible",
    "positive",
    "negative",
    "neutral",
    "yes",
    "no",
    "maybe",
    "true",
    "false",
)


@checked
@dataclass(frozen=True)
class Verbalizer:
    """Label words and the token each one is.

    Args:
        words: One for each class.
        token_ids: Their ids in the model's vocabulary.

    Example:
        >>> from skillneurons import HookedEncoder, Verbalizer
        >>> tokenizer = HookedEncoder.from_pretrained("bundled").tokenizer
        >>> words = Verbalizer.from_words(tokenizer, ["terrible", "great"])
        >>> [tokenizer.decode([token]) for token in words.token_ids]
        [' terrible', ' great']
    """

    words: tuple[str, ...]
    token_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if isinstance(self.words, str) or len(self.words) != len(self.token_ids):
            raise ValueError(
                f"A verbalizer needs one word for each token id, but has {self.words!r} for {tuple(self.token_ids)}."
            )
        for name, values in (("words", self.words), ("token_ids", self.token_ids)):
            if len(set(values)) != len(values):
                twice = next(value for value in values if values.count(value) > 1)
                raise ValueError(f"`{name}` needs to differ from class to class, but {twice!r} is there twice.")

    @property
    def asks(self) -> dict[str, Library]:
        """What a model is asked for, so that these words answer."""
        return {"logits_for": self.token_ids}

    @property
    def identity(self) -> tuple[int, ...]:
        """What tells answers by these words from others'."""
        return self.token_ids

    def of(self, which: Sequence[int]) -> "Verbalizer":
        """The words of some of the classes, in this order."""
        return Verbalizer(tuple(self.words[i] for i in which), tuple(self.token_ids[i] for i in which))

    @classmethod
    def from_words(cls, tokenizer: Tokenizer, words: Sequence[str], labels: Sequence[str] = ()) -> "Verbalizer":
        """Look the words up, with a leading space where the vocabulary marks it.

        Args:
            tokenizer: The model's.
            words: One for each class.
            labels: Names of the classes, for suggestions that mean the same.

        Raises:
            ValueError: Words are not single tokens (the error names all of them and their pieces, and suggests words
                that are), or two words are the same token.
        """
        if tokenizer is None:
            raise ValueError("The model has no tokenizer, so label words cannot be looked up. Pass one to `from_hf`.")
        if isinstance(words, str):
            raise ValueError(f"`words` needs one word for each class, but is one string, {words!r}.")
        pieces = [_pieces(tokenizer, word) for word in words]
        wrong = [i for i, word in enumerate(words) if not _is_single(tokenizer, word)]
        if wrong:
            names = [labels[i] if i < len(labels) else "" for i in range(len(words))]
            raise ValueError("\n".join(_not_a_token(tokenizer, words[i], names[i], pieces[i]) for i in wrong))
        ids = tuple(piece[0] for piece in pieces)
        if len(set(ids)) != len(ids):
            raise ValueError(f"Label words must be different tokens, but {tuple(words)} are {ids}.")
        return cls(tuple(words), ids)


def check_label_words(tokenizer: Tokenizer, tasks: Iterable[Task]) -> None:
    """Raise where `Verbalizer.from_words` refuses a task's words: for all tasks and all words at once.

    Args:
        tokenizer: The model's; None where it is not known before the model is, and nothing can be checked.
        tasks: Each with a label word for each class.

    Raises:
        ValueError: Words are not single tokens, or two words of a task are the same token.

    Example:
        >>> from skillneurons import load_task
        >>> from skillneurons.classifiers.verbalizer import check_label_words
        >>> from skillneurons.models._load_model import load_tokenizer
        >>> check_label_words(load_tokenizer("bundled"), [load_task("movies"), load_task("news")])
    """
    if tokenizer is None:
        return
    wrong = []
    for task in tasks:
        try:
            Verbalizer.from_words(tokenizer, task.label_words, task.labels)
        except ValueError as error:
            wrong += [f"{task.name}: {line}" for line in str(error).splitlines()]
    if wrong:
        raise ValueError("\n".join(wrong))


def _not_a_token(tokenizer: Tokenizer, word: str, label: str, pieces: list[int]) -> str:
    names = tokenizer.convert_ids_to_tokens(pieces)
    of_class = f" of class {label!r}" if label and label != word else ""
    suggestions = _single_token_words(tokenizer, word, label)
    return (
        f"Label word {word!r}{of_class} needs to be one token of the model's vocabulary, but is {len(pieces)}: "
        f"{names}. Words that are one token: {', '.join(suggestions)}."
    )


def _single_token_words(tokenizer: Tokenizer, word: str, label: str = "", n: int = 5) -> list[str]:
    """Whole words of the vocabulary: with the meaning of the class, if known; else spelt like `word`, and common."""
    if meant := [w for w in alike(word, label) if w != word and _is_single(tokenizer, w)]:
        return list(dict.fromkeys(meant))[:n]
    vocabulary = {token.lstrip(SPACES) for token in tokenizer.get_vocab() if token[:1] in SPACES or token[:1].isalpha()}
    near = [w for w in difflib.get_close_matches(word, sorted(vocabulary), n=2 * n) if _is_single(tokenizer, w)][:n]
    common = [w for w in COMMON_WORDS if _is_single(tokenizer, w) and w not in near]
    return [*near, *common[:n]]


def _pieces(tokenizer: Tokenizer, word: str) -> list[int]:
    """The word's tokens behind a space, which some tokenizers put in front of every text by themselves."""
    word = word.strip()
    bare = tokenizer(word, add_special_tokens=False)["input_ids"]
    if bare and tokenizer.convert_ids_to_tokens(bare)[0][:1] in SPACES:
        return bare
    return tokenizer(" " + word, add_special_tokens=False)["input_ids"]


def _is_single(tokenizer: Tokenizer, word: str) -> bool:
    pieces = _pieces(tokenizer, word)
    return len(pieces) == 1 and pieces[0] != tokenizer.unk_token_id
