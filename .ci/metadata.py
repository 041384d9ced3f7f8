"""Metadata of a release that depends on where the repository is: project URLs, and README.md with absolute links.

No address is written into the repository, so a copy of it names its own: `REPOSITORY_URL`, the repository that a GitHub
workflow runs for, or git's `origin`. Without any, README.md keeps its relative links and there are no URLs.
"""

import os
import pathlib
import re
import subprocess
from typing import Any


LINK = re.compile(r"(!?)\[([^]]*)\]\((?!\w+:|#)([^)\s]+)\)")


def repository(root: pathlib.Path) -> str | None:
    """The address of the repository's page on the web, without a slash at the end."""
    address = os.environ.get("REPOSITORY_URL", "")
    if not address and "GITHUB_REPOSITORY" in os.environ:
        address = f"{os.environ['GITHUB_SERVER_URL']}/{os.environ['GITHUB_REPOSITORY']}"
    if not address and (root / ".git").exists():
        command = ["git", "-C", str(root), "remote", "get-url", "origin"]
        address = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        address = re.sub(r"^(?:ssh://)?git@([^:/]+)[:/]", r"https://\1/", address)
    return address.removesuffix("/").removesuffix(".git") if address.startswith("https://") else None


def urls(address: str) -> dict[str, str]:
    """The project URLs of a package index."""
    return {
        "Homepage": address,
        "Documentation": f"{address}/blob/main/docs/index.md",
        "Repository": address,
        "Issues": f"{address}/issues",
        "Changelog": f"{address}/blob/main/CHANGELOG.md",
    }


def absolute(text: str, address: str) -> str:
    """A page of the repository's root whose links and pictures work anywhere."""
    kind = {"": "blob", "!": "raw"}
    return LINK.sub(lambda m: f"{m[1]}[{m[2]}]({address}/{kind[m[1]]}/main/{m[3]})", text)


def get_metadata_hook() -> type:
    """The hook, as hatchling asks for it."""
    from hatchling.metadata.plugin.interface import MetadataHookInterface  # pyright: ignore[reportMissingImports]

    class Hook(MetadataHookInterface):
        def update(self, metadata: dict[str, Any]) -> None:
            root = pathlib.Path(self.root)
            text, address = (root / "README.md").read_text(encoding="utf-8"), repository(root)
            if address is not None:
                text, metadata["urls"] = absolute(text, address), urls(address)
            metadata["readme"] = {"content-type": "text/markdown", "text": text}

    return Hook
