"""vLLM worker extension of the DeepSearch orchestrator: load weights from a file, and say what the model now holds.

Given to the server as `--worker-extension-cls worker.DeepSearchWorker` with this file's folder on PYTHONPATH; the
methods are called by name through `/collective_rpc`. Every answer is a dict, because vLLM turns other values into text.

Order is the safety here. `ds_load` checks the whole file before it touches the model, since a load that fails half way
leaves a mixture of two policies that answers as if nothing had happened. `ds_state(verify=True)` then compares the
model with the file, tensor by tensor, since a load that "succeeded" may have left a repacked copy behind.
"""

import glob
import hashlib
import os
import zlib
from concurrent.futures import ThreadPoolExecutor

import torch
import vllm
from safetensors import safe_open

from front import confined

# The layerwise reload below is not a stable interface: a new vLLM must be tried by the tests first.
WRITTEN_FOR = "0.26."
# Raised when arguments or answers change their meaning; the orchestrator refuses another number.
PROTOCOL = 1
# Columns of a repacked weight that are read back bit for bit.
PROBE_COLUMNS = 16

if not vllm.__version__.startswith(WRITTEN_FOR):
    raise RuntimeError(f"worker.py was written for vLLM {WRITTEN_FOR}x and this is {vllm.__version__}")


class DeepSearchWorker:
    """Mixed into vLLM's worker class, so every name carries the prefix `ds_`."""

    def ds_load(self, path, version, tensors):
        """Replace the model's weights by those in the safetensors file `path`.

        `tensors` is the trainer's manifest: name -> {dtype, shape, crc32}. Answers {ok, intact, version, digest,
        error}. `intact` false means that the model was touched and must not be used.
        """
        state = self._ds_get()
        if not state["intact"]:
            return self._ds_refuse("an earlier load failed half way; restart the server", intact=False)
        if getattr(self.vllm_config, "lora_config", None) is not None:
            # vLLM has wrapped the layers, whose new names no file has: the load would fail half way.
            return self._ds_refuse("the server runs with --enable-lora, which takes adapters only", intact=True)
        try:
            path = confined(path)  # the path arrives by a route that vLLM's API key does not guard
            with safe_open(path, framework="pt") as file:
                self._ds_check(file, tensors)
        except Exception as error:  # nothing has been touched: the old weights go on
            return self._ds_refuse(f"{type(error).__name__}: {error}", intact=True)

        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

        model = self.model_runner.get_model()
        state["intact"] = False
        try:
            with safe_open(path, framework="pt") as file, torch.device(self.device), torch.no_grad():
                # Linear layers are repacked at load: without this pair the load would write into emptied tensors.
                initialize_layerwise_reload(model)
                # By name, so that the parts of one layer arrive together and at most one layer is buffered.
                model.load_weights((name, file.get_tensor(name)) for name in sorted(file.keys()))
                finalize_layerwise_reload(model, self.model_config)
                _repack_tied(model)
        except BaseException as error:  # vLLM raises more than Exception subclasses across its workers
            return self._ds_refuse(f"{type(error).__name__}: {error}", intact=False)
        digest = _digest({name: entry["crc32"] for name, entry in tensors.items()})
        state.update(version=int(version), digest=digest, path=path, intact=True)
        return {"ok": True, "intact": True, "version": state["version"], "digest": digest, "error": None}

    def ds_state(self, verify=False):
        """What this worker holds: version, digest and, with `verify`, a comparison of the model with the file."""
        state = self._ds_get()
        answer = {
            "protocol": PROTOCOL,
            "vllm": vllm.__version__,
            "version": state["version"],
            "digest": state["digest"],
            "intact": state["intact"],
            "max_num_seqs": self.vllm_config.scheduler_config.max_num_seqs,
            "logprobs_mode": str(self.model_config.logprobs_mode),
            "vocab_size": self.model_config.get_vocab_size(),
            "dtype": str(self.model_config.dtype).removeprefix("torch."),
            "device": str(self.device),
            "held": None,
        }
        if verify and state["path"] is not None:
            with safe_open(state["path"], framework="pt") as file, torch.no_grad():
                # Read again, so that the digest is that of the very bytes the model is compared with.
                answer["digest"] = _digest(_crcs(file))
                answer["held"] = _compare(self.model_runner.get_model(), file, state["version"])
        return answer

    def _ds_get(self):
        if not hasattr(self, "_ds"):
            self._ds = {"version": 0, "digest": None, "path": None, "intact": True, "signature": None}
        return self._ds

    def _ds_refuse(self, error, intact):
        state = self._ds_get()
        return {
            "ok": False,
            "intact": intact,
            "version": state["version"],
            "digest": state["digest"],
            "error": error[:500],
        }

    def _ds_check(self, file, tensors):
        """Raises ValueError unless the file is what the trainer wrote and fits the model."""
        state = self._ds_get()
        if state["signature"] is None:
            state["signature"] = _signature_of_folder(self.model_config)
        optional = {"lm_head.weight"} if getattr(self.model_config.hf_config, "tie_word_embeddings", False) else set()
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
        _same_keys("the manifest", set(tensors), set(found), set())
        _same_keys("the model", set(state["signature"]), set(found), optional)
        for name, shape in sorted(found.items()):
            if tuple(tensors[name]["shape"]) != shape:
                raise ValueError(f"shape of `{name}` is {list(shape)}, the manifest says {tensors[name]['shape']}")
            if name in state["signature"] and state["signature"][name] != shape:
                raise ValueError(f"shape of `{name}` is {list(shape)}, the model has {list(state['signature'][name])}")
            dtype = file.get_slice(name).get_dtype()
            if dtype != tensors[name]["dtype"]:
                raise ValueError(f"dtype of `{name}` is {dtype}, the manifest says {tensors[name]['dtype']}")
        for name, crc in _crcs(file).items():
            if crc != int(tensors[name]["crc32"]):
                expected = int(tensors[name]["crc32"])
                raise ValueError(f"checksum of `{name}` differs: trainer `{expected:08x}`, file `{crc:08x}`")
        for name in sorted(found):
            # After conversion: a large float32 may be finite in the file and infinite in the model.
            if not torch.isfinite(file.get_tensor(name).to(self.model_config.dtype)).all():
                raise ValueError(f"`{name}` holds NaN or infinite values")


