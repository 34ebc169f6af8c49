"""ONNX Runtime, which this module alone imports, so that it reports to nobody.

Since 1.29 its official wheels keep an id of the machine and a queue of events in the user's cache
and send them to its maker, how many runs there were among them, unless a variable says no when it
is imported. It is set here and not left to whoever starts a process: nothing is read of the
environment, and no setting turns it on.
"""

import os
from types import ModuleType

# Not through `os.environ`: C alone looks at it. Children inherit it.
os.putenv("ORT_DISABLE_TELEMETRY", "1")


def import_runtime() -> ModuleType:
    """ONNX Runtime; `ImportError` where it is not installed. It is heavy: only when it is used."""
    import onnxruntime  # noqa: PLC0415

    return onnxruntime  # type: ignore[no-any-return]
