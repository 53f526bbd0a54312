"""Draws a body in motion by OpenGL in software (OSMesa), which needs neither a screen nor a GPU."""

from __future__ import annotations

import importlib
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.closing import Closing
from rtskel.pairs.camera import Camera
from rtskel.pairs.scene import Light, Looks

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

VERTEX = """#version 330
layout(location = 0) in vec3 position;
layout(location = 1) in vec3 normal;
layout(location = 2) in vec4 color;
layout(location = 3) in vec3 rest;
uniform mat4 camera;
out vec3 N;
out vec4 C;
out vec3 Q;
void main() { gl_Position = camera * vec4(position, 1); N = normal; C = color; Q = rest; }
"""
"""The fourth value of a color is 1 on clothes."""

FRAGMENT = """#version 330
in vec3 N;
in vec4 C;
in vec3 Q;
uniform vec3 key_from, fill_from, eye;
uniform float ambient, key, fill;
uniform vec4 weave;
out vec4 pixel;
void main() {
  vec3 n = normalize(N);
  float k = max(dot(n, key_from), 0.), f = max(dot(n, fill_from), 0.);
  float shine = pow(max(dot(n, normalize(key_from + eye)), 0.), 30.);
  float cloth = C.a * weave.w * sign(sin(dot(Q, weave.xyz)));
  float skin = (1. - C.a) * 0.03 * sin(Q.x * 310.) * sin(Q.z * 270.);
  float light = ambient * (0.75 + 0.25 * n.z) + key * k + fill * f;
  pixel = vec4(min(C.rgb * (1. + cloth + skin) * light + 0.06 * shine, 1.), 1.);
}
"""

UNIFORMS = {1: "glUniform1f", 3: "glUniform3f", 4: "glUniform4f"}


def gl_modules() -> tuple[Any, Any, Any]:
    """`OpenGL.GL`, `OpenGL.osmesa` and `OpenGL.arrays`, set up for OSMesa on one thread."""
    os.environ["PYOPENGL_PLATFORM"] = "osmesa"
    os.environ.setdefault("LP_NUM_THREADS", "0")
    gl, osmesa, arrays = (importlib.import_module(f"OpenGL.{name}") for name in ("GL", "osmesa", "arrays"))
    return gl, osmesa, arrays


class Painter(Closing):
    """A picture that bodies of one mesh are drawn into; a context manager.

    Args:
        camera: which sees.
        faces: int32 [F, 3], vertices of each triangle.
        rest: [V, 3] vertices at rest, on which stripes and blemishes lie.
        looks, light, stripes: see `rtskel.pairs.scene`.
    """

    def __init__(
        self,
        camera: Camera,
        faces: NDArray[np.int32],
        rest: F64,
        looks: Looks,
        light: Light,
        stripes: tuple[float, float, float, float],
    ) -> None:
        self._gl, self._osmesa, arrays = gl_modules()
        gl, osmesa = self._gl, self._osmesa
        self._height, self._width = camera.height, camera.width
        wanted = [
            *(osmesa.OSMESA_FORMAT, osmesa.OSMESA_RGBA, osmesa.OSMESA_DEPTH_BITS, 24),
            *(osmesa.OSMESA_PROFILE, osmesa.OSMESA_CORE_PROFILE),
            *(osmesa.OSMESA_CONTEXT_MAJOR_VERSION, 3, osmesa.OSMESA_CONTEXT_MINOR_VERSION, 3, 0),
        ]
        self._context = osmesa.OSMesaCreateContextAttribs(arrays.GLintArray.asArray(wanted), None)
        self._picture = arrays.GLubyteArray.zeros((self._height, self._width, 4))
        made = self._context and osmesa.OSMesaMakeCurrent(
            self._context, self._picture, gl.GL_UNSIGNED_BYTE, self._width, self._height
        )
        if not made:
            raise RuntimeError("OSMesa makes no OpenGL 3.3 context")
        self._setup(faces)
        self._thickness = looks.thickness.astype(np.float32)[:, None]
        self._put(2, np.concatenate([looks.color * light.tint, looks.dressed[:, None]], axis=1))
        self._put(3, rest)
        gl.glUniformMatrix4fv(self._place("camera"), 1, True, np.ascontiguousarray(camera.matrix, np.float32))
        self._set("key_from", *light.key_from)
        self._set("fill_from", *light.fill_from)
        self._set("eye", *-camera.axes[2])
        for name, value in light.settings.items():
            self._set(name, value)
        self._set("weave", *stripes)

    def _setup(self, faces: NDArray[np.int32]) -> None:
        gl = self._gl
        shaders: Any = importlib.import_module("OpenGL.GL.shaders")
        gl.glBindVertexArray(gl.glGenVertexArrays(1))
        vertex = shaders.compileShader(VERTEX, gl.GL_VERTEX_SHADER)
        fragment = shaders.compileShader(FRAGMENT, gl.GL_FRAGMENT_SHADER)
        self._program = shaders.compileProgram(vertex, fragment)
        gl.glUseProgram(self._program)
        self._buffers = [gl.glGenBuffers(1) for _ in range(4)]
        gl.glBindBuffer(gl.GL_ELEMENT_ARRAY_BUFFER, gl.glGenBuffers(1))
        gl.glBufferData(gl.GL_ELEMENT_ARRAY_BUFFER, faces.nbytes, faces, gl.GL_STATIC_DRAW)
        self._corners = faces.size
        for number, size in enumerate((3, 3, 4, 3)):
            gl.glBindBuffer(gl.GL_ARRAY_BUFFER, self._buffers[number])
            gl.glEnableVertexAttribArray(number)
            gl.glVertexAttribPointer(number, size, gl.GL_FLOAT, False, 0, None)
        gl.glEnable(gl.GL_DEPTH_TEST)
        gl.glViewport(0, 0, self._width, self._height)
        gl.glClearColor(0, 0, 0, 0)

    def _place(self, name: str) -> int:
        place: int = self._gl.glGetUniformLocation(self._program, name)
        return place

    def _set(self, name: str, *values: float) -> None:
        getattr(self._gl, UNIFORMS[len(values)])(self._place(name), *map(float, values))

    def _put(self, attribute: int, values: F32 | F64) -> None:
        data = np.ascontiguousarray(values, np.float32)
        self._gl.glBindBuffer(self._gl.GL_ARRAY_BUFFER, self._buffers[attribute])
        self._gl.glBufferData(self._gl.GL_ARRAY_BUFFER, data.nbytes, data, self._gl.GL_DYNAMIC_DRAW)

    def draw(self, vertices: F32, normals: F32) -> U8:
        """The body [H, W, 4]; the last value is 0 where there is none. Valid until the next call."""
        gl = self._gl
        self._put(0, vertices + normals * self._thickness)
        self._put(1, normals)
        gl.glClear(gl.GL_COLOR_BUFFER_BIT | gl.GL_DEPTH_BUFFER_BIT)
        gl.glDrawElements(gl.GL_TRIANGLES, self._corners, gl.GL_UNSIGNED_INT, None)
        gl.glFinish()
        upside_down: U8 = np.asarray(self._picture).reshape(self._height, self._width, 4)
        return upside_down[::-1]

    def close(self) -> None:
        """Frees the OpenGL context."""
        self._osmesa.OSMesaDestroyContext(self._context)
