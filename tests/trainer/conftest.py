"""Tests of the trainer run one thread each: two workers share two cores."""

from __future__ import annotations

import os

# Before torch starts its pools; children (ranks) inherit them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# A test that reached for a hub would fail on a closed network; it must not even try.
os.environ["HF_HUB_OFFLINE"] = "1"
