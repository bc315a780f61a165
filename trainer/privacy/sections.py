"""The sections of a privacy report, as plain frozen values (docs/formats/privacy.md).

Nothing here computes or checks: `record` reads and writes, `making` fills them in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from security.bundle.claim import AuditEvidence


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """The model that the report is about.

    Attributes:
        name: of the recipe.
        weights_sha256: digest of its weights, as `parent` of training.json gives it.
        training_sha256: digest of its training.json.
    """

    name: str
    weights_sha256: str
    training_sha256: str


@dataclass(frozen=True, slots=True)
class Claim:
    """See `security.bundle.claim.PrivacyClaim`, which adds the audit."""

    epsilon: float
    delta: float
    unit: str
    contributions: int
    neighbours: str
    sampling: str
    user_field: str | None = None


@dataclass(frozen=True, slots=True)
class Mechanism:
    """What was done to the gradients.

    Attributes:
        units: N, records or users.
        expected_batch: E[B], units.
        sampling_probability: q.
        cap: most units in a batch; None without a limit.
        steps: T, updates.
        noise_multiplier: sigma, over `sensitivity`.
        noise: "gaussian" or "discrete".
        clipping: "flat", "per-layer" or "automatic".
        clip_norm: most that a record adds to the sum.
        sensitivity: most that a unit adds to the sum.
        noise_to_batch_ratio: sigma / E[B].
        optimizer: what moves the weights; it sees noised sums only.
        trained: which weights moved, such as "lora" or "all".
        trained_parameters: how many.
    """

    units: int
    expected_batch: int
    sampling_probability: float
    cap: int | None
    steps: int
    noise_multiplier: float
    noise: str
    clipping: str
    clip_norm: float
    sensitivity: float
    noise_to_batch_ratio: float
    optimizer: str
    trained: str
    trained_parameters: int


@dataclass(frozen=True, slots=True)
class Curve:
    """Epsilon for several deltas by each accountant; null where one gives no figure."""

    deltas: tuple[float, ...]
    pld: tuple[float | None, ...]
    rdp: tuple[float | None, ...]
    prv: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Accounting:
    """How epsilon was worked out.

    Attributes:
        accountant: the one that the claim is of: "pld".
        epsilon_rdp: at the claim's delta, beside it.
        epsilon_prv: the same.
        epsilon_unamplified: without amplification by sampling: what could be claimed if
            the draws were known; None if not worked out.
        curve: over deltas.
        packages: versions of the accountants.
    """

    accountant: str
    epsilon_rdp: float | None
    epsilon_prv: float | None
    epsilon_unamplified: float | None
    curve: Curve
    packages: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Release:
    """An earlier release of the same data, as the ledger holds it."""

    units: int
    sampling_probability: float
    noise_multiplier: float
    steps: int
    cap: int | None
    sampler: str


@dataclass(frozen=True, slots=True)
class Budget:
    """What the data's owner allows in all."""

    epsilon: float
    delta: float


@dataclass(frozen=True, slots=True)
class Composition:
    """What the claim adds up.

    Attributes:
        dataset: the name that the ledger counts under.
        epsilon_of_this_run: alone, at the claim's delta.
        tuning_runs: runs like this one that chose its recipe and are counted.
        earlier: other releases that are counted.
        budget: None where the owner set none.
        ledger_head: digest of the ledger's last line; None without a ledger.
    """

    dataset: str
    epsilon_of_this_run: float
    tuning_runs: int
    earlier: tuple[Release, ...]
    budget: Budget | None
    ledger_head: str | None


@dataclass(frozen=True, slots=True)
class Randomness:
    """Where the coins and the noise came from, and in which arithmetic."""

    source: str
    arithmetic: str
    guarantee: str


@dataclass(frozen=True, slots=True)
class Exposure:
    """How far planted records give themselves away, in bits (Carlini et al. 2019)."""

    mean_bits: float
    mean_interval: tuple[float, ...]
    max_bits: float
    max_at_least: float
    unseen_mean_bits: float
    limit_bits: float
    candidates: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Membership:
    """How well members are told from others by their loss; rates at about 1% false alarms."""

    auc: float
    auc_interval: tuple[float, ...]
    tpr_at_1_percent_fpr: float
    tpr_interval: tuple[float, ...]
    fpr: float
    fpr_interval: tuple[float, ...]
    members: int
    nonmembers: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """What attacks on this very model found.

    Attributes:
        canaries_sha256: digest of canaries.json, fixed before training; None without.
        audit: the proven lower bound; None if none was made.
        exposure: of the canaries.
        canary_membership: canaries that were planted against those that were not.
        membership: of real records against others; None if none were given.
        calibrated: whether another model's scores were taken off.
    """

    canaries_sha256: str | None = None
    audit: AuditEvidence | None = None
    exposure: Exposure | None = None
    canary_membership: Membership | None = None
    membership: Membership | None = None
    calibrated: bool = False


@dataclass(frozen=True, slots=True)
class GroupUtility:
    """One part of the data that utility was measured on; fields as in `Utility`."""

    name: str
    examples: int
    private: float
    private_interval: tuple[float, ...]
    twin: float
    twin_interval: tuple[float, ...]
    cost_interval: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Utility:
    """What privacy cost; intervals are [low, high].

    Attributes:
        metric: its name: "accuracy", or "loss" in nats for a target.
        higher_is_better: how to read it.
        examples: that both models were measured on.
        confidence: of every interval.
        private: of this model.
        private_interval: of that figure.
        twin: of the model that the same recipe gives without privacy.
        twin_interval: of that figure.
        cost_interval: of how much better the twin is, on the same examples.
        chance: of a model that learned nothing; None if not known.
        kept: share of the twin's gain over `chance` that this model has; None without one.
        kept_interval: of that share; empty without one.
        groups: the same by part of the data.
    """

    metric: str
    higher_is_better: bool
    examples: int
    confidence: float
    private: float
    private_interval: tuple[float, ...]
    twin: float
    twin_interval: tuple[float, ...]
    cost_interval: tuple[float, ...]
    chance: float | None
    kept: float | None
    kept_interval: tuple[float, ...]
    groups: tuple[GroupUtility, ...]


@dataclass(frozen=True, slots=True)
class Hazard:
    """A known way to get privacy wrong, and how it stands with this model."""

    name: str
    answer: str
