"""Adapters against PEFT itself, cached activations against the streaming pass, and runs against a hub made up here."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import create_autospec

import matplotlib
import pytest
import torch
from huggingface_hub import HfApi
from planted import planted_classifier, planted_model, planted_task, unsealed
from safetensors.torch import save_file
from test_bridge import boot, make_classifier, make_decoder
from transformers import AutoModelForMaskedLM
from typer.testing import CliRunner

from skillneurons import (
    AboveCounts,
    Classifier,
    Examples,
    LabelSums,
    NeuronSet,
    SoftPrompt,
    TuningConfig,
    collect,
    collect_cached,
    find_skill_neurons,
    load_peft,
    perturbation_curve,
    pull_run,
    push_run,
    save_peft,
)
from skillneurons.activations.examples import OneNeuron
from skillneurons.cli.commands import app
from skillneurons.models.bridge import as_classifiable
from skillneurons.models.encoder import HookedEncoder
from skillneurons.neurons._predictivity import accuracy_from_counts, predictivity
from skillneurons.runs import _find, hub
from skillneurons.runs._find import FindSettings, RunFolderError, find
from skillneurons.utilities.store import StoreError

matplotlib.use("Agg")

# Raised by PEFT's own use of transformers.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

ROWS = [
    {"text": " a lovely film", "label": 1},
    {"text": " boring", "label": 0},
    {"text": " the story was clever and moving", "label": 1},
]

# PEFT


@pytest.fixture
def saved(build_hf, roberta_tokenizer, tmp_path):
    """A RoBERTa's folder, and a classifier on it."""
    folder = tmp_path / "tiny-roberta"
    build_hf("roberta", vocab_size=len(roberta_tokenizer)).save_pretrained(folder)
    roberta_tokenizer.save_pretrained(folder)
    return folder, make_classifier(HookedEncoder.from_pretrained(folder))


@pytest.fixture(scope="module")
def decoder(roberta_tokenizer, tmp_path_factory):
    hf_model = make_decoder("gpt2", len(roberta_tokenizer))
    return as_classifiable(boot(hf_model, roberta_tokenizer, tmp_path_factory.mktemp("gpt2")))


@pytest.fixture(scope="module")
def peft():
    return pytest.importorskip("peft", reason="the test extra is not installed")


def through_peft(peft, folder, adapter, classifier, rows):
    """Label words' logits at position 0, computed by PEFT over Hugging Face's own model."""
    model = peft.PeftModel.from_pretrained(AutoModelForMaskedLM.from_pretrained(folder), adapter).eval()
    encoded = classifier.model.tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]).logits
    return logits[:, 0, list(classifier.verbalizer.token_ids)]


def test_peft_computes_what_the_classifier_computes(peft, saved, tmp_path):
    folder, classifier = saved
    save_peft(classifier, tmp_path / "adapter")
    # Two implementations of one computation in float32, on padded rows.
    torch.testing.assert_close(
        through_peft(peft, folder, tmp_path / "adapter", classifier, ROWS),
        classifier.logits(ROWS),
        rtol=2e-5,
        atol=2e-5,
    )


def test_an_adapter_read_again_is_the_same_prompt(saved, tmp_path):
    _, classifier = saved
    save_peft(classifier, tmp_path / "adapter")
    prompt = load_peft(tmp_path / "adapter", classifier.model)
    assert torch.equal(prompt.vectors, classifier.prompt.vectors)
    assert (prompt.model, prompt.origin, prompt.seed) == (classifier.prompt.model, "random", 0)


@pytest.mark.parametrize("dtypes", [("bfloat16", "float32"), ("float16", "float32"), ("float32", "bfloat16")])
def test_an_adapter_keeps_every_bit_where_model_and_prompt_differ_in_precision(saved, tmp_path, dtypes):
    of_model, of_prompt = (getattr(torch, name) for name in dtypes)
    model = HookedEncoder.from_pretrained(saved[0], dtype=of_model)
    vectors = torch.randn(3, 16, generator=torch.Generator().manual_seed(0)).to(of_prompt)
    classifier = make_classifier(model).with_prompt(SoftPrompt(vectors, model.fingerprint(), "tuned", 0))
    save_peft(classifier, tmp_path / "adapter")
    prompt = load_peft(tmp_path / "adapter", model)
    assert prompt.vectors.dtype == torch.float32 and torch.equal(prompt.vectors, vectors.float())
    assert torch.equal(classifier.with_prompt(prompt).logits(ROWS), classifier.logits(ROWS))


