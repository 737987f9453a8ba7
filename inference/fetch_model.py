"""Fetches a model of the Hugging Face Hub into a folder, which appears only when it is complete.

    python inference/fetch_model.py OWNER/NAME FOLDER [--revision main]

Only what is read is fetched: configuration, tokenizer, safetensors. A fetch that was stopped goes on where it was.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

WANTED = ["*.json", "*.jinja", "*.safetensors", "merges.txt", "tokenizer.model", "LICENSE*"]
# Other formats of the same weights, which some models carry in folders of their own.
UNWANTED = ["*/*", "consolidated*.safetensors"]


class FetchError(Exception):
    """What was fetched is no model that can be used."""


def fetch(model, folder, revision):
    """Fetches `model` at `revision` into `folder`, which must not exist, and returns the commit that was fetched."""
    from huggingface_hub import HfApi, snapshot_download

    # A branch is resolved once, so that no file is of another commit than the rest.
    commit = HfApi().model_info(model, revision=revision).sha
    # Beside the target, since a rename does not leave a file system; named after the commit, so that what a stopped fetch
    # has left is of the same one.
    partial = folder.with_name(f".{folder.name}.{commit[:12]}.partial")
    snapshot_download(model, revision=commit, local_dir=partial, allow_patterns=WANTED, ignore_patterns=UNWANTED)
    for pattern in ("config.json", "*.safetensors"):
        if not list(partial.glob(pattern)):
            shutil.rmtree(partial)
            raise FetchError(f"`{model}` holds no {pattern}")
    shutil.rmtree(partial / ".cache", ignore_errors=True)
    os.replace(partial, folder)
    return commit


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="OWNER/NAME")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--revision", default="main")
    args = parser.parse_args()
    args.folder.parent.mkdir(parents=True, exist_ok=True)
    print(f"fetching {args.model} into {args.folder}", file=sys.stderr)
    try:
        commit = fetch(args.model, args.folder, args.revision)
    # The library raises its own and those of the HTTP client; each says what it asked for.
    except Exception as error:  # pylint: disable=broad-exception-caught
        hint = "is the name right, and is https://huggingface.co reachable from here?"
        sys.exit(f"error: {args.model} cannot be fetched\n  caused by: {type(error).__name__}: {error}\n  hint: {hint}")
    print(f"{args.model} at {commit} is in {args.folder}", file=sys.stderr)


if __name__ == "__main__":
    main()
