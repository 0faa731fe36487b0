"""Results on disk: tensors in a safetensors file, everything else in a JSON file beside it. No pickle.

The JSON is written last and carries the digests of the tensors and of all that it says itself, and each file appears in
one move, so an interrupted write is never read back as a result.
"""

import errno
import hashlib
import json
import os
import platform
import re
import secrets
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from skillneurons.utilities.types import Json

FORMAT = "skillneurons"
FORMAT_VERSION = 2
HEADER = {"format": str, "format_version": int, "kind": str, "sha256": str, "versions": dict, "meta": dict}

DIGEST = "digest"
"""In a JSON file, of everything else in it."""

T = TypeVar("T")

# Which part of which run is being read or written; see `labelled`.
_LABEL: ContextVar[dict[str, str] | None] = ContextVar("label", default=None)


class StoreError(ValueError):
    """A file that is damaged, of another kind or version, or not ours; catch it to compute the result anew.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from skillneurons.utilities.store import StoreError, load, save
        >>> with TemporaryDirectory() as folder:
        ...     path = save(f"{folder}/means", "Means", {}, {"task": "movies"})
        ...     try:
        ...         load(path, "Scores")
        ...     except StoreError as error:
        ...         print(error)
        /.../means.json holds a Means, but a Scores was needed.
    """


def versions() -> dict[str, str]:
    """Versions of what a result depends on, for provenance."""
    packages = ("skillneurons", "torch", "transformers", "transformer-lens")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it either appears whole or not at all, also when the disk is full."""
    _write_all({path: content})


def _write_all(contents: Mapping[Path, bytes]) -> None:
    """Write every file under another name first, so that a full disk leaves all the old ones."""
    for path in contents:
        check_no_directory(path)
    partials = {path: path.with_name(f".{path.name}.{secrets.token_hex(4)}") for path in contents}
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(partials[path], "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path, partial in partials.items():
            os.replace(partial, path)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        first = next(iter(contents))
        raise PermissionError(
            f"{first} cannot be written ({os.strerror(error.errno)}). Make its folder writable, or choose another one."
        ) from error
    finally:
        for partial in partials.values():
            with suppress(OSError):  # what could not be written cannot be removed
                partial.unlink(missing_ok=True)


def name_of_partial(name: str) -> str | None:
    """The file that was being written under this name, if it is one that a killed process leaves.

    Example:
        >>> name_of_partial(".a.json.0123abcd"), name_of_partial(".a.json.backup")
        ('a.json', None)
    """
    partial = re.fullmatch(r"\.(.+)\.[0-9a-f]{8}", name)
    return partial[1] if partial else None


def check_no_directory(path: Path) -> None:
    """Raise `IsADirectoryError` where a directory has a file's name, since no result computed anew could go there."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} needs to be a file, but is a directory. Move it away.")
    if path.exists() and not path.is_file():
        # Reading a pipe would wait for ever.
        raise OSError(f"{path} needs to be a file, but is a pipe, a socket or a device. Move it away.")


def write_json(path: Path, content: Json) -> None:
    write_atomically(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path, needed: Mapping[str, Json], remedy: str) -> dict[str, Json]:
    """The object in a JSON file; see `parse_json`."""
    check_no_directory(path)
    return parse_json(path.read_bytes(), str(path), needed, remedy)


def write_sealed(path: Path, content: Mapping[str, Json]) -> None:
    """Write a JSON object with its digest."""
    # As it will be read, so that its digest is that of what will be read.
    sealed = json.loads(json.dumps(dict(content) | {"format_version": FORMAT_VERSION}, allow_nan=False))
    write_json(path, sealed | {DIGEST: json_digest(sealed)})


def read_sealed(path: Path, needed: Mapping[str, Json], remedy: str) -> dict[str, Json]:
    """What `write_sealed` wrote; what earlier versions wrote without a digest is read as it is.

    Raises:
        StoreError: It is not what was written.
    """
    found = read_json(path, needed, remedy)
    _check_digest(found, path, remedy)
    found.pop("format_version", None)
    found.pop(DIGEST, None)
    return found


