"""The texts that `casemate init` writes: configuration, policy, a client's settings.

Invariant: every text is valid for the reader it is meant for as soon as it is
written (tests parse them), and says in comments what a person may want to change.
"""

from __future__ import annotations

import json

DEFAULT_LISTEN = "127.0.0.1:8443"

_CONFIG = """\
# Configuration of the appliance {name}. Relative paths start at this file's folder.
# Sections [limits], [workers] and [engine] show the defaults.

[appliance]
name = {name}
listen = {listen}
metrics_listen = "127.0.0.1:9464"   # Prometheus; loopback only
store = "store"
audit = "audit"
policy = "policy.toml"

[tls]
certificate = "server/server.crt"
key = "server/server.key"
roots = "trust/roots.pem"
crl = "trust/issuing.crl"
trust_domain = {trust_domain}

[trust]
signers = "trust/signers"           # who may sign the models that run here

[log]
key = "log/log.key"
cosigner_key = "log/cosigner.key"
origin = {origin}

[limits]
max_message_bytes = 4194304
max_connections = 128
max_streams_per_connection = 32
max_receive_seconds = 30            # for one message to arrive whole
max_concurrent_calls = 256
max_inputs = 256
max_prompt_bytes = 262144
max_deadline_seconds = 300
default_deadline_seconds = 120
max_connection_age_seconds = 3600
drain_seconds = 20

[workers]
threads = 0                         # 0: all cores
memory_limit_mib = 4096
start_timeout_seconds = 60
heartbeat_seconds = 2
restart_limit = 5
restart_window_seconds = 60
allow_missing_layers = []           # sandbox layers this kernel may lack; see `casemate doctor`

[engine]
kv_tokens = 0                       # 0: as the bundle says
max_sequences = 16
step_tokens = 512
max_batch = 32
max_queue_delay_us = 2000
max_queue = 256
"""

POLICY = """\
# What each role may call, and what must not pass in or out. Nothing is reachable
# that no line here allows. Limits are per identity.

version = 1

[roles.device]
methods = [
  "casemate.v1.TextService/*",
  "casemate.v1.ModelService/ListModels",
  "casemate.v1.ModelService/DescribeModel",
  "casemate.v1.AuditService/*",
  "inference.GRPCInferenceService/*",
  "grpc.health.v1.Health/*",
]
models = ["*"]
requests_per_minute = 600
tokens_per_minute = 200000
max_concurrent = 16
max_tokens = 2048
logprobs = false

[roles.operator]
methods = [
  "casemate.v1.ModelService/*",
  "casemate.v1.TextService/*",
  "casemate.v1.AuditService/*",
  "inference.GRPCInferenceService/*",
  "grpc.health.v1.Health/*",
  "grpc.reflection.v1.ServerReflection/*",
  "grpc.reflection.v1alpha.ServerReflection/*",
]
models = ["*"]
requests_per_minute = 6000
tokens_per_minute = 2000000
max_concurrent = 64
max_tokens = 8192
logprobs = true

[roles.auditor]
methods = [
  "casemate.v1.AuditService/*",
  "casemate.v1.ModelService/ListModels",
  "grpc.health.v1.Health/*",
]
models = ["*"]
requests_per_minute = 6000

# Two rules to start from. Patterns are RE2, tried on normalised text, whatever the case.

# Payment card numbers: Visa, Mastercard and Discover (16 digits), American Express (15).
[[rules]]
name = "card-number"
patterns = [
  '(?:4[0-9]|5[1-5]|2[2-7]|6[05])[0-9]{2}(?:[ -]?[0-9]{4}){3}',
  '3[47][0-9]{2}[ -]?[0-9]{6}[ -]?[0-9]{5}',
]
action = "redact"
direction = "both"
replacement = "[card number]"

# A private key in a prompt is a mistake worth stopping; in an answer it is worse.
[[rules]]
name = "private-key"
patterns = ['-----BEGIN [A-Z0-9 ]{0,32}PRIVATE KEY-----']
action = "block"
direction = "both"

# Only models whose signed bundle claims so much privacy of its training data, or more:
# [[admission]]
# models = ["*"]
# unit = "user"
# max_epsilon = 8.0
# max_delta = 1e-5
# audited = true
# min_audit_ceiling = 3.0
"""

_CLIENT = """\
# How to reach the appliance; read by `casemate` and by casemate.Client.from_identity.
target = {target}
server_name = {server_name}
trust_domain = {trust_domain}
log_vkeys = "log.vkeys"
"""


def config_text(name: str, trust_domain: str, listen: str = DEFAULT_LISTEN) -> str:
    """Return casemate.toml for a new appliance."""
    return _CONFIG.format(
        name=quoted(name),
        listen=quoted(listen),
        trust_domain=quoted(trust_domain),
        origin=quoted(log_origin(trust_domain)),
    )


def client_text(target: str, server_name: str, trust_domain: str) -> str:
    """Return client.toml: `target` is HOST:PORT, `server_name` stands in the certificate."""
    return _CLIENT.format(
        target=quoted(target), server_name=quoted(server_name), trust_domain=quoted(trust_domain)
    )


def log_origin(trust_domain: str) -> str:
    """Return the name that the audit log signs under."""
    return f"{trust_domain}/casemate-log"


def quoted(text: str) -> str:
    """Write text as a TOML basic string; the escapes of ASCII JSON are among TOML's."""
    return json.dumps(text)
