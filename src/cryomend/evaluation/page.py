"""The page itself: template, style and script, put together into one file that loads nothing."""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

__all__ = ["fill_page"]


def fill_page(body: str, *, title: str, lead: str, data: dict[str, Any] | None) -> str:
    """Make an HTML page of its parts.

    Parameters
    ----------
    body : str
        Sections, as HTML.
    title : str
        For the tab of the browser, as plain text.
    lead : str
        First sentence, as HTML.
    data : dict or None
        What the script shows, of `cryomend.evaluation.browser.browser_data`; None if there are no slices.

    Returns
    -------
    str
        The policy in its head allows pictures inside the page, its own style and this one script by its
        hash, and forbids the rest: a browser would refuse to load anything from elsewhere.
    """
    script = _part("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return Template(_part("report.html")).substitute(
        title=escape(title),
        style=_part("report.css"),
        lead=lead,
        body=body,
        script=script,
        script_hash=f"sha256-{digest}",
        data=json.dumps(data).replace("<", "\\u003c"),  # lest a name ends the element
    )


def _part(name: str) -> str:
    return files("cryomend.evaluation").joinpath(name).read_text(encoding="utf-8")
