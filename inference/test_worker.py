"""Which files the worker extension loads weights from, without a server around it."""

import json
import os
import sys
import types
import unittest
from unittest import mock

import front
from folders_for_tests import Folders


def imported():
    """The extension; vLLM takes long to import and nothing here calls it."""
    vllm = types.ModuleType("vllm")
    vllm.__version__ = "0.26.0"
    real = sys.modules.get("vllm")
    sys.modules["vllm"] = vllm
    try:
        import worker
    finally:
        # This name alone: what was imported on the way stays, for torch cannot be imported twice.
        if real is None:
            del sys.modules["vllm"]
        else:
            sys.modules["vllm"] = real
    return worker


worker = imported()


class Confined(Folders):
    """Paths that arrive by the reload route."""

    def test_files_of_the_folder_pass(self):
        self.root_is(self.root)
        file = self.root / "v1" / "model.safetensors"
        self.assertEqual(worker.confined(str(file)), str(file))
        self.assertEqual(worker.confined(f"{self.root}/v1/../v1/model.safetensors"), str(file))

    def test_everything_else_is_refused(self):
        self.root_is(self.root)
        (self.root / "v1" / "link").symlink_to(self.base / "secret")
        (self.root / "out").symlink_to(self.base)
        for path in (
            self.base / "secret",
            self.root / ".." / "secret",
            self.root / "v1" / "link",
            self.root / "out" / "secret",
            self.base / "weights-of-others" / "model.safetensors",
            self.root,
            "/",
            "secret",
        ):
            with self.subTest(path=path), self.assertRaisesRegex(ValueError, "outside of the folder"):
                worker.confined(str(path))

    def test_a_folder_that_is_a_link_is_the_folder(self):
        (self.base / "shortcut").symlink_to(self.root)
        self.root_is(self.base / "shortcut")
        file = self.base / "shortcut" / "v1" / "model.safetensors"
        self.assertEqual(worker.confined(str(file)), str(self.root / "v1" / "model.safetensors"))

    def test_without_the_variable_any_file_passes(self):
        with mock.patch.dict(os.environ):
            os.environ.pop(front.WEIGHTS_ROOT, None)
            self.assertEqual(worker.confined(str(self.base / "secret")), str(self.base / "secret"))

    def test_the_model_is_not_touched_by_a_refused_path(self):
        self.root_is(self.root)
        extension = worker.DeepSearchWorker()
        # Neither a model nor its configuration: reading either would raise another error.
        extension.vllm_config = types.SimpleNamespace(lora_config=None)
        answer = extension.ds_load(path=str(self.base / "secret"), version=1, tensors={})
        self.assertEqual((answer["ok"], answer["intact"], answer["version"]), (False, True, 0))
        self.assertIn("outside of the folder", answer["error"])
        json.dumps(answer)


if __name__ == "__main__":
    unittest.main()
