"""casemate.toml: what init writes is valid, and mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from casemate.cli.templates import config_text
from runtime.config import ConfigError, EngineConfig, LimitsConfig, load_config, parse_config

TEXT = config_text("edge", "plant7.example")


def test_the_template_parses_to_the_defaults():
    config = parse_config(TEXT, Path("/srv"))
    assert config.limits == LimitsConfig()
    assert config.engine == EngineConfig()
    assert config.tls.key == Path("/srv/server/server.key")
    assert config.store == Path("/srv/store")
    assert str(config.listen) == "127.0.0.1:8443"


BAD = {
    "unknown section": (TEXT + "\n[extra]\n", "extra"),
    "unknown key": (TEXT.replace("max_inputs", "max_input"), "max_input"),
    "wrong type": (TEXT.replace("max_inputs = 256", 'max_inputs = "256"'), "limits.max_inputs"),
    "out of range": (TEXT.replace("max_inputs = 256", "max_inputs = 0"), "limits.max_inputs"),
    "no port": (TEXT.replace("127.0.0.1:8443", "127.0.0.1"), "appliance.listen"),
    "metrics for all": (TEXT.replace("127.0.0.1:9464", "0.0.0.0:9464"), "loopback"),
    "unknown layer": (TEXT.replace("= []", '= ["walls"]'), "walls"),
    "no TOML": ("[", "TOML"),
    "missing key": (TEXT.replace('trust_domain = "plant7.example"', ""), "trust_domain"),
    "deadlines": (
        TEXT.replace("max_deadline_seconds = 300", "max_deadline_seconds = 1"),
        "default",
    ),
}


@pytest.mark.parametrize(("text", "named"), BAD.values(), ids=BAD.keys())
def test_a_mistake_is_named(text, named):
    with pytest.raises(ConfigError, match=named):
        parse_config(text, Path("/srv"))


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(ConfigError, match="casemate init"):
        load_config(tmp_path / "casemate.toml")
