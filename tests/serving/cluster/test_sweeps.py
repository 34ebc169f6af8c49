"""A sweep over a gallery on two nodes: what one process finds."""

import numpy as np
import pytest

from engine.sweeps.estimate import SweepOrder
from indexes.gallery import Gallery
from indexes.joining.join import Progress, join_gallery
from indexes.segmented.segments import SegmentedIndex
from indexes.sharding.joining import join_shards
from schema.sweeps import SweepState
from serving.cluster.shards import open_ray_shards, shard_opener
from serving.deployment.deployment import Deployment
from serving.settings.settings import make_settings
from serving.sweeps.manager import SweepManager
from tests.serving.cluster.two_nodes import DIM, PLACING, PLAN, RESOURCE, likenesses, unit_rows
from tests.serving.sweeps.synthetic_people import TWICE, make_people_home

THRESHOLD = 0.5


def test_two_nodes_join_what_one_process_does(nodes, tmp_path) -> None:
    strangers = unit_rows(6000)
    rows = np.concatenate([strangers, likenesses(strangers[:500], seed=1)])
    ids = np.arange(len(rows))
    whole = Gallery(SegmentedIndex(DIM))
    whole.add(ids, rows, 1)
    with open_ray_shards(PLAN, 2, PLACING) as index:
        gallery = Gallery(index)
        gallery.add(ids[:6400], rows[:6400], 1)
        seen: list[Progress] = []

        def stop(progress: Progress) -> None:
            seen.append(progress)
            if progress.tiles_done == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            join_shards(
                gallery, index, THRESHOLD, checkpoint=tmp_path, progress=stop, block_rows=1000
            )
        first = join_shards(gallery, index, THRESHOLD, checkpoint=tmp_path, block_rows=1000)
        assert first.sequence == 1
        gallery.add(ids[6400:], rows[6400:], 2)
        news = join_shards(gallery, index, THRESHOLD, known=first.ids)
    everything = join_gallery(whole, THRESHOLD).pairs.records
    is_new = everything["right"] >= 6400
    assert np.array_equal(first.pairs.records, everything[~is_new])
    assert np.array_equal(news.pairs.records, everything[is_new])
    assert len(first.pairs) > 300
    assert len(news.pairs) > 30
    assert seen[-1].comparisons_total == 6400 * 6399 // 2


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
