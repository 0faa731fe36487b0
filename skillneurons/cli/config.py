"""A command's options in a TOML file: read instead of being typed, and written by a run for another one."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any  # Any: what a file of options holds

NOT_WRITTEN = ("config", "out", "device", "jobs", "slurm")
"""Of the machine and the folder, not of what is computed."""


def read_config(context: Any, value: str | None) -> str | None:
    """Take a command's defaults from a file, where `--config` names one; what is typed still decides.

    Raises:
        ValueError: The file is missing, no TOML, or has options that the command does not.
    """
    if value is None or not value.endswith(".toml"):
        return value
    try:
        found = tomllib.loads(Path(value).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"`--config` needs a file of options in TOML, but {value} is none: {error}.") from error
    options = {key.replace("-", "_"): option for key, option in found.items()}
    if unknown := sorted(set(options) - {param.name for param in context.command.params}):
        raise ValueError(f"{value} has {', '.join(map(repr, unknown))}, which is no option of `{context.info_name}`.")
    own = options.pop("config", None)
    context.default_map = {**(context.default_map or {}), **options}
    return own


def write_config(path: Path, options: Mapping[str, Any]) -> None:
    """Write a command's options, so that `--config` reads them: those that were given, or have a default.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write_config(Path(folder) / "run.toml", {"task": "movies", "lr": None, "n_prompt": 16, "out": "here"})
        ...     print((Path(folder) / "run.toml").read_text().splitlines()[1:])
        ['task = "movies"', 'n_prompt = 16']
    """
    lines = ["# Options of `skillneurons find`; `--config FILE` reads them, and what is typed beside it decides."]
    for name, value in options.items():
        if value is None or name in NOT_WRITTEN:
            continue
        plain = value.resolve().as_posix() if isinstance(value, Path) else value
        # JSON's strings, numbers and booleans are TOML's.
        lines.append(f"{name} = {json.dumps(plain, ensure_ascii=False)}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
