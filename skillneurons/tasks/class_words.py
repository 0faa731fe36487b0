"""Which word answers for which class: asked for, on a card, or known by the classes' own names.

Words are found by the names of the classes, never by the place where a class happens to stand: files give classes in
any order.
"""

from collections.abc import Mapping, Sequence

NLI = {"entailment": "yes", "neutral": "maybe", "contradiction": "no"}
SENTIMENT = {"negative": "negative", "neutral": "neutral", "positive": "positive"}
SHORT_SENTIMENT = {"neg": "negative", "neu": "neutral", "pos": "positive"}
TOPICS = {"World": "world", "Sports": "sports", "Business": "business", "Sci/Tech": "technology"}
DBPEDIA = {
    "Company": "company",
    "EducationalInstitution": "school",
    "Artist": "artist",
    "Athlete": "athlete",
    "OfficeHolder": "politician",
    "MeanOfTransportation": "transportation",
    "Building": "building",
    "NaturalPlace": "river",
    "Village": "village",
    "Animal": "animal",
    "Plant": "plant",
    "Album": "album",
    "Film": "film",
    "WrittenWork": "book",
}
KNOWN = (NLI, SENTIMENT, SHORT_SENTIMENT, TOPICS, DBPEDIA)

# "not_entailment" beside "entailment", "non_hate" beside "hate": the one is answered with yes, the other with no.
DENIALS = ("not", "non", "no")

# Words with the meaning of a class or of a word for it, the best known first: what an error suggests.
ALIKE = (
    ("positive", "great", "good", "wonderful", "excellent", "fine", "pos", "fresh"),
    ("negative", "terrible", "bad", "awful", "poor", "wrong", "neg", "rotten"),
    ("neutral", "maybe", "okay", "perhaps", "mixed"),
    ("yes", "true", "right", "correct", "entailment"),
    ("no", "false", "wrong", "never", "contradiction"),
    ("technology", "science", "computer", "tech", "Sci/Tech"),
    ("business", "company", "market", "money"),
    ("sports", "sport", "game", "football"),
    ("world", "politics", "war", "government"),
)


def class_words(
    name: str,
    labels: Sequence[str],
    asked: Sequence[str] | Mapping[str, str] | None = None,
    *,
    card: Sequence[str] | Mapping[str, str] | None = None,
    guessed: bool = False,
) -> tuple[str, ...]:
    """A word for each class, in the order of `labels`.

    Args:
        name: Of the task, for errors.
        labels: Names of the classes.
        asked: The words a user wants: by class, or in the order of `labels`.
        card: Those of the task's card, in the same form.
        guessed: Nothing says that the classes are in this order, so a plain list of words fits none for sure.

    Raises:
        ValueError: Words and classes do not pair up, or the classes are numbers and have no words.

    Example:
        >>> class_words("mine", ["contradiction", "entailment", "neutral"])
        ('no', 'yes', 'maybe')
        >>> class_words("mine", ["neg", "pos"], {"pos": "great", "neg": "terrible"}, guessed=True)
        ('terrible', 'great')
    """
    words = card if asked is None else asked
    if isinstance(words, Mapping):
        return _by_name(name, labels, words)
    if words is not None:
        return _in_order(name, labels, words, guessed)
    if known := known_words(labels):
        return known
    if all(_is_number(label) for label in labels):
        raise ValueError(
            f"The classes of {name!r} have numbers ({', '.join(labels)}), no names, and the model answers with words. "
            "Pass `label_words` (`--label-words`), one for each class in this order, or name them in a card.json."
        )
    return tuple(labels)


def known_words(labels: Sequence[str]) -> tuple[str, ...] | None:
    """The usual words of classes whose names are known, whatever their order and spelling; None for others.

    Example:
        >>> known_words(["not_entailment", "entailment"]), known_words(["Sports", "sci/tech"]), known_words(["a", "b"])
        (('no', 'yes'), ('sports', 'technology'), None)
    """
    keys = [_key(label) for label in labels]
    for table in KNOWN:
        words = {_key(label): word for label, word in table.items()}
        if all(key in words for key in keys):
            return tuple(words[key] for key in keys)
    if len(keys) == 2:
        for yes, no, found in ((0, 1, ("yes", "no")), (1, 0, ("no", "yes"))):
            if any(keys[no] == denial + keys[yes] for denial in DENIALS):
                return found
    return None


def alike(*names: str) -> list[str]:
    """Words that mean what one of the names of a class or of its word means."""
    keys = {_key(name) for name in names}
    return [word for group in ALIKE if keys & {_key(word) for word in group} for word in group]


def pairing(labels: Sequence[str], words: Sequence[str]) -> str:
    """Each class and its word, as headers and errors print them.

    Example:
        >>> pairing(["neg", "pos"], ["terrible", "great"])
        'neg → terrible, pos → great'
    """
    return ", ".join(f"{label} → {word}" for label, word in zip(labels, words, strict=False))


def _by_name(name: str, labels: Sequence[str], words: Mapping[str, str]) -> tuple[str, ...]:
    given = {str(label): word for label, word in words.items()}
    if set(given) != set(labels):
        # Another spelling of the same names is clear enough.
        respelt = {_key(label): word for label, word in given.items()}
        if len(respelt) != len(given) or sorted(respelt) != sorted(_key(label) for label in labels):
            raise ValueError(
                f"`label_words` needs a word for each class of {name!r} ({', '.join(labels)}), but has words for "
                f"{', '.join(given) or 'none'}."
            )
        given = {label: respelt[_key(label)] for label in labels}
    return tuple(given[label] for label in labels)


def _in_order(name: str, labels: Sequence[str], words: Sequence[str], guessed: bool) -> tuple[str, ...]:
    if isinstance(words, str):
        raise ValueError(f"`label_words` needs one word for each class of {name!r}, but is one string, {words!r}.")
    words = tuple(words)
    if len(words) != len(labels):
        raise ValueError(
            f"`label_words` needs one word for each of the {len(labels)} classes of {name!r} ({', '.join(labels)}), "
            f"but has {len(words)}: {', '.join(map(str, words))}."
        )
    keys = [_key(label) for label in labels]
    spelt = [_key(str(word)) for word in words]
    if spelt == keys:
        return words
    example = ",".join(f"{label}={word}" for label, word in zip(labels, words, strict=True))
    if guessed:
        raise ValueError(
            f"The classes of {name!r} have no order of their own, so a list of `label_words` may go to the wrong ones. "
            f"In alphabetical order it would be {pairing(labels, words)}. Name each class: a mapping in Python, "
            f"`--label-words {example}` on the command line; or list `labels` in a card.json."
        )
    crossed = [i for i, word in enumerate(spelt) if word in keys and word != keys[i]]
    if crossed:
        raise ValueError(
            f"`label_words` in the order of the classes of {name!r} would be {pairing(labels, words)}: "
            f"{words[crossed[0]]!r} is the name of another class. Reorder the words, or name each class in a mapping."
        )
    return words


def _key(name: str) -> str:
    """A name without its case, blanks and marks, unless nothing else is in it."""
    return "".join(letter for letter in name.casefold() if letter.isalnum()) or name


def _is_number(label: str) -> bool:
    try:
        float(label)
    except ValueError:
        return False
    return True
