"""The process that delivers events beside the registrar: it ends with the process that started it,
which gives it the deployment's class, home and settings on standard input."""

from __future__ import annotations

import pickle
import sys

from serving.cluster.environment import Site
from serving.cluster.processes import end_with_starter
from serving.webhooks.keeper import deliver


def main() -> None:
    kind, home, settings = pickle.load(sys.stdin.buffer)  # noqa: S301 - of the process that started it
    end_with_starter()
    with kind(home, settings) as deployment:
        deliver(deployment, Site.of(home, None).open_log(settings.serve, "webhooks"))


if __name__ == "__main__":
    main()
