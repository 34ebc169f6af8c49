"""Lines of a person over all carriers, in use, by day and by channel; documents that no limit holds
for."""

from datetime import timedelta
from typing import Any

import pytest

from engine.errors import NotFound, RequestError
from engine.lifecycle.reverification import end_exemption, exempt, report_event
from engine.lifecycle.rules import LineRules, load_rules
from engine.matching.checks.order import replay
from engine.matching.holders import erase_holder
from engine.matching.lines import close_line
from engine.registry.enrollments import HOLDER_TALLY
from schema.actors import Caller, Role
from schema.documents import ErasureScope
from schema.lines import LineEventKind
from schema.options import Limits, LineLimits
from schema.people import Channel
from schema.reasons import Reason
from serving.access.authorization import Principal
from serving.api.serializers import enrollment, enrollment_record
from tests.engine.matching.conftest import NOW, card
from tests.engine.records import ENTRY, make_pair


def enroll(lab: Any, registrar: Any, person: Any, **changes: Any) -> Any:
    return registrar.enroll([lab.request(person, **changes)])[0]


def test_a_person_has_so_many_lines_over_all_carriers_and_all_documents(lab) -> None:
    person, red = lab.people.person(), {"carrier": "red", "outlet": "red-1"}
    first = lab.request(person)
    with lab.registrar(lines=LineLimits(person_limit=3)) as registrar:
        # Two of one batch count as if they came one after the other.
        batch = [first, lab.request(person, document=first.document, **red)]
        assert [one.decision.value for one in registrar.enroll(batch)] == ["approved"] * 2
        own = registrar.enroll([first])[0].decided.document_id
        twin = lab.people.person()
        other = enroll(lab, registrar, twin, **red)
        duplicate = enroll(lab, registrar, person)
        case = duplicate.decided.cases[0].id
        pair = make_pair(own, other.decided.document_id, case_id=case)
        registrar.run(lambda writer, _: writer.commit([ENTRY, pair]))
        refused = enroll(lab, registrar, person, document=first.document)
        assert refused.reasons == (Reason.PERSON_LIMIT_REACHED,)
        record = lab.store.enrollment(refused.enrollment_id)
        assert record.evidence.inputs["person_lines"] == 3
        assert replay(record).agrees
        exempt(registrar, lab.store, own, "business", "fraud")
        assert enroll(lab, registrar, person, document=first.document).decision == "approved"
        end_exemption(registrar, lab.store, own, "fraud")
        again = enroll(lab, registrar, person, document=first.document)
        assert again.reasons == (Reason.PERSON_LIMIT_REACHED,)
        with pytest.raises(NotFound):
            end_exemption(registrar, lab.store, own, "fraud")
    actions = ("document.exempted", "document.exemption_ended")
    assert [one.action for one in lab.entries(*actions)] == [*actions]


def test_by_india_a_person_opens_one_line_a_day_whichever_carrier_and_outcome(lab) -> None:
    person, red = lab.people.person(), {"carrier": "red", "outlet": "red-1"}
    day, limits = timedelta(days=1), LineRules(load_rules("india")).limit(0, {})
    now = [NOW]
    with lab.registrar(lines=limits, clock=lambda: now[0]) as registrar:
        first = lab.request(person)
        # The second of one batch comes after the first.
        made = registrar.enroll([first, lab.request(person, document=first.document, **red)])
        assert [one.reasons for one in made] == [(), (Reason.DAY_LIMIT_REACHED,)]
        close_line(registrar, lab.store, made[0].decided.line_id, "test")
        for after, reasons in (
            (day - timedelta(seconds=1), (Reason.DAY_LIMIT_REACHED,)),
            (day, ()),
        ):
            now[0] = NOW + after
            answer = enroll(lab, registrar, person, document=first.document, **red)
            assert answer.reasons == reasons
            assert replay(lab.store.enrollment(answer.enrollment_id)).agrees


def test_by_vietnam_a_fourth_line_is_opened_in_person_alone(lab) -> None:
    person, red = lab.people.person(), {"carrier": "red", "outlet": "red-1"}
    limits = LineRules(load_rules("vietnam")).limit(0, {"red-1": Channel.ONLINE})
    with lab.registrar(lines=limits) as registrar:
        first = lab.request(person, **red)
        again = [lab.request(person, document=first.document, **red) for _ in range(3)]
        made = registrar.enroll([first, *again])
        assert [one.reasons for one in made] == [(), (), (), (Reason.CHANNEL_LIMIT_REACHED,)]
        assert enroll(lab, registrar, person, document=first.document).decision == "approved"


