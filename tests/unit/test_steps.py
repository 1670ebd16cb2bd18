import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam

from metasr.config import LossConfig
from metasr.context import LocalContext
from metasr.data.sample import Batch
from metasr.errors import DivergedError, TrainingError
from metasr.losses import adversarial_loss, discriminator_loss
from metasr.models import Generator
from metasr.perceptual import PerceptualLoss
from metasr.training import steps
from metasr.training.reduction import Fast
from metasr.training.steps import Networks, UpdateRule, frozen

ADVERSARIAL = LossConfig(pixel=1.0, adversarial=0.01, perceptual=0.0)
TRUE = torch.tensor(True)


def whole(networks):
    return Fast(LocalContext(Path()), [networks.generator, networks.discriminator])


def generator_step(networks, optimiser, batch, loss, *, pixel_only, clip_norm=0.0):
    rule = UpdateRule(optimiser, whole(networks), clip_norm)
    (sr,), losses, outcome = steps.generator_step(networks, [batch], loss, rule, pixel_only=pixel_only)
    outcome.check()
    return sr, losses


def discriminator_step(networks, optimiser, batch, sr, clip_norm=0.0, allowed=TRUE):
    rule = UpdateRule(optimiser, whole(networks), clip_norm)
    loss, outcome = steps.discriminator_step(networks, [batch], [sr], rule, allowed)
    outcome.check()
    return loss


def update(optimiser, loss, clip_norm=0.0):
    networks = Networks(nn.Identity(), nn.Identity(), None)
    _, outcome = steps.update(iter([(loss,)]), UpdateRule(optimiser, whole(networks), clip_norm))
    outcome.check()


class Picture(nn.Module):
    """A generator that makes the same image whatever it sees."""

    def __init__(self, image):
        super().__init__()
        self.image = nn.Parameter(image.clone())

    def forward(self, lr, size):
        return self.image


class Judge(nn.Module):
    """A discriminator whose logit is a weighted sum of the pixels."""

    def __init__(self, side):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-0.5, 1.5, side * side).view(side, side))

    def forward(self, image):
        return (image[:, 0] * self.weight).sum(dim=(1, 2))


def random_batch(batch=2):
    random = torch.Generator().manual_seed(3)
    hr = torch.rand((batch, 1, 10, 10), generator=random)
    return Batch(torch.rand((batch, 1, 5, 5), generator=random), hr, Fraction(2))


def small_networks(*, perceptual=False):
    torch.manual_seed(0)
    discriminator = nn.Sequential(
        nn.Conv2d(1, 6, 3, stride=2),
        nn.BatchNorm2d(6),
        nn.LeakyReLU(0.2),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(6, 1, 1),
        nn.Flatten(0),
    )
    vgg = PerceptualLoss(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())) if perceptual else None
    return Networks(Generator(num_features=4, num_blocks=1, norm="none"), discriminator, vgg)


def weights(module):
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def assert_same_weights(module, before):
    assert before
    for name, value in module.named_parameters():
        assert torch.equal(value, before[name]), name


def has_changed(module, before):
    return all(not torch.equal(value, before[name]) for name, value in module.named_parameters())


def clipped_picture():
    """Half of the pixels lie outside [0, 1], and every one differs from the original."""
    image = torch.tensor(
        [[-0.5, 0.2, 0.9, 1.7], [0.4, 1.2, -0.1, 0.6], [2.0, 0.3, 0.7, -3.0], [0.1, 1.01, -0.01, 0.8]]
    )
    return image[None, None]


def picture_networks(perceptual=None):
    return Networks(Picture(clipped_picture()), Judge(4), perceptual)


def picture_batch():
    return Batch(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 4, 4), 0.5), Fraction(2))


def image_gradient(networks, loss, *, pixel_only=False):
    """Return the gradient that a generator step follows, from a plain descent of rate 1."""
    before = networks.generator.image.detach().clone()
    generator_step(
        networks, SGD(networks.generator.parameters(), lr=1.0), picture_batch(), loss, pixel_only=pixel_only
    )
    return before - networks.generator.image.detach()


