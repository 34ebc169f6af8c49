"""Campaigns: lines by terms or by name, a deadline, who has come, who is overdue, who has left."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from engine.errors import EventRefused, NotFound, RequestError
from engine.lifecycle.campaigns import add_lines, fill_campaigns, start_campaign
from engine.lifecycle.reverification import LifeBatch
from engine.matching.lines import close_line
from engine.registry.records import Campaign, CampaignLineState, Changes, LineState
from tests.engine.lifecycle.conftest import START, Lines

DAY = timedelta(days=1)


def start(lines: Lines, **more: Any) -> Campaign:
    given: dict[str, Any] = {"name": "all", "carrier": "red", "steps": (), "chosen": None}
    given |= {"deadline": START + 10 * DAY, "actor": "key:k"} | more
    return start_campaign(lines.runner, lines.store, **given)


def progress(lines: Lines, campaign: Campaign) -> dict[str, int]:
    counted = lines.store.life.count_lines(campaign.id)
    return {state.value: count for state, count in counted.items() if count}


def fill(lines: Lines) -> None:
    while fill_campaigns(lines.runner, lines.store, lines.rules):
        pass


def test_the_lines_of_an_outlet_are_asked_for_and_the_overdue_are_suspended(lines: Lines) -> None:
    chosen = lines.open(203)
    lines.open(2, outlet="r2")
    steps = ((0, "suspended_outgoing"), (86_400, "closed"))
    campaign = start(lines, steps=steps, chosen={"outlet": "r1"})
    fill(lines)
    assert progress(lines, campaign) == {"asked": 203}
    close_line(lines.runner, lines.store, chosen[0], "test")  # type: ignore[arg-type]
    batch = LifeBatch(lines.store, lines.rules, [lines.line(chosen[1])], START + DAY, "test")
    assert batch.come(chosen[1])
    lines.writer.commit(batch.add_to(Changes(lines.writer.sequence, ())))
    assert progress(lines, campaign) == {"asked": 201, "verified": 1, "left": 1}
    lines.advance(10 * DAY)
    assert progress(lines, campaign) == {"overdue": 201, "verified": 1, "left": 1}
    assert lines.line(chosen[2]).state is LineState.SUSPENDED_OUTGOING
    assert lines.line(chosen[1]).state is LineState.ACTIVE
    lines.advance(DAY)
    assert lines.line(chosen[2]).state is LineState.CLOSED
    # They did not leave of their own accord.
    assert progress(lines, campaign) == {"overdue": 201, "verified": 1, "left": 1}
    assert [
        row.line_id
        for row in lines.store.life.list_lines(campaign.id, CampaignLineState.LEFT, "", 5)
    ] == [chosen[0]]


def test_lines_of_a_file_are_added_once_and_strangers_told_by_their_place(lines: Lines) -> None:
    ids = lines.open(3)
    numbers = lines.store.numbers(ids)
    campaign = start(lines)
    given = (lines.runner, lines.store, lines.rules, campaign.id)
    texts = [numbers[ids[0]], "no number", ids[1], "+8490000000"]
    assert add_lines(*given, texts, "key:k", "red") == (2, [1, 3])
    assert add_lines(*given, [*texts, ids[2]], "key:k", "red") == (1, [1, 3])
    assert progress(lines, campaign) == {"asked": 3}
    with pytest.raises(NotFound):
        add_lines(*given, texts, "key:k", "blue")
    lines.now += 11 * DAY
    with pytest.raises(EventRefused, match="deadline has passed"):
        add_lines(*given, texts, "key:k", "red")


def test_a_campaign_that_cannot_be_is_refused(lines: Lines) -> None:
    with pytest.raises(EventRefused, match="less than an hour"):
        start(lines, deadline=START)
    with pytest.raises(NotFound):
        start(lines, carrier="green")
    with pytest.raises(RequestError, match="not chosen by colour"):
        start(lines, chosen={"colour": "red"})
