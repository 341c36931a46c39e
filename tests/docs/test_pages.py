"""What the pages say of the rest of the project: links lead somewhere, and quoted messages are those of the code."""

import ast
import functools
import re

import pytest

from tests.docs.snippets import ROOT

PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")))
GAP = "..."


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links(page):
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert target.exists(), f"{page}: {link}"
        if anchor:
            assert anchor in anchors(target.relative_to(ROOT).as_posix()), f"{page}: {link}"


@functools.cache
def messages() -> tuple[str, ...]:
    """Every text in the code, with `...` for what is filled in when the program runs."""
    found = []
    for package in ("tarvis_jax", "input_pipeline", "kernels"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    found.append("".join(v.value if isinstance(v, ast.Constant) else GAP for v in node.values))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(re.sub(r"%[\d.]*[sdf]", GAP, node.value))
    return tuple(found)


def is_message(quoted: str, message: str) -> bool:
    """Whether a message may read as quoted: either side may have anything in the place of a gap."""
    fixed = [re.escape(part) for part in re.split(r"\s*\.\.\.\s*", quoted) if part]
    return re.search(r".*".join(fixed), message, re.DOTALL) is not None


QUOTED = [line[2:] for line in (ROOT / "docs/troubleshooting.md").read_text().splitlines() if line.startswith("> ")]


@pytest.mark.parametrize("quoted", QUOTED)
def test_quoted_messages(quoted):
    assert any(is_message(quoted, message) for message in messages()), "no text in the code reads like this"


def test_a_message_that_does_not_exist():
    assert not any(is_message("no such text, expected ... of it", message) for message in messages())
