"""The suite's figures as a report shows them."""

from __future__ import annotations

from collections.abc import Iterable

from bench.report import Figure, Result, Setup
from bench.sweeping.deployment import Desked
from bench.sweeping.flood import LINKS_A_DOCUMENT, Flood
from bench.sweeping.lfw import MOST_IDENTITIES, Photographed
from bench.sweeping.million import Measured
from bench.sweeping.verdict import Agreement


def list_million(found: Measured, setup: Setup, newcomers: int) -> tuple[Result, ...]:
    """What a sweep of everything costs, what it found, and the sweep of what is new."""
    return (
        _list_costs(found, setup),
        _list_findings(found, setup),
        _list_new(found, setup | {"newcomers": newcomers}),
    )


def list_flood(flood: Flood, seed: int) -> Result:
    """A threshold that strangers reach."""
    setup: Setup = {
        "links": flood.links,
        "links a document": LINKS_A_DOCUMENT,
        "scores": "random",
        "seed": seed,
        "threads": 1,
    }
    figures = (
        Figure("clustered", "s", flood.seconds),
        Figure("the largest component", "documents", float(flood.component)),
        Figure("the largest cluster", "documents", float(flood.cluster)),
    )
    return Result("A threshold far too low", setup, figures)


def list_deployment(found: Desked, setup: Setup) -> Result:
    """The same through registry, desk, cases, tables and report."""
    figures = (
        Figure("holders loaded before", "1/s", int(setup["references"]) / found.load_s),
        Figure("a sweep of everything, to its report", "s", found.all_s),
        Figure("a sweep of what is new, to its report", "s", found.new_s),
        *_list_agreement("groups", found.agreement),
        *_list_joined(found.joined, found.returning),
        _list_peak(found.peak_bytes),
    )
    return Result("In a deployment", setup, figures)


def list_photographs(found: Photographed) -> Iterable[Result]:
    """A result for each gallery."""
    for name, by_threshold in found.found.items():
        identities, people, several = found.sizes[name]
        setup: Setup = {
            "photographs": found.source,
            "without a face": found.failed,
            "references": identities,
            "people": people,
            "people with several": several,
            "identities at most": MOST_IDENTITIES,
        }
        figures = []
        for called, one in by_threshold.items():
            at = f"{called} ({one.threshold:.3f})"
            figures += [
                Figure(f"{at}: pairs, precision", "share", one.pair_precision),
                Figure(f"{at}: pairs, recall", "share", one.pair_recall),
                Figure(f"{at}: together in groups, precision", "share", one.precision),
                Figure(f"{at}: together in groups, recall", "share", one.recall),
                Figure(f"{at}: adjusted Rand index", "of 1", one.adjusted_rand),
                Figure(f"{at}: the same of connected components", "of 1", one.of_components),
                Figure(f"{at}: groups", "groups", float(one.groups)),
            ]
        yield Result(f"People under false documents, {name}", setup, tuple(figures))


def _list_costs(found: Measured, setup: Setup) -> Result:
    """Times as good: as FAISS, which compares each pair from both sides."""
    swept = found.swept
    figures = (
        Figure("FAISS Flat's range search, projected", "s", found.flat_s, ratio=1.0),
        Figure("the sweep", "s", swept.seconds, ratio=found.flat_s / swept.seconds),
        Figure("the join in it", "s", swept.join_s),
        Figure("groups and their ranks in it", "s", swept.group_s),
        _list_peak(found.peak_bytes),
    )
    return Result("A sweep of everything", setup, figures)


def _list_findings(found: Measured, setup: Setup) -> Result:
    """Ours, and beside it what pairs alone tell, and who is linked through however many others."""
    swept = found.swept
    figures = (
        Figure("pairs found", "pairs", float(swept.pairs)),
        Figure("planted, at or above the threshold", "pairs", float(swept.planted)),
        Figure("of these missed", "pairs", float(swept.missed)),
        Figure("of one ring, whatever their score", "pairs", float(found.ring_pairs)),
        Figure("of strangers of the population", "pairs", float(swept.false)),
        Figure("groups", "groups", float(swept.groups)),
        *_list_agreement("groups", swept.ours),
        *_list_agreement("groups of the pairs alone", swept.pairs_alone),
        *_list_agreement("connected components", swept.components),
    )
    return Result("What it found", setup, figures)


def _list_new(found: Measured, setup: Setup) -> Result:
    renewed = found.renewed
    figures = (
        Figure("the sweep of what is new", "s", renewed.seconds),
        Figure("the join in it", "s", renewed.join_s),
        Figure("groups and their ranks in it", "s", renewed.group_s),
        Figure("planted, with a new reference", "pairs", float(renewed.planted)),
        Figure("of these missed", "pairs", float(renewed.missed)),
        *_list_joined(renewed.joined, renewed.returning),
        Figure("groups with something new", "groups", float(renewed.groups)),
    )
    return Result("A sweep of what is new", setup, figures)


def _list_agreement(name: str, one: Agreement) -> Iterable[Figure]:
    return (
        Figure(f"{name}: adjusted Rand index", "of 1", one.adjusted_rand),
        Figure(f"{name}: precision", "of pairs together", one.precision),
        Figure(f"{name}: recall", "of pairs together", one.recall),
        Figure(f"{name}: rings without a fault", "rings", float(one.exact_rings)),
        Figure(f"{name}: chains joined", "of the traps", float(one.sprung_traps)),
    )


def _list_joined(joined: int, returning: int) -> Iterable[Figure]:
    return (
        Figure("new identities of rings", "identities", float(returning)),
        Figure("of these in a group with others of their ring", "identities", float(joined)),
    )


def _list_peak(peak_bytes: int | None) -> Figure:
    name = "peak of memory, gallery and all"
    if peak_bytes is None:
        return Figure.skip(name, "GB", "no /proc here")
    return Figure(name, "GB", peak_bytes / 1e9)
