"""Directories made to be loaded as something that they are not."""

from __future__ import annotations

import contextlib
import hashlib
import json
import pickle
import resource

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertLMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    modeling_utils,
)

from security.errors import CasemateError
from tests.trainer.models.networks import VOCABULARY, make, make_batch
from trainer.errors import CheckpointError, MemoryEstimateError, RecipeError
from trainer.evaluation.opening import open_checkpoint
from trainer.models import core
from trainer.models.load import load_network, skeleton
from trainer.recipe.schema import ModelOptions, ObjectiveOptions

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 2, "intermediate_size": 32}
OWN = ("lstm", "encoder-mean-classifier", "convolution")


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    make("decoder").save(path)
    return path


@pytest.fixture
def evil(tmp_path):
    """Weights of the same shapes elsewhere."""
    path = tmp_path / "evil"
    path.mkdir()
    make("decoder", seed=9).save(path)
    return path


def change(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def origin_of(network):
    assert network.origin is not None
    return network.origin


def in_files(folder, place):
    """Put the weights under an index; `place` says which file has a tensor."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    index = {name: place(name) for name in tensors}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return tensors, index


def halves(folder):
    tensors, index = in_files(
        folder, lambda name: "a.safetensors" if "layers.0" in name else "b.safetensors"
    )
    for file in set(index.values()):
        part = {name: tensors[name] for name in tensors if index[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})


# -- bytes from elsewhere --------------------------------------------------------------------


def test_a_configuration_cannot_name_another_weights_file(folder, evil):
    expected = load_file(folder / WEIGHTS)
    change(folder, transformers_weights=f"../{evil.name}/{WEIGHTS}")
    found = load_network(folder).features.state_dict()
    assert torch.equal(found["0.weight"], expected["model.embed_tokens.weight"])


@pytest.mark.parametrize(
    "name", ["../evil/model.safetensors", "/evil.safetensors", "w.bin", "sub/a.safetensors", 7]
)
def test_an_index_names_safetensors_of_its_own_directory_only(name, folder, evil):
    in_files(folder, lambda _: name)
    (folder / "w.bin").write_bytes(pickle.dumps(print))
    with pytest.raises(CheckpointError, match="in the same directory alone"):
        load_network(folder)


@pytest.mark.parametrize("name", [WEIGHTS, "config.json", INDEX, "a.safetensors"])
def test_links_are_not_followed(name, folder, evil):
    if name in (INDEX, "a.safetensors"):
        halves(folder)
    original = folder / name
    moved = evil / "moved"
    original.rename(moved)
    original.symlink_to(moved)
    with pytest.raises(CheckpointError, match="is a link"):
        load_network(folder)


def test_an_adapter_in_the_directory_is_not_looked_at(folder, evil):
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(evil)})
    )
    expected = load_file(folder / WEIGHTS)
    found = load_network(folder).features.state_dict()
    assert torch.equal(found["0.weight"], expected["model.embed_tokens.weight"])


def test_weights_in_several_files(folder):
    expected = load_network(folder)(make_batch("decoder"))
    halves(folder)
    network = load_network(folder)
    assert torch.equal(network(make_batch("decoder")), expected)
    lines = "".join(
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
        for name in ("a.safetensors", "b.safetensors")
    )
    assert origin_of(network).weights == hashlib.sha256(lines.encode()).hexdigest()


def test_a_file_that_holds_other_tensors_than_the_index_says(folder):
    halves(folder)
    extra = load_file(folder / "a.safetensors") | {"model.norm.weight": torch.zeros(16)}
    save_file(extra, folder / "a.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="not of one model"):
        load_network(folder)
    save_file({}, folder / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"which model\.safetensors\.index\.json names"):
        load_network(folder)


@pytest.mark.parametrize("kind", ["decoder", *OWN])
def test_the_origin_is_what_was_loaded_and_not_what_lies_there_later(kind, tmp_path):
    make(kind).save(tmp_path)
    digest = hashlib.sha256((tmp_path / WEIGHTS).read_bytes()).hexdigest()
    network = load_network(tmp_path)
    make(kind, seed=2).save(tmp_path)
    assert origin_of(network).weights == digest
    assert origin_of(network).record is None
    assert origin_of(load_network(tmp_path)).weights != digest
    assert make(kind).origin is None


# -- code from elsewhere ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"_attn_implementation": "evil/kern"},
        {"attn_implementation": "evil/kern"},
        {"_attn_implementation_internal": "evil/kern"},
        {"attn_implementation": {"": "evil/kern"}},
        {"dtype": "load"},
        {"auto_map": {"AutoModelForCausalLM": "evil/kern--code.Model"}},
    ],
)
@pytest.mark.parametrize("own", [False, True])
def test_a_configuration_cannot_name_a_kernel_or_code(values, own, folder, monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr(modeling_utils, "load_and_register_kernel", asked.append)
    if own:
        make("encoder-mean-classifier").save(folder)
        base = json.loads((folder / "config.json").read_text())["base"]
        change(folder, base=base | values)
        options, objective = ModelOptions(family="encoder"), ObjectiveOptions(kind="classification")
        kind = "encoder-classifier"
    else:
        change(folder, **values)
        options, objective, kind = ModelOptions(), ObjectiveOptions(), "decoder"
    load_network(folder)(make_batch(kind))
    skeleton(folder, objective, ("a", "b") if own else (), options)
    assert asked == []


def test_a_kernel_is_what_the_name_would_have_asked_for(monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr(modeling_utils, "load_and_register_kernel", asked.append)
    config = LlamaConfig(**SIZES, **HEADS, attn_implementation="evil/kern")
    with contextlib.suppress(KeyError, ValueError):
        LlamaForCausalLM(config)(torch.tensor([[1]]))
    assert set(asked) == {"evil/kern"}


# -- something else than the stock class computes ----------------------------------------------


def test_a_bert_that_decodes_has_a_transform_that_would_be_lost(tmp_path):
    config = BertConfig(**SIZES, **HEADS, is_decoder=True)
    BertLMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match="'bert' network does more"):
        load_network(tmp_path)


@pytest.mark.parametrize("kind", ["decoder", "encoder-masked", "encoder-embedding", "seq2seq"])
@pytest.mark.parametrize("objective", [None, "own"])
def test_a_count_of_layers_that_is_too_low_is_refused(kind, objective, tmp_path):
    make(kind).save(tmp_path)
    change(tmp_path, num_hidden_layers=1, num_layers=1, num_decoder_layers=1)
    tasks = {"encoder-masked": "masked", "encoder-embedding": "contrastive"}
    wanted = ObjectiveOptions(kind=tasks.get(kind, "next-token")) if objective else None
    with pytest.raises(CheckpointError, match="has no place for it"):
        load_network(tmp_path, wanted)


@pytest.mark.parametrize("kind", ["decoder-untied", "encoder-masked-untied", "seq2seq-untied"])
def test_an_output_layer_of_its_own_is_not_dropped_for_the_tied_table(kind, tmp_path):
    make(kind).save(tmp_path)
    change(tmp_path, tie_word_embeddings=True)
    with pytest.raises(CheckpointError, match="set tie_word_embeddings to false"):
        load_network(tmp_path)


def test_a_tied_output_layer_that_is_stored_too_is_the_same(folder):
    expected = load_network(folder)(make_batch("decoder"))
    tensors = load_file(folder / WEIGHTS)
    table = tensors["model.embed_tokens.weight"]
    save_file(tensors | {"lm_head.weight": table.clone()}, folder / WEIGHTS)
    network = load_network(folder)
    assert network.tied
    assert torch.equal(network(make_batch("decoder")), expected)


def test_a_tied_table_stored_under_the_name_of_the_output_layer(folder):
    expected = load_network(folder)(make_batch("decoder"))
    tensors = load_file(folder / WEIGHTS)
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, folder / WEIGHTS)
    assert torch.equal(load_network(folder)(make_batch("decoder")), expected)


def test_half_precision_is_loaded_as_float32(folder):
    tensors = {name: value.half() for name, value in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS)
    assert {p.dtype for p in load_network(folder).parameters()} == {torch.float32}


# -- limits and types --------------------------------------------------------------------------


def write(folder, text):
    (folder / "config.json").write_text(text)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"model_type": "llama", "hidden_size": ' + "9" * 5000 + "}",
        '{"model_type": "llama", "vocab_size": NaN}',
        '{"model_type": "llama", "model_type": "bert"}',
        '{"model_type": "llama", "x": "' + "x" * (5 << 20) + '"}',
    ],
    ids=["deep", "digits", "nan", "twice", "large"],
)
def test_json_that_is_no_plain_configuration(text, folder):
    write(folder, text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_network(folder)


@pytest.mark.parametrize(
    "values",
    [
        {"num_attention_heads": 0},
        {"hidden_size": "16"},
        {"hidden_size": None},
        {"hidden_act": "nonsense"},
        {"rope_scaling": {"rope_type": "nonsense"}},
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": -1},
        {"id2label": 3},
        {"id2label": {"a": "b"}},
        {"num_labels": 10**9},
        {"max_position_embeddings": 10**12},
        {"model_type": ["llama"]},
        {"model_type": None},
        {"vocab_size": 20_000_000},
        {"pad_token_id": 10**9},
    ],
    ids=str,
)
def test_values_of_a_stock_configuration_that_are_none(values, folder):
    change(folder, **values)
    for opened in (
        lambda: load_network(folder),
        lambda: load_network(folder, ObjectiveOptions(), (), ModelOptions()),
    ):
        with pytest.raises(CheckpointError):
            opened()
    with torch.device("meta"), pytest.raises(CheckpointError):
        skeleton(folder, ObjectiveOptions(), (), ModelOptions())


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("lstm", {"hidden_size": "16"}),
        ("lstm", {"hidden_size": True}),
        ("lstm", {"num_hidden_layers": 10**9}),
        ("lstm", {"vocab_size": 20_000_000}),
        ("lstm", {"cutoffs": ["1"]}),
        ("lstm", {"added_task_layers": 10**9}),
        ("lstm", {"added_task_layers": "1"}),
        ("lstm", {"id2label": []}),
        ("lstm", {"cell": "nonsense"}),
        ("lstm", {"pooling": "nonsense"}),
        ("convolution", {"kernel_sizes": 3}),
        ("convolution", {"kernel_sizes": [10**9]}),
        ("convolution", {"filters": 0}),
        ("encoder-mean-classifier", {"family": "nonsense"}),
        ("encoder-mean-classifier", {"family": "decoder"}),
        ("encoder-mean-classifier", {"task": "nonsense"}),
        ("encoder-mean-classifier", {"pooling": ["mean"]}),
        ("encoder-mean-classifier", {"base": 3}),
        ("encoder-mean-classifier", {"base": {}}),
        ("encoder-mean-classifier", {"added_task_layers": -1}),
    ],
    ids=str,
)
def test_values_of_our_configuration_that_are_none(kind, values, tmp_path):
    make(kind).save(tmp_path)
    change(tmp_path, **values)
    with pytest.raises(CheckpointError):
        load_network(tmp_path)


def test_a_configuration_alone_cannot_ask_for_memory(folder):
    """A hundred bytes of weights beside a table of gigabytes."""
    save_file({"x": torch.zeros(2)}, folder / WEIGHTS)
    change(folder, vocab_size=20_000_000, hidden_size=64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match="not of one model"):
        open_checkpoint(folder, "cpu")
    # The peak so far, in KiB: one such table would be 5 GB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2 << 20


def test_what_does_not_fit_the_memory_is_refused_before_it_is_read():
    with torch.device("meta"):
        network = LlamaForCausalLM(LlamaConfig(**(SIZES | {"vocab_size": 2**40}), **HEADS))
    with pytest.raises(MemoryEstimateError, match=r"needs about .* are free"):
        core.require_memory(network, "here")


def test_every_failure_of_a_library_is_a_refusal(folder):
    """A configuration may name any architecture there is; none may end in a traceback."""
    for kind in ("mamba2", "opt", "reformer", "xlnet", "bert", "t5", "mpt", "fuyu", "clip"):
        change(folder, model_type=kind)
        with pytest.raises(CasemateError):
            load_network(folder)
