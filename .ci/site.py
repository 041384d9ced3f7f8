"""Hooks of mkdocs: the navigation, the list of public names, and links to files that are not part of the site."""

import ast
import pathlib
import re
from typing import Any


ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
# In this order, as far as they are there; a page that is named nowhere goes to the end.
SECTIONS = {
    "Start": ["index", "first_run", "when"],
    "Bring your own": ["worlds", "data", "extending", "export", "watching"],
    "Use": ["methods", "backbones", "settings", "results", "sweeps", "clusters", "laboratory"],
    "The paper": ["theory", "experiments", "fidelity", "ablations"],
    "Reference": ["api", "architecture", "speed", "benchmarks", "glossary", "faq", "changelog"],
}
PUBLIC_NAMES = "<!-- public names -->"


def on_config(config: Any) -> Any:
    """Every page that is there."""
    pages = {path.stem for path in DOCS.glob("*.md")}
    named = {page for names in SECTIONS.values() for page in names}
    sections = dict(SECTIONS, More=sorted(pages - named))
    config["nav"] = [
        {title: [f"{page}.md" for page in names if page in pages]}
        for title, names in sections.items()
        if pages & set(names)
    ]
    return config


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """The list of public names where it is asked for; a link out of the site becomes the name of the file."""
    markdown = markdown.replace(PUBLIC_NAMES, public_names())

    def outside(match: re.Match[str]) -> str:
        text, target = match[1], match[2].partition("#")[0]
        path = (DOCS / page.file.src_uri).parent.joinpath(target).resolve()
        if "://" in match[2] or not target or path.is_relative_to(DOCS) or not path.exists():
            return match[0]
        name = path.relative_to(ROOT).as_posix()
        if config["repo_url"]:
            return f"[{text}]({config['repo_url'].rstrip('/')}/blob/main/{name})"
        return text if name in text else f"{text} (`{name}`)"

    return re.sub(r"\[([^]]*)\]\(([^)\s]+)\)", outside, markdown)


def public_names() -> str:
    """Everything that `asmpg` offers, by the module it lives in."""
    tree = ast.parse((ROOT / "src" / "asmpg" / "__init__.py").read_text())
    (modules,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_MODULES"
    )
    sections = []
    for module, names in sorted(modules.items()):
        entries = "\n".join(f"::: asmpg.{module}.{name}\n" for name in names if not name.isupper())
        sections.append(f"## asmpg.{module}\n\n{entries}")
    return "\n".join(sections)