def _check_digest(found: Mapping[str, Json], path: Path, remedy: str) -> None:
    written = found.get("format_version", 1)
    if isinstance(written, int) and written > FORMAT_VERSION:
        raise StoreError(
            f"{path} has format version {written}, this release reads up to {FORMAT_VERSION}. It was written by "
            f"skillneurons {dict(found.get('versions') or {}).get('skillneurons')}: install that or a later one."
        )
    content = {key: value for key, value in found.items() if key != DIGEST}
    # Earlier versions wrote none, but their files do not say that they are of this one.
    if (DIGEST in found or written != 1) and found.get(DIGEST) != json_digest(content):
        raise StoreError(f"{path} is damaged: its content is not the one that was saved. {remedy}")


@contextmanager
def labelled(run: str, part: str) -> Iterator[None]:
    """What is saved meanwhile says that it is this part of this run, and what is loaded must not say otherwise."""
    token = _LABEL.set({"run": run, "part": part} if run else None)
    try:
        yield
    finally:
        _LABEL.reset(token)


def parse_json(text: str | bytes, where: str, needed: Mapping[str, Json], remedy: str) -> dict[str, Json]:
    """The JSON object in `text`, with all that is needed of it.

    Args:
        text: JSON.
        where: It comes from, for messages.
        needed: Keys, and the type of each one's value.
        remedy: What to do about a damaged one.

    Raises:
        StoreError: It holds something else.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:  # no JSON, no text at all, or a thousand levels of it
        raise StoreError(f"{where} is not valid JSON ({error}). {remedy}") from error
    if not isinstance(found, dict):
        raise StoreError(f"{where} needs to hold an object, but holds a {type(found).__name__}. {remedy}")
    for key, kind in needed.items():
        if not isinstance(found.get(key), kind):
            came = f"its {key!r} is a {type(found[key]).__name__}" if key in found else f"it has no {key!r}"
            raise StoreError(f"{where} is damaged or was not written by skillneurons: {came}. {remedy}")
    return found


def json_digest(content: Json) -> str:
    """SHA-256 of what JSON gave back; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def save(path: str | Path, kind: str, tensors: Mapping[str, Tensor], meta: Mapping[str, Json]) -> Path:
    """Write `path.safetensors` and `path.json`; returns the JSON's path.

    Args:
        path: With or without one of the two endings.
        kind: What the file holds, checked when it is loaded.
        tensors: Named tensors on any device.
        meta: Anything JSON can hold.

    Raises:
        IsADirectoryError: A directory is in the way.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> import torch
        >>> from skillneurons.utilities.store import save
        >>> means = {"mean": torch.zeros(3)}
        >>> with TemporaryDirectory() as folder:
        ...     path = save(f"{folder}/means", "Means", means, {"task": "movies"})
        ...     print(sorted(file.name for file in path.parent.iterdir()))
        ['means.json', 'means.safetensors']
    """
    stem = _stem(path)
    # As it will be read, so that its digest is that of what will be read.
    meta = json.loads(json.dumps(dict(meta), allow_nan=False))
    # Copies, since safetensors refuses tensors that share memory.
    payload = safetensors.torch.save(
        {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    )
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "sha256": hashlib.sha256(payload).hexdigest(),
        "versions": versions(),
        "meta": meta,
    }
    if label := _LABEL.get():
        header["part"] = label
    header[DIGEST] = json_digest(header)
    described = json.dumps(header, indent=1, allow_nan=False)
    tensor_path, json_path = (stem.with_name(stem.name + ending) for ending in (".safetensors", ".json"))
    _write_all({tensor_path: payload, json_path: (described + "\n").encode()})
    return json_path


