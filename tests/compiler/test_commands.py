"""`casemate compile`, `quantize` and `compare`: what they make, say and leave behind."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import load_file, save_file

from casemate.cli.main import cli
from casemate.cli.quality import quality_text
from compiler.bundling.workfolder import work_folder
from compiler.report.record import parse_record
from security.bundle.attestations import STATEMENT_TYPE
from security.bundle.opening import open_unsigned
from security.strictjson import canonical
from tests.support.tiny_models import (
    tiny_classifier_dir,
    tiny_encoder_dir,
    tiny_gguf,
    tiny_onnx,
)

VNNI, PLAIN = "x86-64-v4-vnni", "x86-64-v3"
PATIENCE_SECONDS = 60


def casemate(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def compiled(source: Path, output: Path, *more: str | Path) -> Result:
    """Compile without a search and without running the bundle."""
    return casemate("compile", source, "-o", output, "--no-tune", "--no-probes", "--json", *more)


def document(result: Result) -> Any:
    assert result.exit_code == 0, (result.output, result.exception)
    found: Any = json.loads(result.stdout)
    return found


def tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    return tiny_encoder_dir(tmp_path / "model")


def test_an_encoder_becomes_8_bits_and_says_how_good_it_is(encoder: Path, tmp_path: Path) -> None:
    data = document(compiled(encoder, tmp_path / "out", "--target", VNNI))
    assert (data["name"], data["task"]) == ("out", "embed")
    (variant,) = data["variants"]
    assert (variant["id"], variant["needs"], variant["format"]) == ("default", VNNI, "int8")
    assert variant["quality"]["spearman"] > 0.99
    with open_unsigned(tmp_path / "out") as opened:
        summary = opened.summaries["default"]
        assert opened.manifest.variants[0].cpu == VNNI
        statement = json.loads(opened.files["attestations/conversion.json"].read())
    assert "DynamicQuantizeMatMul" in " ".join(summary.operators)  # type: ignore[union-attr]
    assert statement["_type"] == STATEMENT_TYPE
    files = statement["predicate"]["source"]["files"]
    weights = hashlib.sha256((encoder / "model.safetensors").read_bytes()).hexdigest()
    assert files["model.safetensors"] == weights
    assert statement["subject"][0]["name"] == "variants/default/model.onnx"
    assert str(tmp_path) not in json.dumps(statement)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


EPOCH = ("SOURCE_DATE_EPOCH", "1767225600")
EDGE = ("--target", PLAIN, "--target", VNNI, "--name", "edge")


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """An encoder for two targets, at a time of our own; and what the command said."""
    folder = tmp_path_factory.mktemp("edge")
    source = tiny_encoder_dir(folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(*EPOCH)
        return folder, document(compiled(source, folder / "out", *EDGE))


def test_a_bundle_shows_what_was_made_of_what_and_how_good(encoder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    document(compiled(encoder, output))
    shown = casemate("bundle", "show", output)
    assert "bert (huggingface), promised near-lossless" in shown.stdout
    assert "int8" in shown.stdout
    assert "Spearman 0.99" in shown.stdout
    # A statement about other files says nothing of these.
    path = output / "attestations/conversion.json"
    statement = json.loads(path.read_text())
    statement["subject"][0]["digest"]["sha256"] = "0" * 64
    path.write_bytes(canonical(statement))
    data = document(casemate("bundle", "show", output, "--json"))
    assert "is about another model" in data["conversion"]["problem"]


def test_two_targets_give_two_variants_the_faster_first(edge: tuple[Path, Any]) -> None:
    shown = [(v["id"], v["needs"], v["format"]) for v in edge[1]["variants"]]
    assert shown == [("x86-64-v4-vnni", VNNI, "int8"), ("x86-64-v3", None, "int8, 7-bit weights")]


def test_targets_that_take_one_file_share_a_variant(tmp_path: Path) -> None:
    source = tiny_gguf(tmp_path / "t.gguf")
    targets = ("--target", PLAIN, "--target", VNNI, "--target", "armv8.2-dotprod")
    data = document(compiled(source, tmp_path / "out", *targets))
    (variant,) = data["variants"]
    assert (variant["id"], variant["needs"]) == ("default", None)
    assert (tmp_path / "out/variants/default/model.gguf").read_bytes() == source.read_bytes()


def test_a_classifier_and_a_plain_graph(tmp_path: Path) -> None:
    classifier = tiny_classifier_dir(tmp_path / "classifier")
    data = document(compiled(classifier, tmp_path / "c", "--quality", "small"))
    assert data["task"] == "classify"
    assert data["variants"][0]["quality"]["top1"] > 0.9
    data = document(compiled(tiny_onnx(tmp_path / "t.onnx"), tmp_path / "t"))
    assert data["task"] == "tensor"
    assert data["variants"][0]["format"] == "float32"


def test_a_bundle_is_a_source(encoder: Path, tmp_path: Path) -> None:
    document(compiled(encoder, tmp_path / "float", "--format", "float32"))
    document(compiled(tmp_path / "float", tmp_path / "again", "--target", PLAIN))
    with open_unsigned(tmp_path / "float") as first, open_unsigned(tmp_path / "again") as second:
        assert first.manifest.encoder == second.manifest.encoder
        assert first.files["tokenizer/tokenizer.json"].sha256 == (
            second.files["tokenizer/tokenizer.json"].sha256
        )


def test_the_same_source_and_plan_give_the_same_bytes(
    edge: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(*EPOCH)
    moved = shutil.copytree(edge[0] / "model", tmp_path / "other-name")
    document(compiled(moved, tmp_path / "again", *EDGE))
    assert tree(edge[0] / "out") == tree(tmp_path / "again")


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncated(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_tokenizer, "has no tokenizer.json"),
        (pickled, "never opened; convert them to safetensors"),
        (truncated, "model.safetensors: ends within"),
    ],
)
def test_a_bad_source_is_refused_by_name(
    encoder: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(encoder)
    result = compiled(encoder, tmp_path / "out")
    assert result.exit_code == 1
    assert message in str(result.exception)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--target", "vax"], "there is no target 'vax'"),
        (["--target", VNNI, "--target", VNNI], "could not tell them apart"),
        (["--format", "q4_0"], "ONNX has no format 'q4_0' here; there are float32"),
        (["--min-spearman", "2"], "min_spearman: must be from -1 to 1"),
    ],
)
def test_what_cannot_be_asked_for(
    encoder: Path, tmp_path: Path, more: list[str], message: str
) -> None:
    result = compiled(encoder, tmp_path / "out", *more)
    assert result.exit_code == 1
    assert message in str(result.exception)
    # Nothing was made yet, so nothing is kept.
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_static_ranges_come_from_texts_that_nothing_is_judged_on(
    encoder: Path, tmp_path: Path
) -> None:
    data = document(compiled(encoder, tmp_path / "out", "--format", "int8-static"))
    # Of the 64 built-in sentences every third is calibrated with.
    assert data["variants"][0]["quality"]["samples"] == 42


def test_a_bound_that_nothing_measures_is_not_kept(tmp_path: Path) -> None:
    source = tiny_gguf(tmp_path / "t.gguf")
    result = compiled(source, tmp_path / "out", "--format", "q8_0", "--max-kl", "0.5")
    assert result.exit_code == 1
    assert "mean KL divergence was not measured" in str(result.exception)
    assert not (tmp_path / "out").exists()
    document(compiled(source, tmp_path / "out", "--format", "q8_0"))


def test_usage_is_wrong_where_options_contradict(encoder: Path, tmp_path: Path) -> None:
    words = ("compile", encoder, "-o", tmp_path / "out", "--tune", "--format", "int8")
    result = casemate(*words)
    assert result.exit_code == 2
    assert "not both" in result.output


def test_an_output_that_exists_is_left_alone(encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    result = compiled(encoder, tmp_path / "out")
    assert "exists already" in str(result.exception)
    assert (tmp_path / "out").read_text() == "mine"


def test_a_named_format_that_breaks_the_promise_is_refused(encoder: Path, tmp_path: Path) -> None:
    promise = ("--format", "int4-blocks", "--min-spearman", "1.0")
    result = compiled(encoder, tmp_path / "out", *promise)
    assert result.exit_code == 1
    assert "--format int4-blocks breaks the promise" in str(result.exception)
    assert "promised at least 1" in str(result.exception)
    assert not (tmp_path / "out").exists()
    assert f"lies in {tmp_path / '.out.work'}" in result.stderr


def test_a_default_that_breaks_the_promise_is_not_used(encoder: Path, tmp_path: Path) -> None:
    result = compiled(encoder, tmp_path / "out", "--min-spearman", "1.0")
    data = document(result)
    assert data["variants"][0]["format"] == "float32"
    assert "would break the promise" in result.stderr


def test_a_default_leaves_as_few_tensors_in_float_as_the_promise_needs(
    encoder: Path, tmp_path: Path
) -> None:
    data = document(compiled(encoder, tmp_path / "int8", "--target", VNNI))
    reached = data["variants"][0]["quality"]["spearman"]
    more = ("--target", VNNI, "--min-spearman", str(reached + 0.4 * (1 - reached)))
    result = compiled(encoder, tmp_path / "mixed", *more)
    (variant,) = document(result)["variants"]
    assert 0 < len(variant["in_float"]) < 13
    assert variant["format"] == f"int8, {len(variant['in_float'])} of 13 in float"
    assert variant["in_float"][0] in result.stderr
    assert variant["quality"]["spearman"] > reached


def labelled(path: Path, labels: tuple[str, ...]) -> Path:
    rows = [f"{word} {number}\t{labels[number % len(labels)]}"
            for number, word in enumerate(("zebra", "good", "bad", "river") * 5)]  # fmt: skip
    path.write_text("\n".join(rows) + "\n")
    return path


def test_a_bound_on_accuracy_needs_labelled_texts(encoder: Path, tmp_path: Path) -> None:
    classifier = tiny_classifier_dir(tmp_path / "classifier")
    bound = ("--max-accuracy-drop", "0.5")
    result = compiled(classifier, tmp_path / "out", *bound)
    assert result.exit_code == 2
    assert "--max-accuracy-drop needs labelled texts" in result.output
    texts = labelled(tmp_path / "texts.tsv", ("0", "1", "2"))
    data = document(compiled(classifier, tmp_path / "out", *bound, "--labelled", texts))
    quality = data["variants"][0]["quality"]
    assert quality["samples"] == 20
    assert 0 <= quality["accuracy"] <= 1
    assert quality["accuracy_drop"] <= 0.5
    data = document(
        casemate(
            "compare", classifier, tmp_path / "out", "--labelled", texts, "--no-speed", "--json"
        )
    )
    assert data["quality"]["accuracy_drop"] == quality["accuracy_drop"]
    wrong = compiled(encoder, tmp_path / "no", "--labelled", texts)
    assert "the model is no classifier" in str(wrong.exception)
    assert not (tmp_path / "no").exists()


def test_calibration_text_that_is_too_short(encoder: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("zebra\n\nquagga\n")
    result = compiled(encoder, tmp_path / "out", "--calibration", texts)
    assert "is too short: 2 lines with text" in str(result.exception)
    assert "zebra" not in str(result.exception)


def started(
    *words: str | Path, limit_bytes: int | None = None, before: str = ""
) -> subprocess.Popen[str]:
    """A real process of the command; `before` is code that it runs first."""
    code = f"{before}import sys; from casemate.cli.main import main; main()"
    if limit_bytes is not None:
        size = f"({limit_bytes}, {resource.RLIM_INFINITY})"
        code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, {size}); {code}"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_leaves_work_that_the_same_command_takes_up(
    encoder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    output, work = tmp_path / "out", tmp_path / ".out.work"
    process = started("compile", encoder, "-o", output, "--no-tune", "--no-probes")
    while not (work / "unfinished" / "exported.onnx").exists():
        assert process.poll() is None, process.communicate()
    process.send_signal(number)
    _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 1
    assert "interrupted" in said
    assert str(work) in said
    assert not output.exists()
    document(compiled(encoder, output))
    assert not work.exists()


def test_a_terminal_that_closes_does_not_end_work_that_was_told_so(
    encoder: Path, tmp_path: Path
) -> None:
    output, work = tmp_path / "out", tmp_path / ".out.work"
    process = started(
        *("compile", encoder, "-o", output, "--no-tune", "--no-probes"),
        before="import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); ",
    )
    while not (work / "unfinished" / "exported.onnx").exists():
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGHUP)
    _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, said
    assert output.is_dir()


def test_a_folder_of_the_users_is_not_said_to_hold_work(encoder: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("precious")
    words = ("-o", str(tmp_path / "out"), "--no-tune", "--no-probes", "--work", str(mine))
    for source in (encoder, tmp_path / "none"):
        process = started("compile", source, *words)
        _, said = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 1, said
        assert "remove it" not in said
        assert "goes on from there" not in said
    assert [entry.name for entry in mine.iterdir()] == ["thesis.tex"]


def test_a_full_disk_leaves_no_bundle_and_says_so(encoder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    words = ("compile", encoder, "-o", output, "--no-tune", "--no-probes")
    process = started(*words, limit_bytes=100_000)
    _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 1, said
    assert "File too large" in said
    assert not output.exists()


def test_one_work_folder_is_not_shared(tmp_path: Path) -> None:
    from compiler.errors import SourceError

    with (
        work_folder(tmp_path / "w", {"source": 1}),
        pytest.raises(SourceError, match="another compilation works here"),
        work_folder(tmp_path / "w", {"source": 1}),
    ):
        pass


def test_a_work_folder_of_another_source_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "w"

    def cut_short(source: int) -> bool:
        """Whether earlier work was there; then make some and fail."""
        found = False
        with contextlib.suppress(ZeroDivisionError), work_folder(path, {"source": source}) as work:
            found = (work / "made").exists()
            (work / "made").write_text("x")
            raise ZeroDivisionError
        return found

    assert [cut_short(1), cut_short(1), cut_short(2)] == [False, True, False]
    with work_folder(path, {"source": 2}) as work:
        assert (work / "made").exists()
    assert not path.exists()


def test_quantize_and_compare(encoder: Path, tmp_path: Path) -> None:
    output = tmp_path / "int8.onnx"
    data = document(casemate("quantize", encoder, "--format", "int8", "-o", output, "--json"))
    assert data["plan"]["reduce_range"] is True
    assert data["size_bytes"] == output.stat().st_size
    shutil.copy(encoder / "tokenizer.json", tmp_path)
    shutil.copy(encoder / "config.json", tmp_path)
    data = document(casemate("compare", encoder, output, "--no-speed", "--json"))
    assert data["quality"]["spearman"] > 0.99
    assert data["same_bytes"] is False
    other = casemate("compare", encoder, tiny_gguf(tmp_path / "t.gguf"), "--json")
    assert "they cannot be compared" in str(other.exception)
    (tmp_path / "alone").mkdir()
    alone = casemate("compare", encoder, shutil.copy(output, tmp_path / "alone"))
    assert "put all three into a folder" in str(alone.exception)
    same = casemate("compare", encoder, encoder)
    # Timing one file twice shows noise alone.
    assert "the same: both are one file" in same.stdout


def test_another_vocabulary_of_the_same_size_is_seen(tmp_path: Path) -> None:
    first = tiny_gguf(tmp_path / "first.gguf")
    data = first.read_bytes()
    assert data.count("▁the".encode()) == 1
    second = tmp_path / "second.gguf"
    second.write_bytes(data.replace("▁the".encode(), "▁eht".encode()))
    result = casemate("compare", first, second, "--no-speed", "--json")
    assert result.exit_code == 1
    assert "has another tokenizer" in str(result.exception)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough text for a decoder: 600 lines of a few words."""
    draw = random.Random(1)
    known = ("the", "inner", "on", "other", "tin", "thin")
    lines = [" ".join(draw.choices(known, k=12)) for _ in range(600)]
    path = tmp_path_factory.mktemp("texts") / "words.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_decoder_is_judged_on_texts_that_are_given(tmp_path: Path, words: Path) -> None:
    source = tiny_gguf(tmp_path / "t.gguf")
    more = ("--format", "q8_0", "--calibration", words)
    data = document(compiled(source, tmp_path / "out", *more))
    (variant,) = data["variants"]
    assert variant["format"] == "q8_0"
    assert 0 <= variant["quality"]["kl_mean"] < 0.03
    assert data["size_bytes"] < source.stat().st_size
    samples = variant["quality"]["samples"]
    assert quality_text(variant["quality"]).endswith(f"on {samples:,} tokens")
    result = compiled(source, tmp_path / "no", *more, "--format", "q4_0", "--max-kl", "0")
    assert "--format q4_0 breaks the promise" in str(result.exception)
    data = document(casemate("compare", source, tmp_path / "out", "--data", words, "--no-speed",
                             "--json"))  # fmt: skip
    assert data["quality"]["top1"] > 0.8


