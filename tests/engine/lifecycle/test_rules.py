"""Rules of lines as data: the built-in ones, and those that nobody could carry out."""

import tomllib
from datetime import date
from importlib.resources import files
from typing import Any

import pytest

from engine.errors import RequestError
from engine.lifecycle.rules import BUILT_IN, NO_RULES, LineRules, load_rules, read_rules
from schema.lines import LineEventKind

DAY = 86_400
WHOLE = {"on": "sim_swap", "then": ["1d suspended"]}


def write(*rules: dict[str, Any]) -> str:
    lines = ['title = "T"']
    for rule in rules:
        lines += ["[[reverify]]", *(f"{name} = {value!r}" for name, value in rule.items())]
    return "\n".join(lines)


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_set_is_sound_names_its_source_and_claims_to_be_no_legal_advice(
    name: str,
) -> None:
    found = load_rules(name)
    assert found.rules or found.person_limit
    values = tomllib.loads(files("engine.lifecycle").joinpath(f"{name}.toml").read_text("utf-8"))
    assert values["source"]
    assert values["checked_on"] == found.checked_on
    old = LineRules(NO_RULES.usual, {"red": found}).list_old(date(2099, 1, 1))
    assert old == [found.title]
    assert "No legal advice" in values["note"]


def test_vietnams_is_the_circulars() -> None:
    rule = load_rules("vietnam").rules[LineEventKind.DEVICE_CHANGE]
    wanted = ((7_200, "suspended_outgoing"), (30 * DAY, "suspended"), (5 * DAY, "closed"))
    assert rule.steps == wanted


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ([WHOLE | {"name": "a"}, WHOLE | {"name": "b"}], "the rules a and b contradict"),
        (
            [WHOLE | {"then": ["1d suspended", "1d suspended_outgoing"]}],
            "sim_swap contradicts itself",
        ),
        ([WHOLE | {"at_once": "suspended"}], "sim_swap contradicts itself"),
        ([WHOLE | {"at_once": "closed"}], "closes at once"),
        ([WHOLE | {"at_once": "pending", "then": ["1d suspended_outgoing"]}], "contradicts itself"),
        ([WHOLE | {"on": "suspended"}], "the rule suspended loops"),
        ([WHOLE | {"on": "reverified"}], "the rule reverified loops"),
        (
            [
                {"on": "suspended", "name": "a", "then": ["1d closed"]},
                {"on": "overdue", "name": "b", "then": ["1d suspended"]},
            ],
            "the rules loop: a and b|the rule b loops",
        ),
        ([WHOLE | {"on": "port_out"}], "port_out, which ends the line"),
        ([WHOLE | {"on": "rain"}], "rain, which is no event"),
        ([WHOLE | {"then": ["1d gone"]}], "gone is no state"),
        ([WHOLE | {"then": ["soon suspended"]}], "not a time"),
        ([WHOLE | {"then": ["0h suspended"]}], "not a time"),
        ([WHOLE | {"then": []}], "then is empty"),
        ([WHOLE | {"name": "a:b"}], "none of them a colon"),
        ([WHOLE | {"within": "1d"}], "within.*docs/lines.md"),
    ],
)
def test_what_contradicts_itself_or_loops_is_refused_by_name_in_one_line(
    rules: list[dict[str, Any]], said: str
) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        read_rules(write(*rules), "mine.toml")
    assert "mine.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_rule_may_wait_for_what_no_rule_brings_back() -> None:
    chain = read_rules(
        write(
            WHOLE | {"then": ["1d suspended_outgoing"]},
            {"on": "suspended_outgoing", "then": ["3d closed"]},
            {"on": "reverify_failed", "then": ["1d suspended"]},
        ),
        "mine.toml",
    )
    assert len(chain.rules) == 3
