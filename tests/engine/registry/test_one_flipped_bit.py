"""One bit flipped in any row of any table: what belongs to others goes on, the damage is named, and
nothing wrong is told."""

import random
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Table

from engine.errors import SosieError
from engine.lifecycle.campaigns import fill_campaigns
from engine.lifecycle.reverification import carry_out
from engine.lifecycle.rules import LineRules, load_rules
from engine.registry import damage, documents, keyring
from engine.registry.accounts import Accounts, ApiKey, Carrier, OutletChange, Session
from engine.registry.audit import verify_chain
from engine.registry.backup import make_backup, restore_backup
from engine.registry.campaigns import Campaign, ListedLine
from engine.registry.cases import AddedNote
from engine.registry.damage import find_damage
from engine.registry.database import new_id, utc_now
from engine.registry.documents import DocumentBlock, DocumentRecord, ExemptDocument
from engine.registry.enrollments import LivenessRecord, Tally
from engine.registry.events import BEGINNING, hold_cursor, read_cursors, read_events, read_page
from engine.registry.lines import LineChange, LineEvent, Reverification
from engine.registry.people import (
    AskedLine,
    DeathRecord,
    ExceptionRecord,
    Guardianship,
    Replacement,
)
from engine.registry.references import AttemptTemplate, SecondTemplate
from engine.registry.rows import name_row
from engine.registry.store import Reader, Store, authenticated_tables, every_table
from engine.registry.sweeps import SweepChange
from engine.registry.vault import Vault
from engine.registry.watchlist import WatchEntry
from engine.registry.webhooks import Progress, Undelivered, Webhooks
from engine.registry.writer import Writer
from engine.retention.job import DirectRunner, run_retention
from engine.statutory.lists import Layout, list_people
from engine.sweeps.sweep_run import read_facts
from schema.actors import Restriction
from schema.cases import CaseNote, NoteKind, Outcome
from schema.documents import ErasureScope
from schema.lines import CampaignLineState, CampaignState, LineEventKind
from schema.people import GivenConsent
from schema.sweeps import SweepState, SweepTerms
from tests.engine.records import make_case, make_crop, make_pair, make_sweep, newest_cases
from tests.engine.registry.conftest import ENTRY, newcomer
from tests.engine.retention.conftest import only
from tests.tables import tables

DIM, MODEL = 8, "sha256:model-of-the-tests"
PEOPLE, ROWS = 22, 20
AT_ONCE = 10
"""So many rows of one table, that most people are none of theirs."""
DAY = timedelta(days=1)
LONG_AGO = utc_now() - 400 * DAY
CONSENT = GivenConsent(
    given_at=LONG_AGO, purpose="lines", text_version="1", language="zh", channel="outlet"
)
ZONE = "Asia/Shanghai"
RULES = LineRules(load_rules("vietnam"))
PLAIN = {"audit", "deployment"}
"""Their rows have no codes: of the one the chain tells, and the other is all that is opened."""

EMPTY = 40
"""Columns without a value here: a new one has one."""

Answers = dict[tuple[str, str], Any]


