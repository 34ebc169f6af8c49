"""Campaigns: lines by terms or by name, a deadline, who has come, who is overdue, who has left."""

from datetime import timedelta
from typing import Any

import pytest

from engine.errors import EventRefused, NotFound, RequestError
from engine.lifecycle import campaigns
from engine.lifecycle.campaigns import (
    CampaignTerms,
    add_lines,
    end_campaign,
    fill_campaigns,
    start_campaign,
)
from engine.lifecycle.reverification import LINES_PER_BATCH, LifeBatch, carry_out
from engine.registry import audit, documents
from engine.registry.campaigns import Campaign
from engine.registry.damage import find_damage
from engine.registry.events import read_events
from engine.registry.retention import DocumentErasure
from schema.events import EventType
from schema.lines import CampaignLineState, CampaignState, LineEventKind, LineState
from tests.engine.lifecycle.conftest import START, Lines

DAY = timedelta(days=1)
OVERDUE = CampaignLineState.OVERDUE


def start(lines: Lines, **more: Any) -> Campaign:
    given: dict[str, Any] = {"name": "all", "carrier": "red", "deadline": START + 10 * DAY}
    return start_campaign(lines.runner, lines.store, CampaignTerms(**given | more), "key:k")


def progress(lines: Lines, campaign: Campaign) -> dict[str, int]:
    counted = lines.store.life.count_lines(campaign.id)
    return {state.value: count for state, count in counted.items() if count}


def fill(lines: Lines) -> None:
    while fill_campaigns(lines.runner, lines.store, lines.rules):
        pass


def test_the_lines_of_an_outlet_are_asked_for_and_the_overdue_are_suspended(lines) -> None:
    chosen = lines.open(203)
    lines.open(2, outlet="r2")
    steps = ((0, "suspended_outgoing"), (86_400, "closed"))
    campaign = start(lines, steps=steps, chosen={"outlet": "r1"})
    fill(lines)
    assert progress(lines, campaign) == {"asked": 203}
    lines.close(chosen[0])
    batch = LifeBatch(lines.store, lines.rules, [lines.line(chosen[1])], START + DAY, "test")
    assert batch.come(chosen[1])
    lines.writer.commit(batch.writes())
    assert progress(lines, campaign) == {"asked": 201, "verified": 1, "left": 1}
    lines.advance(10 * DAY)
    assert progress(lines, campaign) == {"overdue": 201, "verified": 1, "left": 1}
    assert lines.line(chosen[2]).state is LineState.SUSPENDED_OUTGOING
    assert lines.line(chosen[1]).state is LineState.ACTIVE
    lines.advance(DAY)
    assert lines.line(chosen[2]).state is LineState.CLOSED
    # They did not leave of their own accord.
    assert progress(lines, campaign) == {"overdue": 201, "verified": 1, "left": 1}
    (left,) = lines.store.life.list_lines(campaign.id, CampaignLineState.LEFT, "", 5)
    assert left.line_id == chosen[0]


def test_lines_of_a_file_are_added_once_and_strangers_told_by_their_place(lines) -> None:
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


def test_a_campaign_that_cannot_be_is_refused(lines) -> None:
    with pytest.raises(EventRefused, match="less than an hour"):
        start(lines, deadline=START)
    with pytest.raises(NotFound):
        start(lines, carrier="green")
    with pytest.raises(RequestError, match="not chosen by colour"):
        start(lines, chosen={"colour": "red"})
    with pytest.raises(RequestError, match="the campaign's name holds"):
        start(lines, name="all\u202e")


def test_a_carrier_with_many_lines_does_not_keep_back_the_campaign_of_another(lines) -> None:
    lines.open(3 * LINES_PER_BATCH)
    few = lines.open(10, "b1", "blue")
    device_changed = lines.open(1)[0]
    steps = ((0, "suspended_outgoing"),)
    many = start(lines, chosen={"outlet": "r1"}, steps=steps)
    other = start(lines, carrier="blue", chosen={}, steps=steps)
    assert fill_campaigns(lines.runner, lines.store, lines.rules)
    assert progress(lines, many) == {"asked": LINES_PER_BATCH}
    assert progress(lines, other) == {"asked": len(few)}
    fill(lines)
    # Of rules too, which are behind all of them.
    lines.now = START + 10 * DAY
    lines.happen({device_changed: lines.now}, LineEventKind.DEVICE_CHANGE)
    lines.now += 3 * timedelta(hours=1)
    assert carry_out(lines.runner, lines.store, lines.rules) == LINES_PER_BATCH + len(few) + 1
    assert progress(lines, many) == {"asked": 2 * LINES_PER_BATCH + 1, "overdue": LINES_PER_BATCH}
    assert progress(lines, other) == {"overdue": len(few)}
    assert lines.line(device_changed).state is LineState.SUSPENDED_OUTGOING


def test_a_turn_looks_through_so_many_lines_and_the_next_goes_on_from_there(
    lines, monkeypatch
) -> None:
    monkeypatch.setattr(campaigns, "WINDOW", 2)
    monkeypatch.setattr(campaigns, "MOST_WINDOWS", 3)
    seen = sorted(lines.open(9))
    last = max(*lines.open(1, "r2"), seen[-1])
    campaign = start(lines, chosen={"outlet": "r2"})
    assert fill_campaigns(lines.runner, lines.store, lines.rules)
    found = lines.store.life.campaign(campaign.id)
    assert found.state is CampaignState.FILLING
    assert (found.filled_to or last) < last
    fill(lines)
    assert progress(lines, campaign) == {"asked": 1}


