import math

import pytest
import torch

from metasr.losses import adversarial_loss, discriminator_loss, pixel_loss

FORMS = ("saturating", "non_saturating", "linear")
LOGITS = [-3.0, -0.7, 0.0, 0.4, 2.5]


def probability(logit):
    return 1 / (1 + math.exp(-logit))


def mean(values):
    values = list(values)
    return math.fsum(values) / len(values)


GENERATOR_FORMULAS = {
    "saturating": lambda d: math.log(1 - d),  # Eq. 4
    "non_saturating": lambda d: -math.log(d),
    "linear": lambda d: 1 - d,
}


def test_pixel_loss_is_the_mean_absolute_error():
    sr = torch.tensor([[[[0.0, 1.5], [0.25, -1.0]]]], dtype=torch.float64)
    hr = torch.tensor([[[[0.5, 1.0], [0.25, 1.0]]]], dtype=torch.float64)
    assert pixel_loss(sr, hr).item() == pytest.approx((0.5 + 0.5 + 0.0 + 2.0) / 4, abs=1e-15)


@pytest.mark.parametrize("form", FORMS)
def test_adversarial_loss_is_its_formula(form):
    expected = mean(GENERATOR_FORMULAS[form](probability(x)) for x in LOGITS)
    actual = adversarial_loss(torch.tensor(LOGITS, dtype=torch.float64), form)
    assert actual.shape == ()
    assert actual.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_adversarial_loss_falls_as_the_discriminator_is_fooled(form):
    values = [adversarial_loss(torch.tensor([x]), form).item() for x in LOGITS]
    assert values == sorted(values, reverse=True)


def test_discriminator_loss_is_the_negative_of_equation_4():
    real, fake = [2.0, -1.0, 0.5], [-0.3, 1.7, -4.0]
    expected = -mean(math.log(probability(x)) for x in real) - mean(math.log(1 - probability(x)) for x in fake)
    actual = discriminator_loss(torch.tensor(real, dtype=torch.float64), torch.tensor(fake, dtype=torch.float64))
    assert actual.item() == pytest.approx(expected, rel=1e-12)


def test_undecided_discriminator_loses_two_log_two():
    assert discriminator_loss(torch.zeros(3), torch.zeros(3)).item() == pytest.approx(2 * math.log(2))


def test_discriminator_is_rewarded_for_being_right():
    right = discriminator_loss(torch.tensor([4.0]), torch.tensor([-4.0]))
    wrong = discriminator_loss(torch.tensor([-4.0]), torch.tensor([4.0]))
    assert right < 0.1 < 7 < wrong


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("logit", [-1e4, -100.0, 100.0, 1e4])
@pytest.mark.parametrize("form", FORMS)
def test_extreme_logits_give_finite_adversarial_losses_and_gradients(form, logit, dtype):
    logits = torch.full((2,), logit, dtype=dtype, requires_grad=True)
    loss = adversarial_loss(logits, form)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("logit", [-1e4, -100.0, 100.0, 1e4])
def test_extreme_logits_give_finite_discriminator_losses_and_gradients(logit, dtype):
    real = torch.full((2,), logit, dtype=dtype, requires_grad=True)
    fake = torch.full((2,), -logit, dtype=dtype, requires_grad=True)
    loss = discriminator_loss(real, fake)
    loss.backward()
    assert loss.item() == pytest.approx(0.0 if logit > 0 else -2 * logit, rel=0.004)  # bfloat16 has 8 bits
    assert real.grad.isfinite().all()
    assert fake.grad.isfinite().all()


@pytest.mark.parametrize(("form", "expected"), [("saturating", -100.0), ("non_saturating", 0.0), ("linear", 0.0)])
def test_loss_of_a_perfect_forgery(form, expected):
    assert adversarial_loss(torch.tensor([100.0]), form).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("form", "slope"), [("saturating", 0.0), ("non_saturating", -1.0), ("linear", 0.0)])
def test_only_the_non_saturating_gradient_survives_a_winning_discriminator(form, slope):
    logit = torch.tensor([-40.0], requires_grad=True)
    adversarial_loss(logit, form).backward()
    assert logit.grad.item() == pytest.approx(slope, abs=1e-12)


@pytest.mark.parametrize(("form", "slope"), [("saturating", -0.5), ("non_saturating", -0.5), ("linear", -0.25)])
def test_gradient_at_an_undecided_discriminator(form, slope):
    logit = torch.tensor([0.0], dtype=torch.float64, requires_grad=True)
    adversarial_loss(logit, form).backward()
    assert logit.grad.item() == pytest.approx(slope)
