"""What a deployment's thresholds keep: its settings, else the model's card, else the usual."""

from __future__ import annotations

from pathlib import Path

from engine.matching.thresholds import ThresholdRates
from engine.models.catalog import CARDS_FOLDER
from serving.models import threshold_rates
from serving.sections import ModelSettings, ThresholdSettings
from serving.settings import Settings


def test_settings_stand_before_the_card_and_that_before_the_usual(tmp_path: Path) -> None:
    assert threshold_rates(Settings()) == ThresholdRates()
    card = tmp_path / "own.toml"
    card.write_text(
        (CARDS_FOLDER / "sface.toml").read_text("utf-8")
        + "\n[thresholds]\nreview_fmr = 1e-5\ncertain_margin = 0\n"
    )
    models = ModelSettings(embedder=str(card))
    usual = ThresholdRates()
    assert threshold_rates(Settings(models=models)) == ThresholdRates(
        verify=usual.verify,
        same_document=usual.same_document,
        review=1e-5,
        certain_margin=0.0,
    )
    given = ThresholdSettings(review_fmr=usual.review, verify_fmr=1e-3)
    chosen = threshold_rates(Settings(models=models, thresholds=given))
    # A default that is written down is chosen, too.
    assert (chosen.review, chosen.verify, chosen.certain_margin) == (usual.review, 1e-3, 0.0)
