"""Whatever a type's rule allows is sound, old numbers and new ones; sources: docs/documents.md."""

import random
import re
from datetime import date, timedelta
from pathlib import Path

import pytest
from stdnum.cn import ric

from engine.matching.documents import NUMBER_RULES, check_document
from schema.documents import DOCUMENT_TYPES, PASSPORT, Document
from schema.reasons import Reason

TODAY = date(2026, 11, 24)
TABLE = Path(__file__).parents[3] / "docs" / "documents.md"

DATED = [
    # The examples of GB 11643-1999, a woman's and a man's.
    ("cn-ric", "11010519491231002x", date(1949, 12, 31)),
    ("cn-ric", "440524188001010014", date(1880, 1, 1)),
    # Born before the district was founded (Tianhe, 1985); a code that is out of use.
    ("cn-ric", "440106 196907076189", date(1969, 7, 7)),
    ("cn-ric", "412723196002290012", date(1960, 2, 29)),
    # Residents of Hong Kong, Macao and Taiwan.
    ("cn-ric", "810000199003070015", date(1990, 3, 7)),
    ("cn-ric", "820000200102030040", date(2001, 2, 3)),
    ("cn-ric", "830000198512310100", date(1985, 12, 31)),
    # Every sex and century; before October 2020 with a check digit, since then without.
    ("kr-rrn", "971013-9019902", date(1897, 10, 13)),
    ("kr-rrn", "991231-0000000", date(1899, 12, 31)),
    ("kr-rrn", "000101-1000003", date(1900, 1, 1)),
    ("kr-rrn", "991231-2999999", date(1999, 12, 31)),
    ("kr-rrn", "000229-3971234", date(2000, 2, 29)),
    *(("kr-rrn", f"201005-312345{last}", date(2020, 10, 5)) for last in range(10)),
    ("kr-arc", "971013-5019902", date(1997, 10, 13)),
    ("kr-arc", "991231-6000000", date(1999, 12, 31)),
    ("kr-arc", "101013-7019902", date(2010, 10, 13)),
    ("kr-arc", "201005-8123456", date(2020, 10, 5)),
    # A man, a woman (40 is added to the day), a boy and a girl; a province of 2022.
    ("id-nik", "3602041211870001", date(1987, 11, 12)),
    ("id-nik", "3273056010900009", date(1990, 10, 20)),
    ("id-nik", "1702192905120001", date(2012, 5, 29)),
    ("id-nik", "1702196905120001", date(2012, 5, 29)),
    ("id-nik", "3171017112990002", date(1999, 12, 31)),
    ("id-nik", "95.01.01.290200.0001", date(2000, 2, 29)),
    ("my-nric", "770305-02-1234", date(1977, 3, 5)),
    ("my-nric", "000229-82-0001", date(2000, 2, 29)),
    ("my-nric", "960101-88-5678", date(1996, 1, 1)),
    ("my-nric", "261124-17-0002", TODAY),
    # Citizens, permanent residents, a refugee.
    ("za-idnr", "7503305044089", date(1975, 3, 30)),
    ("za-idnr", "880123-5111-088", date(1988, 1, 23)),
    ("za-idnr", "0002290123088", date(2000, 2, 29)),
    ("za-idnr", "9003075678180", date(1990, 3, 7)),
    ("za-idnr", "7512315123189", date(1975, 12, 31)),
    ("za-idnr", "9003070123273", date(1990, 3, 7)),
    # Months of the 1800s (20 is added), the 1900s and the 2000s (40 is added).
    ("bg-egn", "752316 926 3", date(1875, 3, 16)),
    ("bg-egn", "9931011232", date(1899, 11, 1)),
    ("bg-egn", "6101047500", date(1961, 1, 4)),
    ("bg-egn", "0041010018", date(2000, 1, 1)),
    ("bg-egn", "0052290029", date(2000, 12, 29)),
    # Cards since December 2023; the ones before are undated.
    ("cn-frp", "91184019900101123X", date(1990, 1, 1)),
    ("cn-frp", "911124198108030024", date(1981, 8, 3)),
    # python-stdnum's example, and its check digit for who was born since 2000.
    ("mx-curp", "BOXW310820HNERXN09", date(1931, 8, 20)),
    ("mx-curp", "BOXW040229XNERXNA1", date(2004, 2, 29)),
    ("tz-nin", "19900307-12345-00001-23", date(1990, 3, 7)),
]
UNDATED = {
    "th-pin": "1-2345-45678-78-1, 3100600445635, 8100600445636",
    "th-nti": "0-1006-00445-63-1, 3100600445635, 6000050123458, 7123456789013, 8100600445636",
    "id-kitas": "2C11JE-1234.AB",
    "id-kitap": "J2U3BN 12345",
    "in-aadhaar": "2341 2341 2346, 999941057058, 999971658847",
    # Punjab, Sindh, the former tribal areas, Azad Kashmir; 0 is a woman's, too.
    "pk-cnic": "34201-0891231-8, 42201-0397640-8, 21103-1234567-1, 82345-2345678-7, 4550441857710",
    "tr-tckimlik": "17291716060, 10000000146, 99123456740",
    "es-dni": "12345678Z, 54362315-K, 00000000T",
    "es-nie": "x-2482300w, Y0000000Z, Z0000001Y",
    "bg-pnf": "7111 042 925",
    "cn-frp": "FRA110075110301",
    "vn-cccd": "001 090 000 123, 096304123456",
    "ng-nin": "70123456789",
    "gh-card": "GHA-712345678-9, NGA-712345678-9",
    "bd-nid": "1234567890, 1990 2692 6250 00123",
    "co-cc": "1.020.304.050, 79123456",
}
SOUND = DATED + [
    (kind, one, None) for kind, listed in UNDATED.items() for one in listed.split(", ")
]