@pytest.mark.parametrize("perceptual", [False, True])
def test_generator_step_changes_the_generator_alone(perceptual):
    networks = small_networks(perceptual=perceptual)
    generator, discriminator = weights(networks.generator), weights(networks.discriminator)
    loss = LossConfig(perceptual=0.1) if perceptual else ADVERSARIAL
    optimiser = Adam(networks.generator.parameters(), lr=1e-3)
    generator_step(networks, optimiser, random_batch(), loss, pixel_only=False)
    assert has_changed(networks.generator, generator)
    assert_same_weights(networks.discriminator, discriminator)
    assert all(parameter.requires_grad for parameter in networks.discriminator.parameters())
    assert all(parameter.grad is None for parameter in networks.discriminator.parameters())


def test_generator_step_leaves_gradients_of_the_discriminator_alone():
    networks = small_networks()
    for parameter in networks.discriminator.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    generator_step(networks, Adam(networks.generator.parameters()), random_batch(), ADVERSARIAL, pixel_only=False)
    assert all((parameter.grad == 3.0).all() for parameter in networks.discriminator.parameters())


def test_generator_step_returns_detached_images_of_the_size_of_the_originals():
    networks, batch = small_networks(), random_batch()
    expected = networks.generator(batch.lr, (10, 10)).detach()
    sr, _ = generator_step(networks, Adam(networks.generator.parameters()), batch, ADVERSARIAL, pixel_only=False)
    assert not sr.requires_grad
    torch.testing.assert_close(sr, expected)


@pytest.mark.parametrize("form", ["saturating", "non_saturating", "linear"])
def test_total_is_the_weighted_sum_of_the_terms(form):
    networks, batch = small_networks(perceptual=True), random_batch()
    loss = LossConfig(pixel=0.7, adversarial=0.3, perceptual=0.2, adversarial_form=form)
    seen = networks.generator(batch.lr, (10, 10)).detach().clamp(0, 1)
    expected_adversarial = adversarial_loss(networks.discriminator(seen), form).item()
    expected_perceptual = networks.perceptual(seen, batch.hr).item()
    _, losses = generator_step(networks, Adam(networks.generator.parameters()), batch, loss, pixel_only=False)
    assert losses.adversarial.item() == pytest.approx(expected_adversarial)
    assert losses.perceptual.item() == pytest.approx(expected_perceptual)
    expected = 0.7 * losses.pixel.item() + 0.3 * expected_adversarial + 0.2 * expected_perceptual
    assert losses.total.item() == pytest.approx(expected)


def test_pixel_only_leaves_every_other_term_out():
    networks, batch = small_networks(perceptual=True), random_batch()
    buffers = {name: value.clone() for name, value in networks.discriminator.named_buffers()}
    _, losses = generator_step(networks, Adam(networks.generator.parameters()), batch, LossConfig(), pixel_only=True)
    assert losses.adversarial.item() == losses.perceptual.item() == 0
    assert losses.total.item() == losses.pixel.item() > 0
    for name, value in networks.discriminator.named_buffers():
        assert torch.equal(value, buffers[name]), name


def test_pixel_only_takes_the_step_of_the_pixel_loss_alone():
    stepped = []
    for loss, pixel_only in [(LossConfig(adversarial=0.5), True), (LossConfig(adversarial=0, perceptual=0), False)]:
        networks = small_networks()
        optimiser = Adam(networks.generator.parameters(), lr=1e-3)
        generator_step(networks, optimiser, random_batch(), loss, pixel_only=pixel_only)
        stepped.append(networks.generator)
    assert_same_weights(stepped[0], weights(stepped[1]))


def test_weight_zero_never_asks_the_discriminator():
    networks = Networks(small_networks().generator, nn.Linear(1, 1), None)  # would refuse an image
    loss = LossConfig(adversarial=0, perceptual=0)
    _, losses = generator_step(
        networks, Adam(networks.generator.parameters()), random_batch(), loss, pixel_only=False
    )
    assert losses.adversarial.item() == 0


