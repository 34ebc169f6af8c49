"""`/v1/audit`: read by operators, page by page or the newest; verified part by part."""

from typing import Any

import pytest
from sqlalchemy import create_engine

from serving.api.body import JSON, MSGPACK
from serving.api.routes import health
from serving.deployment.deployment import registry_url
from serving.settings.settings import load_settings
from serving.wire.fields import read
from serving.wire.oversight import AuditPage, ChainPart

AUDIT = "/v1/audit"


def ask(service: Any, path: str = "", **asked: Any) -> Any:
    response = service.ask("GET", f"{AUDIT}{path}", key="operator", params=asked)
    assert response.status_code == 200, response.text
    return service.read(response)


@pytest.mark.parametrize("accept", [JSON, MSGPACK])
def test_the_chain_is_read_page_by_page(service, accept: str) -> None:
    known = {record.number: record for record in service.parts.store.audit_entries()}
    seen, after = [], 0
    while len(seen) < len(known):
        response = service.ask(
            "GET", AUDIT, key="operator", params={"after": after, "limit": 3}, accept=accept
        )
        page = service.read(response)
        read(page, AuditPage)
        assert page["head"] >= len(known)
        seen += page["entries"]
        after = page["next"]
    for shown in seen[: len(known)]:
        record = known[shown["number"]]
        assert (shown["action"], shown["subject"]) == (record.entry.action, record.entry.subject)
        assert shown["hash"] == record.hash.hex()
        assert shown["detail"] == dict(record.entry.detail)
    assert [one["number"] for one in seen] == list(range(1, len(seen) + 1))


def test_without_a_number_the_newest_are_shown_and_the_reading_is_audited(service) -> None:
    ask(service)
    page = ask(service, limit=2)
    assert page["entries"][-1]["action"] == "audit.read"
    assert page["entries"][-1]["number"] == page["head"]
    assert page["next"] is None


def test_who_asked_about_somebody_is_kept_and_no_text_that_may_be_a_name(service, enrolled) -> None:
    ask(service, subject=enrolled["enrollment_id"])
    ask(service, subject="Aileen Probe")
    *_, asked, named = ask(service)["entries"]
    assert asked["detail"]["about"] == enrolled["enrollment_id"]
    assert named["detail"].keys() == {"after", "entries"}


def test_entries_are_found_by_what_they_say(service, enrolled) -> None:
    subject = enrolled["enrollment_id"]
    [first, *others] = ask(service, after=0, limit=200, subject=subject)["entries"]
    assert first["subject"] == subject
    # What was done to another may name it too.
    assert all(subject in str(one) for one in others)
    assert ask(service, after=0, action=first["action"])["entries"]
    assert ask(service, after=0, actor="nobody")["entries"] == []


def verify_all(service: Any) -> list[dict[str, Any]]:
    found, after = [], 0
    while after is not None:
        found.append(ask(service, "/verification", after=after))
        read(found[-1], ChainPart)
        after = found[-1]["next"]
    return found


def test_the_chain_is_verified_part_by_part(service, monkeypatch) -> None:
    [whole] = verify_all(service)
    assert (whole["intact"], whole["first_bad"]) == (True, None)
    assert whole["verified_to"] == whole["head"]
    monkeypatch.setattr(health, "MOST_VERIFIED", 7)
    parts = verify_all(service)
    assert len(parts) > 1
    assert all(one["intact"] for one in parts)
    assert [one["after"] for one in parts[1:]] == [one["verified_to"] for one in parts[:-1]]
    beyond = service.ask("GET", f"{AUDIT}/verification", key="operator", params={"after": 10**6})
    service.assert_refused(beyond, 400, "REQUEST.MALFORMED")


def test_an_entry_that_was_altered_is_named(fresh) -> None:
    home = fresh.log_file.parent
    engine = create_engine(registry_url(home, load_settings(home)))
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE audit SET actor = 'nobody' WHERE number = 4")
    engine.dispose()
    [whole] = verify_all(fresh)
    assert (whole["intact"], whole["first_bad"], whole["next"]) == (False, 4, None)
