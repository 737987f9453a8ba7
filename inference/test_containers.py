"""What the containers of docker-compose.yml do before and after a run, outside of any container."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HERE = Path(__file__).resolve().parent

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights" * 1000,
    "README.md": b"# A model",
    "onnx/model.onnx": b"other weights",
    "pytorch_model.bin": b"the same weights",
}


class Hub(BaseHTTPRequestHandler):
    """As much of the Hugging Face Hub as a fetch of one model asks for."""

    files = FILES

    def log_message(self, *args):
        """Nothing: a test says what went wrong."""

    def answer(self, status, body, headers=()):
        """One answer, without its body where that was not asked for."""
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        """A page of the API, or a file."""
        path = self.path.split("?")[0]
        if path in ("/api/models/some/model/revision/main", f"/api/models/some/model/revision/{COMMIT}"):
            siblings = [{"rfilename": name} for name in self.files]
            body = json.dumps({"id": "some/model", "modelId": "some/model", "sha": COMMIT, "siblings": siblings})
            self.answer(200, body.encode(), [("Content-Type", "application/json")])
        elif path.startswith(f"/api/models/some/model/tree/{COMMIT}"):
            entries = [{"type": "file", "path": name, "size": len(data), "oid": "0" * 40} for name, data in self.files.items()]
            self.answer(200, json.dumps(entries).encode(), [("Content-Type", "application/json")])
        elif path.startswith(f"/some/model/resolve/{COMMIT}/") and path.split("/", 5)[5] in self.files:
            data = self.files[path.split("/", 5)[5]]
            self.answer(200, data, [("ETag", f'"{hashlib.sha1(data).hexdigest()}"'), ("X-Repo-Commit", COMMIT)])
        else:
            self.answer(404, b"{}", [("Content-Type", "application/json"), ("X-Error-Code", "RepoNotFound")])

    do_HEAD = do_GET


class Folder(unittest.TestCase):
    """A folder that is laid out as the image is, with a program of the test's in place of the orchestrator."""

    def setUp(self):
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        (self.folder / "inference").mkdir()
        for name in ("prepare.sh", "train.sh", "setup.sh", "fetch_model.py"):
            shutil.copy(HERE / name, self.folder / "inference")

    def orchestrator(self, text):
        """Puts a script in place of the program."""
        path = self.folder / "bin" / "orchestrator"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
        path.chmod(0o755)

    def environment(self, **more):
        """That of the container."""
        plain = {name: value for name, value in os.environ.items() if name not in ("MODEL", "MODEL_ID")}
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        return plain | {"PATH": path, "PYTHON": sys.executable, "HF_HUB_DISABLE_PROGRESS_BARS": "1"} | more

    def script(self, name, *args, **more):
        """Runs one of the scripts to its end."""
        command = ["bash", f"inference/{name}", *args]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment(**more), text=True, capture_output=True, timeout=120, check=False
        )


