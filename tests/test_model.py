"""The network: what holds before any training, whatever the weights, and what its files keep."""

import math
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rtskel.engine.weights import load_weights, save_weights, weights_hash
from rtskel.errors import EngineError
from rtskel.model import (
    PRESETS,
    LocalRegression,
    Outlying,
    Skeletor,
    SkeletorConfig,
    interpolate,
    open_gate,
    sinusoids,
    usual,
    velocity_kept,
)
from rtskel.skeleton import LEFT_SHOULDER, NECK, RIGHT_SHOULDER, UPPER_BODY_50

TINY = SkeletorConfig(
    window=8,
    d_model=16,
    heads=2,
    d_ff=16,
    layers=1,
    missing_channel=True,
    bones=True,
    bone_deviation=True,
    fill=True,
    gate=True,
    local_regression=True,
    unmirror=True,
)


def windows(batch=2, window=8, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = 0.2 * torch.randn(batch, window, 50, 3, generator=g)
    x[:, :, LEFT_SHOULDER, 0] = 1 / 6
    x[:, :, RIGHT_SHOULDER, 0] = -1 / 6
    return x


def trained(config=TINY, seed=0):
    """A model whose every weight does something."""
    torch.manual_seed(seed)
    model = Skeletor(config).eval()
    with torch.no_grad():
        torch.nn.init.normal_(model.trunk.out.weight, std=0.1)
    return model


def test_paper_preset_is_the_papers_network_and_nothing_else():
    config = PRESETS["paper"]
    assert (config.layers, config.d_model, config.heads, config.d_ff, config.window) == (8, 512, 8, 2048, 64)
    options = ("missing_channel", "bones", "bone_deviation", "fill", "gate", "unmirror")
    assert not any(getattr(config, option) for option in options)
    d, ff = 512, 2048
    layer = 4 * (d * d + d) + (d * ff + ff) + (ff * d + d) + 4 * d  # attention, feed-forward, two LayerNorms
    expected = (150 * d + d) + 2 * d + 8 * layer + (d * 150 + 150)
    assert sum(p.numel() for p in Skeletor(config).parameters()) == expected


def test_paper_model_sees_missing_joints_as_zeros():
    model = trained(SkeletorConfig(window=8, d_model=16, heads=2, d_ff=16, layers=1))
    x, missing = windows(), torch.zeros(2, 8, 50, dtype=torch.bool)
    missing[:, 3] = True
    zeroed = x.masked_fill(missing[..., None], 0.0)
    assert torch.equal(model(x, missing), model(zeroed, torch.zeros_like(missing)))


def test_positions_are_equation_2():
    p = sinusoids(5, 8)
    assert p.shape == (5, 8)
    assert p[3, 2].item() == pytest.approx(math.sin(3 / 10000 ** (2 / 8)), abs=1e-6)
    assert p[3, 3].item() == pytest.approx(math.cos(3 / 10000 ** (2 / 8)), abs=1e-6)


@pytest.mark.parametrize("key", ["wndow", "dropout"])
def test_unknown_option_raises(key):
    with pytest.raises(ValueError, match=key):
        SkeletorConfig.from_dict({key: 1})


def test_config_round_trip_and_impossible_values():
    assert SkeletorConfig.from_dict(TINY.to_dict()) == TINY
    filled = {"fill": True, "momentum": 1.0}
    for wrong, named in (({"heads": 3}, "heads"), ({"window": 0}, "window"), (filled, "momentum must")):
        with pytest.raises(ValueError, match=named):
            SkeletorConfig(**wrong)


@pytest.mark.parametrize(
    "option", ["bones", "bone_deviation", "momentum", "persistence", "gate", "local_regression", "unmirror", "outlying"]
)
def test_what_would_be_ignored_without_fill_is_refused(option):
    value = 0.4 if option == "momentum" else True
    with pytest.raises(ValueError, match=f"^{option} without fill"):
        SkeletorConfig(**{option: value})
    assert SkeletorConfig(fill=True, **{option: value}).fill


def test_untrained_realtime_model_leaves_clean_input_alone_exactly():
    torch.manual_seed(0)
    x = windows()
    assert torch.equal(Skeletor(TINY)(x, torch.zeros(2, 8, 50, dtype=torch.bool)), x)


def test_fill_is_exact_for_linear_motion_and_keeps_what_is_there():
    g = torch.Generator().manual_seed(1)
    x = windows(1).permute(0, 2, 3, 1)[..., :1] + 0.01 * torch.arange(8.0) * torch.randn(1, 50, 3, 1, generator=g)
    missing = torch.rand(1, 50, 8, generator=g) < 0.4
    missing[..., [0, -1]] = False
    gone = missing[:, :, None].expand_as(x)
    filled = Skeletor(TINY).fill_missing(x.masked_fill(gone, 0.0), missing)
    assert (filled - x).abs().max() < 1e-5
    assert torch.equal(filled[~gone], x[~gone])


def test_fill_of_a_joint_never_seen_is_the_mean_bone_on_its_parent():
    model = Skeletor(TINY)
    mean = 0.1 * torch.randn(50, 3, generator=torch.Generator().manual_seed(2))
    model.set_bone_statistics(mean, torch.full((50,), 0.1))
    x, missing = windows(1).permute(0, 2, 3, 1), torch.zeros(1, 50, 8, dtype=torch.bool)
    missing[:, 6] = True  # an elbow: the wrist below it is there and stays
    filled = model.fill_missing(x, missing)
    assert torch.allclose(filled[:, 6], x[:, LEFT_SHOULDER] + mean[6, :, None])
    nothing = torch.zeros_like(windows(1))
    assert torch.isfinite(model(nothing, torch.ones(nothing.shape[:3], dtype=torch.bool))).all()


@pytest.mark.parametrize("window", [1, 2, 7, 32])
def test_interpolation_holds_at_the_ends_and_defaults(window):
    g = torch.Generator().manual_seed(window)
    values = torch.randn(3, 50, 3, window, generator=g)
    valid = torch.rand(3, 50, window, generator=g) < 0.3
    default = torch.full((50, 3), 7.0)
    got = interpolate(values, valid, default)
    for b in range(3):
        for j in range(0, 50, 7):
            times = [t for t in range(window) if valid[b, j, t]]
            for t in range(window):
                if not times:
                    expected = default[j]
                elif t <= times[0] or t >= times[-1]:
                    expected = values[b, j, :, times[0] if t <= times[0] else times[-1]]
                else:
                    a, c = max(s for s in times if s <= t), min(s for s in times if s >= t)
                    w = (t - a) / max(c - a, 1)
                    expected = (1 - w) * values[b, j, :, a] + w * values[b, j, :, c]
                assert torch.allclose(got[b, j, :, t], expected, atol=1e-5)


def test_momentum_carries_into_a_gap_and_fades():
    path = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]).expand(1, 1, 3, 8)
    valid = torch.tensor([True, True, True, False, False, False, False, False])[None, None]
    ahead = interpolate(path, valid, torch.zeros(1, 3), 0.5)[0, 0, 0, 3:]
    torch.testing.assert_close(ahead, 1 + torch.tensor([0.5, 0.75, 0.875, 0.9375, 0.96875]))
    behind = interpolate(path.flip(3), valid.flip(2), torch.zeros(1, 3), 0.5)[0, 0, 0, :5].flip(0)
    torch.testing.assert_close(ahead, behind)

    both = torch.tensor([True, True, False, True, False, False, True, True])[None, None]
    straight = torch.arange(8.0).expand(1, 1, 3, 8)
    torch.testing.assert_close(interpolate(straight, both, torch.zeros(1, 3), 0.5), straight)
    bend = interpolate(straight.square(), both, torch.zeros(1, 3), 0.5)[0, 0, 0, 2]
    assert bend == 5.0 + 0.5 * 0.5 * (1 - 4)  # the middle of 1 and 9; half of what momentum leaves of 1 instead of 4


