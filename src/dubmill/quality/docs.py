"""Makes Great Expectations' Data Docs readable offline, with equal bytes for equal results.

Its pages load styles and scripts from eight CDNs and contain random ids and times. Scripts and remote links are removed,
one small style is added, ids are numbered in order of appearance, and times are replaced by `this-run`.
"""

from __future__ import annotations

import re
from pathlib import Path

STYLE = """<style>
body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:72rem;padding:1rem;color:#1c2430;background:#fff}
footer,.modal,#ge-cta-footer,.ge-walkthrough-modal,.navbar-brand,.card:has(.btn-group){display:none!important}
ol.breadcrumb{display:flex;gap:.6rem;list-style:none;padding:0}.collapse{display:block!important}
table{border-collapse:collapse;width:100%;margin:.4rem 0}th,td{border:1px solid #ccd3dc;padding:.3rem .6rem;
text-align:left;vertical-align:top}.card,.ge-section{border:1px solid #ccd3dc;border-radius:8px;padding:.8rem;
margin:.8rem 0}.sticky{position:static}.text-success,.fa-check-circle{color:#157f3b}.text-danger,.fa-times{color:#b3261e}
.fa-check-circle::before{content:"\\2713"}.fa-times::before{content:"\\2717"}
.fa-exclamation-triangle::before{content:"\\26A0"}.nav{list-style:none;padding:0}.popover,.cooltip .top{display:none}
@media(prefers-color-scheme:dark){body{background:#12161c;color:#e6eaf0}a{color:#8ab4f8}}
</style>"""

UUID = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}")
STAMP = re.compile(r"\d{8}T\d{6}\.\d{6}Z|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)")
REMOVED = (
    re.compile(r"<script\b.*?</script>", re.DOTALL),
    re.compile(r"<link\b[^>]*>"),
    re.compile(r"<img\b[^>]*>"),
    re.compile(r"<footer\b.*?</footer>", re.DOTALL),
    re.compile(r"@font-face\s*\{.*?\}", re.DOTALL),
    re.compile(r"url\((?:'|\")?https?://[^)]*\)"),
)


def offline(page: str) -> str:
    """Returns an HTML page without scripts, images and remote links, with our style and with numbered ids."""
    for pattern in REMOVED:
        page = pattern.sub("", page)
    page = re.sub(r'<a\b[^>]*href="https?://[^"]*"[^>]*>(.*?)</a>', r"\1", page, flags=re.DOTALL)
    page = page.replace("</head>", f"{STYLE}</head>", 1)
    numbers: dict[str, int] = {}
    page = UUID.sub(lambda match: f"id-{numbers.setdefault(match[0], len(numbers))}", page)
    return STAMP.sub("this-run", page)


def offline_pages(site: Path) -> dict[str, bytes]:
    """Returns relative path -> bytes of every page of a Data Docs site, readable offline.

    The index page is written here: Great Expectations' own is empty without scripts.
    """
    paths = {STAMP.sub("this-run", page.relative_to(site).as_posix()): page for page in sorted(site.rglob("*.html"))}
    pages = {name: offline(page.read_text()).encode() for name, page in paths.items() if name != "index.html"}
    return {**pages, "index.html": _index(sorted(pages, reverse=True)).encode()}


def _index(names: list[str]) -> str:
    links = "".join(f'<li><a href="{name}">{name.removesuffix(".html")}</a></li>' for name in names)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Data Docs of the gate</title>{STYLE}</head>'
        "<body><h1>Data Docs of the gate</h1><p>The validation results of Great Expectations for each level, and the "
        f'expectations. A summary is in <a href="../gate.html">gate.html</a>.</p><ul>{links}</ul></body></html>'
    )