def test_a_search_leaves_the_file_and_its_record(tmp_path: Path, words: Path) -> None:
    source, output = tiny_gguf(tmp_path / "t.gguf"), tmp_path / "out"
    more = ("--calibration", words, "--quality", "small", "--budget", "15s", "--json")
    data = document(casemate("tune", source, *more, "-o", output))
    assert data["files"] == ["compilation.html", "compilation.json", "front.svg", "model.gguf"]
    record = parse_record((output / "compilation.json").read_bytes())
    assert record.source.name == "t.gguf"
    chosen = record.entry(record.chosen)
    found = data["search"]
    assert found["size_bytes"] == (output / "model.gguf").stat().st_size
    assert found["reference_size_bytes"] == source.stat().st_size
    assert 0 < found["low"] <= found["times_reference"] <= found["high"]
    assert found["rounds"] >= 1
    assert chosen.sha256 == hashlib.sha256((output / "model.gguf").read_bytes()).hexdigest()
    text = (output / "compilation.json").read_text() + (output / "compilation.html").read_text()
    assert words.read_text().splitlines()[0] not in text


def test_a_decoder_cannot_be_searched_without_texts(tmp_path: Path) -> None:
    source = tiny_gguf(tmp_path / "t.gguf")
    result = casemate("compile", source, "-o", tmp_path / "out", "--no-probes")
    assert result.exit_code == 1
    assert "give a file with --calibration" in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["t.gguf"]


