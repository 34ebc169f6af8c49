"""Makes the client for threads of `async_client.py` whenever the project is built or installed."""

from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from unasync import Rule, unasync_files

NAMES = {
    "asyncio": "time",
    "aclose": "close",
    "AsyncClient": "Client",
    "AsyncBaseTransport": "BaseTransport",
}
HEADER = "# Made of async_client.py by `make client`: change that file, not this one.\n"


def make_client(folder: Path) -> None:
    """Writes `client.py` beside the `async_client.py` of a folder: the same without asyncio."""
    unasync_files([str(folder / "async_client.py")], [Rule("async_client.py", "client.py", NAMES)])
    made = folder / "client.py"
    made.write_text(HEADER + made.read_text())


class ClientHook(BuildHookInterface):
    """Runs before a wheel, an editable one too, takes its files."""

    def initialize(self, *_: object) -> None:
        make_client(Path(self.root, "serving", "client"))


if __name__ == "__main__":
    make_client(Path(__file__).resolve().parent / "serving" / "client")
