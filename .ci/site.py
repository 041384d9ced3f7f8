"""Hooks of mkdocs: the navigation, the list of public names, and pages, pictures and files from beside `docs/`."""

import ast
import json
import os
import pathlib
import re
from typing import Any


ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
# In this order, as far as they are there; a page that is named nowhere goes to the end.
SECTIONS = {
    "Start": ["index", "first-run", "when", "faq"],
    "Bring your own": ["bring-your-own", "worlds", "data", "extending", "watching", "export"],
    "Notebooks": ["notebook-first-run", "notebook-see-the-gradient", "notebook-your-gymnasium-environment"],
    "Use": ["methods", "backbones", "settings", "run-folders", "sweeps", "clusters", "laboratory"],
    "The paper": ["results", "theory", "experiments", "fidelity", "ablations"],
    "Reference": ["api", "architecture", "speed", "benchmarks", "glossary", "changelog"],
}
PUBLIC_NAMES = "<!-- public names -->"
WHOLE_FILE = re.compile(r"<!-- file: (\S+) -->\n?")
NOTEBOOK = re.compile(r"<!-- notebook: (\S+) -->\n?")
LINK = re.compile(r"\[([^]]*)\]\(([^)\s]+)\)")
# What a page links to beside `docs/` and the site has too; of other files only the name is told.
SHOWN = {".png", ".svg", ".ipynb"}


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


def on_files(files: Any, config: Any) -> Any:
    """The pictures that pages show from beside `docs/`, at the same place in the site as in the repository."""
    from mkdocs.structure.files import File

    for page in DOCS.glob("*.md"):
        for _, target in LINK.findall(source(page)):
            path = (DOCS / target).resolve()
            if path.suffix in SHOWN and path.is_file() and not path.is_relative_to(DOCS):
                name = path.relative_to(ROOT).as_posix()
                if files.get_file_from_path(name) is None:
                    files.append(File(name, str(ROOT), config["site_dir"], config["use_directory_urls"]))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """The whole page; a link to what is not part of the site becomes the name of the file."""
    markdown = source(DOCS / page.file.src_uri, markdown).replace(PUBLIC_NAMES, public_names())

    def outside(match: re.Match[str]) -> str:
        text, target = match[1], match[2].partition("#")[0]
        path = (DOCS / page.file.src_uri).parent.joinpath(target).resolve()
        if "://" in match[2] or not target or path.is_relative_to(DOCS) or not path.exists():
            return match[0]
        name = path.relative_to(ROOT).as_posix()
        if path.suffix in SHOWN:
            return f"[{text}]({name})"
        if config["repo_url"]:
            return f"[{text}]({config['repo_url'].rstrip('/')}/blob/main/{name})"
        return text if name in text else f"{text} (`{name}`)"

    return LINK.sub(outside, markdown)


def source(page: pathlib.Path, markdown: str | None = None) -> str:
    """The text of a page, with whole files where it asks for them, whose links count from `docs/` then."""
    text = page.read_text(encoding="utf-8") if markdown is None else markdown

    def whole(match: re.Match[str]) -> str:
        path = ROOT / match[1]

        def moved(link: re.Match[str]) -> str:
            if "://" in link[2] or link[2].startswith("#"):
                return link[0]
            return f"[{link[1]}]({os.path.relpath(path.parent / link[2], DOCS)})"

        return LINK.sub(moved, path.read_text(encoding="utf-8"))

    return NOTEBOOK.sub(lambda match: notebook(ROOT / match[1]), WHOLE_FILE.sub(whole, text))


def notebook(path: pathlib.Path) -> str:
    """The cells of a notebook, below a link to it."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
    link = f"[The notebook]({os.path.relpath(path, DOCS)}) is run by the tests."
    return "\n\n".join([parts[0], link, *parts[1:]]) + "\n"


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
