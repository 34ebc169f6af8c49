"""Lines of a person over all carriers, and documents that no limit holds for."""

from typing import Any

import pytest

from engine.errors import NotFound
from engine.lifecycle.reverification import end_exemption, exempt
from engine.matching.checks.order import replay
from schema.reasons import Reason
from tests.engine.records import ENTRY, make_pair


def enroll(lab: Any, registrar: Any, person: Any, **changes: Any) -> Any:
    return registrar.enroll([lab.request(person, **changes)])[0]


def test_a_person_has_so_many_lines_over_all_carriers_and_all_documents(lab) -> None:
    person, red = lab.people.person(), {"carrier": "red", "outlet": "red-1"}
    first = lab.request(person)
    with lab.registrar(person_limit=3) as registrar:
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
