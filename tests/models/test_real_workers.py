"""The catalog with real, sandboxed workers: a stream outlives two updates of its model."""

from __future__ import annotations

import asyncio
from pathlib import Path

from casemate.pb.casemate.v1 import text_pb2
from casemate.pb.casemate.worker.v1 import worker_pb2
from runtime.models.catalog import ModelCatalog
from runtime.models.hosting import worker_hosts
from runtime.probes.record import record
from runtime.store import Store
from runtime.worker.settings import WorkerConfig
from tests.models.memory_host import until
from tests.support.bundles import signed_bundle, signing_keys, tiny_bundle
from tests.support.tiny_models import tiny_gguf

NAME = "tiny-generate"
CONFIG = WorkerConfig(threads=1, max_sequences=4)
TOKENS = 200


async def test_a_request_in_flight_finishes_where_it_began(tmp_path: Path) -> None:
    sample = tiny_bundle(tmp_path / "sample", "generate").path
    await asyncio.to_thread(record, sample, CONFIG)
    probes, keys = (sample / "probes.jsonl").read_bytes(), signing_keys()
    source = tiny_gguf(tmp_path / "model.gguf")
    events: list[tuple[str, str]] = []
    with Store.open(tmp_path / "store") as store:
        bundles = [
            signed_bundle(
                store.incoming, source, "generate", probes=probes, keys=keys, version=version
            )
            for version in ("1.0.0", "1.1.0", "1.2.0")
        ]
        hosts = worker_hosts(CONFIG, lambda name, event: events.append((name, event)))
        catalog = ModelCatalog(store, bundles[0].trust, hosts)
        await catalog.start()
        try:
            await catalog.install(bundles[0].path.name)
            with catalog.lease(NAME) as served:
                first = served.host
                work = worker_pb2.Submit(tenant=b"t")
                work.generate.prompt, work.generate.max_tokens = "the", TOKENS
                work.generate.sampling.CopyFrom(text_pb2.Sampling(temperature=1.0, seed=1))
                stream = aiter(first.submit(work))
                await anext(stream)
                for bundle in bundles[1:]:
                    await catalog.install(bundle.path.name)
                assert catalog.resolve(NAME).version == "1.2.0"
                assert first.ready
                rest = [message async for message in stream]
                assert rest[-1].HasField("completed")
            await until(lambda: not first.ready, seconds=20)
            assert (await catalog.rollback(NAME)).version.version == "1.1.0"
        finally:
            await catalog.close()
    assert (NAME, "crashed") not in events
