"""Takes out of a registry whom a load test has put in."""

from __future__ import annotations

import time
from dataclasses import dataclass
from urllib.parse import quote

import gevent

from loadtest.access import Access, Report
from loadtest.calls import ENROLLMENTS
from loadtest.crew import work_together
from loadtest.exchange import OVERDUE, Reply
from loadtest.guests import Guests
from loadtest.survey import RETRIABLE, WAIT_S

PATIENCE_S = 60.0
"""For all of it: a service that still answers nothing then is left as it is, and that is said."""
SETTLE_S = 2.0
"""A request whose client has given up may be decided for so long."""
NOT_FOUND = 404


@dataclass(slots=True)
class Cleaner:
    """Asks again while the service says "later" and there is time."""

    access: Access
    guests: Guests
    report: Report
    patience_s: float = PATIENCE_S
    settle_s: float = SETTLE_S

    def clean(self, *, keeps: bool) -> None:
        """Erases the holders that are known, and those it finds by the keys of requests without
        an answer. `guests` are those who are left: all, where no key may erase or it `keeps` them.

        What was planted and refused leaves attempts and cases, as any refusal does.
        """
        end = time.monotonic() + self.patience_s
        if self.guests.open:
            work_together(lambda key: self._find(key, end, is_last=False), list(self.guests.open))
        if self.guests.open:
            gevent.sleep(self.settle_s)
            work_together(lambda key: self._find(key, end, is_last=True), list(self.guests.open))
        if not keeps and self.access.eraser is not None:
            documents = list(self.guests.documents)
            work_together(lambda one: self._erase(one, end, len(documents)), documents)

    def _find(self, key: str, end: float, *, is_last: bool) -> None:
        path = f"{ENROLLMENTS}?idempotency_key={quote(key, safe='')}"
        reply = self._ask("GET", path, self.access.keys.enroll, end)
        if reply.status == NOT_FOUND and is_last:
            del self.guests.open[key]
        elif 200 <= reply.status < 300 and isinstance(reply.value, dict):
            del self.guests.open[key]
            self.guests.admit(reply.value.get("decision"), reply.value.get("document_id"))
        self.report("looking up whom no answer told of", 0, 0)

    def _erase(self, document_id: str, end: float, total: int) -> None:
        path = f"/v1/documents/{document_id}"
        reply = self._ask("DELETE", path, self.access.eraser, end)
        # Not there any more is as good.
        if 200 <= reply.status < 300 or reply.status == NOT_FOUND:
            del self.guests.documents[document_id]
        done = total - len(self.guests.documents)
        self.report("erasing whom the test enrolled", done, total)

    def _ask(self, method: str, path: str, key: str | None, end: float) -> Reply:
        reply = Reply(OVERDUE)
        while time.monotonic() < end:
            reply = self.access.exchange.ask(method, path, key)
            if reply.status not in RETRIABLE and reply.status != OVERDUE:
                break
            gevent.sleep(WAIT_S)
        return reply
