"""A VRM model in three-vrm, which browsers use, goes where our kinematics say: by .vrma, and by VMC's rotations.

Needs the npm packages three, @pixiv/three-vrm and @pixiv/three-vrm-animation in node_modules of the project, or where
RTSKEL_NODE_MODULES says (CONTRIBUTING.md); skips without them, and without a browser.
"""

import os
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from rtskel import write
from rtskel.avatar import BONES
from rtskel.avatar.rotation import matrices
from rtskel.formats.vrma import HIPS_HEIGHT, motion
from tests import vrm
from tests.browser import browser, page_at
from tests.test_exports import refined as recording
from tests.test_sinks import Marionette, plugin_names, vmc
from tests.test_sinks import poses as poses_of

MODULES = Path(os.environ.get("RTSKEL_NODE_MODULES") or Path(__file__).resolve().parents[1] / "node_modules")
PACKAGES = ("three", "@pixiv/three-vrm", "@pixiv/three-vrm-animation")
NPM = {
    "three": "/npm/three/build/three.module.js",
    "three/addons/": "/npm/three/examples/jsm/",
    "@pixiv/three-vrm": "/npm/@pixiv/three-vrm/lib/three-vrm.module.js",
    "@pixiv/three-vrm-animation": "/npm/@pixiv/three-vrm-animation/lib/three-vrm-animation.module.js",
}
PAGE = """<!doctype html><link rel="icon" href="data:,"><body style="margin:0">
<script type="importmap">{"imports": IMPORTS}</script>
<script type="module">
import * as THREE from "three";
import {GLTFLoader} from "three/addons/loaders/GLTFLoader.js";
import {VRMLoaderPlugin} from "@pixiv/three-vrm";
import {VRMAnimationLoaderPlugin, createVRMAnimationClip} from "@pixiv/three-vrm-animation";

const loader = new GLTFLoader();
loader.register(parser => new VRMLoaderPlugin(parser));
loader.register(parser => new VRMAnimationLoaderPlugin(parser));
const {vrm} = (await loader.loadAsync("model.vrm")).userData;
const [animation] = (await loader.loadAsync("motion.vrma")).userData.vrmAnimations;
const mixer = new THREE.AnimationMixer(vrm.scene);
const action = mixer.clipAction(createVRMAnimationClip(animation, vrm));
action.setLoop(THREE.LoopOnce);
action.clampWhenFinished = true;

function places(names) {
  vrm.update(0);
  vrm.scene.updateMatrixWorld(true);
  const node = name => vrm.humanoid.getRawBoneNode(name) ?? vrm.scene.getObjectByName(name);
  return names.map(name => node(name).getWorldPosition(new THREE.Vector3()).toArray());
}
window.played = (seconds, names) => {
  action.reset().play();
  mixer.setTime(seconds);
  return places(names);
};
window.posed = (pose, names) => {
  mixer.stopAllAction();
  vrm.humanoid.resetNormalizedPose();
  vrm.humanoid.setNormalizedPose(pose);
  return places(names);
};
window.draw = () => {
  const renderer = new THREE.WebGLRenderer({antialias: true, preserveDrawingBuffer: true});
  const camera = new THREE.PerspectiveCamera(30, 1, 0.1, 20), scene = new THREE.Scene();
  renderer.setSize(700, 700);
  document.body.append(renderer.domElement);
  scene.background = new THREE.Color(0xf4f4f6);
  scene.add(vrm.scene, new THREE.HemisphereLight(0xffffff, 0x8899aa, 3));
  camera.position.set(0.9, 1.3, 3.6);
  camera.lookAt(0, 1.0, 0);
  renderer.render(scene, camera);
  const gl = renderer.getContext(), pixels = new Uint8Array(4 * 700 * 700), colours = new Map();
  gl.readPixels(0, 0, 700, 700, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
  for (let at = 0; at < pixels.length; at += 4) {
    const colour = pixels[at] << 16 | pixels[at + 1] << 8 | pixels[at + 2];
    colours.set(colour, (colours.get(colour) ?? 0) + 1);
  }
  return {colours: colours.size, model: 1 - Math.max(...colours.values()) / 490000};
};
window.ready = true;
</script>"""