def _same_keys(whose, expected, found, optional):
    missing = sorted(expected - found - optional)
    extra = sorted(found - expected - optional)
    if missing or extra:
        raise ValueError(f"tensor names differ from {whose}: missing {missing[:3]}, unexpected {extra[:3]}")


def _signature_of_folder(model_config):
    """Names and shapes of the checkpoint the server was started with."""
    folder = model_config.model
    if not os.path.isdir(folder):
        from huggingface_hub import snapshot_download

        folder = snapshot_download(folder, revision=model_config.revision, local_files_only=True)
    signature = {}
    for path in sorted(glob.glob(os.path.join(folder, "*.safetensors"))):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():
                signature[name] = tuple(file.get_slice(name).get_shape())
    if not signature:
        raise ValueError(f"no safetensors files in `{folder}` to compare names and shapes with")
    return signature


def _crcs(file):
    """CRC-32 of each tensor's bytes as stored, in name order."""

    def crc(name):
        return zlib.crc32(file.get_tensor(name).contiguous().reshape(-1).view(torch.uint8).numpy())

    names = sorted(file.keys())
    with ThreadPoolExecutor(max_workers=4) as pool:  # zlib lets go of the interpreter lock
        return dict(zip(names, pool.map(crc, names)))


def _digest(crcs):
    """The manifest's formula: SHA-256 over `name \\0 crc32 (8 lower-case hex digits) \\n` in name order."""
    total = hashlib.sha256()
    for name in sorted(crcs):
        total.update(f"{name}\0{int(crcs[name]):08x}\n".encode())
    return total.hexdigest()