class World:
    """A registry in which every row is one person's; each has a carrier and an outlet alone."""

    def __init__(self, path: Path) -> None:
        self.path, self.ring = path, keyring.KeyRing.generate()
        self.owner: dict[str, int] = {}
        self.documents: list[str] = []
        self.attempts: list[str] = []
        self.lines: list[str] = []
        self.cases: list[str] = []
        self.webhooks: list[str] = []
        self.campaigns: list[str] = []
        self.scopes: list[bytes] = []
        vault = Vault(self.ring, DIM)
        with Store.create(f"sqlite:///{path}", vault, model_digest=MODEL) as store:
            for place in range(PEOPLE):
                carrier = Carrier(f"c{place}", f"Carrier {place}", time_zone=ZONE)
                store.add_carrier(carrier, actor="test")
                store.add_outlet(f"o{place}", f"c{place}", actor="test", time_zone=ZONE)
                self.own(place, f"c{place}", f"o{place}")
            with store.writer() as writer:
                for place in range(PEOPLE):
                    self._enroll(writer, place)
                for place in range(PEOPLE):
                    self._describe(writer, place)
            self._let_in(store)
        self.sound = path.read_bytes()
        with self.open() as store:
            self.before = ask(self, store)
            self.rows = {table.name: read_rows(store, table) for table in authenticated_tables()}

    def own(self, place: int, *names: str) -> None:
        self.owner.update(dict.fromkeys(names, place))

    def _enroll(self, writer: Writer, place: int) -> None:
        """Two documents, each with a face, an attempt and a line; the second line is closed."""
        faces = np.random.default_rng(place).standard_normal((2, DIM)).astype(np.float32)
        faces = writer.vault.rotate(faces / np.linalg.norm(faces, axis=1, keepdims=True))
        tenant = {"carrier": f"c{place}", "outlet": f"o{place}"}
        for turn in range(2):
            sequence = writer.sequence + 1
            made = newcomer(writer, 2 * place + turn, faces[turn], sequence)
            document, attempt, reference, line, answer, entry = made
            attempt, line = replace(attempt, consent=CONSENT, **tenant), replace(line, **tenant)
            changes = [entry, document, attempt, reference, line, answer]
            writer.commit(changes)
            if turn:
                end = [ENTRY, LineChange([line.id], LineEventKind.CLOSED, "test", "test")]
                writer.commit(end)
            self.documents.append(document.id)
            self.attempts.append(attempt.id)
            self.lines.append(line.id)
            self.scopes.append(answer.scope)
            self.own(place, document.id, attempt.id, line.id, str(reference.id))
            self.own(place, answer.scope.hex())

    def _describe(self, writer: Writer, place: int) -> None:
        """A row of every other kind."""
        now, vault = utc_now(), writer.vault
        document, other = self.documents[2 * place : 2 * place + 2]
        attempt, _ = self.attempts[2 * place : 2 * place + 2]
        line, _ = self.lines[2 * place : 2 * place + 2]
        case = make_case(document_ids=(document,), enrollment_id=attempt, line_id=line)
        case = replace(case, score=0.6, weakest=0.5, risk=9.0, assignee="anna")
        sweep = make_sweep(
            state=SweepState.DONE,
            terms=SweepTerms(threshold=0.5, model_digest=MODEL),
            started_at=now,
            ended_at=now,
            sequence=1,
            summary={"pairs": place},
        )
        campaign = Campaign(
            id=new_id(),
            carrier=f"c{place}",
            name=f"campaign {place}",
            state=CampaignState.FILLING,
            deadline=now + 90 * DAY,
            steps=((0, "suspended"),),
            chosen={"outlet": f"o{place}"},
            filled_to=None,
            created_at=now,
            created_by="test",
        )
        asked = Reverification(
            id=new_id(),
            line_id=line,
            rule="yearly",
            asked_at=LONG_AGO,
            next_step_at=LONG_AGO + DAY,
            steps=((0, "suspended_outgoing"), (9_999_999, "suspended")),
        )
        happened = LineEvent(
            id=new_id(),
            line_id=line,
            kind=LineEventKind.SIM_SWAP,
            at=now,
            recorded_at=now,
            cause=None,
            by="test",
        )
        shown = LivenessRecord(
            id=new_id(),
            use="enrollment",
            received_at=now,
            token=bytes([place]) * 32,
            issuer="test",
            jti=f"jti {place}",
            decision="pass",
            level="high",
            issued_at=now,
            judge=MODEL,
            carrier=f"c{place}",
            outlet=f"o{place}",
            enrollment_id=attempt,
        )
        judged = make_pair(
            document, other, outcome=Outcome.MISTAKE, case_id=case.id, sweep_id=sweep.id
        )
        judged = replace(judged, sequence=1, left_attempt_score=0.5, right_attempt_score=0.5)
        crop = make_crop(attempt, days=900, document_id=document, received_at=now, case_days=9)
        face = np.random.default_rng(900 + place).standard_normal((1, DIM)).astype(np.float32)
        face = vault.rotate(face / np.linalg.norm(face))[0]
        watched = WatchEntry(writer.next_watch_id(), bytes([place]) * 32, face, "fraud", now)
        watched = replace(watched, second=SecondTemplate(MODEL, face))
        refused = ExceptionRecord(
            id=attempt,
            carrier=f"c{place}",
            outlet=f"o{place}",
            document_id=document,
            cause="medical",
            line=AskedLine("+86139", "Name"),
            asked_at=now,
            case_id=case.id,
        )
        death = DeathRecord(
            document_id=document,
            source="register",
            reported_at=now,
            reported_by="key:a",
            reported_person="anna",
            confirmed_at=now,
            confirmed_by="test",
        )
        note = CaseNote(now, "test", NoteKind.NOTE, f"note {place}")
        changes = [
            *(ENTRY, case, AddedNote(case.id, note), SweepChange(sweep), judged, crop, shown),
            *(watched, happened, asked, campaign, refused, death, DocumentBlock(other)),
            ListedLine(campaign.id, line, CampaignLineState.ASKED, now),
            ExemptDocument(document_id=document, cause="firm", at=now, by="test"),
            Guardianship(line, document, other, attempt, 2099, now),
            Replacement(other, document, attempt, 0.9, now),
            AttemptTemplate(attempt, document, face),
            Tally(f"shown:{document}", 3.0, DAY, 60.0),
            documents.ConsentChange(other, [f"c{place}"], is_withdrawn=True, kept=CONSENT.plain()),
            documents.AskedErasure(other, "test", now + 900 * DAY, ErasureScope.FACE),
            OutletChange(code=f"o{place}", restriction=Restriction.SUSPENDED, case_id=case.id),
        ]
        writer.commit(changes)
        self.cases.append(case.id)
        self.campaigns.append(campaign.id)
        named = (case.id, sweep.id, campaign.id, str(watched.id), f"shown:{document}")
        self.own(place, *named, judged.left_document)

    def _let_in(self, store: Store) -> None:
        """Webhooks with something that waits, keys and sessions."""
        now, webhooks = utc_now(), Webhooks(store.engine, store.vault)
        for place in range(PEOPLE):
            webhook, _ = webhooks.create(
                f"https://s{place}.example/", (), carrier=f"c{place}", actor="test"
            )
            held = hold_cursor(store, webhook.id, "worker", now, timedelta(minutes=1))
            number = 1 + place
            waiting = Undelivered(
                number=number, queue=new_id(), attempts=1, due_at=now, fault="status 503", at=now
            )
            assert webhooks.save("worker", [Progress(held, held.number, [waiting])]) == []
            fields = (f"key{place:09}", bytes(32), "carrier", f"c{place}", None, now)
            limits = {"rate_limit": 9.0, "expires_at": now + DAY, "person": f"q{place}"}
            key = ApiKey(*fields, label=f"k{place}", **limits)
            store.add_api_key(key, actor="test")
            fields = (f"s{place:011}", bytes(32), "fraud", None, None, now)
            lasts = {"expires_at": now + DAY, "seen_at": now}
            session = Session(*fields, person=f"p{place}", **lasts)
            assert store.accounts.sign_in(session, f"u{place}", "c")
            self.webhooks.append(webhook.id)
            self.own(place, webhook.id, key.id, session.id, session.person)

    @contextmanager
    def open(self, table: Table | None = None, places: Iterable[int] = ()) -> Iterator[Store]:
        """By a process that has met no damage yet, with a bit flipped in each of these rows."""
        self.path.write_bytes(self.sound)
        if table is not None:
            flip(self.path, table, places, random.Random(f"{table.name} {places}"))
        vault = Vault(self.ring, DIM)
        with Store.open(
            f"sqlite:///{self.path}", vault, model_digest=MODEL, is_examined=True
        ) as it:
            yield it


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return World(tmp_path_factory.mktemp("flips") / "registry.db")


