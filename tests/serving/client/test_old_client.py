"""The client of an earlier release works unchanged with this service."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
RELEASE = "cefaf149711e43dbd5130f3a176426e501faa415"
"""When `.ci/openapi_v1.json` was first kept."""

USE = """
import json, sys
from datetime import UTC, datetime
from pathlib import Path
import serving.client
from serving.client import Activation, Client, Document, KnownDocument, MatchItem

assert serving.client.__file__.startswith(str(Path.cwd())), serving.client.__file__
url, keys, live, portrait = json.loads(sys.stdin.read())
live, portrait = Path(live).read_bytes(), Path(portrait).read_bytes()
document = Document("cn-ric", "110105198503071257", "Stan Stranger")
number = "+8613800138001"
sent = Activation(
    document=document, msisdn=number, live=live, portrait=portrait, consent_ref="C-1",
    captured_at=datetime.now(UTC), outlet="b1",
)
with Client(url, keys["blue"]) as client:
    decided = client.enroll(sent)
    again = client.enroll(sent)
    own = KnownDocument("cn-ric", "110105198503071257")
    shown = {
        "decision": decided.decision,
        "reasons": [one.reason for one in decided.reasons],
        "repeated": again.is_repeated,
        "found": client.find_enrollment(sent.idempotency_key).document_id == decided.document_id,
        "record": client.read_enrollment(decided.enrollment_id).decision,
        "matched": client.match([MatchItem(live, portrait)])[0].verification.is_match,
        "verified": client.verify(live, line=number).is_match,
        "lines": len(client.query_lines(own, live).lines),
        "key": client.whose_key().role,
        "ready": client.ready().is_ready,
    }
print(json.dumps(shown))
"""


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    """A folder with the client of that release alone."""
    packed = subprocess.run(
        ["git", "archive", RELEASE, "serving/__init__.py", "serving/client", "serving/wire"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if packed.returncode:
        pytest.skip("this clone has no history: the earlier client cannot be had from it")
    folder = tmp_path_factory.mktemp("release")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def test_the_client_of_an_earlier_release_works_unchanged(
    service, listen, release, photographs
) -> None:
    given = [listen(), service.keys, str(photographs.stranger), str(photographs.stranger_again)]
    ran = subprocess.run(
        [sys.executable, "-P", "-c", USE],
        cwd=release,
        env={"PYTHONPATH": str(release)},
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {
        "decision": "approved",
        "reasons": [],
        "repeated": True,
        "found": True,
        "record": "approved",
        "matched": True,
        "verified": True,
        "lines": 1,
        "key": "carrier",
        "ready": True,
    }
