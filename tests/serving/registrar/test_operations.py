"""Faces, lines and holders through the registrar: within the tenant, and audited."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engine.errors import (
    DeadlinePassed,
    HolderMismatch,
    NotFound,
    RequestError,
    TenantConflict,
)
from serving.registrar.client import LocalRegistrar
from serving.registrar.protocol import CallContext, LineTarget

BLUE = CallContext(actor="key:blue", correlator="c-2", carrier="blue", timeout_s=15)
RED = replace(BLUE, actor="key:red", carrier="red")


def test_an_identification_is_audited_with_whom_it_showed(
    serve: Any, kept: Any, reach: Any, crowd: Any, context: CallContext
) -> None:
    person = crowd.person()

    async def ask() -> None:
        registrar = serve(kept)
        await reach(registrar)
        answer = await registrar.enroll(crowd.request(person), context)
        probes = np.stack([crowd.probe(person), crowd.person()])
        found = await registrar.identify(probes, 0.5, context)
        document = answer.body["document_id"]
        assert [[c.document_id for c in one.candidates] for one in found] == [[document], []]
        entry = kept.actions()[-1]
        assert (entry.actor, entry.action) == ("key:tests", "faces.identified")
        assert entry.detail == {"probes": 2, "candidates": 1, "documents": [document]}

    asyncio.run(ask())


def test_nobody_is_shown_before_the_audit_is_durable(
    serve: Any, kept: Any, reach: Any, crowd: Any, context: CallContext, busy: Any
) -> None:
    request = crowd.request()

    async def ask() -> None:
        registrar: LocalRegistrar = serve(kept)
        await reach(registrar)
        await registrar.enroll(request, context)
        with busy(kept.last):
            calls = [
                asyncio.create_task(registrar.identify(crowd.person()[None], 0.5, context)),
                asyncio.create_task(
                    registrar.check_document(request.document, crowd.person(), context)
                ),
                asyncio.create_task(
                    registrar.read_lines(request.document, crowd.person(), context)
                ),
            ]
            done, _ = await asyncio.wait(calls, timeout=0.5)
            assert not done
        await asyncio.gather(*calls)
        actions = {entry.action for entry in kept.actions()}
        assert {"faces.identified", "holder.checked", "lines.read"} <= actions

    asyncio.run(ask())


def test_a_face_is_held_against_its_line_and_its_document_within_the_tenant(
    serve: Any, kept: Any, reach: Any, crowd: Any, context: CallContext
) -> None:
    person, stranger = crowd.person(), crowd.person()
    request = crowd.request(person)

    async def ask() -> None:
        registrar: LocalRegistrar = serve(kept)
        await reach(registrar)
        answer = await registrar.enroll(request, context)
        document_id = answer.body["document_id"]
        line_id = kept.last.store.lines_of(document_id)[0].id
        probe = crowd.probe(person)
        for target in (request.msisdn, line_id):
            check = await registrar.check_line(LineTarget(target), probe, BLUE)
            assert (check.is_match, check.line_id) == (True, line_id)
        for document in (request.document, document_id):
            assert (await registrar.check_document(document, probe, BLUE)).is_match
            assert not (
                await registrar.check_document(document, crowd.probe(stranger), BLUE)
            ).is_match
            with pytest.raises(NotFound):
                await registrar.check_document(document, probe, RED)
        with pytest.raises(NotFound):
            await registrar.check_line(LineTarget(line_id), probe, RED)
        checks = [entry for entry in kept.actions() if entry.action == "holder.checked"]
        matched = [entry.detail["matched"] for entry in checks]
        assert matched == [True, True, True, False, True, False]
        assert {entry.subject for entry in checks} == {document_id}

    asyncio.run(ask())


def test_lines_are_read_disputed_closed_and_a_holder_erased(
    serve: Any, kept: Any, reach: Any, crowd: Any, context: CallContext
) -> None:
    person, stranger = crowd.person(), crowd.person()
    request = crowd.request(person)
    again = crowd.request(person, document=request.document, carrier="red", outlet="r1")

    async def ask() -> None:
        registrar: LocalRegistrar = serve(kept)
        await reach(registrar)
        answer = await registrar.enroll(request, context)
        await registrar.enroll(again, context)
        document, document_id = request.document, answer.body["document_id"]
        shown = await registrar.read_lines(document, crowd.probe(person), BLUE)
        assert sorted(shown.numbers.values()) == sorted([request.msisdn, again.msisdn])
        assert not (await registrar.read_lines(document, crowd.probe(stranger), BLUE)).lines
        foreign = LineTarget(again.msisdn)
        with pytest.raises(HolderMismatch):
            await registrar.dispute_line(foreign, document, crowd.probe(stranger), BLUE)
        dispute = await registrar.dispute_line(foreign, document, crowd.probe(person), BLUE)
        assert dispute.line_id in shown.numbers
        with pytest.raises(NotFound):
            await registrar.close_line(foreign, BLUE)
        assert await registrar.close_line(foreign, RED) == dispute.line_id
        with pytest.raises(TenantConflict):
            await registrar.erase(document_id, BLUE)
        certificate = await registrar.erase(document_id, context)
        assert certificate.references == 1
        assert (await registrar.identify(person[None], 0.5, context))[0].candidates == ()
        reads = [entry.detail for entry in kept.actions() if entry.action == "lines.read"]
        assert reads == [{"shown": True, "lines": 2}, {"shown": False, "lines": 0}]

    asyncio.run(ask())


def test_a_tenant_erases_whom_it_alone_serves(
    serve: Any, kept: Any, reach: Any, crowd: Any, context: CallContext
) -> None:
    request = crowd.request()

    async def ask() -> None:
        registrar: LocalRegistrar = serve(kept)
        await reach(registrar)
        document_id = (await registrar.enroll(request, context)).body["document_id"]
        with pytest.raises(NotFound):
            await registrar.erase(document_id, RED)
        assert (await registrar.erase(document_id, BLUE)).document_id == document_id
        with pytest.raises(NotFound):
            await registrar.erase(document_id, BLUE)

    asyncio.run(ask())


def test_a_change_that_cannot_begin_in_time_is_not_made(
    serve: Any, kept: Any, reach: Any, crowd: Any, context: CallContext, busy: Any
) -> None:
    request = crowd.request()

    async def ask() -> None:
        registrar: LocalRegistrar = serve(kept)
        await reach(registrar)
        await registrar.enroll(request, context)
        target = LineTarget(request.msisdn)
        with busy(kept.last):
            with pytest.raises(DeadlinePassed):
                await registrar.close_line(target, replace(context, timeout_s=0.2))
            left = asyncio.create_task(registrar.close_line(target, context))
            await asyncio.sleep(0.1)
            left.cancel()
            with pytest.raises(asyncio.CancelledError):
                await left
        assert (await registrar.check_line(target, crowd.person(), context)).line_id

    asyncio.run(ask())


def test_probes_that_are_no_faces_are_refused_as_input(
    serve: Any, kept: Any, reach: Any, crowd: Any, context: CallContext
) -> None:
    async def ask() -> None:
        registrar: LocalRegistrar = serve(kept)
        await reach(registrar)
        request = crowd.request()
        await registrar.enroll(request, context)
        for probe in (np.zeros(128, np.float32), np.ones(7, np.float32)):
            with pytest.raises(RequestError):
                await registrar.identify(probe[None], 0.5, context)
            with pytest.raises(RequestError):
                await registrar.check_document(request.document, probe, context)

    asyncio.run(ask())