def flip(path: Path, table: Table, places: Iterable[int], chance: random.Random) -> list[str]:
    """Flips a bit of a value in each of these rows, as a disk would, and says in which columns."""
    order = ", ".join(f'"{one.name}"' for one in table.primary_key)
    flipped = []
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA ignore_check_constraints = ON")
        query = f'SELECT rowid AS "the row", * FROM "{table.name}" ORDER BY {order}'
        rows = connection.execute(query).fetchall()
        for row in (rows[place] for place in places):
            held = [one for one in row.keys()[1:] if row[one] not in (None, "", b"")]
            while True:
                name = chance.choice(held)
                value = _flipped(row[name], chance)
                change = f'UPDATE "{table.name}" SET "{name}" = {value} WHERE rowid = ?'
                # Another row may have that key.
                with suppress(sqlite3.IntegrityError):
                    connection.execute(change, (row["the row"],))
                    break
            flipped.append(name)
    return flipped


def _flipped(value: Any, chance: random.Random) -> str:
    """The value with one bit flipped, as SQL that keeps its kind."""
    if isinstance(value, int):
        return str(value ^ 1 << chance.randrange(20))
    if isinstance(value, float):
        octets = bytearray(np.float64(value).tobytes())
        octets[chance.randrange(6)] ^= 1 << chance.randrange(8)
        return repr(float(np.frombuffer(octets, np.float64)[0]))
    octets = bytearray(value.encode() if isinstance(value, str) else value)
    octets[chance.randrange(len(octets))] ^= 1 << chance.randrange(8)
    return f"CAST(x'{octets.hex()}' AS TEXT)" if isinstance(value, str) else f"x'{octets.hex()}'"