def test_the_velocity_that_motion_keeps_is_measured():
    g, frames = torch.Generator().manual_seed(0), 400
    for coefficient in (0.0, 0.5, 0.9):
        steps = torch.zeros(1, 20, 3, frames)
        for t in range(1, frames):
            steps[..., t] = coefficient * steps[..., t - 1] + torch.randn(1, 20, 3, generator=g)
        known = torch.rand(1, 20, frames, generator=g) < 0.8
        kept = velocity_kept(steps * known[:, :, None], known.float(), 0.4)
        assert (kept[..., 0, 0] - coefficient).abs().max() < 0.1
    jitter = torch.randn(1, 20, 3, frames + 1, generator=g).diff(dim=-1)
    assert (velocity_kept(jitter, torch.ones(1, 20, frames), 0.4) == 0.02).all()
    resting = velocity_kept(torch.zeros(1, 20, 3, 9), torch.ones(1, 20, 9), 0.4)
    torch.testing.assert_close(resting, torch.full_like(resting, 0.4))


def test_what_is_kept_carries_into_a_gap_and_the_bone_returns_to_its_mean():
    path = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]).expand(1, 1, 3, 8)
    valid = (torch.arange(8) < 3)[None, None]
    ahead = interpolate(path, valid, torch.zeros(1, 3), 0.5, persistence=True)[0, 0, 0, 3:]
    # Of steps of 0 and 1 nothing is kept; 0.5 counts as three more pairs of steps do, so that 3/4 of it is.
    frames = torch.arange(1, 6)
    coasting = 1 + torch.cumsum(0.375**frames, 0)
    torch.testing.assert_close(ahead, coasting + (1 - 0.98**frames) * (1 / 3 - coasting))
    behind = interpolate(path.flip(3), valid.flip(2), torch.zeros(1, 3), 0.5, persistence=True)[0, 0, 0, :5].flip(0)
    torch.testing.assert_close(ahead, behind)