def test_pixel_loss_pulls_back_what_lies_outside_the_range():
    gradient = image_gradient(picture_networks(), LossConfig(adversarial=0, perceptual=0))
    torch.testing.assert_close(gradient, (clipped_picture() - 0.5).sign() / 16)


def test_only_the_judged_image_is_clamped():
    image = clipped_picture()
    outside = (image < 0) | (image > 1)
    pixel = (image - 0.5).sign() / 16
    adversarial = image_gradient(picture_networks(), LossConfig(adversarial=1, perceptual=0)) - pixel
    assert (adversarial[outside].abs() < 1e-6).all()
    assert (adversarial[~outside].abs() > 1e-4).all()
    vgg = PerceptualLoss(nn.Sequential(nn.Conv2d(3, 4, 1)))
    perceptual = image_gradient(picture_networks(vgg), LossConfig(adversarial=0, perceptual=1)) - pixel
    assert (perceptual[outside].abs() < 1e-6).all()
    assert (perceptual[~outside].abs() > 1e-5).all()


def test_discriminator_and_vgg_see_the_clamped_image():
    networks = picture_networks(PerceptualLoss(nn.Sequential(nn.Conv2d(3, 4, 1))))
    seen, original = clipped_picture().clamp(0, 1), picture_batch().hr
    adversarial = adversarial_loss(networks.discriminator(seen), "non_saturating").item()
    perceptual = networks.perceptual(seen, original).item()
    optimiser = SGD(networks.generator.parameters(), lr=1.0)
    sr, losses = generator_step(networks, optimiser, picture_batch(), LossConfig(), pixel_only=False)
    assert losses.adversarial.item() == pytest.approx(adversarial)
    assert losses.perceptual.item() == pytest.approx(perceptual)
    assert losses.pixel.item() == pytest.approx((clipped_picture() - 0.5).abs().mean().item())
    assert sr.max() > 1


def test_discriminator_step_changes_the_discriminator_alone():
    networks, batch = small_networks(), random_batch()
    generator, discriminator = weights(networks.generator), weights(networks.discriminator)
    sr = networks.generator(batch.lr, (10, 10)).detach()
    discriminator_step(networks, Adam(networks.discriminator.parameters(), lr=1e-3), batch, sr)
    assert_same_weights(networks.generator, generator)
    assert all(parameter.grad is None for parameter in networks.generator.parameters())
    assert not torch.equal(networks.discriminator[0].weight, discriminator["0.weight"])


def test_discriminator_judges_clamped_originals_and_images():
    judge = Judge(4)
    image = clipped_picture()
    batch = Batch(torch.zeros(1, 1, 2, 2), image.flip(3), Fraction(2))
    expected = discriminator_loss(judge(image.flip(3).clamp(0, 1)), judge(image.clamp(0, 1))).item()
    networks = Networks(Picture(image), judge, None)
    loss = discriminator_step(networks, SGD(judge.parameters(), lr=0.1), batch, image)
    assert loss.item() == pytest.approx(expected)


def test_discriminator_learns_to_tell_originals_from_images():
    judge, batch = Judge(10), random_batch(4)
    networks, sr = Networks(nn.Identity(), judge, None), 1 - batch.hr
    optimiser = SGD(judge.parameters(), lr=0.05)
    losses = [discriminator_step(networks, optimiser, batch, sr).item() for _ in range(60)]
    assert losses[-1] < 0.1 < 1 < losses[0]
    assert (judge(batch.hr) > judge(sr)).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_generator_step_refuses_a_loss_that_is_not_finite(bad):
    networks, batch = small_networks(), random_batch()
    optimiser = Adam(networks.generator.parameters(), lr=1e-3)
    generator_step(networks, optimiser, batch, ADVERSARIAL, pixel_only=False)
    before = weights(networks.generator), weights(networks.discriminator)
    hr = batch.hr.clone()
    hr[0, 0, 3, 3] = bad
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf).*Lower optim\.generator_lr"):
        generator_step(networks, optimiser, batch._replace(hr=hr), ADVERSARIAL, pixel_only=False)
    assert_same_weights(networks.generator, before[0])
    assert_same_weights(networks.discriminator, before[1])
    assert all(parameter.requires_grad for parameter in networks.discriminator.parameters())
    assert {float(entry["step"]) for entry in optimiser.state.values()} == {1.0}


