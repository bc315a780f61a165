from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers, processors

from trainer.data.pieces import PairFrame


def test_the_types_of_a_pair_are_those_that_the_tokenizer_gives() -> None:
    vocabulary = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3, "b": 4}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["[CLS]", "[SEP]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    frame = PairFrame.of(tokenizer, 2)
    expected = tokenizer.encode("a b a", "b a")
    assert frame.types_around(3, 2).tolist() == expected.type_ids == [0] * 5 + [1] * 3
