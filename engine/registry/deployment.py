"""The row that ties a database to its key ring, model and rotation."""

from collections.abc import Mapping

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    Integer,
    LargeBinary,
    String,
    Table,
    case,
    select,
    update,
)

from engine.errors import KeyRingForeign, ModelMismatch
from engine.registry.columns import JsonValue, UuidText, metadata, required
from engine.registry.database import Moment, Source
from engine.registry.vault import Vault, add_seals

DEPLOYMENT = Table(
    "deployment",
    metadata,
    Column("singleton", Integer, primary_key=True, autoincrement=False),
    required("deployment_id", UuidText),
    required("key_check", LargeBinary),
    # Fingerprints of the data keys that rows may be sealed with, by version.
    required("data_keys", JsonValue),
    required("model_digest", String(128)),
    required("dim", Integer),
    required("rotation_id", String(32)),
    required("writer_epoch", BigInteger),
    required("sequence", BigInteger),
    required("audit_number", BigInteger),
    # The last entry's hash; a new name keeps out processes of versions that do not look, as they
    # write, whether the registry was upgraded since they opened it.
    required("chain_head", LargeBinary),
    # Of number, head and sequence; null until an upgrade has authenticated every row.
    Column("audit_mac", LargeBinary),
    required("created_at", Moment),
    # How many values each data key has sealed, by version.
    Column("seals", JsonValue),
    CheckConstraint("singleton = 1", name="one_row"),
)


def list_data_keys(vault: Vault) -> dict[str, str]:
    return {str(key.version): key.fingerprint for key in vault.ring.data}


_DEPLOYMENT = select(DEPLOYMENT)

SWITCHING = "switching to "
"""In the deployment's row before the digest that templates are being switched to: no version opens
a registry whose templates are of two models."""
AUTHENTICATED = "is_authenticated"
"""In the chain's first entry: every row of this registry has its code."""


def check(connection: Connection, vault: Vault, model_digest: str) -> None:
    """`KeyRingForeign` or `ModelMismatch` unless all three belong together."""
    row = connection.execute(select(DEPLOYMENT)).one()
    if row.deployment_id != vault.deployment_id:
        raise KeyRingForeign(
            f"the registry is of deployment {row.deployment_id}, the key ring of "
            f"{vault.deployment_id}: point both at the same deployment"
        )
    if row.model_digest == mark_converting(model_digest):
        raise ModelMismatch(
            "the conversion of this registry's references has not come to its end: "
            "run sosie upgrade"
        )
    if row.model_digest.startswith(SWITCHING):
        raise ModelMismatch(
            "a switch of this registry's models has not come to its end: run sosie model switch"
        )
    if row.model_digest != model_digest or row.dim != vault.dim:
        raise ModelMismatch(
            f"the registry's references come from the model {row.model_digest} "
            f"({row.dim} dimensions), not {model_digest} ({vault.dim}): use that "
            "model, or run sosie upgrade for a new transform, sosie model switch for another model "
            "that is named `second` and filled in"
        )
    if row.key_check != vault.key_check or row.rotation_id != vault.rotation_id:
        raise KeyRingForeign(
            "the key ring bears this deployment's id but not its keys: restore the right backup"
        )
    held = list_data_keys(vault)
    for version, fingerprint in row.data_keys.items():
        if held.get(version) != fingerprint:
            raise KeyRingForeign(
                f"the key ring lacks data key {version} ({fingerprint}), which rows are sealed "
                "with: restore the newest backup of the key ring"
            )


def mark_converting(model_digest: str) -> str:
    """In the deployment's row instead of a digest while references are converted to that model:
    so no version opens a registry that has templates of two models."""
    return f"converting to {model_digest}"


def set_model(connection: Connection, digest: str) -> None:
    """Records the model that the references come from, or that they are being converted."""
    connection.execute(update(DEPLOYMENT).values(model_digest=digest))


def raise_epoch(connection: Connection, least: int = 0) -> None:
    """Fences every writer of before; the new epoch is above `least`, too."""
    epoch = DEPLOYMENT.c.writer_epoch
    highest = case((epoch > least, epoch), else_=least)
    connection.execute(update(DEPLOYMENT).values(writer_epoch=highest + 1))


def check_data_key_is_newest(connection: Connection, vault: Vault) -> None:
    """`KeyRingForeign` where newer values are sealed with a data key that this ring lacks."""
    known = connection.scalars(select(DEPLOYMENT.c.data_keys)).one()
    if max(map(int, known)) > vault.active_data_version:
        raise KeyRingForeign(
            "the data key was rotated after this process read its key ring: start it again"
        )


def add_data_key(connection: Connection, vault: Vault) -> None:
    """Records the active data key before anything is sealed with it."""
    known = connection.scalars(select(DEPLOYMENT.c.data_keys)).one()
    version = str(vault.active_data_version)
    if version not in known:
        added = known | {version: vault.ring.active_data_key.fingerprint}
        connection.execute(update(DEPLOYMENT).values(data_keys=added))


def drop_data_key(connection: Connection, version: int) -> None:
    """Forgets a data key that no row uses any more."""
    known = connection.scalars(select(DEPLOYMENT.c.data_keys)).one()
    kept = {name: mark for name, mark in known.items() if name != str(version)}
    connection.execute(update(DEPLOYMENT).values(data_keys=kept))


def count_seals(
    connection: Connection, version: int, values: int, before: Mapping[str, int] | None
) -> None:
    """Adds to how many values a data key has sealed, which `before` says of each."""
    counted = add_seals(before, version, values)
    connection.execute(update(DEPLOYMENT).values(seals=counted))


class DeploymentReader(Source):
    """Reader of the deployment's row."""

    def writer_epoch(self) -> int:
        """The epoch of the last writer that took the lease."""
        return int(self.rows(_DEPLOYMENT)[0].writer_epoch)

    def sequence(self) -> int:
        """The gallery's sequence: the last committed change of references."""
        return int(self.rows(_DEPLOYMENT)[0].sequence)

    def seal_counts(self) -> dict[int, int]:
        """The values that each data key has sealed, by version; of keys that sealed any."""
        counted = self.rows(_DEPLOYMENT)[0].seals or {}
        return {int(version): values for version, values in counted.items()}
