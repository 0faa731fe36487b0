"""Results on disk: tensors in a safetensors file, everything else in a JSON file beside it. No pickle.

The JSON is written last and carries the tensors' digest, and each file appears in one move, so an interrupted write is
never read back as a result.
"""

import hashlib
import json
import os
import platform
import secrets
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

FORMAT = "skillneurons"
FORMAT_VERSION = 1

T = TypeVar("T")


class StoreError(ValueError):
    """A file that is damaged, of another kind or version, or not ours; catch it to compute the result anew."""


def versions() -> dict[str, str]:
    """Versions of what a result depends on, for provenance."""
    packages = ("skillneurons", "torch", "transformers", "transformer-lens")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it either appears whole or not at all, also when the disk is full."""
    _write_all({path: content})


def _write_all(contents: Mapping[Path, bytes]) -> None:
    """Write every file under another name first, so that a full disk leaves all the old ones."""
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
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    write_atomically(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def save(path: str | Path, kind: str, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Path:
    """Write `path.safetensors` and `path.json`; returns the JSON's path.

    Args:
        path: With or without one of the two endings.
        kind: What the file holds, checked when it is loaded.
        tensors: Named tensors on any device.
        meta: Anything JSON can hold.
    """
    stem = _stem(path)
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
        "meta": dict(meta),
    }
    described = json.dumps(header, indent=1, allow_nan=False)
    tensor_path, json_path = (stem.with_name(stem.name + ending) for ending in (".safetensors", ".json"))
    _write_all({tensor_path: payload, json_path: (described + "\n").encode()})
    return json_path


def load(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and meta of a file written by `save`.

    Raises:
        FileNotFoundError: One of the two files is missing.
        StoreError: They are damaged, do not belong together, or hold something else.
    """
    stem = _stem(path)
    json_path, tensor_path = (stem.with_name(stem.name + ending) for ending in (".json", ".safetensors"))
    for needed in (json_path, tensor_path):
        if not needed.exists():
            raise FileNotFoundError(f"A saved {kind} is two files, but {needed} does not exist.")
    try:
        header = json.loads(json_path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{json_path} is not valid JSON ({error}). Compute the {kind} again.") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise StoreError(f"{json_path} was not written by skillneurons. Pass a saved {kind}.")
    if missing := [key for key in ("format_version", "kind", "sha256", "versions", "meta") if key not in header]:
        raise StoreError(f"{json_path} is damaged: it has no {missing[0]!r}. Compute the {kind} again.")
    if header["format_version"] > FORMAT_VERSION:
        raise StoreError(
            f"{json_path} has format version {header['format_version']}, this release reads up to {FORMAT_VERSION}. "
            f"It was written by skillneurons {header['versions']['skillneurons']}: install that or a later one."
        )
    if header["kind"] != kind:
        raise StoreError(f"{json_path} holds a {header['kind']}, but a {kind} was needed.")
    payload = tensor_path.read_bytes()
    if hashlib.sha256(payload).hexdigest() != header["sha256"]:
        raise StoreError(f"{tensor_path} is damaged or belongs to another {json_path.name}. Compute the {kind} again.")
    try:
        return safetensors.torch.load(payload), header["meta"]
    except SafetensorError as error:
        raise StoreError(f"{tensor_path} is not a safetensors file ({error}).") from error


def read_or_compute(path: Path, load: Callable[[Path], T], compute: Callable[[], T], reused: list[Path]) -> T:
    """What `load` reads; where files are missing or, with a warning, damaged, what `compute` gives, saved there.

    Args:
        path: As `load` and the result's `save` take it.
        load: Reads it.
        compute: Makes it; the result has a method `save`.
        reused: The path is added to these where it was read.
    """
    try:
        loaded = load(path)
    except FileNotFoundError:
        pass
    except StoreError as error:
        warnings.warn(f"{error} It is computed anew.", stacklevel=3)
    else:
        reused.append(path)
        return loaded
    computed = compute()
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
