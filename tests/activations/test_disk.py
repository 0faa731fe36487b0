"""Raw activations on disk against the streaming pass; interrupted, damaged, too large for the disk or for float16."""

import json
import os
import shutil
from collections import namedtuple

import pytest
import torch
from planted import planted_classifier
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from skillneurons import (
    AboveCounts,
    Examples,
    LabelSums,
    StoredActivations,
    activations_size,
    collect,
    predictivity,
    write_activations,
)
from skillneurons.activations import disk as activation_store
from skillneurons.activations.examples import OneNeuron
from skillneurons.neurons._predictivity import accuracy, accuracy_from_counts
from skillneurons.utilities import store
from skillneurons.utilities.store import StoreError

# Rows of the planted model: 5 positions x 3 layers x 29 neurons x 2 bytes.
ROW_BYTES = 870


@pytest.fixture(scope="module")
def planted():
    return planted_classifier(0)


@pytest.fixture(scope="module")
def written(planted, tmp_path_factory):
    """The validation rows, 103 of them, in shards of 23. Not to be changed."""
    folder = tmp_path_factory.mktemp("stored") / "validation"
    write_activations(planted.classifier, planted.task.validation, folder, shard_bytes=23 * ROW_BYTES)
    return folder


@pytest.fixture
def copied(written, tmp_path):
    return shutil.copytree(written, tmp_path / "copy")


@pytest.fixture(scope="module")
def streamed(planted):
    return collect(planted.classifier, planted.task.validation, Examples(103)).values


def write(planted, folder, *, rows=None, shard_bytes=23 * ROW_BYTES, **options):
    rows = planted.task.validation if rows is None else rows
    return write_activations(planted.classifier, rows, folder, shard_bytes=shard_bytes, **options)


def test_what_is_read_is_what_the_streaming_pass_sees_in_half_precision(planted, written, streamed, tmp_path):
    stored = StoredActivations.load(written)
    assert stored.sizes == {"batch": 103, "prompt": 5, "layer": 3, "neuron": 29}
    assert (stored.n_shards, len(stored), stored.n_bytes) == (5, 103, 103 * ROW_BYTES)
    assert torch.equal(stored.labels, torch.tensor(planted.task.validation.labels))
    # Half of float16's step, and batches of other rows.
    torch.testing.assert_close(stored.values(slice(None)).float(), streamed, rtol=2**-11 + 1e-5, atol=2e-6)
    # In one shard, the batches are those of the streaming pass.
    whole = write(planted, tmp_path / "whole", shard_bytes=10**6)
    assert whole.n_shards == 1
    assert torch.equal(whole.values(slice(None)), streamed.half())


@pytest.mark.parametrize("rows", [slice(0, 23), slice(22, 24), slice(40, 103), slice(-5, None), slice(30, 31)])
def test_a_range_of_rows_is_that_of_all(written, rows):
    stored = StoredActivations.load(written)
    everything = torch.cat([load_file(path)["layer.1"] for path in sorted(written.glob("shard-*"))])
    assert torch.equal(stored.layer(1, rows), everything[rows])
    assert torch.equal(stored.values(rows)[:, :, 1], everything[rows])


@pytest.mark.parametrize("n_rows", [7, 23, 500])
def test_predictivity_is_that_of_the_stored_values_at_once(written, n_rows):
    stored = StoredActivations.load(written)
    values = stored.values(slice(None)).float()
    sums = stored.collect(LabelSums(2), n_rows=n_rows)
    torch.testing.assert_close(sums.mean.float(), values.mean(0), rtol=1e-5, atol=1e-6)
    baseline = values.mean(0)
    counts = stored.collect(AboveCounts(baseline, 2), n_rows=n_rows)
    found = accuracy_from_counts(counts.above, counts.n).float()
    assert torch.equal(found, accuracy(values, stored.labels, baseline))
    one = stored.collect(OneNeuron(103, 1, 17, 2), n_rows=n_rows)
    assert torch.equal(one.values, values[:, 2, 1, 17])