def test_in_the_middle_of_a_gap_of_whole_frames_the_fill_stands():
    model = Skeletor(replace(TINY, persistence=True)).eval()
    for parameter in model.trunk.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x, missing = windows(2), torch.zeros(2, TINY.window, 50, dtype=torch.bool)
    missing[0, 3:] = missing[1] = True
    missing[0, 3:, NECK] = False  # where it is known, a root says nothing of the rest
    with torch.inference_mode():
        path = torch.where(missing[..., None], 0.0, x).permute(0, 2, 3, 1)
        changed = (model(x, missing) - model.fill_missing(path, missing.transpose(1, 2)).permute(0, 3, 1, 2)).abs()
    assert (changed[0].amax((1, 2)) > 0).tolist() == [t < 5 for t in range(TINY.window)]
    assert (changed[1].amax((1, 2)) > 0).all()  # of a window that shows nothing, the network knows more


def test_local_fits_of_a_straight_path_are_the_path_but_for_what_ridge_and_holding_do_at_the_ends():
    regression, time = LocalRegression(33), torch.arange(33.0)
    path = (time * torch.tensor([0.01, 0.0, -0.02])[:, None] + 0.3)[None, None]  # [1, 1, 3, 33]
    fits = regression(path, torch.full((1, 1, 33), 0.5))
    assert fits.shape == (1, 1, 3, regression.fits, 33)
    torch.testing.assert_close(fits[..., 16], path[..., 16, None].expand(1, 1, 3, regression.fits))
    off = (fits - path[:, :, :, None])[0, 0, 0, :, -1].abs()
    assert (off[3:] < 0.35 * off[:3]).all()  # at an end a linear fit follows, a constant one lags
    torch.testing.assert_close(regression.deviation(path, torch.ones(1, 1, 33))[..., 16], torch.zeros(1, 1, 3))
    some = torch.tensor([32, 16])
    torch.testing.assert_close(regression(path, torch.full((1, 1, 33), 0.5), some), fits[..., some])


def test_unreliable_frames_do_not_pull_local_fits():
    regression = LocalRegression(16)
    path, weight = torch.zeros(1, 1, 3, 16), torch.ones(1, 1, 16)
    path[..., 7], weight[..., 7] = 1.0, 1e-3
    assert regression(path, weight).abs().max() < 0.01
    assert regression(path, torch.ones_like(weight))[..., 7].abs().max() > 0.1
    assert regression.deviation(path, weight)[..., 7].min() > 0.9


@pytest.mark.parametrize("window", [1, 2, 3, 4, 5, 32])
def test_a_straight_path_has_nothing_outlying(window):
    line = torch.arange(window) * torch.tensor([0.02, -0.01, 0.03])[:, None] + 1.0
    seen = Outlying(window)(line.expand(1, 2, 3, window), torch.ones(1, 2, window))
    assert seen.shape == (1, 4, window)
    assert seen.abs().max() < 1e-2


def test_white_noise_has_the_same_residual_in_every_frame():
    noise = torch.randn(1, 20_000, 3, 8, generator=torch.Generator().manual_seed(1)) * 0.1
    far = (noise @ Outlying(8).residual).square().mean((0, 1, 2)).sqrt()
    assert far.tolist() == pytest.approx([0.1] * 8, rel=0.02)


def test_a_frame_off_its_path_stands_out():
    path = torch.linspace(0.0, 0.1, 16).expand(1, 2, 3, 16).clone()
    path[0, 0, 1, 9] += 0.3
    there = torch.ones(1, 2, 16)
    seen, usual_here = Outlying(16)(path, there).chunk(2, 1)
    assert seen[0, 0].argmax() == 9
    assert seen[0, 0, 9] > 1.0
    assert seen[0, 1].abs().max() < 1e-2
    assert (usual_here[0, 0] > usual_here[0, 1] + 1.0).all()
    there[0, 0, 9] = 0.0
    seen, _ = Outlying(16)(path, there).chunk(2, 1)
    assert seen[0, 0, 9] == 0.0


