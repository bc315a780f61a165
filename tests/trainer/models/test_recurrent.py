from __future__ import annotations

import pytest
import torch

from tests.trainer.models.networks import VOCABULARY, make

DOCUMENTS = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 2, 2, 3], [0] * 10, [5] * 1 + [6] * 9])


@pytest.mark.parametrize("kind", ["lstm", "gru-untied", "lstm-adaptive"])
def test_a_recurrent_network_starts_every_document_from_zero(kind):
    network = make(kind)
    ids = torch.randint(5, VOCABULARY, (3, 10), generator=torch.Generator().manual_seed(3))
    packed = network.hidden({"input_ids": ids, "document_ids": DOCUMENTS})
    for row, documents in enumerate(DOCUMENTS):
        for document in documents.unique():
            own = documents == document
            alone = network.hidden({"input_ids": ids[row, own][None]})
            assert torch.allclose(packed[row, own], alone[0], atol=1e-6)
    packed.sum().backward()
    assert all(p.grad is not None for layer in network.blocks() for p in layer.parameters())


def test_one_document_for_each_row_is_what_there_is_without_documents():
    network = make("lstm")
    ids = torch.randint(5, VOCABULARY, (3, 10), generator=torch.Generator().manual_seed(3))
    packed = network.hidden({"input_ids": ids, "document_ids": torch.zeros_like(ids)})
    assert torch.allclose(packed, network.hidden({"input_ids": ids}), atol=1e-6)