def test_a_search_that_finds_nothing_better_says_why(tmp_path: Path, words: Path) -> None:
    source, output = tiny_gguf(tmp_path / "t.gguf"), tmp_path / "out"
    more = ("--calibration", words, "--max-kl", "0.0000001", "--budget", "15s", "--no-probes")
    result = casemate("compile", source, *more, "-o", output)
    assert result.exit_code == 0, result.exception
    assert "nothing better was found, and the model stays as it was given" in result.stderr
    assert "broke the promise (closest: " in result.stderr
    assert "1.00 times the given model's speed for 1 client" in result.stdout
    assert f"Next: casemate sign {output}" in result.stdout


def test_what_only_some_processors_run_is_said(encoder: Path, tmp_path: Path) -> None:
    result = compiled(encoder, tmp_path / "out", "--target", VNNI)
    assert f"runs on processors of {VNNI} alone" in result.stderr
    assert "alone" not in compiled(encoder, tmp_path / "any", "--target", PLAIN).stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--version", "1"), "'1' is no semantic version such as 1.0.0"),
        (("--name", "My Model"), "'My Model': small letters, digits"),
    ],
)
def test_a_bad_name_is_refused_before_any_work(
    encoder: Path, tmp_path: Path, more: tuple[str, str], message: str
) -> None:
    result = compiled(encoder, tmp_path / "out", *more)
    assert result.exit_code == 2
    assert message in result.stderr.replace("\n", " ")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_one_search_is_for_one_target(encoder: Path, tmp_path: Path) -> None:
    words = ("tune", encoder, "-o", tmp_path / "out", "--target", VNNI, "--target", PLAIN)
    result = casemate(*words)
    assert result.exit_code == 2
    assert "tune takes one --target" in result.output