def test_an_adapter_saved_again_by_peft_is_the_same_prompt(peft, saved, tmp_path):
    folder, classifier = saved
    save_peft(classifier, tmp_path / "ours")
    peft.PeftModel.from_pretrained(AutoModelForMaskedLM.from_pretrained(folder), tmp_path / "ours").save_pretrained(
        tmp_path / "theirs"
    )
    prompt = load_peft(tmp_path / "theirs", classifier.model)
    assert torch.equal(prompt.vectors, classifier.prompt.vectors)
    assert "tiny-roberta" in prompt.origin and prompt.seed is None


@pytest.fixture
def theirs(peft, saved, tmp_path):
    """An adapter that PEFT made: five random vectors, none of them the mask."""
    config = peft.PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=5)
    model = peft.get_peft_model(AutoModelForMaskedLM.from_pretrained(saved[0]), config)
    model.save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs", model.prompt_encoder["default"].embedding.weight.detach()


def test_an_adapter_of_peft_stands_where_peft_puts_it_and_computes_the_same(peft, saved, theirs, tmp_path):
    (hf_folder, classifier), (folder, vectors) = saved, theirs
    prompt = load_peft(folder, classifier.model)
    assert torch.equal(prompt.vectors, vectors) and prompt.in_front
    ours = classifier.with_prompt(prompt)
    expected = through_peft(peft, hf_folder, folder, ours, ROWS)
    torch.testing.assert_close(ours.logits(ROWS), expected, rtol=2e-5, atol=2e-5)
    assert not torch.allclose(replace(ours, prompt=replace(prompt, in_front=False)).logits(ROWS), expected, atol=1e-2)
    # Files keep the place, of the classifier, of the prompt, and as an adapter again.
    ours.save(tmp_path / "classifier")
    prompt.save(tmp_path / "prompt")
    save_peft(ours, tmp_path / "again")
    for again in (
        Classifier.load(tmp_path / "classifier", ours.model),
        ours.with_prompt(SoftPrompt.load(tmp_path / "prompt")),
        ours.with_prompt(load_peft(tmp_path / "again", ours.model)),
    ):
        assert again.prompt.in_front and torch.equal(again.logits(ROWS), ours.logits(ROWS))


def test_a_prompt_in_front_of_all_else_has_neurons_that_are_found_and_perturbed(saved, theirs, tiny_task):
    (_, classifier), (folder, _) = saved, theirs
    prompt = replace(load_peft(folder, classifier.model), seed=0)
    ours = replace(classifier.with_prompt(prompt), labels=tiny_task.labels)
    scores = find_skill_neurons(ours, tiny_task)
    assert scores.accuracy.shape == (1, 5, 2, 29)
    with ours.model.hooks(fwd_hooks=ours.fwd_hooks):
        batch = next(ours.batches(tiny_task.test))
        _, cache = ours.model.run_with_cache(batch.tokens, batch.mask)
    seen = collect(ours, tiny_task.test, OneNeuron(26, layer=0, neuron=7, position=4)).values[batch.index]
    torch.testing.assert_close(seen, cache["post", 0][:, 4, 7].float(), rtol=1e-4, atol=1e-5)
    curve = perturbation_curve(ours, tiny_task, scores, kind="zero", fractions=(0.2,), n_random=2)
    assert len(curve.to_dataframe())
    with pytest.raises(ValueError, match="in front of all else, not 'mask'"):
        ours.layout.positions("mask")


def test_vectors_go_behind_a_mask_only_when_asked(saved, theirs):
    (_, classifier), (folder, vectors) = saved, theirs
    prompt = load_peft(folder, classifier.model, moved=True)
    assert torch.equal(prompt.vectors, vectors) and not prompt.in_front
    assert classifier.with_prompt(prompt).logits(ROWS).shape == (3, 2)


def test_a_decoders_prompt_is_written_and_read_only_when_asked(decoder, tmp_path):
    classifier = make_classifier(decoder)
    with pytest.raises(ValueError, match=r"To save .* stand behind the text"):
        save_peft(classifier, tmp_path)
    save_peft(classifier, tmp_path, moved=True)
    with pytest.raises(ValueError, match=r"To load .* will stand behind the text"):
        load_peft(tmp_path, decoder)
    assert torch.equal(load_peft(tmp_path, decoder, moved=True).vectors, classifier.prompt.vectors)


