"""A hook of mkdocs: links to files that are not pages of the site lead to the repository."""

import os
import re
from pathlib import Path

LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")  # the path of [text](path#anchor)


def on_page_markdown(markdown: str, page, config, files) -> str:
    """The page's source, with each link to a file outside the site as an address of `repo_url`.

    Links that lead nowhere stay as they are, so that the strict build reports them.
    """
    docs = Path(config.docs_dir)
    here, root = (docs / page.file.src_path).parent, Path(config.config_file_path).parent

    def target(link: re.Match) -> str:
        path = Path(os.path.normpath(here / link[1]))
        if not path.exists() or not path.is_relative_to(root):
            return link[0]
        if path.is_relative_to(docs):
            file = files.get_file_from_path(path.relative_to(docs).as_posix())
            if file and not file.inclusion.is_excluded():
                return link[0]
        kind = "tree" if path.is_dir() else "blob"
        return f"{config.repo_url.rstrip('/')}/{kind}/main/{path.relative_to(root).as_posix()}"

    return LINK.sub(target, markdown)