@contextmanager
def site(files):
    """Serves files by their names, and npm's packages, to this machine; gives the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.lstrip("/")
            data = files.get(path)
            if path.startswith("npm/"):
                data = (MODULES / path.removeprefix("npm/")).read_bytes()
            self.send_response(200 if data is not None else 404)
            kind = "text/javascript" if path.endswith(".js") else "application/octet-stream" if path else "text/html"
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The model and the animation of a recording, loaded."""
    absent = [name for name in PACKAGES if not (MODULES / name).is_dir()]
    if absent:
        pytest.skip(f"npm packages are not installed (see CONTRIBUTING.md): {', '.join(absent)}")
    path = tmp_path_factory.mktemp("three") / "motion.vrma"
    write(path, recording())
    imports = str(NPM).replace("'", '"')
    files = {"": PAGE.replace("IMPORTS", imports).encode(), "model.vrm": vrm.model(), "motion.vrma": path.read_bytes()}
    with browser("--enable-unsafe-swiftshader") as chromium, site(files) as url, page_at(chromium, url) as page:
        page.wait_for_function("window.ready === true")
        yield page


def off(places, rotation, hips=vrm.HIPS):
    """How far, in metres, the model's bones and their ends are from where kinematics say."""
    expected = vrm.kinematics(rotation)
    wanted = np.array([expected[name] for name in vrm.rest()]) - vrm.HIPS + hips
    return np.linalg.norm(np.array(places) - wanted, axis=-1).max()


def test_the_rest_pose_is_the_models_own(page):
    rest = page.evaluate("([pose, names]) => posed(pose, names)", [{}, list(vrm.rest())])
    assert off(rest, np.tile(np.eye(3), (len(BONES), 1, 1))) < 1e-5


def test_a_vrma_poses_a_model_as_kinematics_say(page):
    made = recording()
    turned = motion(Path("motion.vrma"), made)
    height = HIPS_HEIGHT * turned.rig.shoulder_width  # three-vrm scales the way of the hips to the model's
    for frame in range(made.frames):
        places = page.evaluate("([time, names]) => played(time, names)", [frame / made.fps, list(vrm.rest())])
        hips = (turned.hips[frame] - turned.hips[0]) * vrm.HIPS[1] / height + vrm.HIPS
        assert off(places, turned.rotation[frame], hips) < 1e-4  # 0.1 mm
    assert off(places, turned.rotation[0], hips) > 0.02, "the recording moves"


def test_rotations_sent_by_vmc_pose_a_model_as_kinematics_say(page):
    """What a receiver hands to three-vrm: rotations out of the packets, in the axes of VRM."""
    sent, made = poses_of(axes="RDT")
    turned = motion(Path("motion.vrma"), made)
    with Marionette() as unity, vmc(unity.port) as sink:
        for frame, pose in enumerate(sent):
            sink.pose(pose)
            said = {values[0]: values[4:] for address, values in unity.packet() if address == "/VMC/Ext/Bone/Pos"}
            turns = np.array([said[name] for name in plugin_names()]) * (1, -1, -1, 1)
            pose = {bone.name: {"rotation": turn} for bone, turn in zip(BONES, turns.tolist(), strict=True)}
            places = page.evaluate("([pose, names]) => posed(pose, names)", [pose, list(vrm.rest())])
            assert off(places, matrices(turns)) < 1e-4  # 0.1 mm
            assert off(places, turned.rotation[frame]) < 0.002, "as by the file"


def test_a_picture(page):
    """For whoever wants to look: RTSKEL_PICTURES names a folder to keep it in."""
    page.evaluate("([time, names]) => played(time, names)", [0.4, list(vrm.rest())])
    seen = page.evaluate("draw()")
    assert 0.03 < seen["model"] < 0.3
    assert seen["colours"] > 20, "light falls on its sides"
    if folder := os.environ.get("RTSKEL_PICTURES"):
        page.screenshot(path=Path(folder) / "three-vrm.png", clip={"x": 0, "y": 0, "width": 700, "height": 700})