UNSOUND = {
    # Another check character, no such day, born tomorrow, a number of before 1999, a foreigner's.
    "cn-ric": "440106196907076188 440106196902300006 110105202611250016 110105491231002 "
    "91184019900101123X",
    # The second born next year, the third a foreigner's.
    "kr-rrn": "971332-1019902 270101-3000000 971013-5019902 971013-101990",
    "kr-arc": "971013-1019902 971332-5019902",  # the first a citizen's
    "th-pin": "1234545678782 0100600445631",
    "th-nti": "0100600445632 1234545678781",
    "id-nik": "3602043211870001 3602048111870001 360204121187001",
    "id-kitas": "ABCDEFGH",
    "id-kitap": "2C11",
    "my-nric": "771305-02-1234 770305-02-123",
    "in-aadhaar": "234123412347 123412341234",
    "pk-cnic": "04201-0891231-8 34201-089123-8",
    "tr-tckimlik": "17291716050 07291716092",
    "za-idnr": "8503305044089 7502305044081 7503305044386",
    "es-dni": "54362315Z",
    "es-nie": "X2482300A",
    "bg-egn": "7523169264 8019010008 7542011030",  # the last born in 2075
    "bg-pnf": "7111042926",
    "cn-frp": "911840199001011231 911840199013011239 FR1100751103011",
    "mx-curp": "BOXW310820HNERXN08 BOXW311320HNERXN09",
    "vn-cccd": "001490000123 012345678",  # the year 2100, the card of before 2016
    "ng-nin": "7012345678",
    "gh-card": "7123456789",
    "bd-nid": "12345678901",
    "tz-nin": "19901307123450000123 20270307123450000123",  # the second born next year
    "co-cc": "0020304050",
}


@pytest.mark.parametrize(("document_type", "number", "born_on"), SOUND)
def test_a_sound_number_has_no_finding_however_it_is_spaced(
    document_type: str, number: str, born_on: date | None
) -> None:
    checked = check_document(Document(document_type, f" {number} ", "A Name"), TODAY)
    assert (checked.findings, checked.born_on) == ((), born_on)
    assert re.fullmatch("[0-9A-Z]+", checked.number)
    compact = Document(document_type, checked.number, "A Name")
    assert check_document(compact, TODAY).number == checked.number


@pytest.mark.parametrize("document_type", UNSOUND)
def test_a_number_that_the_rule_excludes_is_invalid(document_type: str) -> None:
    for number in UNSOUND[document_type].split():
        checked = check_document(Document(document_type, number, "A Name"), TODAY)
        assert checked.findings == (Reason.DOCUMENT_INVALID,), number


def test_every_type_has_a_sound_example_an_unsound_one_and_a_row_of_the_table() -> None:
    rows = re.findall(r"^\| `([a-z]+-[a-z]+|passport)` \|", TABLE.read_text("utf-8"), re.MULTILINE)
    assert tuple(rows) == DOCUMENT_TYPES == (*NUMBER_RULES, PASSPORT)
    assert {case[0] for case in SOUND} == set(UNSOUND) == set(NUMBER_RULES)


def test_no_resident_of_an_invented_base_is_refused_for_the_district() -> None:
    """By GB 11643 a number has the district of the registration, when the number was given: born
    before it was founded, or under a code that no list has, is as sound as any."""
    chance = random.Random(11643)
    founded_late = ["440106", "440115", "310115", "500101", "110119", "810000", "330114"]
    documents = []
    for place in range(3000):
        any_district = f"{chance.randint(1, 8)}{chance.randint(0, 99_999):05d}"
        district = chance.choice([*founded_late, any_district])
        born_on = date(1920, 1, 1) + timedelta(days=chance.randrange(39_000))
        body = f"{district}{born_on:%Y%m%d}{place % 1000:03d}"
        number = body + ric.calc_check_digit(f"{body}0")
        documents.append(Document("cn-ric", number, "A Name"))
    refused = [one for one in documents if check_document(one, TODAY).findings]
    assert refused == []