def _repack_tied(model):
    """Renews the packed copy that an output projection tied to the embedding may keep on CPU (it does in float32).

    A layerwise reload writes the shared weight in place and never visits the projection, which would go on
    multiplying with the old weights.
    """
    for _, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if hasattr(module, "cpu_linear") and weight is not None and weight.numel() > 0:
            module.quant_method.process_weights_after_loading(module)


def _sources(model, file_names, module_name, param_name):
    """Names in the checkpoint that make up one parameter of vLLM's model, in order; empty if unknown."""
    full = f"{module_name}.{param_name}"
    if full in file_names:
        return [full]
    head, _, last = module_name.rpartition(".")
    parts = getattr(model, "packed_modules_mapping", {}).get(last, [])
    names = [f"{head}.{part}.{param_name}" for part in parts]
    if names and all(name in file_names for name in names):
        return names
    if full == "lm_head.weight" and "model.embed_tokens.weight" in file_names:
        return ["model.embed_tokens.weight"]
    return []


def _compare(model, file, version):
    """Compares the model with the file after conversion to the model's dtype.

    Plain parameters are compared bit for bit. Parameters that a CPU build repacked are read back through the packed
    multiplication itself: a one-hot input returns one column exactly. What can be checked neither way (a part of a
    tensor on each of several workers) counts as `unchecked`, known only by the load having read it.
    """
    names = set(file.keys())
    sizes = {name: file.get_tensor(name).nbytes for name in names}
    bitwise, probed, probed_bytes, different = set(), set(), 0, []
    for module_name, module in model.named_modules():
        for param_name, param in module.named_parameters(recurse=False):
            sources = _sources(model, names, module_name, param_name)
            if not sources:
                continue
            packed = param_name == "weight" and hasattr(module, "cpu_linear")
            if param.numel() == 0 and not packed:
                continue
            parts = [file.get_tensor(name) for name in sources]
            wanted = (torch.cat(parts) if len(parts) > 1 else parts[0]).to(_dtype(model, param))
            if param.numel() > 0:
                # The vocabulary is padded at its end; a shard of several workers has fewer rows or columns.
                if param.shape[1:] != wanted.shape[1:] or param.shape[0] < wanted.shape[0]:
                    continue
                held = param[: wanted.shape[0]].cpu()
                if not torch.equal(_bits(held), _bits(wanted)):
                    different.append(f"{module_name}.{param_name}")
                bitwise.update(sources)
            if packed:
                columns = _columns(wanted.shape[1], version)
                if not torch.equal(_read_back(module, wanted, columns), wanted[:, columns].t()):
                    different.append(f"{module_name}.{param_name} (packed)")
                if param.numel() == 0:
                    probed.update(sources)
                    probed_bytes += wanted.shape[0] * len(columns) * wanted.element_size()
    probed -= bitwise
    unchecked = names - bitwise - probed
    return {
        "different": different[:5],
        "bitwise_tensors": len(bitwise),
        "bitwise_bytes": sum(sizes[name] for name in bitwise),
        "probed_tensors": len(probed),
        "probed_bytes": probed_bytes,
        "unchecked_tensors": len(unchecked),
        "unchecked_bytes": sum(sizes[name] for name in unchecked),
    }


def _dtype(model, param):
    """The dtype a parameter computes in; an emptied parameter keeps no reliable one, so the norm weights decide."""
    if param.numel() > 0:
        return param.dtype
    return next(p.dtype for p in model.parameters() if p.numel() > 0)


def _bits(tensor):
    """The tensor's bytes, so that -0.0 and 0.0 differ."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _columns(count, version):
    """Columns to read back: spread over the tensor, others in every version."""
    stride = max(1, count // PROBE_COLUMNS)
    return [(version + i * stride) % count for i in range(min(PROBE_COLUMNS, count))]


def _read_back(module, wanted, columns):
    """Columns of a packed weight, [columns, rows], by multiplying with one-hot rows."""
    ones = torch.zeros(len(columns), wanted.shape[1], dtype=wanted.dtype)
    ones[torch.arange(len(columns)), torch.tensor(columns)] = 1
    return module.cpu_linear(ones, module.weight, None)[:, : wanted.shape[0]]