def test_an_adapter_of_another_model_is_refused(saved, theirs, build_hf, roberta_tokenizer, tiny_bert, tmp_path):
    (_, classifier), (folder, _) = saved, theirs
    save_peft(classifier, tmp_path / "ours")
    other = HookedEncoder.from_hf(build_hf("roberta", seed=1, vocab_size=len(roberta_tokenizer)), roberta_tokenizer)
    with pytest.raises(ValueError, match=rf"{classifier.prompt.model}.*{other.fingerprint()}"):
        load_peft(tmp_path / "ours", other)
    with pytest.raises(ValueError, match=r"tiny-roberta', but the model is 'in-memory model'"):
        load_peft(folder, tiny_bert, moved=True)
    wide = HookedEncoder.from_hf(build_hf("roberta", hidden_size=18, vocab_size=len(roberta_tokenizer)))
    with pytest.raises(ValueError, match=r"width 16.* 18 wide"):
        load_peft(folder, wide, moved=True)


def test_what_is_no_prompt_tuning_adapter_is_refused(saved, tmp_path):
    model = saved[1].model
    folder = tmp_path / "adapter"
    with pytest.raises(FileNotFoundError, match=r"adapter_config\.json"):
        load_peft(folder, model)
    folder.mkdir()
    config = folder / "adapter_config.json"
    config.write_text('{"peft_type": "LORA"}')
    with pytest.raises(StoreError, match="LORA"):
        load_peft(folder, model)
    config.write_text("{")
    with pytest.raises(StoreError, match="not valid JSON"):
        load_peft(folder, model)
    config.write_text('{"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3}')
    (folder / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"adapter_model\.safetensors"):
        load_peft(folder, model)
    weights = folder / "adapter_model.safetensors"
    save_file({"prompt_embeddings": torch.zeros(6, 16)}, weights)
    with pytest.raises(StoreError, match=r"3 vectors.*\(6, 16\)"):
        load_peft(folder, model)
    save_file({"other": torch.zeros(3, 16)}, weights)
    with pytest.raises(StoreError, match="'other'"):
        load_peft(folder, model)
    vectors = {"prompt_embeddings": torch.zeros(3, 16)}
    save_file({"prompt_embeddings": vectors["prompt_embeddings"].to(torch.int8)}, weights)
    with pytest.raises(StoreError, match=r"floating-point.*torch\.int8"):
        load_peft(folder, model, moved=True)
    for provenance, message in (
        ("{", "not valid JSON"),
        ("[1]", "holds a list"),
        ('{"origin": "tuned"}', "has no 'model'"),
        ('{"model": "0", "origin": "tuned", "seed": "0"}', "its 'seed' is a str"),
    ):
        save_file(vectors, weights, {"skillneurons": provenance})
        with pytest.raises(StoreError, match=rf"its provenance .*{message}"):
            load_peft(folder, model, moved=True)
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(StoreError, match="not a whole safetensors file"):
        load_peft(folder, model)


# Activation caches


def cached(classifier, rows, n_rows=7, **options):
    """Caches of batches of rows, as a user of TransformerLens makes them, one at a time."""
    model, encoded = classifier.model, classifier.encode(rows)
    for start in range(0, len(rows), n_rows):
        index = torch.arange(start, min(start + n_rows, len(rows)))
        for batch in classifier.collate(encoded, index):
            with model.hooks(fwd_hooks=classifier.fwd_hooks):
                mask = batch.mask if batch.mask is not None else torch.ones_like(batch.tokens)
                _, cache = model.run_with_cache(batch.tokens, attention_mask=mask, **options)
            yield cache, batch.labels


def test_predictivity_from_caches_is_that_of_the_streaming_pass():
    planted = planted_classifier(0)
    classifier, where = planted.classifier, planted.classifier.layout.positions("prompt")
    train, validation = planted.task.train, planted.task.validation
    streamed = collect(classifier, train, LabelSums(2))
    sums = collect_cached(cached(classifier, train), LabelSums(2), positions=where)
    assert torch.equal(sums.n, streamed.n)
    # Other batches, so other orders of summation.
    torch.testing.assert_close(sums.label_mean, streamed.label_mean, rtol=1e-5, atol=2e-6)

    examples = collect(classifier, validation, Examples(len(validation)))
    from_caches = collect_cached(cached(classifier, validation), Examples(len(validation)), positions=where)
    torch.testing.assert_close(from_caches.values, examples.values, rtol=1e-5, atol=2e-6)
    # A threshold that no activation is within rounding of, so that counts must be equal.
    values = examples.values.sort(dim=0).values
    gap, at = values.diff(dim=0).max(dim=0)
    baseline = values.gather(0, at[None])[0] + gap / 2
    assert float(gap.min()) > 1e-5
    expected = collect(classifier, validation, AboveCounts(baseline, 2))
    counts = collect_cached(cached(classifier, validation), AboveCounts(baseline, 2), positions=where)
    assert torch.equal(counts.above, expected.above)
    assert torch.equal(counts.n, expected.n)
    assert float(predictivity(accuracy_from_counts(counts.above, counts.n)).max()) > 0.9