def load(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Json]]:
    """Tensors and meta of a file written by `save`.

    Raises:
        FileNotFoundError: One of the two files is missing.
        IsADirectoryError: One of them is a directory.
        StoreError: They are damaged, do not belong together, or hold something else.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> import torch
        >>> from skillneurons.utilities.store import load, save
        >>> means = {"mean": torch.zeros(3)}
        >>> with TemporaryDirectory() as folder:
        ...     path = save(f"{folder}/means", "Means", means, {"task": "movies"})
        ...     tensors, meta = load(path, "Means")
        >>> tensors, meta
        ({'mean': tensor([0., 0., 0.])}, {'task': 'movies'})
    """
    stem, remedy = _stem(path), f"Compute the {kind} again."
    json_path, tensor_path = (stem.with_name(stem.name + ending) for ending in (".json", ".safetensors"))
    for needed in (json_path, tensor_path):
        check_no_directory(needed)
        if not needed.exists():
            raise FileNotFoundError(f"A saved {kind} is two files, but {needed} does not exist.")
    header = read_json(json_path, HEADER, remedy)
    if header["format"] != FORMAT:
        raise StoreError(f"{json_path} was not written by skillneurons. Pass a saved {kind}.")
    _check_header(header, json_path, kind, remedy)
    payload = tensor_path.read_bytes()
    if hashlib.sha256(payload).hexdigest() != header["sha256"]:
        raise StoreError(f"{tensor_path} is damaged or belongs to another {json_path.name}. {remedy}")
    try:
        return safetensors.torch.load(payload), header["meta"]
    except SafetensorError as error:
        raise StoreError(f"{tensor_path} is not a safetensors file ({error}).") from error


def _check_header(header: Mapping[str, Json], path: Path, kind: str, remedy: str) -> None:
    if header["kind"] != kind:
        raise StoreError(f"{path} holds a {header['kind']}, but a {kind} was needed.")
    _check_digest(header, path, remedy)
    # So did version 1, from its second release on.
    if header["format_version"] == 1 and header.get("meta_sha256", ...) not in (..., json_digest(header["meta"])):
        raise StoreError(f"{path} is damaged: its 'meta' is not the one that was saved. {remedy}")
    label, found = _LABEL.get(), header.get("part")
    if label and found and found != label:
        whose = "it" if found.get("run") == label["run"] else "another run"
        raise StoreError(
            f"{path} needs to be {label['part']} of this run, but is {found.get('part')} of {whose}. Put the right "
            "file back, or remove this one."
        )


def read(path: Path, load: Callable[[Path], T]) -> T:
    """What `load` reads.

    Raises:
        StoreError: Also where the files are whole, but hold what the result cannot be made of.
    """
    try:
        return load(path)
    except (KeyError, TypeError) as error:
        raise StoreError(f"{path} is damaged or of another release ({error!r}).") from error


def read_or_compute(
    path: Path,
    load: Callable[[Path], T],
    compute: Callable[[], T],
    reused: list[Path],
    label: tuple[str, str] = ("", ""),
) -> T:
    """What `load` reads; where files are missing or, with a warning, damaged, what `compute` gives, saved there.

    Args:
        path: As `load` and the result's `save` take it.
        load: Reads it.
        compute: Makes it; the result has a method `save`.
        reused: The path is added to these where it was read.
        label: The run and which part of it this is, see `labelled`.
    """
    try:
        with labelled(*label):
            loaded = read(path, load)
    except FileNotFoundError:
        pass
    except StoreError as error:
        warnings.warn(f"{error} It is computed anew.", stacklevel=3)
    else:
        reused.append(path)
        return loaded
    computed = compute()
    with labelled(*label):
        computed.save(path)  # type: ignore[attr-defined]
    return computed


def _stem(path: str | Path) -> Path:
    path = Path(path)
    return path.with_suffix("") if path.suffix in (".json", ".safetensors") else path


def check_finite(name: str, tensor: Tensor, remedy: str) -> None:
    """Raise `FloatingPointError` where a computed tensor is not finite."""
    if not bool(torch.isfinite(tensor).all()):
        n_bad = int((~torch.isfinite(tensor)).sum())
        raise FloatingPointError(f"`{name}` has {n_bad} values that are NaN or infinite of {tensor.numel()}. {remedy}")
