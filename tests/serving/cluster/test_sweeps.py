"""A sweep over a gallery on two nodes: what one process finds."""

from engine.sweeps.estimate import SweepOrder
from schema.sweeps import SweepState
from serving.cluster.shards import shard_opener
from serving.deployment.deployment import Deployment
from serving.settings.settings import make_settings
from serving.sweeps.manager import SweepManager
from tests.serving.cluster.two_nodes import RESOURCE
from tests.serving.sweeps.synthetic_people import TWICE, make_people_home


def test_a_sweep_on_two_nodes_finds_the_groups_that_one_process_finds(nodes, empty_home) -> None:
    home = make_people_home(empty_home, "people-on-nodes")
    folders = []
    for shards in (0, 2):
        settings = make_settings({"gallery": {"shards": shards, "shard_resource": RESOURCE}})
        opener = shard_opener(settings)
        with Deployment(home, settings, open_index=opener) as deployment:
            manager = SweepManager(deployment)
            record = manager.start(SweepOrder(threshold=0.47), "test")
            assert manager.wait(120)
            assert manager.status(record.id).state is SweepState.DONE
            assert manager.views.groups(record.id).total == TWICE
            folders.append(deployment.sweep_folder / record.id)
            manager.close()
    for name in ("groups.json", "pairs.csv", "outlets.csv", "covered.bin", "found.bin"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name
