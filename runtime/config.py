"""The appliance's configuration: casemate.toml as frozen, validated values.

Refuses unknown sections and keys (a misspelt limit must not silently leave the
default in force), values of the wrong type and values out of range. Relative
paths are relative to the folder that holds the file.

Invariant: once constructed, every limit is within the range its field states.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from security.errors import CasemateError

_SANDBOX_LAYERS = frozenset({"landlock", "seccomp", "no_new_privs", "rlimits", "session"})


class ConfigError(CasemateError):
    """casemate.toml is missing, malformed, or asks for something impossible."""


def _bounded(low: float, high: float, default: Any) -> Any:
    """Return a field whose value must lie in [low, high]."""
    return field(default=default, metadata={"low": low, "high": high})


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: an IP address or a DNS name, and a port (0: any free one)."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, name: str) -> Address:
        """Read "host:port" or "[v6]:port"; raise ConfigError naming `name`."""
        host, colon, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ConfigError(f"{name}: {text!r} is no address; write it like 127.0.0.1:8443")
        return cls(host, int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """What one call, and all calls together, may take."""

    max_message_bytes: int = _bounded(1024, 256 << 20, 4 << 20)
    max_connections: int = _bounded(1, 65536, 128)
    max_streams_per_connection: int = _bounded(1, 1024, 32)
    max_receive_seconds: float = _bounded(0.1, 3600, 30)
    max_concurrent_calls: int = _bounded(1, 65536, 256)
    max_inputs: int = _bounded(1, 65536, 256)
    max_prompt_bytes: int = _bounded(1, 64 << 20, 256 << 10)
    max_deadline_seconds: float = _bounded(0.1, 86400, 300)
    default_deadline_seconds: float = _bounded(0.1, 86400, 120)
    max_connection_age_seconds: float = _bounded(1, 7 * 86400, 3600)
    drain_seconds: float = _bounded(0, 3600, 20)

    def __post_init__(self) -> None:
        _check_bounds(self, "limits")
        if self.default_deadline_seconds > self.max_deadline_seconds:
            raise ConfigError("limits.default_deadline_seconds is above max_deadline_seconds")


@dataclass(frozen=True, slots=True)
class WorkersConfig:
    """Resources and restarts of the worker processes."""

    threads: int = _bounded(0, 1024, 0)
    memory_limit_mib: int = _bounded(64, 1 << 20, 4096)
    start_timeout_seconds: float = _bounded(1, 3600, 60)
    heartbeat_seconds: float = _bounded(0.05, 600, 2)
    restart_limit: int = _bounded(0, 1000, 5)
    restart_window_seconds: float = _bounded(1, 86400, 60)
    allow_missing_layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_bounds(self, "workers")
        unknown = set(self.allow_missing_layers) - _SANDBOX_LAYERS
        if unknown:
            raise ConfigError(
                f"workers.allow_missing_layers: unknown layer {sorted(unknown)[0]!r}; "
                f"known: {', '.join(sorted(_SANDBOX_LAYERS))}"
            )


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Capacity of the engines inside the workers; 0 kv_tokens means from the bundle."""

    kv_tokens: int = _bounded(0, 1 << 24, 0)
    max_sequences: int = _bounded(1, 256, 16)
    step_tokens: int = _bounded(1, 65536, 512)
    max_batch: int = _bounded(1, 4096, 32)
    max_queue_delay_us: int = _bounded(0, 1_000_000, 2000)
    max_queue: int = _bounded(1, 65536, 256)

    def __post_init__(self) -> None:
        _check_bounds(self, "engine")


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """Files of the server's identity and of those it accepts."""

    certificate: Path
    key: Path
    roots: Path
    crl: Path
    trust_domain: str


@dataclass(frozen=True, slots=True)
class LogConfig:
    """Keys and origin of the audit log."""

    key: Path
    cosigner_key: Path
    origin: str


@dataclass(frozen=True, slots=True)
class ApplianceConfig:
    """Everything `casemate serve` needs to know."""

    name: str
    listen: Address
    metrics_listen: Address
    store: Path
    audit: Path
    policy: Path
    signers: Path
    tls: TlsConfig
    log: LogConfig
    limits: LimitsConfig
    workers: WorkersConfig
    engine: EngineConfig


