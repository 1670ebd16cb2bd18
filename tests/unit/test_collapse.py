from pathlib import Path

import pytest
import torch

from metasr.context import LocalContext
from metasr.training.collapse import Collapse
from tests.unit.runs import experiment, train


class Listener(LocalContext):
    def __init__(self, folder=Path()):
        super().__init__(folder)
        self.warnings = []

    def log(self, event):
        super().log(event)
        if event.kind == "warning":
            self.warnings.append((event.step, event.text))


def test_a_discriminator_that_has_won_is_told_once_and_not_for_one_lucky_batch():
    listener = Listener()
    collapse = Collapse(listener)
    for step, loss in enumerate([1.39, 0.001, 0.5, *[0.001] * 9], start=1):
        collapse.see_loss(step, loss)
    ((step, text),) = listener.warnings
    assert step == 8
    assert "the discriminator has won" in text
    assert "lower loss.adversarial" in text


def test_flat_images_are_told_once_for_each_time_that_they_come():
    listener = Listener()
    collapse = Collapse(listener)
    for step, contrast in enumerate([0.9, 0.1, 0.05, 0.8, 0.2]):
        collapse.see_contrast(step, contrast)
    assert [step for step, _ in listener.warnings] == [1, 4]
    assert "10% of the originals' contrast" in listener.warnings[0][1]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("adversarial", "told"), [(0.001, True), (0, False)])
def test_training_looks_at_the_contrast_of_what_it_validates(tmp_path, adversarial, told):
    listener = Listener(tmp_path)
    state, history = train(tmp_path, experiment(steps=1, adversarial=adversarial, skip="none"), context=listener)
    (contrast,) = (values["val_contrast"] for _, values in history if "val_contrast" in values)
    assert 0 < contrast < 0.25  # an untrained generator without a skip makes next to nothing
    assert bool(listener.warnings) == told
    assert torch.isfinite(state.generator.upscale.kernel.weight).all()
