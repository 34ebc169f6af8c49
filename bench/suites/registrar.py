"""Suite `registrar`: decisions a second on a full gallery, durable, and every one of them right."""

import time
from functools import partial
from pathlib import Path

import numpy as np

from bench.core.machine import DISK, interleave, open_folder, speedup
from bench.core.reports import Figure, Result, SuiteOutput
from bench.datasets import describe_faces
from bench.suites.workload import VisitedHome, make_settings
from engine.errors import RequestError
from engine.matching.registrar import Registrar, RegistrarConfig
from indexes.upkeep import Upkeep
from schema import frozen
from serving.deployment.deployment import Deployment

BATCH = 32
ALONE, TOGETHER = "one a transaction", f"batches of {BATCH}"
QUICK = {"references": 5_000, "decisions": 640, "single_decisions": 32, "rounds": 3}


@frozen(kw_only=True)
class RegistrarSuiteConfig:
    """`decisions` in full batches, `single_decisions` one a transaction, shared out among
    `rounds` and one that warms up before them. The database
    lies in a folder made in `folder`, which must be on a disk to be durable.
    """

    references: int = 100_000
    decisions: int = 6_400
    single_decisions: int = 320
    rounds: int = 5
    seed: int = 0
    folder: Path = DISK


def decide_all(home: VisitedHome, deployment: Deployment, batch: int, count: int) -> float:
    """The next visitors by a registrar of its own, with all requests in its queue at once, so that
    every batch but the first can be full: the seconds."""
    requests, config = home.take(count), RegistrarConfig(batch, queue_size=count)
    with Registrar(deployment.store.writer(), deployment.judge, config) as registrar:
        start = time.perf_counter()
        futures = [registrar.submit(request) for request in requests]
        home.log.outcomes += [future.result() for future in futures]
        return time.perf_counter() - start


def run(config: RegistrarSuiteConfig) -> SuiteOutput:
    visitors = config.decisions + config.single_decisions
    with open_folder(config.folder) as folder:
        settings = make_settings(BATCH, visitors)
        home = VisitedHome(folder / "home", config.references, visitors, config.seed, settings)
        single = config.single_decisions // (config.rounds + 1)
        full = home.left // (config.rounds + 1) - single
        if min(single, full) < 1:
            raise RequestError(f"too few decisions for {config.rounds} rounds and one before")
        full -= full % BATCH if full >= BATCH else 0
        with home.open() as deployment, Upkeep(deployment.restored.gallery):
            home.log.note_gallery(len(deployment.restored.gallery), len(home.vectors))
            sizes = {TOGETHER: (BATCH, full), ALONE: (1, single)}
            actions = {
                name: partial(decide_all, home, deployment, *size) for name, size in sizes.items()
            }
            seconds = interleave(actions, config.rounds)
        with home.open() as deployment:
            home.log.note_gallery(len(deployment.restored.gallery), len(home.vectors))
    setup = describe_faces(config.references, home.vectors.shape[1], config.seed)
    setup |= {"database": "SQLite", "decisions": full * config.rounds}
    setup |= {"single_decisions": single * config.rounds, "rounds": config.rounds}
    together, alone = full / seconds[TOGETHER], single / seconds[ALONE]
    figures = (
        Figure.of(ALONE, "decisions/s", alone, 1.0),
        Figure.of(TOGETHER, "decisions/s", together, speedup(together, alone)),
    )
    return (Result("Decisions", setup, figures),), {
        "decisions_per_second": float(np.median(together)),
        "wrong_decisions": float(home.log.count_wrong()),
        "gallery_difference": float(home.log.difference),
    }