def test_predictivity_differs_from_the_streaming_pass_by_rounded_ties_only(planted, written, streamed):
    baseline = collect(planted.classifier, planted.task.train, LabelSums(2)).mean
    expected = collect(planted.classifier, planted.task.validation, AboveCounts(baseline, 2))
    counts = StoredActivations.load(written).collect(AboveCounts(baseline, 2))
    near = ((streamed - baseline.float()).abs() <= streamed.abs() * 2**-11 + 3e-6).sum(0)
    assert (abs(counts.above - expected.above).sum(0) <= near).all()
    assert float((near == 0).float().mean()) > 0.9
    found, true = (predictivity(accuracy_from_counts(c.above, c.n)) for c in (counts, expected))
    assert float((found - true).abs().max()) <= int(near.max()) / 103


def test_batches_look_like_caches_and_hold_few_rows(written):
    stored = StoredActivations.load(written)
    batches = list(stored.batches(40))
    assert [len(labels) for _, labels in batches] == [40, 40, 23]
    assert set(batches[0][0]) == {f"blocks.{layer}.mlp.hook_post" for layer in range(3)}
    assert all(values.shape == (23, 5, 29) and values.dtype == torch.float32 for values in batches[2][0].values())


def test_the_size_is_known_before(planted, written):
    size = activations_size(planted.classifier, 103)
    table = StoredActivations.load(written).to_dataframe()
    assert size == 103 * ROW_BYTES
    assert size < table.bytes.sum() < size + 5 * 1024
    assert table["rows"].tolist() == [23, 23, 23, 23, 11]
    assert activations_size(planted.classifier, 7, positions="mask_and_prompt") == 7 * ROW_BYTES * 6 // 5
    assert "0.000 GB" not in repr(StoredActivations.load(written)) and "5 shards" in repr(
        StoredActivations.load(written)
    )


