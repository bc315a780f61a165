from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from tests.trainer.models.networks import KINDS, LABELS, make, make_batch
from trainer.errors import CheckpointError
from trainer.models.load import load_network
from trainer.models.parts import add_task_layers
from trainer.models.pooling import mean_of_tokens

STOCK = {
    "decoder": AutoModelForCausalLM,
    "decoder-untied": AutoModelForCausalLM,
    "decoder-classifier": AutoModelForSequenceClassification,
    "encoder-masked": AutoModelForMaskedLM,
    "encoder-masked-untied": AutoModelForMaskedLM,
    "encoder-classifier": AutoModelForSequenceClassification,
    "encoder-tagger": AutoModelForTokenClassification,
    "seq2seq": AutoModelForSeq2SeqLM,
    "seq2seq-untied": AutoModelForSeq2SeqLM,
}
OURS = [kind for kind in KINDS if kind not in STOCK and "embedding" not in kind]


def perturbed(kind):
    """A network none of whose weights is where it started: biases of 0 hide mistakes."""
    network = make(kind)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return network


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("added", [0, 1])
def test_round_trip_is_exact(kind, added, tmp_path):
    network = perturbed(kind)
    add_task_layers(network, added)
    network.save(tmp_path)
    again = load_network(tmp_path)
    assert type(again) is type(network)
    assert again.labels == network.labels
    assert again.context == network.context
    assert again.level == network.level
    assert again.tied == network.tied
    own, other = network.state_dict(), again.state_dict()
    assert own.keys() == other.keys()
    assert all(torch.equal(own[name], other[name]) for name in own)
    batch = make_batch(kind)
    assert torch.equal(network.eval()(batch), again.eval()(batch))


@pytest.mark.parametrize("kind", STOCK)
def test_stock_classes_compute_the_same(kind, tmp_path):
    network = perturbed(kind).eval()
    network.save(tmp_path)
    stock, report = STOCK[kind].from_pretrained(
        tmp_path, local_files_only=True, output_loading_info=True
    )
    assert {name: list(found) for name, found in report.items()} == {
        "missing_keys": [],
        "unexpected_keys": [],
        "mismatched_keys": [],
        "error_msgs": [],
    }
    batch = make_batch(kind)
    with torch.no_grad():
        assert torch.allclose(stock.eval()(**batch).logits, network(batch), atol=1e-6)
    if network.labels:
        assert stock.config.id2label == dict(enumerate(LABELS))
        assert stock.config.label2id == {label: i for i, label in enumerate(LABELS)}
    assert stock.config.architectures == [type(stock).__name__]


@pytest.mark.parametrize("kind", ["encoder-embedding", "encoder-first-embedding"])
def test_embeddings_have_the_layout_of_sentence_transformers(kind, tmp_path, minilm_dir):
    network = perturbed(kind).eval()
    network.save(tmp_path)
    stock = AutoModel.from_pretrained(tmp_path, local_files_only=True).eval()
    batch = make_batch(kind)
    with torch.no_grad():
        states = stock(**batch).last_hidden_state
        mean = kind == "encoder-embedding"
        expected = mean_of_tokens(states, batch["attention_mask"]) if mean else states[:, 0]
        assert torch.allclose(network(batch), expected, atol=1e-6)
    assert json.loads((tmp_path / "modules.json").read_text()) == json.loads(
        (minilm_dir / "modules.json").read_text()
    )
    pooling = json.loads((tmp_path / "1_Pooling" / "config.json").read_text())
    assert (
        pooling.keys() == json.loads((minilm_dir / "1_Pooling" / "config.json").read_text()).keys()
    )
    assert pooling["pooling_mode_mean_tokens"] == mean
    assert pooling["word_embedding_dimension"] == 16


@pytest.mark.parametrize("kind", OURS)
def test_stock_loaders_refuse_what_they_cannot_compute(kind, tmp_path):
    make(kind).save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"].startswith("casemate-")
    with pytest.raises(ValueError, match="casemate-"):
        AutoConfig.from_pretrained(tmp_path, local_files_only=True)


@pytest.mark.parametrize("kind", ["decoder", "encoder-classifier", "encoder-embedding"])
def test_stock_loaders_refuse_added_layers(kind, tmp_path):
    network = make(kind)
    add_task_layers(network, 1)
    network.save(tmp_path)
    with pytest.raises(ValueError, match="casemate-transformer"):
        AutoConfig.from_pretrained(tmp_path, local_files_only=True)
    assert not (tmp_path / "modules.json").exists()


@pytest.mark.parametrize("kind", ["decoder", "encoder-masked", "seq2seq", "lstm"])
def test_tied_weights_are_written_once(kind, tmp_path):
    network = make(kind)
    network.save(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert sum(t.numel() for t in stored.values()) == network.size().parameters
    assert json.loads((tmp_path / "config.json").read_text()).get("tie_word_embeddings", True)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_gathered_state_is_written_instead(tmp_path):
    network = make("decoder")
    gathered = {name: torch.full_like(value, 0.5) for name, value in network.state_dict().items()}
    # Sharded runs may hand over a shared matrix under its first name only.
    del gathered["head.weight"]
    network.save(tmp_path, gathered)
    assert all(bool((t == 0.5).all()) for t in load_file(tmp_path / "model.safetensors").values())


def test_wrappers_leave_no_trace_in_names(tmp_path):
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
        apply_activation_checkpointing,
    )

    network = make("encoder-masked")
    plain = {k: v.clone() for k, v in network.state_dict().items()}
    blocks = {id(block) for block in network.blocks()}
    apply_activation_checkpointing(network, check_fn=lambda each: id(each) in blocks)
    network.save(tmp_path)
    again = load_network(tmp_path).state_dict()
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert len(network.blocks()) == 2


@pytest.mark.parametrize("defect", ["lacks", "foreign"])
def test_a_state_of_another_network_is_refused(defect, tmp_path):
    network = make("lstm")
    state = dict(network.state_dict())
    if defect == "lacks":
        del state["layers.0.bias_ih_l0"]
    else:
        state["layers.9.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r"layers\.[09]"):
        network.save(tmp_path, state)


def rewrite(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("kind", ["lstm", "convolution", "encoder-mean-classifier"])
def test_weights_that_do_not_fit_their_configuration(kind, tmp_path):
    make(kind).save(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    name = next(name for name in sorted(stored) if stored[name].ndim > 1)
    rewrite(tmp_path, lambda tensors: tensors.update({name: torch.zeros(3)}))
    with pytest.raises(CheckpointError, match=r"\[3\]"):
        load_network(tmp_path)
    rewrite(tmp_path, lambda tensors: tensors.pop(name))
    with pytest.raises(CheckpointError, match=f"missing {name}"):
        load_network(tmp_path)
    rewrite(tmp_path, lambda tensors: tensors.update({"more": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match="unknown more"):
        load_network(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2"),
        ({"model_type": "casemate-other"}, "those that are networks"),
        ({"cell": None, "hidden_size": "wide"}, "no configuration of"),
        ({"id2label": 3}, "no configuration of"),
    ],
)
def test_configurations_of_ours_that_are_none(change, message, tmp_path):
    make("lstm").save(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        load_network(tmp_path)


def test_a_damaged_weights_file_of_ours(tmp_path):
    make("lstm").save(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_network(tmp_path)
