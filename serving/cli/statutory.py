"""Lists that a law or a regulator asks for: `statutory people` and `statutory outlets`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.errors import FourEyes, NotInstalled, RegistryError, advise_extra
from schema.actors import fold_person
from serving.cli.inputs import HomeOption, name_actor, open_deployment, require_place
from serving.cli.output import REGISTRY, JsonFlag, add_group, escape, print_answer

if TYPE_CHECKING:
    from engine.registry.reader import Reader
    from engine.registry.store import Store
    from engine.statutory.lists import Layout, List

MOST_NAMED = 1_000
"""Subjects that the entry in the audit chain names; all are counted."""
REVEALED_ALONE = 20
"""People whom one person may list in full; no setting, which whoever types it could choose."""
ASKED_FOR = timedelta(days=7)
"""So long another person may make what one has asked for."""
MADE, ASKED = "list.made", "list.asked"

FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="Where the list goes: .csv or .parquet.")
]


def register(app: typer.Typer) -> None:
    summary = "Lists that a law or a regulator asks for."
    add_group(app, "statutory", summary, REGISTRY, people=list_people, outlets=list_outlets)


def list_people(
    file: FileArgument,
    layout: Annotated[
        str, typer.Option(metavar="NAME", help="india, indonesia, philippines, or a TOML file.")
    ],
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Show names and numbers in full, not masked.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """List everybody with more lines than a person may have; audited.

    A person is a document's holder; documents that people found to be one person's count together.
    More than 20 people with --reveal take two: one asks for the list, another, with an account of
    their own, makes it by the same command within 7 days. No retention reaches the file: it is
    yours to delete.
    """
    from engine.formatting import mask_name, mask_number

    masks = (str, str) if reveal else (mask_name, mask_number)

    def find(store: Reader, chosen: Layout) -> List:
        from engine.statutory import lists

        return lists.list_people(store, chosen, *masks)

    _write(file, layout, "people", find, home, as_json=as_json, is_revealed=reveal)


def list_outlets(
    file: FileArgument,
    layout: Annotated[
        str, typer.Option(metavar="NAME", help="outlets, or a TOML file.")
    ] = "outlets",
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """List outlets by the cases of confirmed fraud whose people opened lines there, or tried to."""

    def find(store: Reader, chosen: Layout) -> List:
        from engine.statutory import lists

        return lists.list_outlets(store, chosen)

    _write(file, layout, "outlets", find, home, as_json=as_json, is_revealed=False)


def _write(
    file: Path,
    name: str,
    kind: str,
    find: Callable[[Reader, Layout], List],
    home: Path | None,
    *,
    as_json: bool,
    is_revealed: bool,
) -> None:
    from engine.registry.records import AuditEntry
    from engine.statutory.lists import read_layout

    require_place(file)
    try:
        from engine.statutory.lists import OUTLET_FIELDS, PERSON_FIELDS, require_suffix, write_list
    except ModuleNotFoundError as missing:
        raise NotInstalled(
            f"a list is written with {missing.name}, which is not installed here: "
            f"{advise_extra('desk')}"
        ) from None
    require_suffix(file)
    types = PERSON_FIELDS if kind == "people" else OUTLET_FIELDS
    chosen = read_layout(name, kind, types)
    with open_deployment(home) as deployment:
        found = find(deployment.store, chosen)
        detail = {
            "rows": len(found.rows),
            "people": found.people,
            "revealed": is_revealed,
            kind if kind == "outlets" else "documents": list(found.subjects[:MOST_NAMED]),
        }
        if is_revealed and found.people > REVEALED_ALONE:
            detail["asked"] = _require_two(deployment.store, chosen, found.people)
        # Before anything is written: whom the file shows is in the chain.
        deployment.store.note(AuditEntry(name_actor(), MADE, chosen.title[:200], detail))
    try:
        write_list(file, found, chosen, types)
    except OSError as error:
        raise RegistryError(f"{file} cannot be written: {error.strerror}") from None
    answer = {
        "file": str(file),
        "title": chosen.title,
        "rows": len(found.rows),
        "people": found.people,
    }
    text = f"  {escape(str(file))}\n{escape(chosen.title)}: {found.people:,} people"
    print_answer(answer, f"{text}, {len(found.rows):,} rows.", as_json=as_json)


def _require_two(store: Store, layout: Layout, people: int) -> str:
    """The layout's digest, where another person has asked for this list and nobody has made it
    since; else this person has asked for it now, and `FourEyes` says so."""
    import hashlib

    import msgspec

    from engine.registry.audit import read_audit
    from engine.registry.records import AuditEntry, utc_now

    me = name_actor()
    digest = hashlib.sha256(msgspec.json.encode(layout)).hexdigest()
    last = next(iter(read_audit(store, None, 1, ASKED, subject=digest)), None)
    is_open = (
        last is not None
        and utc_now() - last.at < ASKED_FOR
        and not read_audit(store, last.number, 1, MADE, subject=digest)
    )
    if last is not None and is_open and fold_person(last.entry.actor) != fold_person(me):
        return digest
    if not is_open:
        store.note(AuditEntry(me, ASKED, digest, {"people": people, "title": layout.title[:200]}))
    raise FourEyes(
        f"{people:,} people in full take two: you have asked for it, and another person makes it "
        f"by the same command, with an account of their own, within {ASKED_FOR.days} days"
    )