def test_usual_length_is_not_moved_by_a_few_bad_frames():
    length = torch.full((1, 1, 32), 0.3)
    length[..., ::8] = 0.9
    assert usual(length, torch.ones_like(length)).item() == pytest.approx(0.3, abs=0.01)


def test_values_of_missing_joints_do_not_matter():
    model, x = trained(), windows()
    missing = torch.rand(2, 8, 50, generator=torch.Generator().manual_seed(3)) < 0.3
    other = torch.where(missing[..., None], torch.full_like(x, 123.0), x)
    assert torch.equal(model(x, missing), model(other, missing))


def test_mirrored_input_gives_mirrored_output():
    model, x = trained(), windows()
    missing = torch.rand(2, 8, 50, generator=torch.Generator().manual_seed(4)) < 0.2
    flip = torch.tensor([-1.0, 1.0, 1.0])
    assert torch.allclose(model(x * flip, missing), model(x, missing) * flip, atol=1e-6)


@pytest.mark.parametrize("config", [TINY, SkeletorConfig(window=8, d_model=16, heads=2, d_ff=16, layers=2)])
def test_positions_are_those_of_all(config):
    model, x = trained(config), windows()
    missing = torch.rand(2, 8, 50, generator=torch.Generator().manual_seed(6)) < 0.2
    every = model(x, missing)
    for positions in ([7], [3, 5, 6, 7], [2, 0, 2], [*range(8)]):
        torch.testing.assert_close(model(x, missing, torch.tensor(positions)), every[:, positions], rtol=0, atol=1e-5)


def test_windows_of_a_batch_do_not_touch_each_other():
    model, x = trained(), windows(3)
    missing = torch.rand(3, 8, 50, generator=torch.Generator().manual_seed(5)) < 0.2
    assert torch.allclose(model(x, missing)[1:2], model(x[1:2], missing[1:2]), atol=1e-6)


class OnlyDevice(TorchDispatchMode):
    """Every tensor is on the device "meta", numbers excepted: where one would be copied from the host, it raises."""

    operations = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **kwargs or {})
        for tensor in tree_leaves((args, kwargs, out)):
            if isinstance(tensor, torch.Tensor) and tensor.dim():
                assert tensor.device.type == "meta", f"{function} has a tensor of {list(tensor.shape)} on the host"
        self.operations += 1
        return out