@pytest.mark.parametrize("kind", ["roberta", "gpt2"])
def test_caches_of_a_bridge_give_the_streaming_pass(kind, request, build_hf, roberta_tokenizer, tmp_path):
    if kind == "gpt2":
        model = request.getfixturevalue("decoder")
    else:
        hf_model = build_hf("roberta", vocab_size=len(roberta_tokenizer))
        model = as_classifiable(boot(hf_model, roberta_tokenizer, tmp_path))
    classifier = make_classifier(model)
    where = classifier.layout.positions("prompt")
    streamed = collect(classifier, ROWS, LabelSums(2))
    sums = collect_cached(cached(classifier, ROWS), LabelSums(2), positions=where)
    torch.testing.assert_close(sums.label_mean, streamed.label_mean, rtol=1e-5, atol=5e-6)


def test_caches_at_listed_positions_are_those_positions(tiny_model):
    _, cache = tiny_model.run_with_cache(torch.tensor([[0, 5, 7, 2], [0, 9, 8, 2]]))
    labels = torch.tensor([1, 0])
    values = collect_cached([(cache, labels)], Examples(2), positions=[3, 0]).values
    by_hand = torch.stack([cache["post", layer][:, [3, 0]] for layer in range(2)], dim=2)
    assert torch.equal(values, by_hand.detach())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [0, 2]}, "0 to 1, but run from 0 to 2"),
        ({"labels": [0, 1, 1]}, r"\[3 \(one for each label\).*\(2, 4, 29\)"),
        ({"positions": slice(1, 6)}, r"slice\(1, 6, None\).* 0 to 3"),
        ({"positions": slice(2, 2)}, r"slice\(2, 2, None\)"),
        ({"positions": [4]}, r"\[4\].* 0 to 3"),
        ({"positions": "prompt"}, r"Layout\(n_prompt\)\.positions\('prompt'\)"),
        ({"names_filter": "blocks.1.mlp.hook_post"}, r"none of layers \[0\]"),
        ({"names_filter": "blocks.0.mlp.hook_post"}, r"none of layers \[1\]"),
        ({"hook": "mlp.hook_mid"}, r"blocks\.\{layer\}\.mlp\.hook_mid"),
        ({"last_block_to": 1, "positions": slice(1, 3)}, "positions 0 to 0 in layer 1"),
        ({"caches": []}, "empty"),
    ],
)
def test_a_cache_that_does_not_fit_is_refused(tiny_model, unchecked_types, change, message):
    labels = torch.tensor(change.pop("labels", [0, 1]))
    options = {name: change.pop(name) for name in ("names_filter", "last_block_to") if name in change}
    _, cache = tiny_model.run_with_cache(torch.tensor([[0, 5, 7, 2], [0, 9, 8, 2]]), **options)
    arguments = {"caches": [(cache, labels)], "statistic": LabelSums(2), "positions": [1]} | change
    with pytest.raises(ValueError, match=message):
        collect_cached(**arguments)


# The hub


