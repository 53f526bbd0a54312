"""The kernels around the network's trunk, compiled for the host, against the network that `rtskel.model` writes."""

import ctypes
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rtskel.engine import network_kernels as kernels_of  # noqa: E402
from rtskel.model import Skeletor, SkeletorConfig, facing  # noqa: E402
from rtskel.skeleton import skeleton  # noqa: E402
from tests import contract  # noqa: E402

CONFIG = SkeletorConfig(
    window=32, d_model=16, heads=2, d_ff=16, layers=1, missing_channel=True, bones=True, bone_deviation=True,
    fill=True, momentum=0.4, persistence=True, gate=True, local_regression=True, unmirror=True, pre_norm=True,
    outlying=True,
)  # fmt: skip
LEFT_HAND, RIGHT_HAND = (list(skeleton(CONFIG.skeleton).groups[f"{side}_hand"]) for side in ("left", "right"))


def network(config):
    torch.manual_seed(0)
    model = Skeletor(config).eval()
    for parameter in model.trunk.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # a fresh network changes nothing
    model.set_bone_statistics(torch.randn(model.config.joints, 3) * 0.1, torch.rand(model.config.joints) * 0.1)
    return model


def windows(config, missing):
    """Windows [B, W, J, 3] and what they lack: at random, a hand or both never seen, some frames, everything."""
    rng = np.random.default_rng(1)
    count = 7
    xyz, _ = contract.sequence(count * config.window, seed=2)
    x = xyz.reshape(count, config.window, -1, 3).astype(np.float32)
    x = (x - x[:, :, 1:2].mean(1, keepdims=True)) / (3 * np.linalg.norm(x[:, :, 2] - x[:, :, 5], axis=-1).mean())
    x[1] *= [-1, 1, 1]  # seen in a mirror
    lost = rng.random(x.shape[:3]) < missing
    lost[2][:, LEFT_HAND] = True
    lost[3][:, LEFT_HAND + RIGHT_HAND] = True
    lost[4][5:12] = True
    lost[5] = True
    lost[6][:, [2, 5]] = True  # no shoulders
    x[lost] = 1e3  # must not matter
    return torch.tensor(x), torch.tensor(lost)


def run(library, model, x, missing, positions, trunk):
    """What the two kernels make of windows, with a trunk between them: features, filled paths and poses."""
    config, tree = model.config, skeleton(model.config.skeleton)
    batch, window, joints, _ = x.shape
    answers = len(positions)
    network = kernels_of.NetworkArguments(
        *(window, joints, answers, 0, kernels_of.columns(joints), 5, 2, config.momentum),
        (ctypes.c_double * 3)(*model.regression.BANDWIDTHS),
    )
    tables = {k: np.ascontiguousarray(table) for k, table in kernels_of.tables_of(model, tree).items()}
    for name, table in tables.items():
        setattr(network, name, table.ctypes.data)
    shapes = {
        "path": (batch, joints, 3, window), "side": (batch,), "features": (batch, window, kernels_of.columns(joints)),
        "out": (batch, answers, model.outputs), "early": (batch, window, joints), "y": (batch, answers, joints, 3),
    }  # fmt: skip
    arrays = {name: np.full(shape, np.nan, np.float32) for name, shape in shapes.items()}
    arrays |= {"x": x.numpy(), "missing": missing.numpy(), "positions": positions.numpy()}
    step = kernels_of.PassArguments(**{name: array.ctypes.data for name, array in arrays.items()})
    library.rtskel_prepare(ctypes.c_int64(batch), ctypes.byref(network), ctypes.byref(step))
    assert not arrays["features"][..., model.inputs :].any()
    arrays["features"] = arrays["features"][..., : model.inputs]
    out, early = trunk(torch.tensor(arrays["features"]), positions)
    arrays["out"][:], arrays["early"][:] = out.numpy(), early.numpy()
    library.rtskel_finish(ctypes.c_int64(batch), ctypes.byref(network), ctypes.byref(step))
    return arrays


@pytest.mark.parametrize("missing", [0.0, 0.1, 0.6, 0.95])
@pytest.mark.parametrize(("window", "positions"), [(32, [21, 22, 25, 27]), (12, [0, 11]), (31, range(31)), (2, [0])])
@pytest.mark.parametrize("momentum", [0.0, 0.4])
def test_what_the_network_says(missing, window, positions, momentum, kernels):
    config = replace(CONFIG, window=window, momentum=momentum)
    model, positions = network(config), torch.tensor(list(positions))
    x, lost = windows(config, missing)
    with torch.inference_mode():
        want = model(x, lost, positions)
        side = facing(torch.where(lost[..., None], 0.0, x), lost)
        path = torch.where(lost[..., None], 0.0, x * side).permute(0, 2, 3, 1)
        path = model.fill_missing(path, lost.transpose(1, 2))
        features = model.features(path, lost.transpose(1, 2))
        found = run(kernels, model, x, lost, positions, model.trunk)
    assert np.abs(found["path"] - path.numpy()).max() < 1e-5
    assert np.abs(found["features"] - features.numpy()).max() < 1e-3
    assert np.abs(found["y"] - want.numpy()).max() < 1e-4 * want.abs().max()
    assert (want - x[:, positions]).abs().max() > 0.01, "the network changed nothing"


def test_features_in_bf16(kernels):
    """Rounded to the nearest, ties to even, as PyTorch rounds."""
    model = network(CONFIG)
    x, lost = windows(CONFIG, 0.1)
    positions = torch.tensor([3])
    with torch.inference_mode():
        found = run(kernels, model, x, lost, positions, model.trunk)
    want = torch.tensor(found["features"]).bfloat16()
    tree = skeleton(CONFIG.skeleton)
    columns = kernels_of.columns(tree.joints)
    widths = (ctypes.c_double * 3)(1, 2.5, 6)
    network_ = kernels_of.NetworkArguments(32, tree.joints, 1, 1, columns, 5, 2, CONFIG.momentum, widths)
    tables = {k: np.ascontiguousarray(table) for k, table in kernels_of.tables_of(model, tree).items()}
    for name, table in tables.items():
        setattr(network_, name, table.ctypes.data)
    features = torch.zeros((*want.shape[:2], columns), dtype=torch.bfloat16)
    arrays = {name: found[name].ctypes.data for name in ("x", "missing", "positions", "path", "side")}
    step = kernels_of.PassArguments(**arrays, features=features.data_ptr())
    kernels.rtskel_prepare(ctypes.c_int64(len(x)), ctypes.byref(network_), ctypes.byref(step))
    assert torch.equal(features[..., : model.inputs], want)


def test_sizes(kernels):
    sizes = [kernels.rtskel_sizes(which) for which in (2, 3)]
    assert sizes == [ctypes.sizeof(kernels_of.NetworkArguments), ctypes.sizeof(kernels_of.PassArguments)]


def test_what_they_cannot_do():
    """Other networks, and windows that shared memory has no room for, stay with PyTorch."""
    assert kernels_of.fits(CONFIG, 8)
    assert kernels_of.fits(CONFIG, 32)
    assert not kernels_of.fits(replace(CONFIG, window=64), 8)
    assert not kernels_of.fits(replace(CONFIG, unmirror=False), 8)
    assert not kernels_of.fits(SkeletorConfig(window=32), 8)
