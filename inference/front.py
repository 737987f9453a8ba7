"""ASGI middleware in front of a vLLM server of the DeepSearch orchestrator: whose answer is this, and from where may
it load?

Given to the server as `--middleware front.Front` with this file's folder on PYTHONPATH. It does two things:

- Every answer carries the name of the process that made it, another one after each start. What comes through a router
  is thereby known to come from a process in which the orchestrator confirmed the weights.
- With `DEEPSEARCH_WEIGHTS_ROOT` the routes that read files by a path in the request, and that vLLM's API key does not
  guard or does not confine, take paths below that folder only. Whole weights are confined once more in `worker.py`.
"""

import json
import os
import uuid

# Environment variable with the only folder that weights are loaded from; unset, any file that the server can read.
WEIGHTS_ROOT = "DEEPSEARCH_WEIGHTS_ROOT"
# Header of every answer, and the name in it: of this process, so that a restart is seen.
HEADER = b"x-deepsearch-server"
PROCESS = uuid.uuid4().hex.encode()
# Methods of the workers that are called by name begin with it; others write files, too.
OWN_METHODS = "ds_"
# Bodies of the routes that are looked into are small: the largest names the tensors of a model.
MOST_BYTES = 16 << 20


class Front:
    """The application, with what stands above around it."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def named(message):
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), (HEADER, PROCESS)]}
            await send(message)

        is_confined = bool(os.environ.get(WEIGHTS_ROOT))
        # A route still matches with a line's end behind it, and a name here would not.
        if is_confined and any(character < " " or character == "\x7f" for character in scope["path"]):
            await _refuse(named, "the path has a control character")
            return
        change = _CHANGES.get(_route(scope)) if is_confined else None
        if change is None or scope["method"] != "POST":
            await self.app(scope, receive, named)
            return
        try:
            body = change(await _body(receive))
        except (ValueError, RecursionError) as error:
            await _refuse(named, str(error))
            return
        # As it was understood here, so that nobody understands it otherwise.
        text = json.dumps(body).encode()
        headers = [(name, value) for name, value in scope["headers"] if name.lower() != b"content-length"]
        scope = {**scope, "headers": [*headers, (b"content-length", str(len(text)).encode())]}
        await self.app(scope, _replayed(text, receive), named)


def confined(path):
    """What `path` leads to, all links followed. Raises ValueError if that is outside of the weights folder."""
    found = os.path.realpath(path)
    root = os.environ.get(WEIGHTS_ROOT)
    if root:
        folder = os.path.realpath(root)
        if os.path.commonpath([folder, found]) != folder or found == folder:
            # Not where it leads: whoever asks could map the machine's links.
            raise ValueError(f"`{path}` is outside of the folder that weights are loaded from")
    return found


def _adapter(body):
    path = body.get("lora_path")
    # vLLM takes other paths for the home folder or for the name of a repository to download.
    if not isinstance(path, str) or not os.path.isabs(path):
        raise ValueError("`lora_path` is no absolute path")
    return {**body, "lora_path": confined(path)}


def _method(body):
    method = body.get("method")
    if not isinstance(method, str) or not method.startswith(OWN_METHODS):
        raise ValueError(f"with `{WEIGHTS_ROOT}` only methods `{OWN_METHODS}...` are called")
    return body


def _nothing(_body):
    raise ValueError(f"with `{WEIGHTS_ROOT}` adapters are loaded by `/v1/load_lora_adapter` only")


# `/adapters` is another name for the same, which vLLM has for a hosting service.
_CHANGES = {"/v1/load_lora_adapter": _adapter, "/adapters": _nothing, "/collective_rpc": _method}


def _route(scope):
    return scope["path"].removeprefix(scope.get("root_path", "")).rstrip("/")


async def _body(receive):
    text = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ValueError("the client went away")
        text += message.get("body", b"")
        if len(text) > MOST_BYTES:
            raise ValueError("the body is too large")
        if not message.get("more_body", False):
            break
    body = json.loads(text)
    if not isinstance(body, dict):
        raise ValueError("the body is no JSON object")
    return body


def _replayed(text, receive):
    """`receive` of a request whose body has been read: the body once more, then what comes after it."""
    is_told = False

    async def replay():
        nonlocal is_told
        if is_told:
            return await receive()
        is_told = True
        return {"type": "http.request", "body": text, "more_body": False}

    return replay


async def _refuse(send, problem):
    text = json.dumps({"error": {"message": problem, "type": "BadRequestError", "code": 400}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": text})
