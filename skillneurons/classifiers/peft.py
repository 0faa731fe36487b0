"""Soft prompts as PEFT's prompt-tuning adapters: `adapter_config.json` and `adapter_model.safetensors`. PEFT itself is
not needed.

PEFT puts its vectors in front of the text: `p_1 … p_P text`. A classifier here reads the label at a mask in front of
the prompt, `[MASK] p_1 … p_P text`. So an adapter is written with the mask's word embedding as its first vector: what
PEFT computes is then what the classifier computes, position for position, with the label at position 0. An adapter that
was trained without a mask stands in front of all else here too (`SoftPrompt.in_front`), and its label is read at `p_1`.
Where there is no such equal, as for decoders, whose prompt stands behind the text here, both directions are an error
unless one accepts it.
"""

import hashlib
import json
from pathlib import Path

import safetensors.torch
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from skillneurons.classifiers.classifier import Classifier
from skillneurons.classifiers.prompts import SoftPrompt
from skillneurons.classifiers.read_out import label_words
from skillneurons.models.bridge import AnyModel, Model, as_classifiable
from skillneurons.utilities import store
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.types import Json

CONFIG, WEIGHTS, KEY = "adapter_config.json", "adapter_model.safetensors", "prompt_embeddings"
PROVENANCE = {"model": str, "origin": str, "seed": int | None}
REMEDY = "Save the adapter again."


@checked
def save_peft(classifier: Classifier, folder: str | Path, *, moved: bool = False) -> Path:
    """Write a classifier's soft prompt as an adapter that `peft.PeftModel.from_pretrained` loads.

    PEFT over the masked language model (`AutoModelForMaskedLM`) then has the classifier's logits, at position 0 of its
    output; the label words are not part of an adapter. PEFT drops segments, so for BERT this holds for single texts.

    Args:
        classifier: Its model is named in the adapter, not copied.
        folder: Both files are written here, over earlier ones.
        moved: For decoders: accept that PEFT puts the vectors in front of the text, not behind it as they were tuned.

    Returns:
        The configuration's path.

    Raises:
        ValueError: The classifier is more than its prompt, is an encoder-decoder's, or is a decoder's and `moved` is
            False.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from skillneurons import load_example, load_peft, save_peft
        >>> classifier, _ = load_example()
        >>> with TemporaryDirectory() as folder:
        ...     print(save_peft(classifier, folder).name)
        ...     print(load_peft(folder, classifier.model).vectors.shape)
        adapter_config.json
        torch.Size([16, 192])
    """
    folder, model, prompt = Path(folder), classifier.model, classifier.prompt
    label_words(classifier.verbalizer, "An adapter of PEFT's prompt tuning")
    if classifier.extra_hooks:
        raise ValueError(
            "An adapter of PEFT's prompt tuning holds a prompt only; this classifier has hooks of its own."
        )
    if getattr(model.cfg, "decoder_start", None) is not None:
        raise ValueError(
            f"PEFT gives an encoder-decoder two prompts, but a classifier of {model.cfg.source!r} has one. Save it "
            "with `classifier.save`."
        )
    behind = classifier.layout.after_text
    if behind and not moved:
        raise ValueError(_moved("save", "stand behind the text in a decoder"))
    vectors = prompt.vectors.detach().cpu()
    if not behind and not prompt.in_front:
        # In the precision of the more precise of the two.
        vectors = torch.cat([_mask_vector(model).cpu(), vectors])
    config = {
        "base_model_name_or_path": model.cfg.source,
        "inference_mode": True,
        "num_layers": model.cfg.n_layers,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": len(vectors),
        "peft_type": "PROMPT_TUNING",
        "prompt_tuning_init": "RANDOM",
        "revision": model.cfg.revision,
        "task_type": "CAUSAL_LM" if behind else "FEATURE_EXTRACTION",
        "token_dim": vectors.shape[1],
    }
    provenance = {"model": prompt.model, "origin": prompt.origin, "seed": prompt.seed}
    provenance[store.DIGEST] = _digest(vectors, json.loads(json.dumps(config)), provenance)
    payload = safetensors.torch.save(
        {KEY: vectors.contiguous()}, metadata={"format": "pt", store.FORMAT: json.dumps(provenance)}
    )
    store.write_atomically(folder / WEIGHTS, payload)
    store.write_json(folder / CONFIG, config)
    return folder / CONFIG


