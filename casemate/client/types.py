"""What calls return. Log-probabilities are natural logarithms throughout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from casemate.client.tensors import Tensor


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; role is "system", "user" or "assistant"."""

    role: str
    content: str = field(repr=False)


Conversation: TypeAlias = Sequence[Message | Mapping[str, str] | tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that could have stood in a position."""

    token: bytes = field(repr=False)
    logprob: float


@dataclass(frozen=True, slots=True)
class Token:
    """A token (its bytes may be a part of a character) and how likely it was."""

    token: bytes = field(repr=False)
    logprob: float
    alternatives: tuple[Alternative, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens in, tokens out, and how many of those in were in the cache."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class Answered:
    """What every answer says about itself.

    Attributes:
        model, version, bundle_digest: what answered.
        request_id: names the call in the audit log.
        receipt: the receipt's bytes, or None when the appliance sent none.
    """

    model: str
    version: str
    bundle_digest: str
    request_id: str
    receipt: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a generated text, as it arrives."""

    text: str = field(repr=False)
    tokens: tuple[Token, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole generated text. finish_reason is "end", "stop", "length" or "filtered"."""

    answered: Answered
    text: str = field(repr=False)
    finish_reason: str
    usage: Usage
    tokens: tuple[Token, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class TextScore:
    """A text's log-probability: the sum, and each token's."""

    logprob: float
    tokens: tuple[Token, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Scores:
    """One score per text, in order."""

    answered: Answered
    scores: tuple[TextScore, ...]
    usage: Usage


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One vector per input, in order."""

    answered: Answered
    vectors: tuple[tuple[float, ...], ...] = field(repr=False)
    usage: Usage


@dataclass(frozen=True, slots=True)
class Label:
    """A label and its probability."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Classifications:
    """Per input its labels, most likely first."""

    answered: Answered
    labels: tuple[tuple[Label, ...], ...]
    usage: Usage


@dataclass(frozen=True, slots=True)
class Inference:
    """The outputs of an Open Inference Protocol call."""

    answered: Answered
    outputs: tuple[Tensor, ...] = field(repr=False)

    def output(self, name: str) -> Tensor:
        """Return an output by name; KeyError when the model gave none of that name."""
        for tensor in self.outputs:
            if tensor.name == name:
                return tensor
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class PrivacyInfo:
    """What a version's signed bundle says of the privacy of its training data.

    Attributes:
        epsilon: over the training run and all earlier releases on the same data.
        delta: the probability that epsilon does not bound.
        unit: whom it protects: "record" or "user".
        contributions: records of one user that were used at most.
        audited: whether an audit found nothing against it.
        audited_epsilon: the epsilon that the audit showed at least; 0 without one.
        audit_ceiling: the most that the audit could have shown; one at or below `epsilon`
            could not have contradicted the claim. 0 without one.
        user_field: of the data, by which users were told apart; "" where the unit is a record.
    """

    epsilon: float
    delta: float
    unit: str
    contributions: int
    audited: bool
    audited_epsilon: float
    audit_ceiling: float
    user_field: str


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """One version of a model; state is "live", "previous", "staged", ...

    `privacy` is None where the bundle makes no claim, or is not loaded. `variant` is the
    id of the one that the appliance chose by its processor, or "" while none is loaded.
    """

    version: str
    state: str
    bundle_digest: str
    security_epoch: int
    since_ms: int
    reason: str
    ready: bool
    privacy: PrivacyInfo | None = None
    variant: str = ""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model and its versions, newest state change first."""

    name: str
    task: str
    versions: tuple[VersionInfo, ...]

    @property
    def live(self) -> VersionInfo | None:
        """The version that answers."""
        return next((version for version in self.versions if version.state == "live"), None)


@dataclass(frozen=True, slots=True)
class ModelDetails:
    """A model with the signed manifest of the version asked about."""

    model: ModelInfo
    manifest_json: bytes
    context_tokens: int
    max_sequences: int


@dataclass(frozen=True, slots=True)
class Operation:
    """What an operator's call changed."""

    model: str
    version: VersionInfo
    probes_passed: int


@dataclass(frozen=True, slots=True)
class InclusionAnswer:
    """An inclusion proof and the checkpoint it is for; check it before believing it."""

    index: int
    tree_size: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes


@dataclass(frozen=True, slots=True)
class ConsistencyAnswer:
    """A consistency proof between two sizes; check it before believing it."""

    old_size: int
    new_size: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes


@dataclass(frozen=True, slots=True)
class CheckedLog:
    """What a consistency check found: the log grew from held_size to size, nothing else."""

    origin: str
    size: int
    held_size: int
