"""Every value of a recipe, with its meaning, its limits and its default.

A recipe is a TOML file with one table per section below; a missing key has the
default, an unknown key is an error. Sections check themselves at construction, and
`Recipe` checks what only shows across sections. All values are frozen afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from trainer.errors import RecipeError
from trainer.recipe.options import check_options, option

FAMILIES = (
    "decoder",
    "encoder",
    "seq2seq",
    "recurrent",
    "convolution",
    "word-embeddings",
)
OBJECTIVES = (
    "next-token",
    "masked",
    "infilling",
    "sequence-to-sequence",
    "classification",
    "tagging",
    "contrastive",
    "negative-sampling",
)
# Objectives that learn from plain text; the others need labelled examples.
TEXT_OBJECTIVES = ("next-token", "masked", "infilling", "negative-sampling")
# What each family can learn; `Recipe` refuses the rest.
FITTING = {
    "decoder": ("next-token", "classification"),
    "encoder": ("masked", "classification", "tagging", "contrastive"),
    "seq2seq": ("infilling", "sequence-to-sequence"),
    "recurrent": ("next-token", "classification"),
    "convolution": ("classification",),
    "word-embeddings": ("negative-sampling",),
}
PARTS = ("features", "task", "output")


class _Section:
    SECTION: ClassVar[str]

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class RunOptions(_Section):
    """Where and for how long."""

    SECTION: ClassVar[str] = "run"
    steps: int = option(1000, "Updates to make.", minimum=1)
    max_minutes: float = option(
        0.0, "Stop cleanly after this many minutes; 0 is no limit.", minimum=0
    )
    seed: int = option(1337, "Seed of weights, data order, dropout and masks.", minimum=0)
    device: str = option(
        "auto",
        "Where to compute; auto takes a GPU if there is one.",
        choices=("auto", "cpu", "cuda"),
    )


@dataclass(frozen=True)
class ModelOptions(_Section):
    """What is trained."""

    SECTION: ClassVar[str] = "model"
    family: str = option("decoder", "Kind of network.", choices=FAMILIES)
    source: str = option(
        "",
        "Hugging Face directory to start from; empty builds a new network from the values below.",
    )
    depth: int = option(
        0,
        "The one dial: layers of a transformer; width, heads and inner width follow from it. "
        "0 takes the values below.",
        minimum=0,
        maximum=256,
    )
    layers: int = option(4, "Layers (transformers, recurrent).", minimum=1, maximum=256)
    width: int = option(128, "Width of the hidden states.", minimum=8, maximum=65536)
    heads: int = option(4, "Attention heads.", minimum=1, maximum=1024)
    kv_heads: int = option(
        0, "Key and value heads of a decoder; 0 is as many as heads.", minimum=0, maximum=1024
    )
    inner_width: int = option(
        0, "Inner width of the feed-forward layers; 0 follows from width.", minimum=0
    )
    dropout: float = option(
        -1.0,
        "Dropout probability; -1 is what the directory says, and none in a new network.",
        minimum=-1,
        maximum=0.95,
    )
    tie_embeddings: bool = option(True, "Use one matrix for the input and the output layer.")
    cell: str = option("lstm", "Recurrent cell.", choices=("lstm", "gru"))
    kernel_sizes: tuple[int, ...] = option(
        (3, 4, 5), "Widths of the convolution filters, in tokens.", minimum=1, maximum=31
    )
    filters: int = option(100, "Convolution filters of each width.", minimum=1)
    pooling: str = option(
        "first",
        "How an encoder makes one vector of a text: the pooled first token, or the mean.",
        choices=("first", "mean"),
    )

    @property
    def new_dropout(self) -> float:
        """Dropout probability of a network that is made anew."""
        return max(self.dropout, 0.0)


@dataclass(frozen=True)
class TokenizerOptions(_Section):
    """How text becomes tokens."""

    SECTION: ClassVar[str] = "tokenizer"
    kind: str = option(
        "bpe",
        "Byte-level BPE, WordPiece, characters or whole words, trained on data.train; "
        "'file' takes `file`; with model.source the model's own is used.",
        choices=("bpe", "wordpiece", "character", "word", "file"),
    )
    file: str = option("", "A tokenizer.json to use when kind is 'file'.")
    vocabulary_size: int = option(
        8192, "Entries of the vocabulary, special tokens included.", minimum=16, maximum=1_000_000
    )
    lowercase: bool = option(False, "Fold case before tokenizing (WordPiece and words).")
    minimum_count: int = option(2, "Rarer pieces or words do not enter the vocabulary.", minimum=1)


@dataclass(frozen=True)
class DataOptions(_Section):
    """What is learned from."""

    SECTION: ClassVar[str] = "data"
    train: tuple[str, ...] = option((), "Files or directories: text, JSONL, Parquet, TSV, CSV.")
    validation: tuple[str, ...] = option(
        (), "The same for validation; empty holds out a part of train."
    )
    validation_fraction: float = option(
        0.1, "Share of train to hold out when validation is empty.", minimum=0, maximum=0.5
    )
    format: str = option(
        "auto",
        "Format of the files; auto goes by their names.",
        choices=("auto", "text", "lines", "jsonl", "parquet", "tsv", "csv"),
    )
    columns: tuple[str, ...] = option(
        (), "Names of the columns of TSV or CSV files that have no heading line."
    )
    text_field: str = option("text", "Field or column that holds the text.")
    pair_field: str = option(
        "", "Field with the second text (contrastive pairs, targets of sequence-to-sequence)."
    )
    label_field: str = option("label", "Field that holds the label (or the list of tags).")
    labels: tuple[str, ...] = option(
        (), "The labels in order; empty takes those found in train, sorted."
    )
    sequence_length: int = option(256, "Tokens of one sequence.", minimum=2, maximum=1_048_576)
    boundaries: bool = option(
        True, "Attention stays inside a document when several share one sequence."
    )
    cache: str = option("", "Folder of tokenized shards; empty is `shards` beside the run.")
    shard_tokens: int = option(
        50_000_000, "Tokens of one shard.", minimum=1024, maximum=2_000_000_000
    )


@dataclass(frozen=True)
class AugmentationOptions(_Section):
    """Noise on training inputs; never on validation."""

    SECTION: ClassVar[str] = "augmentation"
    token_masking: float = option(
        0.0, "Share of input tokens replaced by the mask token.", minimum=0, maximum=0.9
    )
    token_deletion: float = option(
        0.0, "Share of input tokens deleted (labelled tasks).", minimum=0, maximum=0.9
    )
    word_dropout: float = option(
        0.0, "Share of input words replaced by the unknown token.", minimum=0, maximum=0.9
    )
    span_infilling: float = option(
        0.0, "Share of input tokens in spans that one mask token replaces.", minimum=0, maximum=0.9
    )
    sentence_shuffling: float = option(
        0.0,
        "Chance that the sentences of a text change places (labelled tasks).",
        minimum=0,
        maximum=1,
    )


@dataclass(frozen=True)
class ObjectiveOptions(_Section):
    """What is minimized."""

    SECTION: ClassVar[str] = "objective"
    kind: str = option("next-token", "The task that is learned.", choices=OBJECTIVES)
    label_smoothing: float = option(
        0.0, "Probability spread evenly over all classes.", minimum=0, maximum=0.5
    )
    softmax: str = option(
        "chunked",
        "Output over a vocabulary: chunked (no full matrix of logits), full, or adaptive "
        "(hierarchical; recurrent models).",
        choices=("chunked", "full", "adaptive"),
    )
    cutoffs: tuple[int, ...] = option(
        (),
        "Adaptive softmax: where the clusters begin; empty chooses by vocabulary size.",
        minimum=1,
    )
    chunk_tokens: int = option(
        1024, "Chunked softmax: tokens whose logits exist at one time.", minimum=16
    )
    mask_probability: float = option(
        0.15, "Masked and infilling: share of tokens to predict.", minimum=0.01, maximum=0.9
    )
    mean_span: float = option(3.0, "Infilling: mean length of a span, tokens.", minimum=1)
    temperature: float = option(
        0.05, "Contrastive: divides the cosine similarities.", minimum=1e-4, maximum=10
    )
    negatives: int = option(5, "Negative sampling: negatives of each pair.", minimum=1, maximum=64)
    window: int = option(5, "Negative sampling: words to each side.", minimum=1, maximum=64)
    subsample: float = option(
        1e-3,
        "Negative sampling: threshold above which frequent words are thinned; 0 is off.",
        minimum=0,
    )


@dataclass(frozen=True)
class OptimizerOptions(_Section):
    """How weights move."""

    SECTION: ClassVar[str] = "optimizer"
    name: str = option(
        "adamw", "Optimizer; muon moves matrices, adamw the rest.", choices=("adamw", "muon", "sgd")
    )
    learning_rate: float = option(1e-3, "Peak learning rate.", minimum=1e-9, maximum=100)
    muon_learning_rate: float = option(
        0.02, "Peak learning rate of Muon's matrices.", minimum=1e-9, maximum=100
    )
    beta1: float = option(0.9, "First-moment decay.", minimum=0, maximum=0.9999)
    beta2: float = option(0.99, "Second-moment decay.", minimum=0, maximum=0.99999)
    epsilon: float = option(1e-8, "Added to the denominator.", minimum=1e-16, maximum=1)
    weight_decay: float = option(
        0.1,
        "Decoupled decay of matrices; vectors (norms, biases) have none.",
        minimum=0,
        maximum=10,
    )
    clip_norm: float = option(1.0, "Global gradient norm limit; 0 is off.", minimum=0)
    schedule: str = option(
        "cosine",
        "Learning rate after warm-up: warmup-stable-decay holds, then falls linearly.",
        choices=("constant", "linear", "cosine", "warmup-stable-decay", "inverse-square-root"),
    )
    warmup_steps: int = option(100, "Steps of linear warm-up.", minimum=0)
    decay_fraction: float = option(
        0.2, "Warmup-stable-decay: share of the steps that decay.", minimum=0, maximum=1
    )
    final_fraction: float = option(
        0.1, "Learning rate at the end, as a share of the peak.", minimum=0, maximum=1
    )


@dataclass(frozen=True)
class BatchOptions(_Section):
    """How much one update sees."""

    SECTION: ClassVar[str] = "batch"
    sequences: int = option(16, "Sequences (or examples) of one update, over all ranks.", minimum=1)
    micro_sequences: int = option(
        0,
        "Sequences of one forward pass; gradients of the passes add up. 0 is sequences / ranks.",
        minimum=0,
    )


@dataclass(frozen=True)
class PrecisionOptions(_Section):
    """What numbers are computed in."""

    SECTION: ClassVar[str] = "precision"
    dtype: str = option(
        "float32",
        "Compute type; weights and optimizer stay float32.",
        choices=("float32", "bfloat16"),
    )
    compile: bool = option(False, "Compile the network (needs a C++ compiler on CPUs).")
    activation_checkpointing: bool = option(
        False, "Recompute activations in the backward pass: less memory, about a third more work."
    )


@dataclass(frozen=True)
class DistributionOptions(_Section):
    """How ranks share the work."""

    SECTION: ClassVar[str] = "distribution"
    strategy: str = option(
        "auto",
        "ddp copies the weights to every rank, fsdp shards them; auto is ddp.",
        choices=("auto", "ddp", "fsdp"),
    )
    failure_seconds: float = option(
        15.0, "A rank silent for so long counts as dead and stops the run.", minimum=2, maximum=300
    )


@dataclass(frozen=True)
class CheckpointOptions(_Section):
    """What is kept to resume from."""

    SECTION: ClassVar[str] = "checkpoint"
    every_steps: int = option(500, "Steps between checkpoints; 0 keeps only the last.", minimum=0)
    keep_last: int = option(2, "Newest checkpoints kept.", minimum=1)
    keep_best: bool = option(True, "Also keep the one with the best validation figure.")
    asynchronous: bool = option(True, "Write while training goes on.")


@dataclass(frozen=True)
class EvaluationOptions(_Section):
    """When and how validation is done."""

    SECTION: ClassVar[str] = "evaluation"
    every_steps: int = option(
        250, "Steps between validations; 0 validates only at the end.", minimum=0
    )
    sequences: int = option(0, "Validation sequences each time; 0 is all of them.", minimum=0)
    patience: int = option(
        0, "Stop after so many validations without a better loss; 0 never stops early.", minimum=0
    )
    samples: int = option(
        2, "Texts to sample for the report (language models).", minimum=0, maximum=64
    )
    sample_tokens: int = option(200, "Tokens of a sample.", minimum=1, maximum=4096)


@dataclass(frozen=True)
class PartsOptions(_Section):
    """What finetuning does with the three parts of a network."""

    SECTION: ClassVar[str] = "parts"
    freeze: tuple[str, ...] = option((), "Parts whose weights stay as they are.", choices=PARTS)
    replace: tuple[str, ...] = option((), "Parts that start from new weights.", choices=PARTS)
    add_task_layers: int = option(0, "Dense layers to add to the task layer.", minimum=0, maximum=8)
    freeze_layers: int = option(
        0, "Lowest transformer layers (and the embeddings) to freeze.", minimum=0, maximum=256
    )
    adapter: str = option(
        "none",
        "Train few weights beside frozen ones: low-rank matrices (lora), or biases (bitfit).",
        choices=("none", "lora", "bitfit"),
    )
    lora_rank: int = option(8, "Rank of LoRA's matrices.", minimum=1, maximum=1024)
    lora_alpha: float = option(16.0, "LoRA's scale, over its rank.", minimum=0)
    label_texts: tuple[str, ...] = option(
        (), "Public texts of each label, 'label=text', whose vectors the output layer starts from."
    )
    label_scale: float = option(
        4.0, "Logit that a label's own texts get at the start.", minimum=0.01, maximum=100
    )


@dataclass(frozen=True)
class PrivacyOptions(_Section):
    """Differential privacy: what the model may reveal of one record or one user at most."""

    SECTION: ClassVar[str] = "privacy"
    enabled: bool = option(False, "Train privately; every update is noised and accounted for.")
    epsilon: float = option(
        8.0, "What may be claimed at most, with all earlier releases.", minimum=0.01, maximum=1000
    )
    delta: float = option(
        0.0, "Chance that the claim does not hold; 0 is half of 1/units.", minimum=0, maximum=0.1
    )
    unit: str = option("record", "Whom the claim protects.", choices=("record", "user"))
    user_field: str = option("", "Field or column that names the user of a record.")
    contributions: int = option(
        1, "Records of one user that may be used; the rest is left out.", minimum=1
    )
    max_epochs: float = option(
        0.0, "Expected passes over the data; 0 takes run.steps as it is.", minimum=0
    )
    noise_multiplier: float = option(
        0.0, "Noise over clip; 0 solves for epsilon.", minimum=0, maximum=1000
    )
    clipping: str = option(
        "flat",
        "How a record's gradient is bounded: as a whole, by layer, or normalized (automatic).",
        choices=("flat", "per-layer", "automatic"),
    )
    clip_norm: float = option(0.1, "Largest norm of a record's gradient.", minimum=1e-6)
    truncation: float = option(
        1.2,
        "A batch is cut to so many times its expected size, or to six standard deviations "
        "above it where that is more.",
        minimum=1.0,
        maximum=10,
    )
    noise: str = option(
        "gaussian",
        "Continuous noise in float32, or discrete noise where exactness matters.",
        choices=("gaussian", "discrete"),
    )
    ledger: str = option(
        "", "Ledger of releases; empty is privacy-ledger.jsonl in the run's folder."
    )
    dataset: str = option("", "Name that the ledger counts this data under; empty is the recipe's.")
    canaries: int = option(
        0, "Records planted by secret coins, to audit the claim with.", minimum=0, maximum=100_000
    )
    tuning_runs: int = option(
        0, "Earlier runs on this data that chose the recipe and are in no ledger.", minimum=0
    )

    @property
    def users_by(self) -> str:
        """The field that tells users apart; "" where the unit is a record."""
        return self.user_field if self.unit == "user" else ""


@dataclass(frozen=True)
class ReportOptions(_Section):
    """What is written for people."""

    SECTION: ClassVar[str] = "report"
    tensorboard: bool = option(True, "Write TensorBoard event files.")
    html: bool = option(True, "Write report.html at the end.")
    log_every_steps: int = option(10, "Steps between logged figures.", minimum=1)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run.

    Raises:
        RecipeError: sections that do not fit one another.
    """

    run: RunOptions = field(default_factory=RunOptions)
    model: ModelOptions = field(default_factory=ModelOptions)
    parts: PartsOptions = field(default_factory=PartsOptions)
    tokenizer: TokenizerOptions = field(default_factory=TokenizerOptions)
    data: DataOptions = field(default_factory=DataOptions)
    augmentation: AugmentationOptions = field(default_factory=AugmentationOptions)
    objective: ObjectiveOptions = field(default_factory=ObjectiveOptions)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    batch: BatchOptions = field(default_factory=BatchOptions)
    precision: PrecisionOptions = field(default_factory=PrecisionOptions)
    distribution: DistributionOptions = field(default_factory=DistributionOptions)
    checkpoint: CheckpointOptions = field(default_factory=CheckpointOptions)
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    privacy: PrivacyOptions = field(default_factory=PrivacyOptions)
    report: ReportOptions = field(default_factory=ReportOptions)

    def __post_init__(self) -> None:
        fitting = FITTING[self.model.family]
        if self.objective.kind not in fitting:
            raise RecipeError(
                f"a network of the family {self.model.family!r} cannot learn "
                f"{self.objective.kind!r}; it learns {', '.join(fitting)}"
            )
        if self.objective.softmax == "adaptive" and self.model.family != "recurrent":
            raise RecipeError(
                "objective.softmax is 'adaptive', which only recurrent models have; use 'chunked'"
            )
        if self.optimizer.warmup_steps > self.run.steps:
            raise RecipeError(
                f"optimizer.warmup_steps is {self.optimizer.warmup_steps}, more than "
                f"run.steps ({self.run.steps}): the peak learning rate would never be reached; "
                f"take a tenth of the steps, optimizer.warmup_steps={self.run.steps // 10}"
            )
        if self.batch.micro_sequences and self.batch.sequences % self.batch.micro_sequences:
            raise RecipeError(
                f"batch.sequences ({self.batch.sequences}) is no multiple of "
                f"batch.micro_sequences ({self.batch.micro_sequences})"
            )