def disk_of(monkeypatch, free):
    usage = namedtuple("usage", "free")(free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(planted, tmp_path, monkeypatch):
    disk_of(monkeypatch, 103 * ROW_BYTES)
    with pytest.raises(OSError, match=r"103 rows x 5 positions x 87 neurons need .* GB in .* 8\.96e-05 GB are free"):
        write(planted, tmp_path / "deep" / "new")
    assert list(tmp_path.iterdir()) == []


def test_only_the_missing_shards_need_room(planted, copied, monkeypatch):
    (copied / "shard-00002.safetensors").unlink()
    disk_of(monkeypatch, 50_000)
    write(planted, copied)
    (copied / "shard-00001.safetensors").unlink()
    disk_of(monkeypatch, 20_000)
    with pytest.raises(OSError, match="2e-05 GB are free"):
        write(planted, copied)


def shards_of(folder):
    return {path.name: path.read_bytes() for path in folder.glob("shard-*")}


def test_a_killed_writer_leaves_whole_shards_only_and_goes_on(planted, written, tmp_path, monkeypatch):
    folder, n_moved = tmp_path / "killed", []
    replace = os.replace

    def die_at_the_fifth(source, target):
        n_moved.append(target)
        if len(n_moved) == 5:
            shutil.copyfile(source, folder / ".shard-00002.safetensors.0a1b2c3d")
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", die_at_the_fifth)
    with pytest.raises(KeyboardInterrupt):
        write(planted, folder)
    monkeypatch.setattr(os, "replace", replace)
    assert sorted(shards_of(folder)) == ["shard-00000.safetensors", "shard-00001.safetensors"]
    with pytest.raises(FileNotFoundError, match=r"5 shards, but shard-00002\.safetensors"):
        StoredActivations.load(folder)

    passes = []
    monkeypatch.setattr(
        activation_store, "collect", lambda *args, **kwargs: passes.append(1) or collect(*args, **kwargs)
    )
    write(planted, folder)
    assert len(passes) == 3
    assert shards_of(folder) == shards_of(written)
    assert not list(folder.glob(".*"))


def test_a_damaged_shard_is_refused_and_written_anew(planted, written, copied):
    shard = copied / "shard-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"shard-00003\.safetensors is damaged"):
        StoredActivations.load(copied)
    write(planted, copied)
    assert shards_of(copied) == shards_of(written)


def test_a_changed_value_is_found_when_verified_and_written_anew(planted, written, copied):
    StoredActivations.load(copied).verify()
    shard = copied / "shard-00003.safetensors"
    content = bytearray(shard.read_bytes())
    content[-50] ^= 0x40
    shard.write_bytes(content)
    stored = StoredActivations.load(copied)
    with pytest.raises(StoreError, match=r"shard-00003\.safetensors is damaged: it differs from its checksum"):
        stored.verify()
    write(planted, copied)
    assert shards_of(copied) == shards_of(written)


def test_a_shard_without_a_checksum_is_read_but_not_verified(planted, written, copied):
    path = copied / "shard-00001.safetensors"
    with safe_open(path, framework="pt") as file:
        owner, _ = file.metadata()["store"].split()
    save_file(load_file(path), path, {"store": owner})
    stored = StoredActivations.load(copied)
    with pytest.raises(StoreError, match=r"shard-00001\.safetensors was written without a checksum"):
        stored.verify()
    assert torch.equal(stored.layer(1), StoredActivations.load(written).layer(1))


@pytest.mark.parametrize("name", [".env.local", ".activations.json.backup", ".notes.0a1b2c3d", "activations.csv"])
def test_files_of_someone_else_are_refused_or_left_but_never_deleted(planted, copied, tmp_path, name):
    rows, folder = planted.task.validation[:3], tmp_path / "new"
    folder.mkdir()
    (folder / name).write_text("mine")
    with pytest.raises(ValueError, match=rf"other files \({name}\)"):
        write(planted, folder, rows=rows)
    assert [path.read_text() for path in folder.iterdir()] == ["mine"]
    (copied / name).write_text("mine")
    write(planted, copied)
    assert (copied / name).read_text() == "mine"


def test_what_a_killed_call_left_in_a_new_folder_goes(planted, tmp_path):
    (tmp_path / ".activations.json.0a1b2c3d").write_text("half")
    write(planted, tmp_path, rows=planted.task.validation[:3])
    assert {path.name.partition(".")[0] for path in tmp_path.iterdir()} == {"activations", "shard-00000"}


@pytest.mark.parametrize("name", ["shard-00001.safetensors", "activations.json"])
def test_a_directory_in_the_place_of_a_file_is_named(planted, copied, name):
    (copied / name).unlink()
    (copied / name).mkdir()
    for call in (lambda: write(planted, copied), lambda: StoredActivations.load(copied)):
        with pytest.raises(IsADirectoryError, match=f"{name} needs to be a file"):
            call()


@pytest.mark.parametrize("change", ["owner", "shape"])
def test_a_shard_of_other_activations_is_refused(copied, change):
    path = copied / "shard-00001.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if change == "owner":
        metadata = {"store": "another"}
    else:
        tensors["layer.2"] = tensors["layer.2"][:22]
    save_file(tensors, path, metadata)
    with pytest.raises(StoreError, match=r"shard-00001\.safetensors belongs to other activations"):
        StoredActivations.load(copied)


def test_a_folder_of_other_rows_prompt_or_files_is_refused(planted, copied, tmp_path):
    before = shards_of(copied)
    with pytest.raises(ValueError, match=r"rows: '.*n_rows: 103 there, 107 asked for"):
        write(planted, copied, rows=planted.task.test)
    other = planted_classifier(0, seed=1)
    with pytest.raises(ValueError, match=r"prompt: .*sha256"):
        write_activations(other.classifier, planted.task.validation, copied, shard_bytes=23 * ROW_BYTES)
    with pytest.raises(ValueError, match="positions: 'prompt' there, 'mask' asked for"):
        write(planted, copied, positions="mask")
    assert shards_of(copied) == before
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"other files \((notes\.txt|copy)\)"):
        write(planted, tmp_path)