def ask(world: World, opened: Store) -> Answers:
    """What everybody is told of their own, and what those who see all are told of each."""
    with opened.reading() as store:
        return _ask(world, store, opened.accounts, Webhooks(opened.engine, opened.vault))


def _ask(world: World, store: Reader, accounts: Accounts, webhooks: Webhooks) -> Answers:
    found: Answers = {}
    life, people, cases = store.life, store.people, store.cases

    def tell(what: str, key: str, read: Callable[..., Any], *given: Any) -> None:
        # What a damaged row keeps from its own is an error, or as if it were not there.
        with suppress(SosieError):
            told = read(*given)
            told = next(iter(told.values()), None) if isinstance(told, dict) else told
            if told is not None and told not in ([], ""):
                found[what, key] = told

    for place in range(PEOPLE):
        carrier, key, case = f"c{place}", world.webhooks[place], world.cases[place]
        campaign, session = world.campaigns[place], f"s{place:011}"
        tell("feed", carrier, lambda one: read_page(store, BEGINNING, carrier=one).events, carrier)
        tell("backlog", key, lambda one: webhooks.measure(webhooks.find(one)), key)
        tell("undelivered", key, webhooks.undelivered, key)
        tell("notes", case, cases.notes, case)
        tell("campaign", campaign, life.list_lines, campaign, CampaignLineState.ASKED, "", 9)
        tell("key", f"key{place:09}", store.api_key, f"key{place:09}")
        tell("session", session, accounts.find, session)
    for key in world.documents:
        tell("document", key, lambda one: _alone([store.document(one)])[0], key)
        tell("references", key, lambda one: list(store.document(one).reference_ids), key)
        tell("identity", key, store.identity, key)
        tell("lines", key, store.lines_of, key)
        tell("death", key, people.death, key)
        tell("guarded", key, people.guarded_by, key)
        tell("faces", key, lambda one: [face.crop.id for face in cases.faces([one], 9)[one]], key)
        tell("open cases", key, cases.open_of, [key])
        tell("exempt", key, store.exemptions, [key])
        tell("deceased", key, lambda one: one in people.standing([one]).deceased or None, key)
        tell("replaced", key, lambda one: people.standing([one]).replaced, key)
        tell("shown", key, store.tallies, [f"shown:{key}"])
    for key in world.attempts:
        tell("attempt", key, store.enrollment, key)
        tell("exception", key, people.exceptions, [key])
        tell("template", key, lambda one: str(*store.attempt_templates([one]).values()), key)
    for scope in world.scopes:
        tell("answer", scope.hex(), store.answers, [scope])
    for line in world.lines:
        tell("asked", line, life.asked_of, [line])
        tell("happened", line, store.events_of_line, line)
    lists: list[tuple[str, Sequence[Any], Callable[[Any], str]]] = [
        ("all events", read_events(store, 0), lambda one: one.subject),
        ("webhooks", webhooks.find_all(), lambda one: one.id),
        ("cursors", list(read_cursors(store).items()), lambda one: one[0]),
        ("blocked", _alone(store.blocked_documents()), lambda one: one.id),
        ("carriers", store.carriers(), lambda one: one.code),
        ("outlets", store.all_outlets(), lambda one: one.code),
        ("keys", store.api_keys(), lambda one: one.id),
        ("queue", newest_cases(cases, limit=99), lambda one: one.id),
        ("judged", store.judged_pairs(), lambda one: one.left_document),
        ("sweeps", store.sweeps.newest(), lambda one: one.id),
        ("campaigns", life.campaigns(None), lambda one: one.id),
        ("due", life.due(utc_now(), 99, None), lambda one: one.line_id),
    ]
    for what, listed, name in lists:
        for one in listed:
            found.setdefault((what, name(one)), []).append(str(one))
    for one in accounts.everyone(utc_now()):
        # Their sessions are others' rows.
        found["account", one.person] = one.since
    for one in store.watchlist():
        tell("watched face", str(one.id), lambda entry: _listed(entry.template), one)
        tell("watched document", str(one.id), lambda entry: entry.document_lookup, one)
    for chunk in store.references():
        for reference, vector in zip(chunk.ids.tolist(), chunk.vectors, strict=True):
            found["gallery", str(reference)] = vector.tolist()
    return found


