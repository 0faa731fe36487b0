"""Raw activations on disk, for what no statistic keeps: float16, in safetensors shards that are read memory-mapped.

Everything in this package streams instead, and needs none of it: activations take `rows x positions x neurons x 2`
bytes, 8 GB for 872 rows of 127 prompt positions through roberta-base. Writing takes the memory of one shard, reading
that of the rows asked for. float16 keeps 11 bits: it rounds by up to 1/2048 of a value, and below 6e-8 to zero. So an
activation that close to its baseline may count on the other side than in the streaming pass. Beyond 65,504 it holds
nothing, which is an error.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import safetensors.torch
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from skillneurons.activations._collect import collect
from skillneurons.activations.cached import collect_cached
from skillneurons.activations.statistic import S, stack_layers
from skillneurons.classifiers.classifier import Classifier, require_eval
from skillneurons.tasks.batching import Batch, Encoded
from skillneurons.utilities import store
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.results import Shown
from skillneurons.utilities.types import Json, Row

KIND = "Activations"
OWN_FILES = re.compile(r"activations\.(json|safetensors)|shard-\d{5,}\.safetensors")
# What a shard's header may take besides its tensors, for each layer and for the rest.
HEADER_BYTES = 256


@checked
@dataclass(frozen=True, eq=False, repr=False)
class StoredActivations(Shown):
    """Activations that `write_activations` wrote; nothing is in memory but the labels.

    Args:
        folder: Where the shards are.
        labels: Of each row.
        meta: Model, prompt, rows, positions, shape and versions.

    Example:
        See `write_activations`, which makes it.
    """

    folder: Path
    labels: Int[Tensor, " batch"]
    meta: dict[str, Json]

    @classmethod
    def load(cls, folder: str | Path) -> "StoredActivations":
        """Open a folder; every shard's header is checked, its tensors are not read (see `verify`).

        Raises:
            FileNotFoundError: Nothing was written there, or a shard is missing, as after an interruption.
            StoreError: A file is damaged, or a shard is another store's.
        """
        tensors, meta = store.load(Path(folder) / "activations", KIND)
        stored = cls(Path(folder), tensors["labels"], meta)
        for number in range(stored.n_shards):
            stored._check_shard(number)
        return stored

    def verify(self) -> None:
        """Read every shard and compare its activations with the checksum that was written with them.

        Costs one read of the folder, and the memory of one shard.

        Raises:
            FileNotFoundError: A shard is missing.
            StoreError: A shard is damaged, or another store's, or has no checksum; it is named.
        """
        for number in range(self.n_shards):
            self._verify_shard(number)

    @property
    def sizes(self) -> dict[str, Json]:
        """Length of each axis; of `neuron` one for each layer, where they differ."""
        widths = self.meta["d_mlps"]
        neuron = widths[0] if len(set(widths)) == 1 else tuple(widths)
        return {"batch": len(self), "prompt": self.meta["n_positions"], "layer": len(widths), "neuron": neuron}

    @property
    def n_shards(self) -> int:
        return -(-len(self) // self.meta["rows_per_shard"])

    @property
    def n_bytes(self) -> int:
        """Of all activations."""
        return _n_bytes(len(self), self.meta["n_positions"], self.meta["d_mlps"])

    def layer(self, layer: int, rows: slice = slice(None)) -> Float[Tensor, "batch prompt neuron"]:
        """One layer's activations on consecutive rows, float16; only these bytes are read."""
        if not 0 <= layer < len(self.meta["d_mlps"]):
            raise ValueError(f"`layer` is {layer}, but the model has layers 0 to {len(self.meta['d_mlps']) - 1}.")
        start, stop, step = rows.indices(len(self))
        if step != 1 or start >= stop:
            raise ValueError(f"`rows` needs to be a range of consecutive rows of {len(self)}, not {rows}.")
        per_shard, parts = self.meta["rows_per_shard"], []
        for number in range(start // per_shard, (stop - 1) // per_shard + 1):
            first = number * per_shard
            with safe_open(self._shard(number), framework="pt") as file:
                parts.append(file.get_slice(f"layer.{layer}")[max(start - first, 0) : stop - first])
        return torch.cat(parts)

    def values(self, rows: slice) -> Float[Tensor, "batch prompt layer neuron"]:
        """All layers' activations on consecutive rows, float16."""
        return stack_layers([self.layer(layer, rows) for layer in range(len(self.meta["d_mlps"]))], dim=2)

    def batches(self, n_rows: int = 64) -> Iterator[tuple[dict[str, Tensor], Int[Tensor, " batch"]]]:
        """Consecutive rows as `blocks.{layer}.mlp.hook_post` -> `[batch prompt neuron]` in float32, and their labels.

        What `collect_cached` takes. Memory: `n_rows` rows of all layers.
        """
        if n_rows < 1:
            raise ValueError(f"`n_rows` needs to be 1 or more, not {n_rows}.")
        for start in range(0, len(self), n_rows):
            rows = slice(start, min(start + n_rows, len(self)))
            layers = {
                f"blocks.{layer}.mlp.hook_post": self.layer(layer, rows).float()
                for layer in range(len(self.meta["d_mlps"]))
            }
            yield layers, self.labels[rows]

    def collect(self, statistic: S, *, n_rows: int = 64) -> S:
        """Fill a statistic, as `collect` does from a pass: `LabelSums` for a baseline, `AboveCounts` for predictivity.

        Args:
            statistic: Is filled and returned.
            n_rows: In memory at a time.
        """
        return collect_cached(self.batches(n_rows), statistic, positions=slice(None))

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each shard: its file, first row, number of rows and bytes on disk."""
        per_shard = self.meta["rows_per_shard"]
        shards = [self._shard(number) for number in range(self.n_shards)]
        first = [number * per_shard for number in range(self.n_shards)]
        return pd.DataFrame(
            {
                "file": [shard.name for shard in shards],
                "first": first,
                "rows": [min(per_shard, len(self) - row) for row in first],
                "bytes": [shard.stat().st_size for shard in shards],
            }
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        axes = ", ".join(f"{name} {size}" for name, size in self.sizes.items())
        return f"StoredActivations({axes}; {self.n_bytes / 1e9:.3g} GB in {self.n_shards} shards)"

    def _shard(self, number: int) -> Path:
        return self.folder / f"shard-{number:05d}.safetensors"

    def _check_shard(self, number: int) -> str:
        """Raise unless a shard's header is that of these activations; returns its checksum, empty if it has none."""
        path = self._shard(number)
        store.check_no_directory(path)
        if not path.exists():
            raise FileNotFoundError(
                f"{self.folder} needs {self.n_shards} shards, but {path.name} does not exist. Call `write_activations` "
                "with the same arguments: it writes those that are missing."
            )
        n_rows = min(self.meta["rows_per_shard"], len(self) - number * self.meta["rows_per_shard"])
        expected = {
            f"layer.{layer}": [n_rows, self.meta["n_positions"], width]
            for layer, width in enumerate(self.meta["d_mlps"])
        }
        try:
            with safe_open(path, framework="pt") as file:
                owner, _, checksum = (file.metadata() or {}).get("store", "").partition(" ")
                shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise store.StoreError(f"{path} is damaged ({error}). Delete it and write it again.") from error
        if owner != store.json_digest(self.meta) or shapes != expected:
            raise store.StoreError(f"{path} belongs to other activations. Delete it and write it again.")
        return checksum

    def _verify_shard(self, number: int) -> None:
        expected, path = self._check_shard(number), self._shard(number)
        with safe_open(path, framework="pt") as file:
            found = _digest(*(file.get_tensor(f"layer.{layer}") for layer in range(len(self.meta["d_mlps"]))))
        if found != expected:
            came = "is damaged: it differs from its checksum" if expected else "was written without a checksum"
            raise store.StoreError(f"{path} {came}. Call `write_activations` with the same arguments, or delete it.")


@checked
def activations_size(classifier: Classifier, n_rows: int, *, positions: str = "prompt") -> int:
    """Bytes that `write_activations` takes: rows x positions x neurons x 2, and at most a few kB for each shard.

    Example:
        >>> from skillneurons import activations_size, load_example
        >>> classifier, _ = load_example()
        >>> activations_size(classifier, 1000)  # 1000 * 16 * 4 * 768 * 2
        98304000
    """
    return _n_bytes(n_rows, _n_positions(classifier, positions), classifier.model.cfg.d_mlps)


@checked
def write_activations(
    classifier: Classifier,
    rows: Sequence[Row] | Encoded,
    folder: str | Path,
    *,
    positions: str = "prompt",
    shard_bytes: int = 128 * 2**20,
    tokens_per_batch: int = 2048,
) -> StoredActivations:
    """Run the classifier over the rows and keep every neuron's activation, in the order of the rows.

    A shard appears whole or not at all. Interrupted and called again with the same arguments, it goes on with the
    shards that are missing or damaged, for which it reads those that are there. One process writes to a folder at a
    time.

    Args:
        classifier: In eval mode, made of a model and a prompt.
        rows: Labelled examples.
        folder: New, empty (hidden files count too), or an earlier call's with the same arguments.
        positions: `"prompt"`, `"mask"` or `"mask_and_prompt"`.
        shard_bytes: Of one file; about three times as much is held in memory.
        tokens_per_batch: Padded positions in one forward pass.

    Raises:
        OSError: The disk has less room than the missing shards take, or a directory is where a file goes; nothing is
            written.
        ValueError: `folder` holds other activations; `positions` differ in number from row to row; a row has no label;
            or the classifier has hooks of its own.
        FloatingPointError: An activation is NaN, infinite, or beyond 65,504.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from skillneurons import LabelSums, load_example, write_activations
        >>> classifier, task = load_example()
        >>> with TemporaryDirectory() as folder:
        ...     stored = write_activations(classifier, task.test, folder, shard_bytes=2**20)
        ...     print(stored.layer(0, slice(0, 8)).shape)
        ...     print(stored.collect(LabelSums(2)).mean.shape)
        torch.Size([8, 16, 768])
        torch.Size([16, 4, 768])
        >>> stored
        StoredActivations(batch 32, prompt 16, layer 4, neuron 768; 0.00315 GB in 4 shards)
    """
    require_eval(classifier.model)
    folder, encoded = Path(folder), classifier.encode(rows)
    meta = _describe(classifier, encoded, positions, shard_bytes)
    stored = StoredActivations(folder, encoded.labels, meta)
    begun = _is_begun(folder, meta)
    missing = [number for number in range(stored.n_shards) if not _is_whole(stored, number)]
    _check_room(stored, missing)
    for partial in filter(_is_partial, folder.glob(".*")):
        partial.unlink()
    if not begun:
        store.save(folder / "activations", KIND, {"labels": encoded.labels}, meta)
    for number in missing:
        first = number * meta["rows_per_shard"]
        part = _rows_of(encoded, first, min(first + meta["rows_per_shard"], len(encoded)))
        shard = collect(classifier, part, _Shard(len(part)), positions=positions, tokens_per_batch=tokens_per_batch)
        layers = {f"layer.{layer}": values for layer, values in enumerate(shard.parts)}
        # In one entry, since safetensors writes several in any order, and the same activations are to be the same file.
        identity = {"store": f"{store.json_digest(meta)} {_digest(*shard.parts)}"}
        store.write_atomically(stored._shard(number), safetensors.torch.save(layers, identity))
    return stored


@dataclass(eq=False)
class _Shard:
    """The activations of some rows in float16, and the largest of each layer before they were rounded."""

    n: int
    parts: list[Tensor] = field(default_factory=list)
    largest: list[Tensor] = field(default_factory=list)

    def update(
        self, layer: int, activations: Float[Tensor, "batch prompt neuron"], batch: Batch, counts: Sequence[int]
    ) -> None:
        if layer == len(self.parts):
            self.parts.append(torch.empty(self.n, *activations.shape[1:], dtype=torch.float16))
            self.largest.append(activations.new_zeros(()))
        self.parts[layer][batch.index] = activations.half().cpu()
        if activations.numel():
            # NaN passes through both.
            self.largest[layer] = torch.maximum(self.largest[layer], activations.abs().amax())

    def finish(self) -> None:
        limit = torch.finfo(torch.float16).max
        for layer, largest in enumerate(self.largest):
            if not float(largest) <= limit:
                raise FloatingPointError(
                    f"float16 holds activations up to {limit:,.0f}, but layer {layer} has {float(largest):,.6g}. Keep "
                    "a statistic of them instead: `collect`, which computes in float32."
                )


def _describe(classifier: Classifier, encoded: Encoded, positions: str, shard_bytes: int) -> dict[str, Json]:
    """What determines the stored values, as JSON would give it back."""
    if classifier.extra_hooks:
        raise ValueError(
            "Stored activations need a classifier made of a model and a prompt, which can be named; this one has hooks "
            "of its own. Use `collect` with a statistic."
        )
    if int(encoded.labels.min()) < 0:
        raise ValueError("`rows` need labels to be stored with; give each row an integer 'label'.")
    n_positions, d_mlps = _n_positions(classifier, positions), classifier.model.cfg.d_mlps
    vectors = classifier.prompt.vectors.detach().cpu().float().contiguous()
    meta = {
        "model": classifier.fingerprint,
        "model_source": classifier.model.cfg.source,
        "dtype": str(classifier.model.dtype),
        "prompt": {"sha256": _digest(vectors), "origin": classifier.prompt.origin, "seed": classifier.prompt.seed},
        "rows": _digest(encoded.tokens, encoded.token_types, encoded.offsets, encoded.labels),
        "n_rows": len(encoded),
        "truncated": encoded.n_truncated,
        "hook": "mlp.hook_post",
        "positions": positions,
        "n_positions": n_positions,
        "d_mlps": list(d_mlps),
        "axes": ["batch", "prompt", "layer", "neuron"],
        "rows_per_shard": max(1, shard_bytes // max(1, _n_bytes(1, n_positions, d_mlps))),
    }
    return json.loads(json.dumps(meta))


def _n_positions(classifier: Classifier, positions: str) -> int:
    where = classifier.layout.positions(positions)
    if classifier.layout.varies(positions):
        raise ValueError(
            f"Stored activations need the same number of positions in every row, but `positions` is {positions!r}, and "
            "texts differ in length. Pass 'prompt', or collect a pooled statistic."
        )
    # Wherever these positions lie, a row of the shortest length has them all.
    return len(range(classifier.layout.n_added)[where])


def _n_bytes(n_rows: int, n_positions: int, d_mlps: Sequence[int]) -> int:
    return n_rows * n_positions * sum(d_mlps) * torch.finfo(torch.float16).bits // 8


def _digest(*tensors: Tensor) -> str:
    """First 16 hex digits of the SHA-256 of all values."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()[:16]


def _is_partial(path: Path) -> bool:
    """Whether an interrupted call was writing this file; any other hidden file is someone's own."""
    name = store.name_of_partial(path.name)
    return name is not None and OWN_FILES.fullmatch(name) is not None and path.is_file()


def _is_begun(folder: Path, meta: dict[str, Json]) -> bool:
    """Whether the folder holds these activations in part; it may hold nothing else."""
    try:
        _, found = store.load(folder / "activations", KIND)
    except FileNotFoundError as error:
        names = sorted(path.name for path in folder.glob("*") if not _is_partial(path))
        if names:
            raise ValueError(
                f"{folder} needs to be empty, but holds other files ({names[0]}). Choose a new folder."
            ) from error
        return False
    different = [
        f"{key}: {found.get(key)!r} there, {value!r} asked for"
        for key, value in meta.items()
        if found.get(key) != value
    ]
    if different:
        raise ValueError(f"{folder} holds other activations ({'; '.join(different[:3])}). Choose a new folder.")
    return True


def _is_whole(stored: StoredActivations, number: int) -> bool:
    try:
        stored._verify_shard(number)
    except (FileNotFoundError, store.StoreError):
        return False
    return True


def _check_room(stored: StoredActivations, missing: Sequence[int]) -> None:
    meta = stored.meta
    n_rows = sum(min(meta["rows_per_shard"], len(stored) - number * meta["rows_per_shard"]) for number in missing)
    needed = _n_bytes(n_rows, meta["n_positions"], meta["d_mlps"]) + 8 * len(stored)
    needed += (len(missing) + 1) * HEADER_BYTES * (len(meta["d_mlps"]) + 8)
    there = next(path for path in (stored.folder.absolute(), *stored.folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise OSError(
            f"{len(stored):,} rows x {meta['n_positions']} positions x {sum(meta['d_mlps']):,} neurons need "
            f"{needed / 1e9:,.3g} GB in {stored.folder}, but {free / 1e9:,.3g} GB are free. Choose fewer rows, another "
            "disk, or `collect` with a statistic, which needs no disk."
        )


def _rows_of(encoded: Encoded, start: int, stop: int) -> Encoded:
    first, last = int(encoded.offsets[start]), int(encoded.offsets[stop])
    return Encoded(
        tokens=encoded.tokens[first:last],
        token_types=encoded.token_types[first:last],
        offsets=encoded.offsets[start : stop + 1] - first,
        labels=encoded.labels[start:stop],
        n_truncated=0,
        max_length=encoded.max_length,
    )
