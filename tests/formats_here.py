"""The formats whose packages this environment has: what tests of every format run through."""

from __future__ import annotations

from importlib.util import find_spec

from idp_deploy.formats import FORMATS

HERE = {
    name: row for name, row in FORMATS.items() if row.convert and all(map(find_spec, (*row.converter, *row.runtime)))
}
