"""The special tokens of a vocabulary, by the family of the network that uses it.

| family | tokens |
| --- | --- |
| decoder | `<|endoftext|>` both begins and ends; characters and words add `<unk>` |
| recurrent, word-embeddings | the same |
| encoder, convolution | `[PAD] [UNK] [CLS] [SEP] [MASK]`, with `[CLS]` first and `[SEP]` last |
| seq2seq | `<pad> </s> <unk>` and 100 sentinels `<extra_id_0>` to `<extra_id_99>` |
"""

from __future__ import annotations

from dataclasses import dataclass

SENTINELS = 100
END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<unk>"


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Ids of the special tokens of a vocabulary; None where it has none.

    Attributes:
        begin: first token of a text; the same as `end` where one token does both.
        end: last token of a text.
        separator: stands between two texts.
        sentinels: mark infilled spans, in order of use.
    """

    pad: int | None = None
    unknown: int | None = None
    begin: int | None = None
    end: int | None = None
    mask: int | None = None
    separator: int | None = None
    sentinels: tuple[int, ...] = ()

    @property
    def padding(self) -> int:
        """Return the id to fill rows with: pad, else end, else 0; it is never attended to."""
        for token in (self.pad, self.end):
            if token is not None:
                return token
        return 0

    def all(self) -> frozenset[int]:
        """Return every special id, for those who must not mask or count them."""
        single = (self.pad, self.unknown, self.begin, self.end, self.mask, self.separator)
        return frozenset(token for token in single if token is not None) | set(self.sentinels)


@dataclass(frozen=True, slots=True)
class SpecialNames:
    """How a family writes its special tokens; the names of transformers' settings.

    Attributes:
        names: setting (`eos_token`, ...) to token.
        additional: further ones, in order of id.
        ordered: each token once, in order of id.
    """

    names: dict[str, str]
    additional: tuple[str, ...] = ()

    @property
    def ordered(self) -> list[str]:
        """Return each token once, in the order in which ids are given."""
        return list(dict.fromkeys([*self.names.values(), *self.additional]))


def special_names(family: str, kind: str) -> SpecialNames:
    """Return the special tokens of a new vocabulary.

    Args:
        family: as in `model.family`.
        kind: as in `tokenizer.kind`.
    """
    if family in ("encoder", "convolution"):
        return SpecialNames(
            {
                "pad_token": "[PAD]",
                "unk_token": "[UNK]",
                "cls_token": "[CLS]",
                "sep_token": "[SEP]",
                "mask_token": "[MASK]",
            }
        )
    if family == "seq2seq":
        return SpecialNames(
            {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": UNKNOWN},
            tuple(f"<extra_id_{number}>" for number in range(SENTINELS)),
        )
    names = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}
    if kind != "bpe":
        # Bytes can spell anything; the other vocabularies cannot.
        names["unk_token"] = UNKNOWN
    return SpecialNames(names)