def _alone(records: Iterable[DocumentRecord]) -> list[DocumentRecord]:
    """Without their references, which are other rows."""
    return [replace(one, reference_ids=()) for one in records]


def _listed(template: Any) -> list[float] | None:
    return None if template is None else template.tolist()


def read_rows(store: Store, table: Table) -> dict[Any, Any]:
    return {name_row(table, row): row._mapping for row in store.rows(table.select())}


@pytest.mark.parametrize("table", [*authenticated_tables(), tables.audit], ids=lambda one: one.name)
def test_one_flipped_bit_is_named_and_touches_nothing_that_belongs_to_others(
    world, table: Table, monkeypatch
) -> None:
    monkeypatch.setattr(damage, "MOST_SHOWN", 1000)
    for first in range(0, ROWS, AT_ONCE):
        with world.open(table, range(first, first + AT_ONCE)) as store:
            sound = world.rows.get(table.name, {})
            require_named(store, table, sound)
            now = read_rows(store, table)
            harmed = [row for key, row in sound.items() if now.get(key) != row]
            compare(world, ask(world, store), harmed)


def test_a_backup_has_damaged_rows_as_they_are_and_names_them(world, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(damage, "MOST_SHOWN", 2000)
    harmed, vault = [*authenticated_tables(), tables.audit], Vault(world.ring, DIM)
    world.path.write_bytes(world.sound)
    for table in harmed:
        flip(world.path, table, range(ROWS), random.Random(f"{table.name} {range(ROWS)}"))
    url, opened = f"sqlite:///{world.path}", {"model_digest": MODEL, "is_examined": True}
    with Store.open(url, vault, **opened) as store, store.writer() as writer:
        damaged = {table.name: read_rows(store, table) for table in harmed}
        made = make_backup(store, writer, tmp_path / "copy", actor="test")
    assert {
        name for name in damaged if not any(one.startswith(name) for one in made.damage)
    } == set()
    url, vault = f"sqlite:///{tmp_path}/restored", Vault(world.ring, DIM)
    done = restore_backup(url, vault, tmp_path / "copy", model_digest=MODEL, actor="test")
    assert done.manifest.damage == made.damage
    with Store.open(url, vault, model_digest=MODEL) as store:
        for table in harmed:
            assert read_rows(store, table).items() >= damaged[table.name].items(), table.name


def require_named(store: Store, table: Table, sound: dict[str, Any]) -> None:
    if table is tables.audit:
        assert not verify_chain(store).intact
        return
    found = find_damage(store)
    # A bit may change nothing, as one of the T in a moment.
    harmed = [key for key, row in read_rows(store, table).items() if sound.get(key) != row]
    assert len(harmed) > AT_ONCE / 2
    named = [one for one in found if one.startswith(table.name)]
    unnamed = [key for key in harmed if not any(f"{key} " in one for one in named)]
    assert not unnamed, found


def compare(world: World, after: Answers, harmed: Iterable[Any]) -> None:
    before = world.before
    values = (one for row in harmed for one in row.values())
    named = {one.hex() if isinstance(one, bytes) else str(one) for one in values}
    owners = {world.owner[key] for key in named & world.owner.keys()}
    changed = {key for key, told in before.items() if after.get(key) != told}
    assert {world.owner[key] for _, key in changed} <= owners, changed
    # A damaged entry of the watch-list protects by what is left of it.
    new = {key for key in after.keys() - before.keys() if key[0] != "watched document"}
    assert not new, new
    for key in changed & after.keys():
        # What the database counts, it counts with what is damaged.
        if key[0] not in {"backlog", "watched document"}:
            # Of a list what is damaged is left out, and nothing else is another.
            assert isinstance(after[key], list), (key, before[key], after[key])
            assert [one for one in before[key] if one in after[key]] == after[key], key


def test_bits_are_flipped_in_values_of_all_columns_but_a_few(world) -> None:
    empty = [
        f"{table}.{column}"
        for table, rows in world.rows.items()
        for column in next(iter(rows.values()))
        if all(row[column] is None for row in rows.values())
    ]
    assert len(empty) <= EMPTY, empty


def test_every_table_has_codes_but_the_chain_and_what_is_opened_with_it() -> None:
    rest = {one.name for one in every_table()} - {one.name for one in authenticated_tables()}
    assert rest == PLAIN


@pytest.mark.parametrize("table", authenticated_tables(), ids=lambda one: one.name)
def test_steps_campaigns_retention_lists_and_sweeps_go_on_beside_twenty_damaged_rows(
    world, table: Table
) -> None:
    with world.open(table, range(ROWS)) as store:
        with store.writer() as writer:
            runner = DirectRunner(writer)
            while carry_out(runner, store, RULES):
                pass
            while fill_campaigns(runner, store, RULES):
                pass
            schedule = only(closed_lines_days=1, answers_days=1, events_days=1)
            later = utc_now() + 2 * DAY
            assert run_retention(runner, schedule, "test", now=later).is_complete
        # By code the last of the carriers is another.
        last = 9 if table is tables.carriers else PEOPLE - 1
        line, closed = world.lines[2 * last :][:2]
        kinds = {one.kind for one in store.events_of_line(line)}
        assert {LineEventKind.OVERDUE, LineEventKind.SUSPENDED_OUTGOING} <= kinds
        filled = store.life.campaign(world.campaigns[last])
        assert filled.state is CampaignState.RUNNING
        assert store.numbers([line, closed]).keys() == {line}
        columns = Layout(lists="people", title="t", columns={})
        assert line in {one["line"] for one in list_people(store, columns, str, str).rows}
        assert len(read_facts(store, None).exceptions) >= PEOPLE - ROWS
        # Retention has deleted all of these, damaged or not.
        is_gone = table in (tables.idempotency, tables.events)
        assert is_gone or any(one.startswith(table.name) for one in find_damage(store))
        assert verify_chain(store).intact
