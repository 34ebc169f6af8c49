from types import SimpleNamespace

from engine.registry.store import every_table

tables = SimpleNamespace(**{one.name: one for one in every_table()})
