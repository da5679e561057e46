"""Render a template of this package as one HTML file that needs no network and runs no script."""

from __future__ import annotations

from pathlib import Path

from p4r_qdrant.templating import Templates

render = Templates(Path(__file__).parent / "templates").render
"""`render(template, **values)`: see `Templates.render`."""
