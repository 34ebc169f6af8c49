"""The same search in a database: a real PostgreSQL, few rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.suites.baselines import GALLERY
from bench.suites.pgvector import EXACT, GRAPH, PgvectorConfig, Table, compare_pgvector
from indexes.exact.scanner import Scanner

TINY = PgvectorConfig(references=600, dim=32, probes=8, rounds=1, calls=1)


@pytest.fixture(scope="module")
def database(postgres: object) -> str:
    url: str = postgres.get_uri()  # type: ignore[attr-defined]
    return url


def test_a_database_is_asked_beside_us_and_its_scan_is_exact(database: str) -> None:
    config = replace(TINY, url=database)
    times = compare_pgvector(config, 10, Scanner(threads=1))
    figures = {figure.name: figure for figure in times.figures}
    assert list(figures) == [EXACT, f"{GRAPH}, ef 40", f"{GRAPH}, ef 200", GALLERY]
    assert figures[EXACT].ratio == 1
    assert all((figure.value or 0) > 0 for figure in times.figures)
    assert "pgvector 0." in str(times.setup["server"])


def test_each_way_keeps_to_its_own_plan_however_often_the_other_was_asked(database: str) -> None:
    import psycopg

    faces = np.random.default_rng(0).standard_normal((600, 16)).astype(np.float32)
    with psycopg.connect(database, autocommit=True) as connection:
        table = Table(connection, faces)
        table.build_graph()
        try:
            # After five the server keeps one plan for a text.
            for ef in (None, 40, None, 200):
                table.best(faces[:12], 5, ef)
            connection.execute("SELECT pg_stat_force_next_flush()")
            searches = connection.execute(
                "SELECT idx_scan FROM pg_stat_user_indexes WHERE relname LIKE 'sosie_bench%'"
            ).fetchall()
        finally:
            table.drop()
    assert searches == [(24,)]


def test_its_table_is_gone_afterwards(database: str) -> None:
    import psycopg

    with psycopg.connect(database) as connection:
        left = connection.execute("SELECT relname FROM pg_class WHERE relname LIKE 'sosie_bench%'")
        assert left.fetchall() == []


@pytest.mark.parametrize(
    ("url", "reason"),
    [("none", "--postgres none"), ("postgresql://127.0.0.1:1/none", "no PostgreSQL answers")],
)
def test_where_there_is_none_it_is_skipped_and_says_why(url: str, reason: str) -> None:
    config = replace(TINY, url=url)
    result = compare_pgvector(config, 10, Scanner(threads=1))
    (figure,) = result.figures
    assert figure.value is None
    assert reason in str(figure.skipped)
