"""lint: whether sparse kernels run a file's zeros, asked of its format."""

from __future__ import annotations

from idp_deploy.flow import Contents
from idp_deploy.formats import FORMATS
from idp_deploy.formats.sparse_kernels import Finding, SparseLint


def lint(contents: Contents) -> SparseLint:
    """By the rules of its format's runtime; a format whose runtimes have no sparse kernels breaks the first one."""
    row = FORMATS[contents.format]
    if row.sparse_kernels:
        found: SparseLint = row.function("sparse_kernels")(contents)
        return found
    others = [other.name for other in FORMATS.values() if other.sparse_kernels]
    message = f"{contents.format} files do not run in XNNPACK's sparse kernels"
    finding = Finding("format", contents.path.name, message, f"export to {' or '.join(others)}")
    return SparseLint(False, (), 0.0, (finding,))