def test_discriminator_step_refuses_a_loss_that_is_not_finite():
    networks, batch = small_networks(), random_batch()
    before = weights(networks.generator), weights(networks.discriminator)
    sr = torch.full_like(batch.hr, math.nan)
    with pytest.raises(TrainingError, match="diverged"):
        discriminator_step(networks, Adam(networks.discriminator.parameters()), batch, sr)
    assert_same_weights(networks.generator, before[0])
    assert_same_weights(networks.discriminator, before[1])


def test_update_forgets_gradients_of_the_step_before():
    parameter = nn.Parameter(torch.tensor([1.0]))
    optimiser = SGD([parameter], lr=0.1)
    for _ in range(2):
        update(optimiser, 2 * parameter.sum())
    assert parameter.item() == pytest.approx(1 - 0.1 * 2 * 2)


def test_freezing_ends_even_after_an_error():
    module = nn.Linear(2, 1)
    with pytest.raises(KeyError), frozen(module):
        raise KeyError
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_gradients_pass_through_a_frozen_module():
    module, image = nn.Linear(2, 1), torch.ones(1, 2, requires_grad=True)
    with frozen(module):
        assert not any(parameter.requires_grad for parameter in module.parameters())
        loss = module(image).sum()
    loss.backward()
    assert image.grad is not None
    assert module.weight.grad is None


def test_a_gradient_that_is_not_finite_never_reaches_the_weights():
    weight = nn.Parameter(torch.tensor([0.0, 4.0]))
    optimiser = Adam([weight])
    with pytest.raises(DivergedError, match="the length of the gradient is inf"):
        update(optimiser, weight.sqrt().sum())  # whose slope at 0 is infinite
    assert weight.tolist() == [0.0, 4.0]
    assert not optimiser.state


def test_a_batch_that_is_not_finite_leaves_the_statistics_of_batchnorm_alone():
    networks, batch = small_networks(), random_batch()
    before = [buffer.clone() for buffer in networks.discriminator.buffers()]
    batch.lr[0, 0, 2, 2] = math.nan
    with pytest.raises(DivergedError):
        generator_step(networks, Adam(networks.generator.parameters()), batch, ADVERSARIAL, pixel_only=False)
    assert all(map(torch.equal, networks.discriminator.buffers(), before))


def test_a_gradient_longer_than_allowed_is_shortened_and_keeps_its_direction():
    def gradient(clip_norm):
        weight = nn.Parameter(torch.tensor([3.0, -4.0]))
        update(SGD([weight], lr=0.0), (weight * torch.tensor([6.0, 8.0])).sum(), clip_norm)
        return weight.grad

    assert gradient(0.0).tolist() == [6.0, 8.0]
    assert gradient(100.0).tolist() == [6.0, 8.0]
    torch.testing.assert_close(gradient(1.0), torch.tensor([0.6, 0.8]), rtol=1e-5, atol=0)


def test_both_steps_shorten_their_gradients():
    networks, batch = small_networks(), random_batch()
    for module, step in (
        (
            networks.generator,
            lambda o: generator_step(networks, o, batch, ADVERSARIAL, pixel_only=False, clip_norm=1e-3),
        ),
        (networks.discriminator, lambda o: discriminator_step(networks, o, batch, batch.hr / 2, clip_norm=1e-3)),
    ):
        step(SGD(module.parameters(), lr=0.0))
        length = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]).norm().item()
        assert length == pytest.approx(1e-3, rel=1e-2)
