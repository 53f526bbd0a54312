"""Ten wrong uses of each command: one line that names the offender and the way out, and status 2."""

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rtskel.cli import main
from rtskel.cli.main import commands
from rtskel.formats import write
from rtskel.training.synthesize import synthesize

SERVE = ("serve", "--engine", "null")
LEARN = ("translate", "train", "--data", "empty", "--out", "y")
ENDPOINT = ("--raw", "tcp://127.0.0.1:9", "--wait", "0")

MISTAKES: dict[str, list[tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "demo": [
        (("demo", "--recording", "none.skels"), ("none.skels", "No such file")),
        (("demo", "--recording", "flat.npz"), ("flat.npz", "2D", "3D")),
        (("demo", "--recording", "arrays.npz"), ("arrays.npz", "arr_0", "xyz")),
        (("demo", "--recording", "text.npz"), ("text.npz", "not an .npz file")),
        (("demo", "--recording", "photo.jpg"), ("photo.jpg", ".npz")),
        (("demo", "--lookahead", "x"), ("--lookahead", "'x'", "0,4")),
        (("demo", "--speed", "0"), ("--speed", "'0'", "above 0")),
        (("demo", "--speed", "nan"), ("--speed", "'nan'")),
        (("demo", "--engine", "none.onnx"), ("none.onnx",)),
        (("demo", "--recordin", "a.npz"), ("--recordin", "--recording?")),
        (("demo", "take.npz"), ("unexpected argument take.npz", "rtskel demo --help")),
    ],
    "serve": [
        (("serve", "--engine", "none.onnx"), ("none.onnx",)),
        (("serve", "--engine", "text.npz"), ("text.npz", ".onnx")),
        (("serve", "--gpu-ring"), ("unknown option --gpu-ring", "--gpu-rings?", "rtskel serve --help")),
        ((*SERVE, "--gpu"), ("device", "null")),
        ((*SERVE, "--gpu-rings"), ("rings", "null")),
        ((*SERVE, "--lookahead", "4,-1"), ("--lookahead", "'4,-1'")),
        ((*SERVE, "--radius", "-1"), ("--radius", "'-1'", "0 or more")),
        ((*SERVE, "--radius", "99"), ("radius",)),
        ((*SERVE, "--min-confidence", "30"), ("--min-confidence", "'30'", "0..1")),
        ((*SERVE, "--max-streams", "0"), ("--max-streams", "'0'", "1 or more")),
        ((*SERVE, "--slack-ms", "nan"), ("--slack-ms", "'nan'")),
        ((*SERVE, "--idle", "-3"), ("--idle", "'-3'")),
        ((*SERVE, "--raw", "5555"), ("5555",)),
        ((*SERVE, "--raw", "tcp://0.0.0.0:*"), ("tcp://0.0.0.0:*", "--insecure")),
        ((*SERVE, "--keys", "nowhere"), ("nowhere",)),
        ((*SERVE, "--precision", "fp64"), ("--precision", "fp64", "bf16")),
    ],
    "publish": [
        (("publish",), ("FILE", "rtskel publish --help")),
        (("publish", "none.npz", *ENDPOINT), ("none.npz", "No such file")),
        (("publish", "text.npz", *ENDPOINT), ("text.npz",)),
        (("publish", "take.npz", *ENDPOINT), ("tcp://127.0.0.1:9", "within 0 s")),
        (("publish", "take.npz", "--drop", "10"), ("--drop", "'10'", "0..1")),
        (("publish", "take.npz", "--jitter-ms", "inf"), ("--jitter-ms", "'inf'")),
        (("publish", "take.npz", "--speed", "fast"), ("--speed", "'fast'")),
        (("publish", "take.npz", "--stream", "a b", *ENDPOINT), ("'a b'",)),
        (("publish", "take.npz", "--keys", "nowhere"), ("nowhere",)),
        (("publish", "take.npz", "--raw", "localhost"), ("localhost",)),
        (("publish", "take.npz", "--wait", "soon"), ("--wait", "'soon'")),
        (("publish", "take.npz", "--fps", "0"), ("--fps", "'0'", "1000")),
        (("publish", "take.npz", "other.npz"), ("unexpected argument other.npz",)),
    ],
    "subscribe": [
        (("subscribe", "--lookahead", "0,x"), ("--lookahead", "'0,x'")),
        (("subscribe", "--frames", "0"), ("--frames", "'0'", "1 or more")),
        (("subscribe", "--frames", "many"), ("--frames", "'many'")),
        (("subscribe", "--save", "out.txt"), ("out.txt", ".npz")),
        (("subscribe", "--save", "no/such/out.npz"), ("no/such/out.npz",)),
        (("subscribe", "--stream", "a b"), ("'a b'",)),
        (("subscribe", "--keys", "nowhere"), ("nowhere",)),
        (("subscribe", "--refined", "localhost:5556"), ("localhost:5556",)),
        (("subscribe", "--refined", "tcp://127.0.0.1:9", "--wait", "0"), ("tcp://127.0.0.1:9", "within 0 s")),
        (("subscribe", "--wait", "-1"), ("--wait", "'-1'")),
        (("subscribe", "--until"), ("--until", "--until-end?")),
        (("subscribe", "cam1"), ("unexpected argument cam1", "rtskel subscribe --help")),
    ],
    "estimate": [
        (("estimate",), ("VIDEO", "--camera")),
        (("estimate", "a.mp4", "--camera", "0"), ("VIDEO", "--camera")),
        (("estimate", "none.mp4"), ("none.mp4", "no such video file")),
        (("estimate", "--camera", "front"), ("--camera", "'front'")),
        (("estimate", "--camera", "0", "-o", "a.npz"), ("-o", "VIDEO", "--save")),
        (("estimate", "text.npz", "-o", "a.npz", "--save", "b.npz"), ("-o", "--save")),
        (("estimate", "text.npz", "-o", "raw.txt"), ("raw.txt", ".npz")),
        (("estimate", "text.npz", "--save", "no/such/raw.npz"), ("no/such/raw.npz",)),
        (("estimate", "text.npz", "--complexity", "3"), ("--complexity", "3")),
        (("estimate", "text.npz", "--wait", "x"), ("--wait", "'x'")),
        (("estimate", "text.npz", "--pixel"), ("--pixel", "--pixels?")),
    ],
    "refine": [
        (("refine", "take.npz"), ("OUT", "rtskel refine --help")),
        (("refine", "none.npz", "out.npz"), ("none.npz", "No such file")),
        (("refine", "text.npz", "out.npz"), ("text.npz",)),
        (("refine", "flat.npz", "out.npz", "--engine", "null"), ("flat.npz", "2D", "rtskel lift")),
        (("refine", "take.npz", "out.xyz", "--engine", "null"), ("out.xyz", ".npz")),
        (("refine", "take.npz", "no/such/out.npz", "--engine", "null"), ("no/such/out.npz",)),
        (("refine", "take.npz", "out.npz", "--lookahead", "some"), ("--lookahead", "'some'", "offline")),
        (("refine", "take.npz", "out.npz", "--engine", "null", "--radius", "99"), ("radius",)),
        (("refine", "take.npz", "out.npz", "--engine", "none.onnx"), ("none.onnx",)),
        (("refine", "take.npz", "out.npz", "--threads", "0"), ("--threads", "'0'")),
        (("refine", "take.npz", "out.npz", "--axes", "XYZ"), ("XYZ", "RDT")),
        (("refine", "take.npz", "out.npz", "--look-ahead", "4"), ("--look-ahead", "--lookahead?")),
    ],
    "lift": [
        (("lift", "flat.npz"), ("OUT", "rtskel lift --help")),
        (("lift", "none.npz", "out.npz"), ("none.npz", "No such file")),
        (("lift", "text.npz", "out.npz"), ("text.npz",)),
        (("lift", "take.npz", "out.npz"), ("'take'", "has depth already")),
        (("lift", "flat.npz", "out.xyz", "--lookahead", "0"), ("out.xyz", ".npz")),
        (("lift", "flat.npz", "no/such/out.npz", "--lookahead", "0"), ("no/such/out.npz",)),
        (("lift", "flat.npz", "out.npz", "--lookahead", "-4"), ("--lookahead",)),
        (("lift", "flat.npz", "out.npz", "--min-confidence", "2"), ("--min-confidence", "'2'", "0..1")),
        (("lift", "flat.npz", "out.npz", "--image-size", "1280"), ("--image-size", "'1280'", "1280x720")),
        (("lift", "flat.npz", "out.npz", "--format", "bvhh"), ("bvhh",)),
        (("lift", "flat.npz", "out.npz", "--engine", "null"), ("unknown option --engine",)),
    ],
    "draw": [
        (("draw", "-o", "out.png"), ("IN", "rtskel draw --help")),
        (("draw", "take.npz"), ("-o", "rtskel draw --help")),
        (("draw", "none.npz", "-o", "out.png"), ("none.npz", "No such file")),
        (("draw", "take.npz", "-o", "out.bmp"), ("out.bmp", ".png")),
        (("draw", "take.npz", "-o", "no/such/out.png"), ("no/such/out.png",)),
        (("draw", "take.npz", "-o", "out.png", "--stream", "nobody"), ("take.npz", "name")),
        (("draw", "take.npz", "-o", "out.png", "--traces", "elbow.y"), ("'elbow'", "nose")),
        (("draw", "take.npz", "-o", "out.png", "--slots", "a:b"), ("--slots", "'a:b'")),
        (("draw", "take.npz", "-o", "out.png", "--slots", "0:9999"), ("0:9999", "0:25")),
        (("draw", "take.npz", "-o", "out.png", "--labels", "a,b"), ("2 labels", "1 recordings")),
        (("draw", "take.npz", "-o", "out.png", "--view", "back"), ("'back'", "front, side, top")),
        (("draw", "flat.npz", "-o", "out.png", "--view", "side"), ("'side'", "flat", "no depth")),
        (("draw", "take.npz", "-o", "out.png", "--video", "none.mp4"), ("take", "pixels")),
        (("draw", "take.npz", "-o", "out.png", "--columns", "0"), ("--columns", "'0'")),
    ],
    "convert": [
        (("convert", "take.npz"), ("OUT", "rtskel convert --help")),
        (("convert", "none.npz", "out.csv"), ("none.npz", "No such file")),
        (("convert", "text.npz", "out.csv"), ("text.npz",)),
        (("convert", "arrays.npz", "out.csv"), ("arrays.npz", "arr_0", "xyz")),
        (("convert", "take.npz", "out.xyz"), ("out.xyz", ".npz")),
        (("convert", "take.npz", "no/such/out.csv"), ("no/such/out.csv",)),
        (("convert", "take.npz", "out.csv", "--stream", "three"), ("'three'", "rtskel info take.npz")),
        (("convert", "take.npz", "out.csv", "--fps", "-1"), ("--fps", "'-1'")),
        (("convert", "take.npz", "out.csv", "--format", "mp3"), ("mp3",)),
        (("convert", "take.npz", "out.csv", "--depth-scale", "x"), ("--depth-scale", "'x'")),
        (("convert", "take.npz", "out.csv", "--corrected"), ("--corrected", "MediaPipe's landmarks", "npz")),
        (("convert", "empty", "out.csv"), ("empty",)),
        (("convert", "text.part", "out.csv"), ("text.part", "not a capture")),
    ],
    "info": [
        (("info", "none.npz"), ("none.npz", "No such file")),
        (("info", "none.onnx"), ("none.onnx", "No such file")),
        (("info", "text.npz"), ("text.npz",)),
        (("info", "text.onnx"), ("text.onnx",)),
        (("info", "photo.jpg"), ("photo.jpg",)),
        (("info", "empty"), ("empty",)),
        (("info", "take.npz", "--format", "mp3"), ("mp3",)),
        (("info", "take.npz", "--image-size", "big"), ("--image-size", "'big'")),
        (("info", "take.npz", "--axes", "RRR"), ("RRR",)),
        (("info", "take.npz", "--jso"), ("--jso", "--json?")),
        (("info", "take.npz", "flat.npz"), ("unexpected argument flat.npz",)),
    ],
    "export": [
        (("export",), ("WEIGHTS", "rtskel export --help")),
        (("export", "a.safetensors"), ("-o", "rtskel export --help")),
        (("export", "none.safetensors", "-o", "a.onnx"), ("none.safetensors",)),
        (("export", "text.safetensors", "-o", "a.onnx"), ("text.safetensors",)),
        (("export", "take.npz", "-o", "a.onnx"), ("take.npz",)),
        (("export", "a.safetensors", "-o", "a.onnx", "--precision", "fp8"), ("--precision", "fp8", "bf16")),
        (("export", "a.safetensors", "b.safetensors", "-o", "a.onnx"), ("unexpected argument b.safetensors",)),
        (("export", "a.safetensors", "--output", "a.onnx"), ("-o",)),
        (("export", "a.safetensors", "-o"), ("-o", "expected one argument")),
        (("export", "empty", "-o", "a.onnx"), ("empty",)),
    ],
    "build": [
        (("build",), ("ONNX", "rtskel build --help")),
        (("build", "none.onnx"), ("-o", "rtskel build --help")),
        (("build", "none.onnx", "-o", "a.plan"), ("none.onnx",)),
        (("build", "text.onnx", "-o", "a.plan"), ("text.onnx",)),
        (("build", "take.npz", "-o", "a.plan"), ("take.npz",)),
        (("build", "none.onnx", "-o", "a.plan", "--max-batch", "0"), ("--max-batch", "'0'")),
        (("build", "none.onnx", "-o", "a.plan", "--opt-batch", "x"), ("--opt-batch", "'x'")),
        (("build", "none.onnx", "-o", "a.plan", "--backend", "cuda"), ("--backend", "cuda", "tensorrt_rtx")),
        (("build", "none.onnx", "-o", "a.plan", "--gpu", "H200"), ("--gpu", "'H200'", "8.9")),
        (("build", "none.onnx", "-o", "a.plan", "--precision", "fp8"), ("unknown option --precision",)),
    ],
    "keygen": [
        (("keygen",), ("DIR", "rtskel keygen --help")),
        (("keygen", "text.npz"), ("text.npz",)),
        (("keygen", "/proc/keys"), ("/proc/keys",)),
        (("keygen", "keys", "--client"), ("--client", "expected one argument")),
        (("keygen", "keys", "--client", "../up"), ("../up",)),
        (("keygen", "keys", "--client", ""), ("''",)),
        (("keygen", "keys", "--client", "a", "--client", "a"), ("a",)),
        (("keygen", "keys", "--client", "server"), ("server",)),
        (("keygen", "keys", "viewer"), ("unexpected argument viewer",)),
        (("keygen", "keys", "--clients", "a"), ("--clients", "--client?")),
    ],
    "view": [
        (("view", "none.npz"), ("none.npz", "No such file")),
        (("view", "text.npz"), ("text.npz",)),
        (("view", "photo.jpg"), ("photo.jpg", ".npz")),
        (("view", "empty"), ("empty",)),
        (("view", "take.npz", "--listen", "8400"), ("'8400'", "HOST:PORT")),
        (("view", "--listen", "host:port"), ("'host:port'", "HOST:PORT")),
        (("view", "take.npz", "--stream", "nobody"), ("nobody", "rtskel info take.npz")),
        (("view", "--refined", "localhost"), ("localhost",)),
        (("view", "--keys", "nowhere"), ("nowhere",)),
        (("view", "--stream", "a b"), ("'a b'",)),
        (("view", "take.npz", "--fps", "0"), ("--fps", "'0'", "1000")),
        (("view", "take.npz", "--axes", "XYZ"), ("XYZ", "RDT")),
        (("view", "--ope"), ("--ope", "--open?")),
    ],
    "send": [
        (("send", "vmcc"), ("'vmcc'", "vmc")),
        (("send", "--to", "vmc"), ("--to", "rtskel send --help")),
        (("send", "vmc", "--port", "x"), ("--port", "'x'")),
        (("send", "vmc", "--port"), ("--port", "expected one argument")),
        (("send", "vmc", "--refined", "localhost"), ("localhost",)),
        (("send", "vmc", "--keys", "nowhere"), ("nowhere",)),
        (("send", "vmc", "--lookahead", "x"), ("--lookahead", "'x'")),
        (("send", "vmc", "--height", "tall"), ("--height", "'tall'")),
        (("send", "vmc", "--stream", "a b"), ("'a b'",)),
        (("send", "vmc", "--until"), ("--until", "rtskel send vmc --help")),
        (("send", "vmc", "avatar"), ("avatar", "rtskel send vmc --help")),
    ],
    "receive": [
        (("receive", "lsll"), ("'lsll'", "lsl")),
        (("receive", "--name", "tracker"), ("--name", "rtskel receive --help")),
        (("receive", "lsl", "--find", "x"), ("--find", "'x'")),
        (("receive", "lsl", "--find"), ("--find", "expected one argument")),
        (("receive", "lsl", "--find", "0"), ("0 s to find an outlet", "above 0")),
        (("receive", "lsl", "--axes", "XYZ"), ("XYZ", "RDT")),
        (("receive", "lsl", "--wait", "-1"), ("--wait", "'-1'", "0 or more")),
        (("receive", "lsl", "--raw", "localhost"), ("localhost",)),
        (("receive", "lsl", "--stream", "a b"), ("'a b'",)),
        (("receive", "lsl", "--keys", "nowhere"), ("nowhere",)),
        (("receive", "lsl", "tracker"), ("tracker", "rtskel receive lsl --help")),
        (("receive", "lsl", "--nam", "tracker"), ("--nam", "--name?")),
    ],
    "pairs": [
        (("pairs",), ("OUT", "--frames", "rtskel pairs --help")),
        (("pairs", "out"), ("--frames",)),
        (("pairs", "out", "--frames", "0"), ("--frames", "'0'", "1 or more")),
        (("pairs", "out", "--frames", "many"), ("--frames", "'many'")),
        (("pairs", "out", "--frames", "9", "--workers", "0"), ("--workers", "'0'", "1 or more")),
        (("pairs", "out", "--frames", "9", "--seed", "-1"), ("--seed", "'-1'", "0 or more")),
        (("pairs", "out", "--frames", "9", "--worker", "2"), ("--worker", "--workers?")),
        (("pairs", "out", "more", "--frames", "9"), ("unexpected argument more",)),
        (("pairs", "out", "--frames", "9", "--data", "none"), ("none: no such folder",)),
        (("pairs", "out", "--frames", "9", "--motion", "take.npz", "none.npz"), ("none.npz", "No such file")),
        (("pairs", "take.npz", "--frames", "9"), ("take.npz: not a folder",)),
    ],
    "translate": [
        (("translate",), ("ACTION", "rtskel translate --help")),
        (("translate", "sing"), ("'sing'", "train", "run")),
        (("translate", "train", "--data", "x"), ("--out", "rtskel translate train --help")),
        ((*LEARN, "--set", "epochs"), ("--set epochs", "KEY=VALUE")),
        ((*LEARN, "--set", "speed=1"), ("unknown training option 'speed'",)),
        ((*LEARN, "--set", "network.depth=1"), ("unknown option of the network 'depth'",)),
        ((*LEARN, "--set", "network.layers=1.5"), ("layers must be a whole number",)),
        ((*LEARN, "--set", "batch=[]"), ("training config",)),
        (("translate", "train", "--data", "none", "--out", "y"), ("none: no such folder", "--table")),
        ((*LEARN, "--config", "none.json"), ("none.json",)),
        (("translate", "run", "none.safetensors", "take.npz"), ("none.safetensors: cannot be read",)),
        (("translate", "run", "text.safetensors", "take.npz"), ("text.safetensors: cannot be read",)),
        (("translate", "run", "x", "y", "--max-gaps", "3"), ("unknown option --max-gaps, did you mean --max-gap?",)),
        (("translate", "run", "x", "y", "--lookahead", "soon"), ("--lookahead", "'soon'", "offline")),
        (("translate", "evaluate", "x", "--data", "y", "--unseen", "guess"), ("--unseen", "guess", "keep")),
        (("translate", "evaluate", "x"), ("--data",)),
    ],
    "completion": [
        (("completion",), ("shell", "rtskel completion --help")),
        (("completion", "csh"), ("csh", "bash")),
        (("completion", "BASH"), ("BASH", "bash")),
        (("completion", ""), ("''", "bash")),
        (("completion", "/bin/bash"), ("/bin/bash", "bash")),
        (("completion", "bash", "zsh"), ("unexpected argument zsh",)),
        (("completion", "fish", "out.fish"), ("unexpected argument out.fish",)),
        (("completion", "--shell", "bash"), ("shell",)),
        (("completion", "bash", "--install"), ("--install", "rtskel completion --help")),
        (("completion", "zsh", "-o", "_rtskel"), ("-o", "rtskel completion --help")),
    ],
    "rtskel": [
        (("dance",), ("dance", "serve", "rtskel --help")),
        (("Serve",), ("Serve", "rtskel --help")),
        (("--sevre",), ("--sevre", "rtskel --help")),
        (("--vers",), ("--vers", "--version?")),
    ],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A take, a 2D one, arrays without names, and files that are not what their names say."""
    folder = tmp_path_factory.mktemp("mistakes")
    take = replace(synthesize(1, 25, 1), name="take")
    write(folder / "take.npz", take)
    write(folder / "flat.npz", replace(take, xyz=take.xyz * np.float32([300, 300, 0]), dims=2, unit="px", name="flat"))
    np.savez(folder / "arrays.npz", take.xyz)
    for name in ("text.npz", "text.onnx", "text.safetensors", "text.part", "photo.jpg"):
        (folder / name).write_text("something else")
    (folder / "empty").mkdir()
    return folder


@pytest.mark.parametrize(
    ("argv", "words"), [one for some in MISTAKES.values() for one in some], ids=lambda value: " ".join(value)
)
def test_a_wrong_use_is_one_line_with_a_way_out(argv, words, folder, monkeypatch, capsys) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("rtskel: error: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err
    assert sorted(folder.rglob("*")) == before, "nothing is left behind"


TRAINING = [
    (("train",), ("--data", "rtskel train --help")),
    (("train", "--data", "none", "--out", "y"), ("none", "not a corpus")),
    (("train", "--data", "none"), ("--out",)),
    (("train", "--dat", "none", "--out", "y"), ("--data",)),
    (("train", "--data", "none", "--out", "y", "--recipe", "fast"), ("--recipe", "fast", "realtime")),
    (("train", "--data", "none", "--out", "y", "--steps", "0"), ("--steps 0",)),
    (("train", "--data", "none", "--out", "y", "--time-budget", "-5"), ("--time-budget -5",)),
    (("train", "--data", "none", "--out", "y", "--threads", "-1"), ("--threads -1",)),
    (("train", "--data", "none", "--out", "y", "--set", "speed=1"), ("'speed'",)),
    (("train", "--data", "none", "--out", "y", "--set", "steps"), ("--set steps", "KEY=VALUE")),
    (("train", "--data", "none", "--out", "y", "--config", "none.json"), ("none.json",)),
    (("evaluate",), ("RECORDING", "rtskel evaluate --help")),
    (("evaluate", "none.npz"), ("none.npz", "No such file")),
    (("evaluate", "text.npz"), ("text.npz",)),
    (("evaluate", "flat.npz"), ("flat.npz",)),
    (("evaluate", "empty"), ("empty",)),
    (("evaluate", "take.npz", "--radius", "99", "--engine", "null"), ("--radius 99",)),
    (("evaluate", "take.npz", "--lookahead", "x"), ("--lookahead", "'x'", "offline")),
    (("evaluate", "take.npz", "--engine", "none.onnx"), ("none.onnx",)),
    (("evaluate", "take.npz", "--seed", "x"), ("--seed", "'x'")),
    (("evaluate", "take.npz", "--eng", "null"), ("--eng",)),
    (("evaluate", "photo.jpg"), ("photo.jpg",)),
]


def test_ten_for_each_command() -> None:
    """Of every command that the parser knows, so that none is forgotten."""
    tried = Counter(argv[0] for argv, _ in [*(one for some in MISTAKES.values() for one in some), *TRAINING])
    assert {name: tried[name] for name in commands() if tried[name] < 10} == {}
    for name, some in MISTAKES.items():
        assert name == "rtskel" or {argv[0] for argv, _ in some} == {name}


@pytest.mark.parametrize(("argv", "words"), TRAINING, ids=lambda value: " ".join(value))
def test_a_wrong_use_of_training(argv, words, folder, monkeypatch, capsys) -> None:
    pytest.importorskip("torch")
    test_a_wrong_use_is_one_line_with_a_way_out(argv, words, folder, monkeypatch, capsys)


LACKING = {"openvino", "rich", "torch", "matplotlib", "cv2", "mediapipe", "onnx", "safetensors"}


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("refine", "take.npz", "out.npz"), ("OpenVINO", "pip install 'rtskel[serve]'")),
        (("serve",), ("OpenVINO", "pip install 'rtskel[serve]'")),
        (("demo",), ("rich", "pip install 'rtskel[serve]'")),
        (("subscribe",), ("rich", "pip install 'rtskel[serve]'")),
        (("draw", "take.npz", "-o", "a.png"), ("matplotlib", "pip install 'rtskel[draw]'")),
        (("estimate", "text.npz"), ("OpenCV and mediapipe", "pip install 'rtskel[estimate]'", "mediapipe==")),
        (("train", "--data", "a", "--out", "b"), ("torch", "pip install 'rtskel[train]'")),
        (("evaluate", "take.npz"), ("torch", "pip install 'rtskel[train]'")),
        (("translate", "run", "a", "b"), ("torch", "pip install 'rtskel[train]'")),
        (("export", "text.safetensors", "-o", "a.onnx"), ("onnx", "pip install 'rtskel[train]'")),
    ],
    ids=lambda value: " ".join(value),
)
def test_what_is_not_installed_is_named_with_its_extra(argv, words, folder) -> None:
    done = without(folder, *argv)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("rtskel: error: ")
    assert done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr


def test_saving_poses_needs_no_table(folder, tmp_path) -> None:
    """Where only a client is installed."""
    for how in (("--json",), ("--save", f"{tmp_path}/a.npz")):
        done = without(folder, "subscribe", *how, "--refined", "tcp://127.0.0.1:9", "--wait", "0")
        assert "no heartbeat from a server at tcp://127.0.0.1:9" in done.stderr
    done = without(folder, "subscribe")
    assert "--json and --save need neither" in done.stderr


@pytest.mark.parametrize(
    "argv", [("info", "take.npz"), ("convert", "take.npz", "{}/a.csv"), ("lift", "flat.npz", "{}/a.npz"), ("info",)]
)
def test_a_client_needs_no_more(argv, folder, tmp_path) -> None:
    done = without(folder, *(word.format(tmp_path) for word in argv))
    assert (done.returncode, done.stderr) == (0, "")


def without(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """A command line where only numpy, pyzmq and msgpack are installed."""
    code = f"import sys; sys.modules |= dict.fromkeys({sorted(LACKING)}); from rtskel.cli import main; sys.exit(main())"
    command = [sys.executable, "-P", "-c", code, *argv]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=folder)
