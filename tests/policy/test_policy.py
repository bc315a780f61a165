"""The policy file: what it allows, and what is refused when it is read."""

from __future__ import annotations

import hashlib

import pytest

from casemate.cli.templates import POLICY
from runtime.filters.rules import RuleSet
from runtime.policy import PolicyError, PolicyHolder, parse_policy
from runtime.policy.names import any_matches

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


def rules_toml(count: int, **keys: str) -> str:
    lines = "".join(f"{key} = {value}\n" for key, value in keys.items())
    return MINIMAL + "".join(
        f'[[rules]]\nname = "r{index}"\naction = "block"\n' + lines.replace("INDEX", f"{index:04}")
        for index in range(count)
    )


@pytest.fixture
def compiled(monkeypatch):
    """How many rules each set has that was compiled."""
    sizes = []
    real = RuleSet.__init__

    def counted(self, rules):
        sizes.append(len(rules))
        real(self, rules)

    monkeypatch.setattr(RuleSet, "__init__", counted)
    return sizes


def test_names_that_clients_choose_compile_nothing(compiled):
    text = MINIMAL + (
        '[[rules]]\nname = "a"\nliterals = ["x"]\naction = "block"\n'
        '[[rules]]\nname = "b"\nliterals = ["y"]\naction = "block"\nmodels = ["gem*", "minilm"]\n'
    )
    policy = parse_policy(text.encode())
    before = len(compiled)
    assert before == 2
    first = policy.rule_set("device", "unknown-0", "in")
    for index in range(500):
        assert policy.rule_set("device", f"unknown-{index}", "in") is first
        assert policy.rule_set("device", f"gem-{index}", "out") is not first
    assert len(compiled) == before


def test_every_set_that_can_be_met_is_compiled_when_the_policy_is_read(compiled):
    text = MINIMAL + "".join(
        f'[[rules]]\nname = "r{i}"\nliterals = ["x"]\naction = "flag"\nmodels = ["{pattern}"]\n'
        for i, pattern in enumerate(["*", "a*", "ab*", "abc", "b*", "zz"])
    )
    policy = parse_policy(text.encode())
    before = len(compiled)
    for name in ("", "q", "a", "ax", "ab", "abc", "abcd", "b", "ba", "z", "zz", "zzz"):
        rules = policy.rule_set("device", name, "in")
        expected = [rule for rule in policy.rules if any_matches(rule.models, name)]
        assert rules is not None
        assert list(rules.rules) == expected
    assert len(compiled) == before


@pytest.mark.parametrize(
    ("count", "keys", "text"),
    [
        (16, {"patterns": '["zzINDEX.*yy"]', "max_match_chars": "1000"}, "a zz0011 b yy"),
        (1000, {"literals": '["secretINDEX"]'}, "the secret0011"),
        (
            20,
            {"literals": str([f"INDEX {i:02} {'filler' * 5}" for i in range(100)])},
            f"a 0011 99 {'filler' * 5}",
        ),
        (60, {"patterns": '["wINDEX[^q]{0,900}v"]'}, "a w0011 b v"),
    ],
    ids=["long matches", "many rules", "many literals", "more than one screen"],
)
def test_large_policies_are_enforced(count, keys, text):
    rules = parse_policy(rules_toml(count, **keys).encode()).rule_set("device", "gemma", "in")
    assert rules is not None
    assert rules.apply(text).verdicts == ("r11:block",)


def test_a_rule_re2_cannot_hold_is_refused_when_the_policy_is_read(monkeypatch, tmp_path):
    monkeypatch.setattr("runtime.filters.rules._SCREEN_MEMORY_BYTES", 1 << 16)
    path = tmp_path / "policy.toml"
    path.write_text(MINIMAL)
    holder = PolicyHolder(path)
    before = holder.current
    path.write_text(rules_toml(1, patterns='["[^q]{900}v"]'))
    with pytest.raises(PolicyError, match=r"r0.*too large"):
        holder.reload()
    assert holder.current is before


def test_too_many_sets_of_rules_are_refused(monkeypatch):
    monkeypatch.setattr("runtime.policy.model.MAX_SELECTED_RULES", 10)
    with pytest.raises(PolicyError, match="fewer different models"):
        parse_policy(rules_toml(11, literals='["x"]', models='["m-INDEX"]').encode())