def test_a_campaign_that_was_ended_asks_nobody_else_and_who_was_asked_stays_so(lines) -> None:
    ids = lines.open(LINES_PER_BATCH + 3)
    campaign = start(lines, chosen={}, steps=((0, "suspended_outgoing"),))
    fill_campaigns(lines.runner, lines.store, lines.rules)
    given = (lines.runner, lines.store, campaign.id)
    with pytest.raises(NotFound):
        end_campaign(*given, "key:k", "blue")

    class Ending:
        """Ends the campaign as the lines of the next turn are known, and are not asked yet."""

        def run(self, perform: Any) -> Any:
            assert end_campaign(*given, "key:k", "red").state is CampaignState.ENDED
            return lines.runner.run(perform)

    assert fill_campaigns(Ending(), lines.store, lines.rules)
    assert not fill_campaigns(lines.runner, lines.store, lines.rules)
    assert end_campaign(*given, "key:k", "red").state is CampaignState.ENDED
    told = read_events(lines.store, 0, carrier="red", types=[EventType.CAMPAIGN_ENDED])
    assert [one.subject for one in told] == [campaign.id]
    with pytest.raises(EventRefused, match="it was ended"):
        add_lines(lines.runner, lines.store, lines.rules, campaign.id, ids, "key:k", "red")
    assert progress(lines, campaign) == {"asked": LINES_PER_BATCH}
    lines.advance(11 * DAY)
    assert progress(lines, campaign) == {"overdue": LINES_PER_BATCH}
    asked = {row.line_id for row in lines.store.life.list_lines(campaign.id, OVERDUE, "", 500)}
    states = {lines.line(key).state for key in set(ids) - asked}
    assert states == {LineState.ACTIVE}
    late = start(lines, deadline=lines.now + DAY)
    lines.now += DAY
    with pytest.raises(EventRefused, match="deadline has passed"):
        end_campaign(lines.runner, lines.store, late.id, "key:k", "red")


def test_to_end_campaigns_and_start_others_is_no_way_round_their_bound(lines) -> None:
    alive = [start(lines) for _ in range(campaigns.MOST_ALIVE)]
    for ended in reversed(alive[-2:]):
        with pytest.raises(EventRefused, match="end one that"):
            start(lines)
        end_campaign(lines.runner, lines.store, ended.id, "key:k")
        start(lines)
    with pytest.raises(EventRefused, match="end one that"):
        start(lines)


def test_a_campaign_that_was_ended_counts_while_lines_wait_for_it(lines) -> None:
    """Or a line would wait in any number of them, and each of its events reads them all."""
    (line,) = lines.open(1)
    for _ in range(campaigns.MOST_ALIVE):
        made = start(lines)
        add_lines(lines.runner, lines.store, lines.rules, made.id, [line], "key:k", "red")
        end_campaign(lines.runner, lines.store, made.id, "key:k")
    with pytest.raises(EventRefused, match="end one that"):
        start(lines)
    lines.advance(11 * DAY)
    start(lines, deadline=lines.now + DAY)


def test_lines_that_close_while_a_campaign_goes_on_have_left_and_nothing_follows_for_them(
    lines,
) -> None:
    early, first = lines.open(10), sorted(lines.open(LINES_PER_BATCH))
    late, later = lines.open(10), sorted(lines.open(60))
    erased = [*early, *late]
    campaign = start(lines, chosen={}, steps=((0, "suspended_outgoing"), (86_400, "closed")))
    fill_campaigns(lines.runner, lines.store, lines.rules)
    asked = sorted(set(first) | set(erased) | set(later))[:LINES_PER_BATCH]
    # Both of those that were asked and of those whose turn comes yet.
    ported = [*first[:5], *first[-5:], *later[:5], *later[-5:]]
    closed = [*first[5:10], *later[5:10]]
    for key in ported:
        lines.report(key, LineEventKind.PORT_OUT if key in first else LineEventKind.TRANSFER)
    for key in closed:
        lines.close(key)
    for document in (lines.line(early[0]).document_id, lines.line(late[0]).document_id):
        entry = audit.AuditEntry("key:k", documents.DOCUMENT_ERASED, document)
        lines.writer.commit([entry, DocumentErasure(document, "key:k")])
    fill(lines)
    gone = {*ported, *closed, *erased}
    stays = {*first, *later} - gone
    left = gone & set(asked)
    assert progress(lines, campaign) == {"asked": len(stays), "left": len(left)}
    waiting = lines.store.life.asked_of([*first, *erased, *later])
    assert {key for key, found in waiting.items() if found} == stays
    lines.advance(10 * DAY)
    assert progress(lines, campaign) == {"overdue": len(stays), "left": len(left)}
    # One of those who wait is ported while the steps after the deadline come.
    one = min(stays)
    lines.report(one, LineEventKind.PORT_OUT)
    lines.advance(2 * DAY)
    assert {lines.line(key).state for key in [*first, *erased, *later]} == {LineState.CLOSED}
    for key in gone:
        kinds = [kind for kind, _ in lines.story(key)]
        assert kinds.count("closed") == 1
        assert not {"overdue", "suspended_outgoing"} & set(kinds)
    assert [kind for kind, _ in lines.story(one)].count("closed") == 1
    assert lines.store.life.next_step_at() is None
    assert find_damage(lines.store) == []