class NothingFromTheHost(TorchFunctionMode):
    """No tensor is made of numbers of Python's."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        assert function not in (torch.tensor, torch.as_tensor, torch.from_numpy), f"{function.__name__} in forward"
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("some", [False, True])
def test_forward_can_be_captured(preset, dtype, some):
    """No tensor is made on the host and no value is read back: either breaks the capture of a CUDA graph."""
    config = PRESETS[preset]
    model = Skeletor(config).eval().to("meta")
    model.trunk.to(dtype)
    x = torch.empty(3, config.window, config.joints, 3, device="meta")
    missing = torch.empty(3, config.window, config.joints, dtype=torch.bool, device="meta")
    positions = torch.empty(4, dtype=torch.int64, device="meta") if some else None
    with torch.inference_mode(), OnlyDevice() as device, NothingFromTheHost():
        y = model(x, missing, positions)
    assert y.shape == (3, 4 if some else config.window, config.joints, 3)
    assert y.dtype == torch.float32
    assert device.operations > 100


@pytest.mark.parametrize(
    "breaks",
    [
        lambda x: x * torch.tensor((1.0, 2.0, 3.0), device=x.device),
        lambda x: x[torch.arange(2)],
        lambda x: x * x.sum().item(),
        lambda x: x if (x > 0).any() else -x,
        lambda x: x.cpu(),
    ],
    ids=["tensor", "arange", "item", "if", "cpu"],
)
def test_what_breaks_a_capture_is_found(breaks):
    x = torch.empty(3, device="meta")
    with torch.inference_mode(), OnlyDevice(), NothingFromTheHost(), pytest.raises((AssertionError, RuntimeError)):
        breaks(x)


def test_weights_file_round_trip(tmp_path):
    model, path = trained(), tmp_path / "w.safetensors"
    save_weights(model, path, name="tiny", corpus="abc")
    again = load_weights(path)
    assert again.config == TINY
    x, missing = windows(), torch.zeros(2, 8, 50, dtype=torch.bool)
    assert torch.equal(again(x, missing), model(x, missing))
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata()
    assert metadata["rtskel.name"] == "tiny"
    assert metadata["rtskel.corpus"] == "abc"
    assert metadata["rtskel.preset"] == "custom"
    assert metadata["rtskel.joints"] == str(UPPER_BODY_50.joints)
    assert metadata["rtskel.weights_hash"] == weights_hash(again.state_dict())


def test_half_stored_weights_carry_the_hash_of_their_rounded_values(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(trained(), path, dtype=torch.float16)
    with safe_open(str(path), framework="pt") as file:
        assert file.metadata()["rtskel.weights_hash"] == weights_hash(load_weights(path).state_dict())


def test_foreign_and_truncated_weights_are_named(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(trained(), path)
    data = path.read_bytes()
    for wrong in (data[: len(data) // 2], b"garbage", b""):
        path.write_bytes(wrong)
        with pytest.raises(EngineError, match=r"w\.safetensors"):
            load_weights(path)
    with pytest.raises(EngineError, match=r"none\.safetensors"):
        load_weights(tmp_path / "none.safetensors")


def test_a_model_grown_from_another_computes_the_same_at_first():
    small = trained(replace(TINY, local_regression=False, bone_deviation=False))
    grown = Skeletor(TINY).eval()
    grown.grow_from(small)
    x, missing = windows(), torch.rand(2, 8, 50, generator=torch.Generator().manual_seed(1)) < 0.2
    torch.testing.assert_close(grown(x, missing), small(x, missing), atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="bone_deviation"):
        Skeletor(replace(TINY, bone_deviation=False)).grow_from(trained())
    with pytest.raises(ValueError, match="differs"):
        Skeletor(replace(TINY, d_ff=32)).grow_from(small)


def test_a_hand_that_no_frame_shows_is_as_long_as_the_other_or_of_full_length():
    model = Skeletor(PRESETS["realtime"])
    joints, length = model.config.joints, model.bone_length
    mean = torch.randn(joints, 3, generator=torch.Generator().manual_seed(1))
    model.set_bone_statistics(0.1 * mean / mean.norm(dim=-1, keepdim=True), torch.ones(joints))
    x = torch.rand(1, joints, 3, 32, generator=torch.Generator().manual_seed(0))
    missing = torch.zeros(1, joints, 32, dtype=torch.bool)
    hand = list(UPPER_BODY_50.groups["left_hand"])
    other = [UPPER_BODY_50.mirror[joint] for joint in hand]
    missing[:, hand] = True
    missing[:, other, ::2] = True
    seen = model.bone_vectors(x)[0, other, :, 1::2].norm(dim=1)
    filled = model.bone_vectors(model.fill_missing(x, missing))[0, hand].norm(dim=1)
    torch.testing.assert_close(filled, seen.mean(1, keepdim=True).expand(-1, 32))
    missing[:, other] = True
    filled = model.bone_vectors(model.fill_missing(x, missing))[0, hand].norm(dim=1)
    torch.testing.assert_close(filled, length[hand, None].expand(-1, 32))
    missing[:, other] = False
    missing[0, hand[5], 7] = False  # one joint of it in one frame: the rest of it is guessed as single joints are
    filled = model.bone_vectors(model.fill_missing(x, missing))[0, hand[9:]].norm(dim=1)
    torch.testing.assert_close(filled, torch.full_like(filled, 0.1))


def test_refinement_keeps_the_bones_of_a_hand_that_no_frame_shows_as_long_as_filled_in():
    model, x = trained(), windows()
    model.set_bone_statistics(torch.randn(50, 3, generator=torch.Generator().manual_seed(1)), torch.full((50,), 0.1))
    hand = list(UPPER_BODY_50.groups["left_hand"])
    missing = torch.zeros(x.shape[:3], dtype=torch.bool)
    missing[0, :, hand] = True

    def refined():
        with torch.no_grad():
            base, correction, logits = model.propose(x, missing)
            return model(x, missing), base, base + correction * open_gate(logits, missing)[..., None]

    def lengths(y):  # of the hand's bones [B, J, W], but for the one that joins it to the wrist
        return model.bone_vectors(y.permute(0, 2, 3, 1))[:, hand[1:]].norm(dim=2)

    y, base, free = refined()
    torch.testing.assert_close(lengths(y)[0], lengths(base)[0])
    assert (lengths(free)[0] / lengths(base)[0] - 1).abs().max() > 0.05  # by itself it would not have
    others = [joint for joint in range(50) if joint not in hand[1:]]
    torch.testing.assert_close(y[0][:, others], free[0][:, others])
    torch.testing.assert_close(y[1], free[1])  # nothing is hidden there
    missing[0, 3, hand[2]] = False  # one joint in one frame
    y, _, free = refined()
    torch.testing.assert_close(y, free)