def test_by_ghana_each_further_line_is_approved_once_over_the_first(lab) -> None:
    person, now, hour = lab.people.person(), [NOW], timedelta(hours=1)
    limits = LineRules(load_rules("ghana")).limit(0, {})
    with lab.registrar(lines=limits, clock=lambda: now[0]) as registrar:
        first = lab.request(person)
        line = registrar.enroll([first])[0].decided.line_id

        def ask() -> list[tuple[Reason, ...]]:
            pair = [lab.request(person, document=first.document) for _ in range(2)]
            return [one.reasons for one in registrar.enroll(pair)]

        def approve(line: str) -> None:
            now[0] += hour
            # By a clock that is ahead: it holds at once, and for no second line.
            at = now[0] + timedelta(minutes=1)
            about = {"kind": LineEventKind.OPENING_APPROVED, "at": at, "actor": "key:k"}
            report_event(registrar, lab.store, LineRules(), line_text=line, **about)

        missing = (Reason.APPROVAL_MISSING,)
        assert ask() == [missing, missing]
        approve(line)
        # Used once, of two in one batch, too; and only the first line tells.
        assert ask() == [(), missing]
        now[0] += timedelta(seconds=90)
        assert ask() == [missing, missing]
        newest = lab.store.lines_of(lab.store.lines_by_id([line])[line].document_id)[1]
        approve(newest.id)
        assert ask() == [missing, missing]
        approve(line)
        now[0] += 24 * hour
        assert ask() == [missing, missing]
        # The next one takes the place of a first line that is closed.
        close_line(registrar, lab.store, line, "test")
        approve(newest.id)
        assert ask() == [(), missing]


def test_limits_of_a_holder_whose_face_is_not_on_file_are_told_to_no_tenant_and_count(lab) -> None:
    person, first = lab.newcomer()
    asking = Caller("key:k", "red-1", "red")
    red = {"carrier": "red", "outlet": "red-1", "document": first.document, "caller": asking}
    with lab.registrar(lines=LineLimits(approval_h=24), limits=Limits()) as registrar:
        own = registrar.enroll([first])[0].decided.document_id
        seen = enroll(lab, registrar, person, **red)
        erase_holder(registrar, lab.store, own, "test", scope=ErasureScope.FACE)
        unseen = enroll(lab, registrar, lab.people.person(), **red)
        nobodys = enroll(lab, registrar, lab.people.person(), **red | {"document": card(9)})
        mine = {"document": first.document, "caller": Caller("key:b", "blue-1", "blue")}
        itself = enroll(lab, registrar, lab.people.person(), **mine)
    assert nobodys.decision == "approved"
    tenant = Principal("k", Role.OUTLET, "red", "red-1")
    # Of its own lines a carrier learns nothing of others.
    told_each = ((seen, "APPROVAL_MISSING"), (unseen, "WITHHELD"), (itself, "APPROVAL_MISSING"))
    for one, told in told_each:
        assert one.reasons == (Reason.APPROVAL_MISSING,)
        record = lab.store.enrollment(one.enrollment_id)
        for shown in (enrollment(tenant, one, "k", ""), enrollment_record(tenant, record)):
            assert [it.reason for it in shown.reasons] == [told]
    assert lab.replays(seen, unseen)
    (counted,) = lab.store.tallies([f"{HOLDER_TALLY}:{own}:red"]).values()
    assert counted.level == 1


def test_a_carriers_own_set_asks_more_of_what_it_opens_but_a_persons_limit_is_everybodys() -> None:
    rules = LineRules(own={"red": load_rules("india"), "blue": load_rules("vietnam")})
    with pytest.raises(RequestError, match=r"red have a person_limit.*set it under"):
        rules.limit(0, {})
    limits = rules.limit(6, {"b": Channel.ONLINE})
    assert limits.own == {
        "red": LineLimits(6, 1, 0, {"b": 0}),
        "blue": LineLimits(6, 0, 0, {"b": 3}),
    }
    limits = LineRules(load_rules("india"), rules.own).limit(0, {})
    assert [one.day_limit for one in (limits, *limits.own.values())] == [1, 1, 1]
