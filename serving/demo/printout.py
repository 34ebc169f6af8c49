"""The demo's report as people read it, in 100 columns or more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

LEAST_COLUMNS = 100
_COLOURS = {"approved": "green", "review": "yellow", "rejected": "red"}
_MEANINGS = {
    "verify": "live photograph against portrait",
    "same_document": "face against its document's reference",
    "review": "1:N, a possible duplicate",
    "certain": "1:N, a duplicate; the data show a bound only",
}
_Report = Mapping[str, Any]


def print_report(report: _Report) -> None:
    """Writes the report to standard output; where that is no terminal, in 100 columns."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=max(console.width, LEAST_COLUMNS))
    for part in (
        _lay_out_facts(report),
        _lay_out_scenes(report["scenes"]),
        _explain(report["faces"]),
        "\n[bold]Milliseconds[/], medians: of a photograph from decode to embed, "
        "of a decision from judge on",
        _lay_out_stages(report["stages_ms"]),
        _lay_out_thresholds(report["thresholds"]),
        _conclude(report),
    ):
        console.print(Padding(part, (0, 0, 0, 1), expand=False))


def _lay_out_facts(report: _Report) -> RenderableType:
    faces, model, seconds = report["faces"], report["model"], report["seconds"]
    problems = ", ".join(f"{count} {name}" for name, count in faces["problems"].items())
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_row("[bold]Faces[/]", escape(faces["source"]))
    facts.add_row(
        "",
        f"{faces['fit']} of {faces['photographs']} are fit for enrollment"
        + (f"; found on the others: {problems}" if problems else ""),
    )
    for letter, label in faces["people"].items():
        facts.add_row("", f"{letter}  {escape(label)}")
    facts.add_row(
        "[bold]Gallery[/]",
        f"{report['gallery']['synthetic']:,} references of synthetic people, rotated and sealed "
        f"like real ones, in {seconds['admit_gallery']:.1f} s",
    )
    facts.add_row(
        "[bold]Model[/]",
        f"{model['embedder']} {model['digest'][:8]}, {model['dimension']} floats a face; "
        f"detector {model['detector']}",
    )
    return facts


def _lay_out_scenes(scenes: Sequence[_Report]) -> RenderableType:
    table = _start_table()
    table.padding = 0  # the longest reason leaves no room for more in 100 columns
    for name in ("", "who", "what", "decision", "reasons"):
        table.add_column(name, no_wrap=name == "reasons")
    for name in ("1:1", "holder", "1:N", "ms"):
        table.add_column(name, justify="right", no_wrap=True)
    for scene in scenes:
        scores = scene["scores"]
        table.add_row(
            str(scene["number"]),
            scene["who"],
            scene["what"],
            f"[{_COLOURS[scene['decision']]}]{scene['decision']}[/]",
            _write_reasons(scene),
            _write_score(scores["live_portrait"]),
            _write_score(scores["holder"]),
            _write_score(scores["best_candidate"]),
            f"{scene['milliseconds']:.0f}",
        )
    return table


def _write_reasons(scene: _Report) -> str:
    lines = [
        f"{item['reason']} ({item['photograph']})" if "photograph" in item else item["reason"]
        for item in scene["reasons"]
    ]
    if scene["is_repeated"]:
        lines.append("[dim]the stored answer[/]")
    if not scene["as_told"]:
        lines.append("[bold red]not as told[/]")
    return "\n".join(lines)


def _write_score(score: float | None) -> str:
    return "[dim]-[/]" if score is None else f"{score:.3f}"


def _explain(faces: _Report) -> str:
    text = (
        "1:1 is live against portrait; holder, the face against the document's reference; 1:N, "
        "the best reference of another document, from the review threshold up."
    )
    made = ", ".join(faces["made"])
    if made:
        text += f" Made of a photograph, not taken: {escape(made)}."
    if "*" in made:
        text += (
            " What is tilted, cropped, lit and compressed anew (*) scores higher than a true "
            "second photograph would."
        )
    return text


def _lay_out_stages(stages: _Report) -> RenderableType:
    table = _start_table()
    for name in stages:
        table.add_column(name, justify="right")
    table.add_row(*(f"{value:.2f}" for value in stages.values()))
    return table


def _lay_out_thresholds(thresholds: _Report) -> RenderableType:
    table = _start_table()
    for name in ("threshold", "score", "false match rate", "compares"):
        table.add_column(name, justify="right" if name == "score" else "left")
    for name, value in thresholds.items():
        rate = f"{value['fmr']:.0e}" if "fmr" in value else f"at most {value['fmr_at_most']:.1e}"
        table.add_row(name, f"{value['score']:.3f}", rate.replace("e-0", "e-"), _MEANINGS[name])
    return table


def _conclude(report: _Report) -> str:
    expected, seconds = report["expected_false_candidates"], report["seconds"]
    scenes = report["scenes"]
    as_told = sum(scene["as_told"] for scene in scenes)
    return (
        f"One search of {report['gallery']['synthetic']:,} strangers is expected to bring "
        f"{_write_rate(expected['review'])} false candidates at the review threshold, "
        f"{_write_rate(expected['certain'])} at the certain one.\n\n"
        f"[bold]{as_told} of {len(scenes)} scenes ended as told[/] after {seconds['all']:.1f} s: "
        f"{seconds['prepare']:.1f} to begin, {seconds['look_at_photographs']:.1f} to look at the "
        f"photographs, {seconds['admit_gallery']:.1f} for the gallery, "
        f"{seconds['story']:.1f} for the story.\n"
        "Next: `sosie demo --faces DIR` with photographs of your own, `sosie init DIR` for a "
        "deployment."
    )


def _write_rate(rate: _Report) -> str:
    if rate["is_bound"]:
        return f"at most {rate['value']:.2g}"
    return f"{rate['value']:.2g} (95 %: {rate['low']:.2g} to {rate['high']:.2g})"


def _start_table() -> Table:
    return Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0))