class Prepare(Folder):
    """The model."""

    def hub(self, files=None):
        """Starts a hub and returns what leads to it."""
        handler = type("OneHub", (Hub,), {"files": FILES if files is None else files})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        cache = str(self.folder / "cache")
        return {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": cache, "HF_HUB_OFFLINE": "0"}

    def test_a_model_is_fetched_once_and_only_what_is_read(self):
        asked = {"MODEL": "models/mine", "MODEL_ID": "some/model"}
        done = self.script("prepare.sh", **asked, **self.hub())
        self.assertEqual(done.returncode, 0, done.stderr)
        model = self.folder / "models" / "mine"
        self.assertEqual(sorted(path.name for path in model.iterdir()), ["config.json", "model.safetensors", "tokenizer.json"])
        self.assertEqual((model / "model.safetensors").read_bytes(), FILES["model.safetensors"])
        self.assertEqual([path.name for path in model.parent.iterdir()], ["mine"])
        # The second time nothing is asked for.
        again = self.script("prepare.sh", **asked, HF_ENDPOINT="http://127.0.0.1:9")
        self.assertEqual((again.returncode, again.stdout), (0, "ready: models/mine\n"), again.stderr)

    def test_what_is_no_model_leaves_no_folder(self):
        for files, why in (
            ({"config.json": b"{}"}, "holds no *.safetensors"),
            ({"model.safetensors": b"x"}, "holds no config.json"),
        ):
            done = self.script("prepare.sh", MODEL="models/mine", MODEL_ID="some/model", **self.hub(files))
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(why, done.stderr)
            self.assertFalse((self.folder / "models" / "mine").exists())
        done = self.script("prepare.sh", MODEL="models/mine", MODEL_ID="no/model", **self.hub())
        self.assertIn("error: no/model cannot be fetched", done.stderr)

    def test_a_model_that_is_nowhere_is_an_error_with_advice(self):
        done = self.script("prepare.sh", MODEL="models/mine")
        self.assertEqual(done.returncode, 2)
        self.assertIn("`models/mine` holds no config.json", done.stderr)
        self.assertIn("MODEL_ID", done.stderr)


class Health(Folder):
    """What the engine is told."""

    def test_only_a_good_answer_is_health(self):
        server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        codes = []
        for url in (f"{address}/some/model/resolve/{COMMIT}/config.json", f"{address}/health", "http://127.0.0.1:9/"):
            command = [sys.executable, str(HERE / "health.py"), url]
            codes.append(subprocess.run(command, capture_output=True, timeout=60, check=False).returncode)
        server.shutdown()
        server.server_close()
        self.assertEqual(codes, [0, 1, 1])


class Train(Folder):
    """The problems, the run, and what is left of its weights."""

    def weights(self):
        """Where both sides see them."""
        return {"WEIGHTS": str(self.folder / "weights"), "KEPT": "runs/weights"}

    def version(self, name, text):
        """One version as a run leaves it."""
        folder = self.folder / "weights" / "mine-run-1-0a" / name
        folder.mkdir(parents=True, exist_ok=True)
        for file in ("model.safetensors", "manifest.json"):
            (folder / file).write_text(text, encoding="utf-8")

    def test_the_newest_weights_are_kept_and_the_exit_code_is_the_run_s(self):
        self.orchestrator('echo "$*"; exit 3')
        self.version("v000009", "nine")
        self.version("v000010", "ten")
        self.version("v000011.partial-7", "half")
        done = self.script("train.sh", "run", "--config", "a b", **self.weights())
        self.assertEqual((done.returncode, done.stdout), (3, "run --config a b\n"), done.stderr)
        kept = self.folder / "runs" / "weights" / "mine-run-1-0a"
        self.assertEqual([path.name for path in kept.iterdir()], ["v000010"])
        self.assertEqual((kept / "v000010" / "model.safetensors").read_text(encoding="utf-8"), "ten")
        # A later one takes its place.
        self.orchestrator("exit 0")
        self.version("v000012", "twelve")
        self.assertEqual(self.script("train.sh", "run", **self.weights()).returncode, 0)
        self.assertEqual([path.name for path in kept.iterdir()], ["v000012"])
        # So do weights of another training, whatever they are called.
        self.version("v000012", "another twelve")
        self.assertEqual(self.script("train.sh", "run", **self.weights()).returncode, 0)
        self.assertEqual([path.name for path in kept.iterdir()], ["v000012"])
        self.assertEqual((kept / "v000012" / "model.safetensors").read_text(encoding="utf-8"), "another twelve")

    def test_problems_are_made_for_the_quickstart_only_and_once(self):
        self.orchestrator('[ "$1" = run ] && exit; echo "$*" >> calls; touch "$4"')
        calls = self.folder / "calls"
        run = ["run", "--resume", "--config"]
        self.assertEqual(self.script("train.sh", *run, "configs/paper.toml", **self.weights()).returncode, 0)
        self.assertFalse(calls.exists())
        for _ in range(2):
            done = self.script("train.sh", *run, "configs/quickstart.toml", "--set", "a.b=1", **self.weights())
            self.assertEqual(done.returncode, 0, done.stderr)
        made = calls.read_text(encoding="utf-8").splitlines()
        self.assertEqual(len(made), 2)
        # What `make quickstart` makes.
        makefile = (HERE.parent / "Makefile").read_text(encoding="utf-8")
        variables = {"problems": "runs/quickstart/problems.jsonl", "held_out": "runs/quickstart/heldout.jsonl"}
        for name, value in variables.items():
            makefile = makefile.replace(f"$({name})", value)
        for call in made:
            self.assertIn(f"$(orchestrator) {call}\n", makefile)

    def test_a_run_without_weights_keeps_none(self):
        self.orchestrator("exit 0")
        (self.folder / "weights").mkdir()
        done = self.script("train.sh", "run", **self.weights())
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertFalse((self.folder / "runs").exists())

    def test_a_stop_reaches_the_run_and_is_waited_for(self):
        self.orchestrator(
            'trap \'sleep 0.5; mkdir -p "$WEIGHTS/mine-run-1-0a/v000001"; exit 130\' TERM; touch started; while :; do sleep 0.05; done'
        )
        (self.folder / "weights").mkdir()
        command = ["bash", "inference/train.sh", "run"]
        with subprocess.Popen(command, cwd=self.folder, env=self.environment(**self.weights())) as process:
            while not (self.folder / "started").exists():
                time.sleep(0.02)
            process.send_signal(signal.SIGTERM)
            self.assertEqual(process.wait(timeout=60), 130)
        self.assertTrue((self.folder / "runs" / "weights" / "mine-run-1-0a" / "v000001").exists())


if __name__ == "__main__":
    unittest.main()
