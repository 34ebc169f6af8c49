"""Takes out of a registry whom a load test has put in."""

from __future__ import annotations

from collections.abc import Iterable

from loadtest.access import Access, Report
from loadtest.crew import work_together


def erase_all(access: Access, enrolled: Iterable[str], report: Report, *, keeps: bool) -> int:
    """Erases the holders of these documents; how many are left where it may not, or `keeps`.

    What was planted and refused leaves attempts and cases, as any refusal does.
    """
    documents = list(dict.fromkeys(enrolled))
    if keeps or access.eraser is None:
        return len(documents)
    done = 0

    def erase(document_id: str) -> bool:
        nonlocal done
        reply = access.exchange.ask("DELETE", f"/v1/documents/{document_id}", access.eraser)
        done += 1
        report("erasing whom the test enrolled", done, len(documents))
        # Not there any more is as good.
        return 200 <= reply.status < 300 or reply.status == 404

    return sum(not is_gone for is_gone in work_together(erase, documents))
