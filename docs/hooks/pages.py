"""For the site: the Markdown of the whole repository, at the places where it lies.

So links between the README, docs/ and the packages lead to pages as they lead to files.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File, Files

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig

PLACES = (
    "*.md", "docs/*.md", "docs/images/*", "*/README.md", "search/*/README.md",
    "examples/*/README.md", "examples/*/training/*.png", "integrations/*/README.md",
    "benchmarks/results/*.png",
)  # fmt: skip


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace the files of docs/ with all of `PLACES`, named from the root of the repository."""
    root = Path(config.config_file_path).parent
    theme = [file for file in files if file.src_dir != config.docs_dir]
    ours = [
        File.generated(config, path.relative_to(root).as_posix(), abs_src_path=str(path))
        for place in PLACES
        for path in sorted(root.glob(place))
    ]
    return Files([*theme, *ours])
