"""load_model: by name, an encoder of ours or a bridge; and what the command line and other processes make of it."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
import transformers
from test_bridge import ROWS, boot, make_decoder
from transformer_lens.model_bridge import TransformerBridge
from typer.testing import CliRunner

from skillneurons import HookedEncoder, TuningConfig, load_model
from skillneurons.cli.commands import app
from skillneurons.findings.record import registered
from skillneurons.models.bridge import BridgedModel
from skillneurons.runs import ReproduceSettings, reproduce
from skillneurons.runs._find import FindSettings, find
from skillneurons.runs._open_run import open_run

# Three steps are no tuning.
pytestmark = [
    pytest.mark.filterwarnings("ignore::skillneurons.TuningWarning"),
    pytest.mark.filterwarnings("ignore:.*collapsed"),
]
TUNING = TuningConfig(steps=3, eval_every=3)


@pytest.fixture(scope="module")
def decoder(roberta_tokenizer, tmp_path_factory):
    """A folder in hub layout."""
    folder = tmp_path_factory.mktemp("decoder")
    boot(make_decoder("qwen2", len(roberta_tokenizer)), roberta_tokenizer, folder)
    return folder


@pytest.fixture
def task_files(tiny_task, tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    for split in ("train", "validation", "test"):
        rows = [{"text": row["text"], "label": tiny_task.labels[row["label"]]} for row in getattr(tiny_task, split)]
        pd.DataFrame(rows).to_csv(folder / f"{split}.csv", index=False)
    return folder


def test_what_our_encoder_takes_is_one_and_anything_else_a_bridge(tiny_model, decoder, tmp_path):
    saved = tiny_model.save(tmp_path / "ours")
    tiny_model.to_hf().save_pretrained(tmp_path / "hf")
    tiny_model.tokenizer.save_pretrained(tmp_path / "hf")
    for folder in (saved, tmp_path / "hf"):
        loaded = load_model(folder, dtype=torch.float64)
        assert isinstance(loaded, HookedEncoder) and loaded.dtype == torch.float64
        assert loaded.cfg.source == str(folder)
    bridge = load_model(decoder, dtype=torch.bfloat16)
    assert isinstance(bridge, BridgedModel) and bridge.dtype == torch.bfloat16
    assert (bridge.cfg.source, bridge.device.type, bridge.training) == (str(decoder), "cpu", False)
    assert load_model(decoder).fingerprint() == load_model(decoder).fingerprint() != bridge.fingerprint()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("RobertaForQuestionAnswering", "its encoder alone, by `transformers.RobertaModel.from_pretrained`"),
        ("XLMRobertaForQuestionAnswering", "by `transformers.XLMRobertaModel.from_pretrained`"),
        ("RoFormerForMaskedLM", "(with absolute positions). A TransformerBridge"),
    ],
)
def test_what_no_model_can_be_made_of_is_told_what_can_in_short(name, hint, tmp_path):
    model_class = getattr(transformers, name)
    sizes = {"vocab_size": 53, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    model_class(model_class.config_class(**sizes, intermediate_size=29, pad_token_id=1)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"holds a {name}, of which .*masked language models") as caught:
        load_model(tmp_path)
    assert hint in str(caught.value) and len(str(caught.value)) < 600 and "AfmoeForCausalLM" not in str(caught.value)


@pytest.mark.parametrize(
    ("device", "message"),
    [("cuda:7", r"'cuda:7', but torch .* finds \d GPUs here"), ("gpu", r"'cpu', 'cuda', .* not 'gpu'")],
)
@pytest.mark.parametrize("load", [load_model, HookedEncoder.from_pretrained])
def test_a_device_that_is_not_there_is_named(load, device, message):
    with pytest.raises(ValueError, match=message):
        load("bundled", device=device)


@pytest.mark.parametrize("name", ["bfloat16", "torch.bfloat16", torch.bfloat16])
def test_a_precision_goes_by_its_name_too(name):
    assert load_model("bundled", dtype=name).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["half", "int8", torch.int8])
def test_a_precision_that_no_model_can_be_in_is_refused(name):
    with pytest.raises(ValueError, match=r"`dtype` is one of float32, bfloat16, float16, float64, not '.*(half|int8)'"):
        load_model("bundled", dtype=name)


def test_a_bridge_in_other_processes_finds_what_one_process_does(decoder, tiny_task, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    settings = FindSettings(seeds=(0, 1), n_prompt=2, tuning=TUNING, fractions=(0.1,), kinds=("zero",), n_random=1)
    model = load_model(decoder)
    alone = find(model, tiny_task, tmp_path / "alone", settings)
    both = find(model, tiny_task, tmp_path / "both", settings, jobs=2)
    assert both.reused == ()
    for one, other in zip(alone.classifiers, both.classifiers, strict=True):
        torch.testing.assert_close(one.prompt.vectors, other.prompt.vectors, rtol=1e-5, atol=1e-6)
    opened = open_run(both.folder)
    assert torch.equal(opened.classifier(1).logits(ROWS), both.classifiers[1].logits(ROWS))


def test_the_command_line_takes_a_decoder(decoder, task_files, tmp_path):
    def call(*arguments):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
        assert result.exit_code == 0, result.output
        return result.output

    words, run = ("--label-words", "negative=terrible,positive=great"), tmp_path / "run"
    small = ("--n-prompt", 2, "--steps", 3, "--n-random", 1, "--kinds", "zero")
    what = ("--model", decoder, "--source", task_files, "--dtype", "float64", "--jobs", 2, "--out", run)
    shown = call("find", "tiny", "--seeds", 1, *what, *small, *words)
    assert load_model(decoder, dtype="float64").fingerprint() in shown.replace("\n", "")
    assert load_model(decoder, dtype="float64").fingerprint() != load_model(decoder).fingerprint()
    call("perturb", run, "--source", task_files, "--fractions", 0.1, "--n-random", 1, "--kinds", "mean", "--rows", 20)
    assert (run / "perturb" / "mean-all-seed-0.png").exists()


def test_findings_on_a_bridge_are_those_that_leave_weights_alone(decoder, tiny_task, tmp_path):
    settings = ReproduceSettings(n_prompt=2, tuning=TUNING, fractions=(0.2,), kinds=("mean",), n_rows=16, n_random=2)
    told, out = [], tmp_path / "all"
    other = replace(tiny_task.subset(24), name="other")
    tables = reproduce([tiny_task, other], model=decoder, seeds=2, out=out, settings=settings, on_event=told.append)
    expected = {"F1-existence", "F2-stability", "F3-prompts", "F4-necessity", "F4-layers", "F5-similarity", "F5-cross"}
    assert set(tables) == expected | {"F9-transfer", "steering"}
    assert set(tables["F4-necessity"].group) == {"skill"}
    named = {line.split(":")[0] for line in told}
    assert not named & {name for name, finding in registered().items() if finding.reads_weights}
    bridge = load_model(decoder).bridge
    assert isinstance(bridge, TransformerBridge)
    with pytest.raises(ValueError, match="F7-origin read or replace weights"):
        reproduce([tiny_task], model=bridge, seeds=1, out=tmp_path / "no", findings=["F7-origin"])
    assert not (tmp_path / "no").exists()