@pytest.mark.parametrize(
    ("value", "shown"), [(65504.0, None), (65505.0, "65,505"), (-7e4, "70,000"), (float("nan"), "nan")]
)
def test_what_float16_does_not_hold_is_an_error(planted, tmp_path, value, shown):
    def overflow(activations, hook):
        changed = activations.clone()
        changed[-1, 2, 3] = value
        return changed

    with planted.model.hooks(fwd_hooks=[("blocks.1.mlp.hook_post", overflow)]):
        if shown is None:
            stored = write(planted, tmp_path / "new", shard_bytes=10**6)
            assert float(stored.layer(1).max()) == 65504.0
            return
        with pytest.raises(FloatingPointError, match=f"up to 65,504, but layer 1 has {shown}"):
            write(planted, tmp_path / "new", shard_bytes=10**6)
    assert shards_of(tmp_path / "new") == {}


def test_pruned_layers_of_different_widths_are_kept_apart(planted, tmp_path):
    from skillneurons import NeuronSet, prune

    keep = NeuronSet.from_pairs([(0, 3), (0, 5), (1, 7)], n_layers=3, d_mlp=29)
    keep = NeuronSet(keep.mask, planted.model.fingerprint())
    baseline = collect(planted.classifier, planted.task.train, LabelSums(2)).mean
    classifier = prune(planted.classifier, keep, baseline)
    rows = planted.task.test[:11]
    stored = write_activations(classifier, rows, tmp_path / "pruned")
    assert stored.sizes["neuron"] == (2, 1, 0)
    expected = collect(classifier, rows, Examples(11)).parts
    for layer in range(3):
        assert torch.equal(stored.layer(layer), expected[layer].half())
    assert [total.shape[-1] for total in stored.collect(LabelSums(2)).totals] == [2, 1, 0]
    with pytest.raises(ValueError, match=r"\[2, 1, 0\]"):
        stored.values(slice(None))


def test_what_cannot_be_stored_is_refused_before_a_folder_is_made(planted, tmp_path):
    folder = tmp_path / "new"
    with pytest.raises(ValueError, match="'text', and texts differ"):
        write(planted, folder, positions="text")
    with pytest.raises(ValueError, match="need labels"):
        write(planted, folder, rows=[{"text": "good0 word1"}])
    classifier = planted.classifier
    hooked = type(classifier)(
        classifier.model,
        classifier.prompt,
        classifier.verbalizer,
        extra_hooks=[("blocks.0.hook_resid_pre", lambda x, hook: x)],
    )
    with pytest.raises(ValueError, match="hooks of its own"):
        write_activations(hooked, planted.task.test, folder)
    assert not folder.exists()


def test_rows_and_layers_that_are_not_there_are_named(written):
    stored = StoredActivations.load(written)
    with pytest.raises(ValueError, match="`layer` is 3, but the model has layers 0 to 2"):
        stored.layer(3)
    for rows in (slice(103, None), slice(0, 9, 2), slice(5, 5)):
        with pytest.raises(ValueError, match=r"of 103, not slice"):
            stored.values(rows)
    with pytest.raises(ValueError, match="not 0"):
        next(stored.batches(0))


def test_the_json_says_where_activations_come_from(planted, written):
    header = json.loads((written / "activations.json").read_text())
    assert header["kind"] == "Activations" and header["versions"] == store.versions()
    meta = header["meta"]
    assert meta["model"] == planted.model.fingerprint()
    assert (meta["hook"], meta["positions"], meta["axes"]) == (
        "mlp.hook_post",
        "prompt",
        ["batch", "prompt", "layer", "neuron"],
    )
    assert (meta["n_rows"], meta["rows_per_shard"], meta["prompt"]["seed"]) == (103, 23, 0)
