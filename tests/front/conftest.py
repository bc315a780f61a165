"""Appliances that the tests of the front share."""

from __future__ import annotations

import os

import pytest_asyncio

from runtime.front.tls import restrict_tls

# Before the first test of this process uses gRPC, as `casemate serve` does.
restrict_tls()

from tests.support.appliance import started  # noqa: E402

POLICY = """
version = 1
[roles.device]
methods = ["*"]
models = ["tiny-*"]
requests_per_minute = 100000
tokens_per_minute = 10000000
max_tokens = 64
max_concurrent = 64
logprobs = true
[roles.operator]
methods = ["*"]
models = ["*"]
requests_per_minute = 100000
tokens_per_minute = 10000000
max_concurrent = 64
[roles.narrow]
methods = ["casemate.v1.TextService/Generate", "casemate.v1.ModelService/ListModels"]
models = ["tiny-generate"]
[roles.slow]
methods = ["*"]
models = ["*"]
requests_per_minute = 3
[roles.thrifty]
methods = ["*"]
models = ["*"]
tokens_per_minute = 60
[roles.single]
methods = ["*"]
models = ["*"]
max_concurrent = 1

[[rules]]
name = "card"
patterns = ['[0-9]{4}(?:[ -]?[0-9]{4}){3}']
action = "redact"
direction = "both"
replacement = "[card]"

[[rules]]
name = "forbidden"
literals = ["forbidden question"]
action = "block"
direction = "in"

[[rules]]
name = "leak"
literals = ["launch code"]
action = "block"
direction = "out"

[[rules]]
name = "note"
literals = ["weather"]
action = "flag"
direction = "in"
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front(tmp_path_factory):
    """One appliance with a tiny bundle of each task, shared by a module's tests."""
    folder = tmp_path_factory.mktemp(f"front-{os.getpid()}") / "domain"
    tasks = ("generate", "embed", "classify", "tensor")
    async with started(
        folder, tasks=tasks, policy=POLICY, max_inputs=4, max_prompt_bytes=1000
    ) as r:
        yield r
