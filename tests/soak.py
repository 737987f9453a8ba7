#!/usr/bin/env python3
"""A run with faults at random: what is left must pass `orchestrator db check`.

    tests/soak.py --minutes 30 --seed 1 [--engine vllm|embedded] [--out runs/soak]

A tiny random model learns on made-up sums: on two vLLM servers that this program starts on the loopback (`vllm`, the
default), or in the orchestrator's own process. While it does, at random moments:

the orchestrator  is killed, terminated, interrupted, or stopped for a while; its files may not grow past a random size; its newest
                  checkpoint is cut, changed by a bit, or deleted while it is down
a server          is killed and started anew, or stopped for a while; now and then both at once

After each end the run is resumed. In the end it is brought to its last step without faults and its database is checked. The
program fails if the check does, if a step is missing, if the orchestrator panics, or if it ends with a failure that is not one
clear message. The last line is JSON.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIG = """
[run]
name = "soak"
model = "{model}"
dir = "{dir}"
steps = 100000
problems_per_step = 8
checkpoint_every = 2
keep_every = 0
canary_tolerance_nats = 0.01
[data]
problems = "{problems}"
[prompt]
kind = "plain"
prefix = "Question: What is 3 + 4?\\nAnswer: \\\\boxed{{7}}\\n\\n"
format = "Question: {{problem}}\\nAnswer:"
stop = ["\\n"]
max_tokens = 192
[search]
width = 3
step_tokens = 8
max_depth = 4
trajectories = 4
[inference]
{inference}
max_model_tokens = 512
request_timeout_s = 20
reload_timeout_s = 20
retry_timeout_s = 150
[train]
device = "cpu"
dtype = "float32"
export_dtype = "float32"
threads = 1
minibatch_problems = 4
learning_rate = 1e-4
warmup_steps = 0
overlong_buffer_tokens = 0
drop_defective = false # a random model writes nothing else
"""
# How the orchestrator may end: done, a failure that is said, in use, called off.
FINE = {0, 1, 2, 3, 4, 130, 143}


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Server:
    """A vLLM server in a process group of its own."""

    def __init__(self, model, log):
        self.model, self.log, self.port, self.child = model, log, free_port(), None
        self.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        command = ["bash", ROOT / "inference/start.sh", self.model, "--port", self.port, "--dtype", "float32", "--max-model-len", 512]
        environment = dict(os.environ, DEVICE="cpu", VLLM_CPU_KVCACHE_SPACE="1", VLLM_ENABLE_V1_MULTIPROCESSING="0")
        self.child = subprocess.Popen([str(word) for word in command], env=environment, stdout=self.log, stderr=self.log, start_new_session=True)

    def signal(self, number):
        try:
            os.killpg(self.child.pid, number)
        except ProcessLookupError:
            pass

    def kill(self):
        self.signal(signal.SIGKILL)
        self.child.wait()

    def is_ready(self):
        try:
            return urllib.request.urlopen(f"{self.url}/health", timeout=2).status == 200
        except OSError:
            return False

    def wait(self, seconds=600):
        """Until it answers. Two servers that start at once now and then pick the same inner port, and one dies: it starts again."""
        end, starts = time.monotonic() + seconds, 1
        while not self.is_ready():
            if self.child.poll() is not None and starts < 4:
                starts += 1
                self.start()
            elif self.child.poll() is not None or time.monotonic() > end:
                sys.exit(f"the server on port {self.port} does not start: see its log")
            time.sleep(0.5)


class Soak:
    def __init__(self, arguments):
        self.arguments, self.random = arguments, random.Random(arguments.seed)
        self.out = arguments.out.resolve()
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir(parents=True)
        self.dir, self.log = self.out / "run", open(self.out / "orchestrator.log", "ab")
        self.faults, self.ends, self.messages = collections.Counter(), collections.Counter(), collections.Counter()
        self.child, self.servers, self.wrong = None, [], []

    def call(self, *words):
        done = subprocess.run([str(self.arguments.binary), *map(str, words)], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"`orchestrator {' '.join(map(str, words))}` failed: {done.stderr}")
        return done.stdout

    def prepare(self):
        model, problems = self.out / "model", self.out / "problems.jsonl"
        self.call("model", "init", "--out", model, "--family", "qwen3", "--hidden-size", 64, "--layers", 2, "--std", "0.2", "--seed", 1)
        self.call("problems", "generate", "--out", problems, "--count", 200, "--seed", 2, "--mix", "sum@2")
        inference = 'engine = "embedded"\ncache_mib = 64'
        if self.arguments.engine == "vllm":
            log = open(self.out / "servers.log", "ab")
            self.servers = [Server(model, log), Server(model, log)]
            for server in self.servers:
                server.wait()
            inference = f'engine = "vllm"\nurls = {json.dumps([server.url for server in self.servers])}'
        self.config = self.out / "config.toml"
        self.config.write_text(CONFIG.format(model=model, dir=self.dir, problems=problems, inference=inference))

    def start(self, *more, file_bytes=None):
        begun = (self.dir / "orchestrator.sqlite").exists()
        command = [self.arguments.binary, "run", *(["--resume", self.dir] if begun else ["--config", self.config]), *more]

        def limit():
            if file_bytes:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

        # Through a pipe, so that the limit is on the orchestrator's own files and not on what it says.
        self.child = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=self.out, preexec_fn=limit)
        self.said = collections.deque(maxlen=2000)
        self.reader = threading.Thread(target=self.listen, args=(self.child.stdout, self.said), daemon=True)
        self.reader.start()

    def listen(self, stream, said):
        for line in stream:
            said.append(line.decode("utf-8", "replace"))
            self.log.write(line)
            self.log.flush()

    def ended(self):
        """Notes how the orchestrator ended."""
        code = self.child.wait()
        self.reader.join(10)
        text = "".join(self.said)
        self.ends[str(code)] += 1
        if "panicked" in text:
            self.wrong.append("the orchestrator panicked: " + text[-2000:])
        if code > 0 and code not in (130, 143):
            messages = [line for line in text.splitlines() if line.startswith("error: ")]
            self.messages[messages[0] if messages else "none"] += 1
            if len(messages) != 1:
                self.wrong.append(f"{len(messages)} messages at exit code {code}: {text[-2000:]}")
        if code >= 0 and code not in FINE:
            self.wrong.append(f"exit code {code}")

    def spoil_checkpoint(self):
        files = sorted(self.dir.glob("run-*/checkpoints/*/*"), key=lambda file: file.stat().st_mtime)
        if not files:
            return "nothing"
        file, how = files[-1], self.random.choice(["cut", "bit", "deleted"])
        data = bytearray(file.read_bytes())
        if how == "deleted":
            file.unlink()
        elif how == "cut":
            file.write_bytes(data[: self.random.randrange(len(data) + 1)])
        elif data:
            data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)
            file.write_bytes(data)
        return f"checkpoint {how}"

    def fault(self):
        """One fault; returns what it was."""
        draw, pause = self.random.random(), self.random.uniform(0.2, 8)
        if self.servers and draw < 0.45:
            chosen = self.servers if self.random.random() < 0.15 else [self.random.choice(self.servers)]
            if self.random.random() < 0.5:
                for server in chosen:
                    server.signal(signal.SIGSTOP)
                time.sleep(3 * pause)
                for server in chosen:
                    server.signal(signal.SIGCONT)
                return f"{len(chosen)} server(s) stopped for a while"
            for server in chosen:
                server.kill()
            time.sleep(pause)
            for server in chosen:
                server.start()
            return f"{len(chosen)} server(s) killed"
        name = self.random.choice(["SIGKILL", "SIGKILL", "SIGTERM", "SIGINT", "SIGSTOP"])
        self.child.send_signal(getattr(signal, name))
        if name == "SIGSTOP":
            time.sleep(pause)
            self.child.send_signal(signal.SIGCONT)
            return "orchestrator stopped for a while"
        try:
            self.child.wait(90)
        except subprocess.TimeoutExpired:
            self.wrong.append(f"{name} did not end the orchestrator within 90 s")
            self.child.kill()
        self.ended()
        done = f"orchestrator {name}"
        if self.random.random() < 0.3:
            done += ", " + self.spoil_checkpoint()
        if self.random.random() < 0.2:
            limit = self.random.choice([4096, 65536, 1 << 20])
            self.start(file_bytes=limit)
            try:
                self.child.wait(self.random.uniform(2, 30))
            except subprocess.TimeoutExpired:
                self.child.kill()
            self.ended()
            done += ", then no file may grow"
        self.start()
        return done

    def go(self):
        self.prepare()
        started = time.monotonic()
        self.start()
        while time.monotonic() - started < 60 * self.arguments.minutes:
            wait = time.monotonic() + self.random.uniform(1, self.arguments.mean_pause * 2)
            while time.monotonic() < wait and self.child.poll() is None:
                time.sleep(0.1)
            if self.child.poll() is not None:
                # It gave up by itself, as it may when no server is left: the message is noted.
                self.ended()
                for server in self.servers:
                    server.wait()
                self.start()
                continue
            what = self.fault()
            self.faults[what] += 1
            print(f"{time.monotonic() - started:7.0f} s  {what}", flush=True)
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGKILL)
        self.ended()
        for server in self.servers:
            if server.child.poll() is not None:
                server.start()
            server.wait()
        done = self.steps()
        self.start("--set", f"run.steps={len(done) + 2}")
        code = self.child.wait()
        self.ended()
        if code != 0:
            self.wrong.append(f"without faults the run ends with exit code {code}")
        done = self.steps()
        if done != list(range(1, len(done) + 1)):
            self.wrong.append(f"steps are missing: {done}")
        check = subprocess.run([str(self.arguments.binary), "db", "check", str(self.dir)], capture_output=True, text=True)
        print(check.stdout)
        if check.returncode != 0:
            self.wrong.append("the database is not consistent: " + check.stdout + check.stderr)
        return {"minutes": self.arguments.minutes, "seed": self.arguments.seed, "engine": self.arguments.engine, "steps": len(done),
                "faults": sum(self.faults.values()), "kinds": dict(self.faults.most_common()), "ends": dict(self.ends),
                "messages": dict(self.messages), "wrong": self.wrong}

    def steps(self):
        import sqlite3

        database = sqlite3.connect(f"file:{self.dir}/orchestrator.sqlite?mode=ro", uri=True)
        return [row[0] for row in database.execute("SELECT step_id FROM step WHERE status = 'done' ORDER BY step_id")]

    def close(self):
        if self.child and self.child.poll() is None:
            self.child.kill()
        for server in self.servers:
            server.signal(signal.SIGCONT)
            server.kill()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", choices=["vllm", "embedded"], default="vllm")
    parser.add_argument("--mean-pause", type=float, default=20, help="seconds between faults on average")
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/orchestrator")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "runs/soak")
    soak = Soak(parser.parse_args())
    try:
        result = soak.go()
    finally:
        soak.close()
    print(json.dumps(result))
    sys.exit(1 if result["wrong"] else 0)


if __name__ == "__main__":
    main()
