"""An interrupted load test leaves nobody enrolled, even if answers were lost."""

import signal
from typing import Any

import msgpack

from tests.loadtest.conftest import finish
from tests.waiting import wait_until

LOAD = ("--class", "enroll", "--rate", 5, "--seconds", 12, "--arrivals", "constant")
KEPT, LOST = 7, 3
"""Approvals that are acknowledged (the holders' first), and later ones that are not."""


class LosesAnswers:
    """The application, whose approvals are answered with 503 after some have been given."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.enrolled: list[str] = []
        self.erased: set[str] = set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent: list[Any] = []

        async def keep(message: Any) -> None:
            sent.append(message)

        await self._app(scope, receive, keep)
        if not sent:
            return  # The client left before the answer: an enrollment may be kept all the same.
        status = sent[0]["status"]
        if scope["method"] == "DELETE" and status == 200:
            self.erased.add(scope["path"].rpartition("/")[2])
        if (scope["method"], scope["path"], status) == ("POST", "/v1/enrollments", 201):
            answer = msgpack.unpackb(b"".join(one.get("body", b"") for one in sent[1:]))
            if answer["decision"] == "approved":
                self.enrolled.append(answer["document_id"])
                sent[0]["status"] = 201 if len(self.enrolled) <= KEPT else 503
        for message in sent:
            await send(message)


def test_everybody_enrolled_is_erased_even_if_the_answer_was_lost(service, listen, begin) -> None:
    application = LosesAnswers(service.app)
    process = begin("steady", listen(application), "two", *LOAD)
    wait_until(lambda: len(application.enrolled) >= KEPT + LOST or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    outcome = finish(process)
    assert (outcome.code, outcome.out, outcome.err) == (130, "", "")
    # Of a call that was cut off only the load test knows: it looks it up by its key.
    assert set(application.enrolled) <= application.erased
