"""What the middleware lets through to a server, without a server behind it."""

import asyncio
import json
import os
import unittest
from unittest import mock

import front
from folders_for_tests import Folders

ADAPTER = "/v1/load_lora_adapter"


def ask(path, body, method="POST", kind="http"):
    """Status and headers of the answer, and the body that the application was given; None where it was given none."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    parts = [text[:7], text[7:]]
    seen, sent = [], []

    async def receive():
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message):
        sent.append(message)

    async def application(scope, receive, send):
        got = b""
        while True:
            message = await receive()
            got += message["body"]
            if not message["more_body"]:
                break
        length = dict(scope["headers"]).get(b"content-length")
        assert length == str(len(got)).encode(), (length, got)
        seen.append(got)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    headers = [(b"content-length", str(len(text)).encode())]
    scope = {"type": kind, "method": method, "path": path, "headers": headers}
    asyncio.run(front.Front(application)(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), seen[0] if seen else None


class Named(unittest.TestCase):
    """Every answer says which process made it."""

    def test_answers_and_refusals_are_named(self):
        with mock.patch.dict(os.environ, {front.WEIGHTS_ROOT: "/nowhere"}):
            for path, status in (("/health", 200), ("/v1/completions", 200), ("/adapters", 400)):
                found, headers, _ = ask(path, {})
                self.assertEqual((found, headers[front.HEADER]), (status, front.PROCESS))

    def test_what_is_no_request_passes(self):
        messages = []

        async def application(scope, receive, send):
            messages.append(scope["type"])

        asyncio.run(front.Front(application)({"type": "lifespan"}, None, None))
        self.assertEqual(messages, ["lifespan"])


class Confined(Folders):
    """Paths of adapters."""

    def setUp(self):
        super().setUp()
        self.root_is(self.root)

    def test_adapters_of_the_folder_pass(self):
        asked = {"lora_name": "a", "lora_path": f"{self.root}/v1/../v1", "load_inplace": True}
        for path in (ADAPTER, ADAPTER + "/"):
            status, _, body = ask(path, asked)
            self.assertEqual(status, 200)
            self.assertEqual(json.loads(body), {**asked, "lora_path": str(self.root / "v1")})

    def test_everything_else_is_refused_unread(self):
        (self.root / "link").symlink_to(self.base / "weights-of-others")
        for path in (
            self.base / "weights-of-others",
            self.root / "link",
            f"{self.root}/../weights-of-others",
            self.root,
            "v1",
            "~",
            "somebody/adapters-to-download",
            "/",
            7,
            None,
        ):
            with self.subTest(path=path):
                path = path if path is None or isinstance(path, int) else str(path)
                status, _, body = ask(ADAPTER, {"lora_name": "a", "lora_path": path})
                self.assertEqual((status, body), (400, None))

    def test_the_last_of_two_paths_is_the_one_that_counts(self):
        inside = json.dumps(str(self.root / "v1"))
        for first, second, expected in ((inside, '"/etc"', 400), ('"/etc"', inside, 200)):
            text = f'{{"lora_name": "a", "lora_path": {first}, "lora_path": {second}}}'.encode()
            status, _, body = ask(ADAPTER, text)
            self.assertEqual(status, expected)
            self.assertNotIn(b"/etc", body or b"")

    def test_other_ways_in_are_closed(self):
        for path, body in (
            ("/adapters", {"name": "a", "src": str(self.root / "v1")}),
            ("/collective_rpc", {"method": "save_sharded_state", "kwargs": {"path": "/tmp/x"}}),
            ("/collective_rpc", {"method": None}),
            ("/collective_rpc", []),
            ("/collective_rpc", b"no JSON"),
        ):
            with self.subTest(path=path, body=body):
                self.assertEqual(ask(path, body)[::2], (400, None))
        self.assertEqual(ask("/collective_rpc", {"method": "ds_state"})[0], 200)

    def test_a_path_that_only_looks_like_another_is_refused(self):
        # A route's pattern matches with a line's end behind it.
        for path in ("/collective_rpc\n", f"{ADAPTER}\n", "/adapters\n/", "/collective_rpc\x7f"):
            status, _, seen = ask(path, {"method": "save_sharded_state", "lora_path": "/etc"})
            self.assertEqual((status, seen), (400, None), repr(path))

    def test_a_body_without_end_is_refused(self):
        status, _, seen = ask("/collective_rpc", b"[" * 200_000)
        self.assertEqual((status, seen), (400, None))

    def test_without_the_variable_all_passes(self):
        with mock.patch.dict(os.environ):
            os.environ.pop(front.WEIGHTS_ROOT)
            asked = {"lora_name": "a", "lora_path": "/etc"}
            status, _, body = ask(ADAPTER, asked)
            self.assertEqual((status, json.loads(body)), (200, asked))


if __name__ == "__main__":
    unittest.main()
