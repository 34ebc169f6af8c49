"""`/v1/events`: the feed, for whoever may read it."""

PATH = "/v1/events"


def test_the_feed_is_read_from_where_it_was_left(own_service, activation) -> None:
    begin = own_service.read(own_service.ask("GET", f"{PATH}?limit=500"))["next"]
    own_service.enroll(activation(), "e")
    first = own_service.read(own_service.ask("GET", f"{PATH}?after={begin}&limit=1"))
    (decided,) = first["events"]
    assert (decided["type"], decided["specversion"]) == ("enrollment.decided", "1.0")
    assert decided["source"] == f"urn:uuid:{own_service.parts.vault.deployment_id}"
    rest = own_service.read(own_service.ask("GET", f"{PATH}?after={first['next']}"))
    assert [one["type"] for one in rest["events"]] == ["line.opened"]
    assert rest["events"][0]["subject"] == decided["data"]["line_id"]
    end = own_service.read(own_service.ask("GET", f"{PATH}?after={rest['next']}"))
    assert end["events"] == []
    # Of whatever type one asks: what was looked at is not looked at again.
    closed = own_service.read(own_service.ask("GET", f"{PATH}?type=sweep.finished"))
    again = own_service.read(own_service.ask("GET", f"{PATH}?after={closed['next']}"))
    assert (closed["events"], again["events"]) == ([], [])
    for unknown in ("7", "abcd", first["next"][:-4] + "AAAA"):
        answer = own_service.ask("GET", f"{PATH}?after={unknown}")
        own_service.assert_refused(answer, 410, "EVENTS.PLACE_UNKNOWN")
    own_service.assert_refused(
        own_service.ask("GET", f"{PATH}?type=line.unknown"), 400, "REQUEST.MALFORMED"
    )


def test_another_carrier_and_an_outlet_are_told_nothing(own_service, activation) -> None:
    body = activation(msisdn="+8613800138007")
    own_service.enroll(body, "f")
    for key, is_told in (("blue", True), ("fraud", True), ("operator", True), ("red", False)):
        shown = own_service.read(own_service.ask("GET", PATH, key=key))
        assert bool(shown["events"]) is is_told
    own_service.assert_refused(own_service.ask("GET", PATH, key="b1"), 403, "ACCESS.FORBIDDEN")


def test_a_place_in_the_feed_tells_nothing_of_what_others_did(own_service, activation) -> None:
    page = own_service.read(own_service.ask("GET", PATH, key="red"))
    again = own_service.read(own_service.ask("GET", f"{PATH}?after={page['next']}", key="red"))
    # Nothing was, and yet they differ: so a difference is no sign.
    assert page["next"] != again["next"]
    assert len(page["next"]) == len(again["next"])
    for key in ("blue", "fraud"):
        answer = own_service.ask("GET", f"{PATH}?after={page['next']}", key=key)
        own_service.assert_refused(answer, 410, "EVENTS.PLACE_UNKNOWN")
