from __future__ import annotations

import numpy as np
import torch

from trainer.data.batch import IGNORED
from trainer.data.collation import attention, pad, shift_right, width


def rows(*lengths: int) -> list[np.ndarray]:
    return [np.arange(1, length + 1) for length in lengths]


def test_widths_are_multiples_of_eight_within_the_limit() -> None:
    assert width(rows(3, 9), 64) == 16
    assert width(rows(16), 64) == 16
    assert width(rows(9), 12) == 12
    # The limit never cuts a row.
    assert width(rows(13), 0) == 13


def test_padding_is_on_the_right_and_not_attended_to() -> None:
    padded = pad(rows(2, 3), 7, 5)
    assert padded.tolist() == [[1, 2, 7, 7, 7], [1, 2, 3, 7, 7]]
    assert attention(rows(2, 3), 5).tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]
    assert padded.dtype == torch.int64


def test_decoder_inputs_are_targets_one_position_on() -> None:
    labels = torch.tensor([[5, 6, 1], [5, 1, IGNORED]])
    assert shift_right(labels, 0, IGNORED).tolist() == [[0, 5, 6], [0, 5, 1]]
