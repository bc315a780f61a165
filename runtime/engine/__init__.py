"""The engine inside a worker: requests, scheduler, loop, and the backends they drive.

It knows nothing of gRPC, protobuf, certificates or principals: a request carries an
opaque tenant, and an event goes to the callable the request came with.

    submit ─► prepare (template, tokens) ─► waiting ─► running ─► Delta* ─► Done | Failure
                                            └──────── scheduler ────────┘
                    one step: plan ─► decode ─► choose ─► tell

Text generation and scoring are in `generation` (over `llama` or `memory`), encoders
and plain tensor graphs in `encoder`. Nothing is imported here: a worker loads the
backend its bundle names and no other.
"""