def test_a_graph_of_plain_tensors_cannot_be_searched(tmp_path: Path) -> None:
    result = casemate("tune", tiny_onnx(tmp_path / "t.onnx"), "-o", tmp_path / "out")
    assert "no texts to be judged on" in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["t.onnx"]


def test_an_encoder_with_few_positions_is_searched_and_compared(
    encoder: Path, tmp_path: Path
) -> None:
    """Whatever the usual lengths are, nothing longer than a model's context is run."""
    weights = load_file(encoder / "model.safetensors")
    name = "embeddings.position_embeddings.weight"
    weights[name] = weights[name][:40].copy()
    save_file(weights, encoder / "model.safetensors")
    config = json.loads((encoder / "config.json").read_text())
    (encoder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 40}))
    (encoder / "sentence_bert_config.json").write_text('{"max_seq_length": 40}')
    texts = tmp_path / "texts.txt"
    draw = random.Random(1)
    known = ("the", "inner", "on", "other", "tin", "thin")
    texts.write_text("\n".join(" ".join(draw.choices(known, k=90)) for _ in range(24)))
    words = ("tune", encoder, "--calibration", texts, "--budget", "20s", "--json")
    document(casemate(*words, "--quality", "small", "-o", tmp_path / "out"))
    shutil.copy(encoder / "tokenizer.json", tmp_path / "out")
    shutil.copy(encoder / "config.json", tmp_path / "out")
    graph = tmp_path / "out" / "int8.onnx"
    document(casemate("quantize", encoder, "--format", "int8", "-o", graph, "--json"))
    data = document(casemate("compare", encoder, graph, "--data", texts, "--json"))
    assert {"encode@1x16", "encode@32x40"} <= set(data["speeds"])
    one = data["speeds"]["encode@1x16"]
    assert 0 < one["low"] <= one["times"] <= one["high"]
    said = casemate("compare", encoder, graph, "--data", texts).stdout
    assert "Texts, 1 × 16 tokens: " in said
    assert " 3 rounds" in said
    refused = casemate(*words, "--for", "prefill", "-o", tmp_path / "no")
    assert "--for prefill is for models that generate" in str(refused.exception)
    texts.write_text("\n".join(texts.read_text().splitlines()[:23]))
    few = casemate(*words, "-o", tmp_path / "no")
    assert "23 texts are too few for a search" in str(few.exception)


def test_an_encoder_for_another_machine_is_not_said_to_be_measured(
    encoder: Path, tmp_path: Path
) -> None:
    words = ("compile", encoder, "-o", tmp_path / "out", "--target", PLAIN, "--no-probes", "--json")
    result = casemate(*words, "--budget", "20s")
    data = document(result)
    said = f"speeds are predicted for {PLAIN}, not measured"
    assert said in result.stderr
    assert said in data["variants"][0]["search_notes"][0]
    record = json.loads((tmp_path / "out/attestations/compilation.json").read_text())
    assert record["predicate"]["record"]["predicted"] is True


@pytest.mark.parametrize("name", ["compile", "tune", "quantize", "compare", "targets"])
def test_help_has_examples(name: str) -> None:
    shown = casemate(name, "--help")
    assert shown.exit_code == 0
    assert f"casemate {name} " in shown.output.split("Example", 1)[1]