def _check_bounds(value: Any, section: str) -> None:
    for entry in dataclasses.fields(value):
        low, high = entry.metadata.get("low"), entry.metadata.get("high")
        number = getattr(value, entry.name)
        if low is None or high is None:
            continue
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ConfigError(f"{section}.{entry.name} must be a number")
        if not low <= number <= high:
            raise ConfigError(f"{section}.{entry.name} = {number} is not in [{low}, {high}]")


def _typed(section: str, key: str, value: Any, kind: Any) -> Any:
    """Return `value` as the annotated `kind`; raise ConfigError when it is another type."""
    name = f"{section}.{key}"
    if kind is int and (isinstance(value, bool) or not isinstance(value, int)):
        raise ConfigError(f"{name} must be a whole number")
    if kind is float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{name} must be a number")
        return float(value)
    if kind is str and not (isinstance(value, str) and value):
        raise ConfigError(f"{name} must be a non-empty string")
    if kind == tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ConfigError(f"{name} must be a list of strings")
        return tuple(value)
    return value


def _section(table: dict[str, Any], name: str, cls: type[Any], base: Path) -> Any:
    """Build dataclass `cls` from `[name]`."""
    kinds = get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in kinds:
            raise ConfigError(f"[{name}] has no key {key!r}; known: {', '.join(sorted(kinds))}")
        if kinds[key] is Path:
            values[key] = base / _typed(name, key, value, str)
        else:
            values[key] = _typed(name, key, value, kinds[key])
    missing = [
        entry.name
        for entry in dataclasses.fields(cls)
        if entry.default is dataclasses.MISSING and entry.name not in values
    ]
    if missing:
        raise ConfigError(f"[{name}] lacks {missing[0]!r}")
    return cls(**values)


@dataclass(frozen=True, slots=True)
class _ApplianceTable:
    name: str = "casemate"
    listen: str = "127.0.0.1:8443"
    metrics_listen: str = "127.0.0.1:9464"
    store: Path = Path("store")
    audit: Path = Path("audit")
    policy: Path = Path("policy.toml")


@dataclass(frozen=True, slots=True)
class _TrustTable:
    signers: Path = Path("trust/signers")


_SECTIONS: dict[str, type[Any]] = {
    "appliance": _ApplianceTable,
    "tls": TlsConfig,
    "trust": _TrustTable,
    "log": LogConfig,
    "limits": LimitsConfig,
    "workers": WorkersConfig,
    "engine": EngineConfig,
}


def parse_config(text: str, base: Path) -> ApplianceConfig:
    """Parse casemate.toml; `base` is the folder its relative paths start from.

    Raises:
        ConfigError: it names the section and key at fault.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"casemate.toml is not valid TOML: {error}") from None
    for name, table in document.items():
        if name not in _SECTIONS:
            raise ConfigError(f"unknown section [{name}]; known: {', '.join(_SECTIONS)}")
        if not isinstance(table, dict):
            raise ConfigError(f"{name} must be a section")
    parts = {
        name: _section(document.get(name, {}), name, cls, base) for name, cls in _SECTIONS.items()
    }
    appliance: _ApplianceTable = parts["appliance"]
    metrics = Address.parse(appliance.metrics_listen, "appliance.metrics_listen")
    if not metrics.is_loopback:
        raise ConfigError("appliance.metrics_listen must be a loopback address")
    return ApplianceConfig(
        name=appliance.name,
        listen=Address.parse(appliance.listen, "appliance.listen"),
        metrics_listen=metrics,
        store=base / appliance.store,
        audit=base / appliance.audit,
        policy=base / appliance.policy,
        signers=base / parts["trust"].signers,
        tls=parts["tls"],
        log=parts["log"],
        limits=parts["limits"],
        workers=parts["workers"],
        engine=parts["engine"],
    )


def load_config(path: Path) -> ApplianceConfig:
    """Read casemate.toml at `path`; raise ConfigError when it cannot be used."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}. Make one with: casemate init DIR"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text") from None
    return parse_config(text, path.resolve().parent)
