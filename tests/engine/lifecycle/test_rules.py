"""Rules of lines as data: the built-in ones, and those that nobody could carry out."""

import tomllib
from importlib.resources import files
from typing import Any

import pytest

from engine.errors import RequestError
from engine.lifecycle.rules import BUILT_IN, load_rules, read_rules
from schema.lines import LineEventKind

DAY = 86_400
WHOLE = {"on": "sim_swap", "within": "1d", "then": "suspended"}


def write(*rules: dict[str, str]) -> str:
    lines = ['title = "T"']
    for rule in rules:
        lines += ["[[reverify]]", *(f'{name} = "{value}"' for name, value in rule.items())]
    return "\n".join(lines)


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_set_is_sound_names_its_source_and_claims_to_be_no_legal_advice(
    name: str,
) -> None:
    found = load_rules(name)
    assert found.rules or found.person_limit
    values = tomllib.loads(files("engine.lifecycle").joinpath(f"{name}.toml").read_text("utf-8"))
    assert values["source"]
    assert "No legal advice" in values["note"]


def test_vietnams_is_the_circulars() -> None:
    rule = load_rules("vietnam").rules[LineEventKind.DEVICE_CHANGE]
    wanted = ((7_200, "suspended_outgoing"), (30 * DAY, "suspended"), (5 * DAY, "closed"))
    assert rule.steps == wanted


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ([WHOLE | {"name": "a"}, WHOLE | {"name": "b"}], "the rules a and b contradict"),
        ([WHOLE | {"after": "1d", "last": "suspended_outgoing"}], "sim_swap contradicts itself"),
        ([WHOLE | {"at_once": "suspended"}], "sim_swap contradicts itself"),
        ([WHOLE | {"at_once": "closed"}], "closes at once"),
        ([WHOLE | {"at_once": "pending", "then": "suspended_outgoing"}], "contradicts itself"),
        ([WHOLE | {"on": "suspended"}], "the rule suspended loops"),
        ([WHOLE | {"on": "reverified"}], "the rule reverified loops"),
        (
            [
                {"on": "suspended", "name": "a", "within": "1d", "then": "closed"},
                {"on": "overdue", "name": "b", "within": "1d", "then": "suspended"},
            ],
            "the rules loop: a and b|the rule b loops",
        ),
        ([WHOLE | {"on": "port_out"}], "port_out, which ends the line"),
        ([WHOLE | {"on": "rain"}], "rain, which is no event"),
        ([WHOLE | {"then": "gone"}], "gone is no state"),
        ([WHOLE | {"within": "soon"}], "not a time"),
        ([WHOLE | {"within": "0h"}], "not a time"),
        ([WHOLE | {"after": "1d"}], "is not whole"),
        ([WHOLE | {"name": "a:b"}], "none of them a colon"),
        ([WHOLE | {"withn": "1d"}], "withn"),
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
            WHOLE | {"then": "suspended_outgoing"},
            {"on": "suspended_outgoing", "within": "3d", "then": "closed"},
            {"on": "reverify_failed", "within": "1d", "then": "suspended"},
        ),
        "mine.toml",
    )
    assert len(chain.rules) == 3