@pytest.fixture
def api(tmp_path):
    """Checks calls as the hub's client takes them, keeps uploads in a folder, and hands them back as links to it."""
    blobs, snapshot = tmp_path / "hub", tmp_path / "cache"

    def create_commit(repo_id, operations, **options):
        for operation in operations:
            target = blobs / operation.path_in_repo
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(operation.path_or_fileobj, target)
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}")

    def snapshot_download(repo_id, **options):
        for blob in blobs.rglob("*.*"):
            link = snapshot / blob.relative_to(blobs)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(blob)
        return str(snapshot)

    fake = create_autospec(HfApi, instance=True)
    fake.create_commit.side_effect, fake.snapshot_download.side_effect = create_commit, snapshot_download
    return fake


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small run on three classes, its figures left blank."""
    settings = FindSettings(
        seeds=(0, 1),
        n_prompt=2,
        tuning=TuningConfig(steps=2, eval_every=1),
        fraction=0.1,
        fractions=(0.1,),
        kinds=("mean",),
        n_random=2,
        n_perturb_rows=8,
    )
    task = planted_task("topics", n_train=24, n_validation=12, n_test=12)

    def save_blank(axes, path, **options):
        for ending in (".svg", ".png"):
            path.with_name(path.name + ending).write_bytes(b"blank")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_find, "save_figure", save_blank)
        return find(planted_model(), task, tmp_path_factory.mktemp("run") / "a", settings).folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(finished, tmp_path / "run")


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def shared_of(folder):
    """Without what a run keeps for itself, to go on from."""
    return {name: content for name, content in files_of(folder).items() if not name.startswith("points/")}


def test_a_dry_run_names_all_that_a_run_wrote_and_sends_nothing(finished, api):
    planned = push_run(finished, "me/run", dry_run=True, api=api)
    assert planned.sizes == {name: len(content) for name, content in shared_of(finished).items()}
    assert (planned.left_out, planned.url, api.mock_calls) == ((), None, [])
    assert planned.to_dataframe().bytes.sum() == planned.n_bytes > 10_000


def test_a_pulled_run_is_the_pushed_one(run, tmp_path, api):
    (run / ".env").write_text("secret")
    (run / "figures" / "notes.txt").write_text("mine")
    pushed = push_run(run, "me/run", api=api)
    assert pushed.left_out == (".env", "figures/notes.txt")
    assert pushed.url == "https://hub/me/run"
    assert repr(pushed) == f"RunFiles(me/run, {len(pushed.sizes)} files of {pushed.n_bytes:,} bytes, 2 left out)"
    api.create_repo.assert_called_once_with("me/run", repo_type="dataset", private=True, exist_ok=True)
    folder = pull_run("me/run", tmp_path / "deep" / "pulled", api=api)
    sent = {name: content for name, content in shared_of(run).items() if name not in pushed.left_out}
    assert files_of(tmp_path / "hub") == sent
    assert files_of(folder) == sent
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    assert NeuronSet.load(folder / "skill") == NeuronSet.load(run / "skill")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["pulled"]
    with pytest.raises(RunFolderError, match="pulled holds files"):
        pull_run("me/run", folder, api=api)


def test_a_run_that_is_not_finished_or_damaged_is_not_shared(run, api):
    scores = run / "seed-1" / "scores-2.safetensors"
    content = scores.read_bytes()
    scores.write_bytes(content[:-1])
    with pytest.raises(StoreError, match=r"seed-1/scores-2\.safetensors is damaged"):
        push_run(run, "me/run", api=api)
    scores.unlink()
    with pytest.raises(FileNotFoundError, match=r"seed-1/scores-2\.safetensors"):
        push_run(run, "me/run", api=api)
    scores.write_bytes(content)
    settings = run / "settings.json"
    other = unsealed(settings)
    settings.write_text(json.dumps(other | {"task": {}}))
    with pytest.raises(StoreError, match="another task"):
        push_run(run, "me/run", api=api)
    (run / "run.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"run\.json does not exist"):
        push_run(run, "me/run", dry_run=True, api=api)
    assert api.mock_calls == []


def test_a_link_out_of_the_folder_is_not_followed(run, tmp_path):
    outside = tmp_path / "outside.png"
    outside.write_bytes(b"mine")
    (run / "figures" / "extra.png").symlink_to(outside)
    with pytest.raises(ValueError, match=r"figures/extra\.png is a link to .*outside\.png"):
        push_run(run, "me/run", dry_run=True)


@pytest.mark.parametrize(("key", "value"), [("kinds", ["../../secret"]), ("seeds", ["0/../../.."])])
def test_names_from_a_stranger_do_not_become_paths(run, key, value, tmp_path, api):
    push_run(run, "me/run", api=api)
    for name in ("run.json", "settings.json"):
        path = tmp_path / "hub" / name
        content = unsealed(path)
        content["settings"][key] = value
        path.write_text(json.dumps(content))
    with pytest.raises(
        StoreError, match=r"me/run needs to hold a finished run.*of this release, but has another one.*\.\./"
    ):
        pull_run("me/run", tmp_path / "pulled", api=api)
    assert not (tmp_path / "pulled").exists()


def test_the_command_line_shares_and_fetches(run, tmp_path, api, monkeypatch):
    (run / "notes.txt").write_text("mine")
    monkeypatch.setattr(hub, "HfApi", lambda: api)
    planned = CliRunner().invoke(app, ["share", str(run), "me/run", "--dry-run"])
    assert planned.exit_code == 0, planned.output
    assert (
        "skill.safetensors" in planned.output and "notes.txt" in planned.output and "Nothing was sent" in planned.output
    )
    assert api.mock_calls == []
    assert CliRunner().invoke(app, ["share", str(run), "me/run"]).exit_code == 0
    fetched = CliRunner().invoke(app, ["fetch", "me/run", "--out", str(tmp_path / "pulled")])
    assert fetched.exit_code == 0, fetched.output
    assert (tmp_path / "pulled" / "run.json").read_bytes() == (run / "run.json").read_bytes()
    refused = CliRunner().invoke(app, ["share", str(tmp_path / "nothing"), "me/run"])
    assert refused.exit_code == 1
