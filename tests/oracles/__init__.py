"""Slow and short versions of what the library does fast: the tests compare both."""

from contextlib import contextmanager

import pytest

from rtskel.serve import intake
from rtskel.serve.arrays import StreamArrays
from rtskel.serve.common import MAX_NUMBER
from rtskel.wire.fast import RawReader
from tests.oracles.arrays import NumpyStreamArrays
from tests.oracles.fast_path import PythonFastPath
from tests.oracles.messages import PythonReader


@contextmanager
def streams_in_python():
    """Stream tables that are made inside use the oracles."""

    def fast_path(reader, arrays, bank, jump, furthest):
        return PythonFastPath(reader.compiled, arrays.compiled, jump, bank.config.ahead, furthest, MAX_NUMBER)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StreamArrays, "_made", staticmethod(NumpyStreamArrays))
        patch.setattr(RawReader, "_made", staticmethod(PythonReader))
        patch.setattr(intake, "_fast_path", fast_path)
        yield
