"""The policy file: what it allows, and what is refused when it is read."""

from __future__ import annotations

import hashlib

import pytest

from casemate.cli.templates import POLICY
from runtime.policy import PolicyError, PolicyHolder, parse_policy

MINIMAL = 'version = 1\n[roles.device]\nmethods = ["a.B/C"]\nmodels = ["gemma*", "minilm"]\n'


def test_the_template_is_a_valid_policy_and_its_digest_is_the_files():
    policy = parse_policy(POLICY.encode())
    assert policy.digest == hashlib.sha256(POLICY.encode()).hexdigest()
    assert set(policy.roles) >= {"device", "operator", "auditor"}


def test_everything_is_denied_that_no_line_allows():
    role = parse_policy(MINIMAL.encode()).roles["device"]
    assert role.allows_method("a.B/C")
    assert not role.allows_method("a.B/D")
    assert not role.allows_method("a.B/CD")
    assert role.allows_model("gemma-3")
    assert role.allows_model("minilm")
    assert not role.allows_model("minilm2")
    assert (
        not parse_policy(b'version = 1\n[roles.x]\nmethods = ["*"]\n').roles["x"].allows_model("m")
    )


def test_a_service_star_stops_at_the_service():
    policy = parse_policy(b'version = 1\n[roles.x]\nmethods = ["a.B/*"]\n')
    assert policy.roles["x"].allows_method("a.B/Anything")
    assert not policy.roles["x"].allows_method("a.BB/Anything")


def test_rules_are_chosen_by_role_model_and_direction():
    text = MINIMAL + (
        '[[rules]]\nname = "r"\nliterals = ["x"]\naction = "flag"\n'
        'direction = "in"\nroles = ["device"]\nmodels = ["gemma*"]\n'
    )
    policy = parse_policy(text.encode())
    assert policy.rule_set("device", "gemma-3", "in") is not None
    assert policy.rule_set("device", "gemma-3", "out") is None
    assert policy.rule_set("device", "minilm", "in") is None
    assert policy.rule_set("operator", "gemma-3", "in") is None


RULE = '[[rules]]\nname = "r"\nliterals = ["x"]\naction = "flag"\n'
BAD = {
    "no version": "[roles.a]\n",
    "unknown version": "version = 2\n",
    "not TOML": "version = \n",
    "unknown table": "version = 1\n[limits]\n",
    "unknown key": "version = 1\n[roles.a]\nmetods = []\n",
    "role name": "version = 1\n[roles.'A b']\n",
    "method form": 'version = 1\n[roles.a]\nmethods = ["Generate"]\n',
    "model form": 'version = 1\n[roles.a]\nmodels = ["A B"]\n',
    "zero limit": "version = 1\n[roles.a]\nmax_concurrent = 0\n",
    "true as a limit": "version = 1\n[roles.a]\nmax_tokens = true\n",
    "logprobs as a number": "version = 1\n[roles.a]\nlogprobs = 1\n",
    "rule without action": 'version = 1\n[[rules]]\nname = "r"\nliterals = ["x"]\n',
    "unknown action": "version = 1\n" + RULE.replace("flag", "drop"),
    "unknown direction": "version = 1\n" + RULE + 'direction = "up"\n',
    "rule of nothing": 'version = 1\n[[rules]]\nname = "r"\naction = "flag"\n',
    "two of a name": "version = 1\n" + RULE + RULE,
    "unbounded": "version = 1\n" + RULE + 'patterns = ["a+"]\n',
    "invisible literal": "version = 1\n" + RULE.replace('"x"', '"\\u200b"'),
    "rules as a table": "version = 1\n[rules]\n",
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_a_bad_policy_is_refused(text):
    with pytest.raises(PolicyError):
        parse_policy(text.encode())


def test_an_error_names_the_rule_and_says_what_to_write():
    text = "version = 1\n" + RULE + 'patterns = ["a+"]\n'
    with pytest.raises(PolicyError, match=r"rules\.r: .*max_match_chars"):
        parse_policy(text.encode())


def test_a_bad_reload_keeps_the_policy_in_force(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(MINIMAL)
    holder = PolicyHolder(path)
    before = holder.current
    path.write_text("version = 3\n")
    with pytest.raises(PolicyError, match=r"policy\.toml"):
        holder.reload()
    assert holder.current is before
    path.write_text(MINIMAL + "max_tokens = 7\n")
    assert holder.reload().roles["device"].limits.max_tokens == 7


def test_a_missing_policy_is_an_error(tmp_path):
    with pytest.raises(PolicyError, match="cannot read"):
        PolicyHolder(tmp_path / "none.toml")
