"""What a private run may not be, each by its name and with what helps.

The claim holds if what a record adds to the sum of gradients depends on that record
alone, and if nothing else of the data reaches the model. So these are refused:

    before the data is read (`check_recipe`)
        losses that compare records with one another (contrastive, negative sampling)
        losses that go past the layers' hooks (chunked and adaptive softmax, compiled code)
        a tokenizer, labels or a hold-out that the private data itself decides
    with network and data at hand (`check_private`)
        trained weights that two layers share
        batch statistics, and experts that records of a batch compete for
        sequences of several records

What does not break the claim but lies outside it comes back as warnings.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from trainer.privacy.errors import PrivacyError
from trainer.recipe.schema import TEXT_OBJECTIVES, Recipe

if TYPE_CHECKING:
    from torch import nn

    from trainer.data.assemble import DataBundle
    from trainer.models.network import Network
    from trainer.privacy.plan import PrivacyPlan

_WITH_LABELS = ("classification", "tagging")
_OVER_A_VOCABULARY = ("next-token", "masked", "infilling", "sequence-to-sequence")
# Below this, what is learned drowns in noise, whatever the epsilon.
_SMALL_BATCH = 64
# Claims above this hardly promise anything.
_WEAK_EPSILON = 10
# With more users than this share of the records, the field may tell rows apart, not people.
_ALL_USERS = 0.9
# What holds for every private run, and is told each time.
LOGS_NOTE = (
    "the logged training loss, label counts and running times come from the data without "
    "noise: the claim is for the model, so keep the logs where the data is kept"
)
# Names of transformers' layers in which tokens of a batch share experts.
_EXPERT_NAMES = ("experts", "sparsemoeblock", "top2router", "topkrouter")


def check_recipe(recipe: Recipe) -> list[str]:
    """Check what the recipe alone shows.

    Returns:
        Warnings: what the claim does not cover.

    Raises:
        PrivacyError: naming what cannot be accounted for, and what helps.
    """
    _check_objective(recipe)
    _check_public(recipe)
    privacy = recipe.privacy
    if privacy.unit == "user" and not privacy.user_field:
        raise PrivacyError(
            "privacy.unit is 'user': name the field that tells users apart in privacy.user_field"
        )
    if privacy.unit == "record" and privacy.contributions != 1:
        raise PrivacyError(
            "privacy.contributions bounds the records of a user; with privacy.unit = 'record' "
            "it is 1"
        )
    if recipe.precision.compile:
        raise PrivacyError(
            "precision.compile does not go with per-example gradients, which hooks compute; set "
            "it to false"
        )
    if recipe.precision.activation_checkpointing:
        raise PrivacyError(
            "precision.activation_checkpointing saves nothing where per-example gradients keep "
            "every layer's input; set it to false, and take smaller micro-batches instead"
        )
    return _recipe_warnings(recipe)


def check_private(recipe: Recipe, network: Network, data: DataBundle) -> list[str]:
    """Check network and data; `check_recipe` goes first.

    Args:
        recipe: of the run.
        network: ready to be trained: parts frozen, adapters in place.
        data: what it is trained on.

    Returns:
        Warnings: what the claim does not cover.

    Raises:
        PrivacyError: naming what cannot be accounted for, and what helps.
    """
    check_network(network)
    _check_rows(data)
    if recipe.objective.kind in _WITH_LABELS and data.labels != recipe.data.labels:
        raise PrivacyError("the labels are not those of data.labels, but taken from the data")
    return data_warnings(recipe, data)


def check_network(network: nn.Module) -> None:
    """Check what a network alone shows; weights without memory (on "meta") will do.

    Raises:
        PrivacyError: trained weights that two layers share, or layers that mix records.
    """
    _check_ties(network)
    _check_modules(network)


def plan_warnings(recipe: Recipe, plan: PrivacyPlan) -> list[str]:
    """Return what is allowed and rarely meant, as the plan shows it."""
    warnings = []
    if plan.epsilon > _WEAK_EPSILON:
        warnings.append(
            f"epsilon {plan.epsilon:.3g} is a weak promise; claims that are taken seriously are "
            f"at most about {_WEAK_EPSILON}"
        )
    if recipe.optimizer.warmup_steps > plan.steps // 2:
        warnings.append(
            f"optimizer.warmup_steps is {recipe.optimizer.warmup_steps:,} of {plan.steps:,} "
            f"updates; a tenth is usual: optimizer.warmup_steps={plan.steps // 10}"
        )
    return warnings


# -- the recipe --------------------------------------------------------------------


def _check_objective(recipe: Recipe) -> None:
    kind = recipe.objective.kind
    if kind == "contrastive":
        raise PrivacyError(
            "objective.kind 'contrastive' compares each record with the others of its batch "
            "(in-batch negatives): no record has a gradient of its own to bound. Learn "
            "classification instead"
        )
    if kind == "negative-sampling":
        raise PrivacyError(
            "word embeddings (objective.kind 'negative-sampling') have no private training here"
        )
    if kind in _OVER_A_VOCABULARY and recipe.objective.softmax != "full":
        raise PrivacyError(
            f"objective.softmax {recipe.objective.softmax!r} computes the loss without the output "
            "layer's hooks, so that per-example gradients would miss it; set objective.softmax "
            "to 'full'"
        )


def _check_public(recipe: Recipe) -> None:
    """Refuse what would be made from the private data without noise."""
    if not recipe.model.source and recipe.tokenizer.kind != "file":
        raise PrivacyError(
            f"tokenizer.kind {recipe.tokenizer.kind!r} makes the vocabulary from the private data: "
            "it would show words of it, outside of any budget. Use a public one (tokenizer.kind "
            "= 'file' and tokenizer.file), or finetune a model (model.source)"
        )
    if recipe.objective.kind in _WITH_LABELS and not recipe.data.labels:
        raise PrivacyError(
            "the labels would be taken from the private data: write them down in data.labels"
        )
    labelled = recipe.objective.kind not in TEXT_OBJECTIVES
    if labelled and not recipe.data.validation and recipe.data.validation_fraction > 0:
        raise PrivacyError(
            "data.validation_fraction holds examples out by their rank among all others, so that "
            "one record decides where another goes; name a file in data.validation, or set "
            "data.validation_fraction to 0"
        )


def _recipe_warnings(recipe: Recipe) -> list[str]:
    warnings = []
    chosen = []
    if recipe.evaluation.patience:
        chosen.append("evaluation.patience stops the run")
    if recipe.checkpoint.keep_best:
        chosen.append("checkpoint.keep_best chooses the checkpoint")
    held_out = recipe.data.validation or recipe.data.validation_fraction > 0
    if chosen and held_out:
        warnings.append(
            f"{' and '.join(chosen)} by validation data, which the claim does not cover: use "
            "public validation data, or switch it off (evaluation.patience=0, "
            "checkpoint.keep_best=false)"
        )
    if recipe.batch.sequences < _SMALL_BATCH:
        warnings.append(
            f"batch.sequences is {recipe.batch.sequences}: private training wants large batches "
            "(1,000 and up, or a tenth of the data), since noise is divided by them"
        )
    if recipe.optimizer.weight_decay > 0:
        warnings.append(
            f"optimizer.weight_decay is {recipe.optimizer.weight_decay:g}; private finetuning "
            "does best with 0"
        )
    return warnings


# -- network and data --------------------------------------------------------------


def _check_ties(network: nn.Module) -> None:
    owners: dict[int, list[str]] = {}
    for module_name, module in network.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                owners.setdefault(id(parameter), []).append(f"{module_name}.{name}")
    if not owners:
        raise PrivacyError("no weight is trained: parts.freeze leaves nothing to learn with")
    # One module under two names is found once by named_modules, and is no tie.
    for names in owners.values():
        if len(names) > 1:
            raise PrivacyError(
                f"{names[0]} and {names[1]} are one matrix (a tie): its gradient comes from two "
                "layers, and bounds on each do not bound both. Untie it by parts.replace = "
                "output (and model.tie_embeddings = false in a new network), or train adapters "
                "and leave it frozen (parts.adapter = lora)"
            )


def _check_modules(network: nn.Module) -> None:
    from torch.nn.modules.batchnorm import _BatchNorm

    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm):
            raise PrivacyError(
                f"{name} is batch normalization: each record's output depends on all records of "
                "its batch (batch statistics). Take a network with layer normalization"
            )
        kind = type(module).__name__
        if kind.lower().endswith(_EXPERT_NAMES):
            raise PrivacyError(
                f"{name} ({kind}) shares experts among the records of a batch, so that one "
                "record's gradient depends on others; take a network without experts"
            )
        if kind == "AdaptiveOutput":
            raise PrivacyError(
                f"{name} is an adaptive softmax, which groups the tokens of a batch by cluster; "
                "take a network with an ordinary output layer"
            )


def _check_rows(data: DataBundle) -> None:
    from trainer.data.text_dataset import WindowedText

    packed = isinstance(data.train, WindowedText) or "document_ids" in data.train.item(0, 0)
    if packed:
        raise PrivacyError(
            "the training sequences hold parts of several records (packed windows): no row is "
            "one record. Private runs read text record by record; build the data with "
            "privacy.enabled"
        )


def data_warnings(recipe: Recipe, data: DataBundle) -> list[str]:
    """Return what the data shows that a claim does not make good: copies, odd users."""
    report = data.report or {}
    train = report.get("train")
    repeated = train.get("repeated", 0) if isinstance(train, dict) else 0
    warnings = []
    if repeated:
        warnings.append(
            f"{repeated:,} training texts are copies of another: each copy counts as a record of "
            "its own, so what several records say is protected less than the claim for one"
        )
    if data.groups is not None:
        if len(data.groups) > _ALL_USERS * len(data.train):
            warnings.append(
                f"each user has about one record ({len(data.groups):,} users by "
                f"{recipe.privacy.user_field!r}, {len(data.train):,} records): is this the field "
                "of a person? By any other field the claim protects no person's records together"
            )
        used = sum(group.size for group in data.groups)
        spare = len(data.train) - used
        sizes = Counter(group.size for group in data.groups)
        if spare:
            warnings.append(
                f"{spare:,} records are not used: {sizes[max(sizes)]:,} users have as many as "
                "privacy.contributions allows, or more"
            )
    return warnings