@checked
def load_peft(folder: str | Path, model: AnyModel, *, moved: bool = False) -> SoftPrompt:
    """The soft prompt of a prompt-tuning adapter, from `save_peft` or from PEFT.

    PEFT notes the name of the model an adapter was trained on and no more, so it is the name that is compared; an
    adapter from `save_peft` carries the model's fingerprint.

    Args:
        folder: With the adapter's two files.
        model: The adapter's base model.
        moved: Let the vectors stand elsewhere here than in PEFT: behind a mask, where the adapter does not begin with
            one, or behind the text of a decoder. Activations are then not those that PEFT computes.

    Returns:
        Vectors in the precision of the file or of the model, whichever is higher: as they were saved, to the bit. Where
        they do not begin with a mask they stand in front of all else (`in_front`), and compute what PEFT does.

    Raises:
        FileNotFoundError: One of the files is missing.
        StoreError: They are damaged, or hold another kind of adapter, or vectors that are no floating-point numbers.
        ValueError: The adapter is another model's; or it is a decoder's and `moved` is False.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from skillneurons import evaluate, load_example, load_peft, save_peft
        >>> classifier, task = load_example()
        >>> with TemporaryDirectory() as folder:
        ...     path = save_peft(classifier, folder)
        ...     loaded = classifier.with_prompt(load_peft(folder, classifier.model))
        >>> evaluate(loaded, task.test) == evaluate(classifier, task.test)
        True
    """
    folder, model = Path(folder), as_classifiable(model)
    config = _read_config(folder)
    vectors, provenance = _read_vectors(folder, config)
    width, fingerprint, base = model.W_E.shape[1], model.fingerprint(), config.get("base_model_name_or_path")
    if vectors.shape[1] != width:
        raise ValueError(
            f"The adapter in {folder} has vectors of width {vectors.shape[1]}, but the model's are {width} wide. "
            f"Load the adapter's model, {base!r}."
        )
    if provenance and provenance["model"] != fingerprint:
        raise ValueError(
            f"The adapter in {folder} was made for a model with fingerprint {provenance['model']}, but this one "
            f"({model.cfg.source}) has {fingerprint}. Load the adapter's model, {base!r}."
        )
    if not provenance and base and _name(base) != _name(model.cfg.source):
        raise ValueError(
            f"The adapter in {folder} was trained on {base!r}, but the model is {model.cfg.source!r}. Load the "
            f"adapter's model; if it is the same, write its name as `base_model_name_or_path` in {CONFIG}."
        )
    vectors = vectors.to(device=model.device, dtype=torch.promote_types(vectors.dtype, model.dtype))
    in_front = False
    if model.reads_after_text:
        if not moved:
            raise ValueError(_moved("load", "will stand behind the text in a decoder"))
    elif len(vectors) > 1 and torch.equal(vectors[:1].to(model.dtype), _mask_vector(model)):
        vectors = vectors[1:]
    else:
        in_front = not moved
    origin = provenance.get("origin", f"PEFT adapter of {base}")
    return SoftPrompt(vectors.clone(), fingerprint, origin, provenance.get("seed"), in_front)


def _moved(verb: str, where: str) -> str:
    return (
        f"To {verb} a prompt unchanged it needs to stand where PEFT puts it, in front of all else, but its vectors "
        f"{where}. Pass `moved=True` to {verb} the vectors all the same: activations then differ between the two."
    )


def _mask_vector(model: Model) -> Float[Tensor, "1 d_model"]:
    mask = model.tokenizer.mask_token_id if model.tokenizer is not None else None
    if mask is None:
        raise ValueError("The model's tokenizer needs a mask token, where the label is read. Pass one to `from_hf`.")
    return model.W_E[mask : mask + 1].detach()


def _name(source: str) -> str:
    return source.rstrip("/").rsplit("/", 1)[-1].lower()


def _read_config(folder: Path) -> dict[str, Json]:
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"An adapter needs {CONFIG}, but {path} does not exist. Pass the adapter's folder.")
    config = store.read_json(path, {}, REMEDY)
    kind = config.get("peft_type")
    if kind != "PROMPT_TUNING":
        raise store.StoreError(
            f"{path} needs `peft_type` PROMPT_TUNING, but has {kind}. Pass an adapter of PEFT's prompt tuning."
        )
    return config


def _read_vectors(folder: Path, config: dict[str, Json]) -> tuple[Tensor, dict[str, Json]]:
    """The adapter's vectors, and the provenance that `save_peft` wrote with them."""
    path = folder / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(
            f"An adapter needs {WEIGHTS}, but {path} does not exist. PEFT writes it with `safe_serialization=True`; "
            "pickle files are never read."
        )
    try:
        with safe_open(path, framework="pt") as file:
            keys, metadata = list(file.keys()), file.metadata() or {}
            vectors = file.get_tensor(KEY) if KEY in keys else None
    except SafetensorError as error:
        raise store.StoreError(f"{path} is not a whole safetensors file ({error}). {REMEDY}") from error
    n = config.get("num_virtual_tokens")
    if vectors is None or vectors.ndim != 2 or len(vectors) != n or not vectors.is_floating_point():
        came = f"{sorted(keys)}" if vectors is None else f"{tuple(vectors.shape)} of {vectors.dtype}"
        raise store.StoreError(
            f"{path} needs {KEY!r} with {n} vectors, as {CONFIG} says, of floating-point numbers, but has {came}. "
            "Prompts of encoder-decoders, which have two parts, are not read."
        )
    # PEFT itself writes the format only, so that another name is ours, damaged.
    if unknown := sorted(set(metadata) - {"format", store.FORMAT}):
        raise store.StoreError(f"{path} is damaged: its metadata has {', '.join(unknown)}. {REMEDY}")
    if store.FORMAT not in metadata:
        return vectors, {}
    provenance = store.parse_json(metadata[store.FORMAT], f"{path}: its provenance", PROVENANCE, REMEDY)
    written = provenance.pop(store.DIGEST, None)
    # Earlier versions wrote no digest, and nothing else either.
    if unknown := sorted(set(provenance) - set(PROVENANCE)):
        raise store.StoreError(f"{path} is damaged: its provenance has {', '.join(unknown)}. {REMEDY}")
    if written is not None and written != _digest(vectors, config, provenance):
        raise store.StoreError(f"{path} or {CONFIG} is damaged: they are not what was saved. {REMEDY}")
    return vectors, provenance


def _digest(vectors: Tensor, config: dict[str, Json], provenance: dict[str, Json]) -> str:
    """Of all that the adapter's two files say."""
    values = hashlib.sha256(vectors.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
    return store.json_digest([values, list(vectors.shape), str(vectors.dtype), config, provenance])
