"""What crosses a hop: values and errors, pickled, without a text that nobody foresaw."""

import inspect
import pickle
import re
from functools import partialmethod
from typing import Any

import pytest

from engine import errors
from indexes.errors import SearchInvalid, ShardLost, VectorInvalid
from serving import errors as refusals
from serving.errors import describe
from serving.registrar.operations import Operations
from serving.registrar.protocol import OPERATIONS, RegistrarCalls, Reply, presentable
from tests.serving.local_registrar import LocalRegistrar
from tests.serving.registrar.conftest import CONTEXT


def kinds(tree: type[Any]) -> list[type[Any]]:
    # But for those that Ray makes of ours where a task fails.
    children = [one for one in tree.__subclasses__() if not one.__module__.startswith("ray.")]
    return [tree, *(kind for child in children for kind in kinds(child))]


@pytest.mark.parametrize("kind", kinds(errors.SosieError) + kinds(refusals.ServiceRefusal))
def test_every_error_is_the_same_after_a_hop(kind: type[Exception]) -> None:
    sent = kind("one line")
    got = pickle.loads(pickle.dumps(Reply(error=sent)))  # type: ignore[arg-type]
    with pytest.raises(kind) as raised:
        got.unwrap()
    assert describe(raised.value) == describe(sent)


def test_a_wait_that_was_set_survives_a_hop() -> None:
    got = pickle.loads(pickle.dumps(Reply(error=refusals.Busy("full", 7.0))))
    assert got.error.retry_after_s == 7.0


@pytest.mark.parametrize("lost", [errors.LeaseLost("a"), errors.GalleryBehind("b"), ShardLost("c")])
def test_whatever_was_lost_under_way_is_interrupted_and_may_be_repeated(lost: Exception) -> None:
    fault = describe(presentable(lost))
    assert (fault.code, fault.status) == ("SERVICE.INTERRUPTED", 503)
    assert fault.retry_after_s


def test_an_unforeseen_error_leaves_its_text_behind() -> None:
    shown = presentable(ValueError("+8613800138000"))
    assert describe(shown).status == 500
    assert "ValueError" in str(shown)
    assert "138" not in repr(shown)
    assert isinstance(presentable(SearchInvalid("k is 0")), errors.RequestError)
    assert describe(presentable(VectorInvalid("scale it to 1"))).status == 500


def test_every_call_of_a_client_is_an_operation_with_the_same_types() -> None:
    assert len(OPERATIONS) > 10
    for name in OPERATIONS:
        operation = vars(Operations)[name]
        given = operation.args[0] if isinstance(operation, partialmethod) else operation
        # Of a change of the engine's its own; who asks, and what runs it, is known.
        is_own = operation is given or name == "propose_outcome" or not callable(given)
        signature = inspect.signature(getattr(Operations, name) if is_own else given)
        text, _, found = re.sub(r"\b(\w+\.)+|'", "", str(signature)).partition(" -> ")
        asked = re.findall(r"(\w+): ([^,)]+)", text)
        types = ", ".join(one for key, one in asked if key not in {"call", "actor", "runner"})
        assert RegistrarCalls.__annotations__[name] == f"Ask[[{types}], {found}]"


def test_no_other_name_is_a_call_of_a_client() -> None:
    calls = LocalRegistrar(None).by(CONTEXT)  # type: ignore[arg-type]
    assert calls.enroll
    assert not hasattr(calls, "perform")
