"""What the tests of the confinement of paths have in common."""

import os
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import front


class Folders(unittest.TestCase):
    """A folder of weights with one version in it, and beside it what no request may reach."""

    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.base = Path(os.path.realpath(scratch.name))
        self.root = self.base / "weights"
        (self.root / "v1").mkdir(parents=True)
        (self.base / "weights-of-others").mkdir()
        for path in ("weights/v1/model.safetensors", "weights-of-others/model.safetensors", "secret"):
            (self.base / path).write_bytes(b"x")

    def root_is(self, root):
        """Until the end of the test the server was started with this folder."""
        patch = mock.patch.dict(os.environ, {front.WEIGHTS_ROOT: str(root)})
        patch.start()
        self.addCleanup(patch.stop)
