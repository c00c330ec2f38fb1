"""The parts that every HTML page here is made of: one file, no network access, no scripts, light or dark."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from resnetrt.benchmarks.reports.theme import css

# The shadows at a table's sides are the cue that it scrolls: the paper scrolls with it and covers them at either end.
_STYLE = """
*{box-sizing:border-box}
body{margin:0 auto;max-width:84rem;padding:1.5rem;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
h1{font-size:1.6rem;margin:.2rem 0}*+h1{margin-top:3rem}h2{font-size:1.2rem;margin:2rem 0 .6rem}p,ul{max-width:60rem}
a{color:var(--fp32)}nav{margin:1rem 0}nav a{display:inline-block;margin:0 1rem .3rem 0}
figure{margin:1rem 0}figure svg{display:block;width:100%;height:auto;max-width:60rem}figure svg.narrow{display:none}
.scroll{overflow-x:auto;background:linear-gradient(90deg,var(--paper) 40%,transparent) 0 0/3rem 100% local,
linear-gradient(-90deg,var(--paper) 40%,transparent) 100% 0/3rem 100% local,
linear-gradient(90deg,#8886,transparent) 0 0/.8rem 100% scroll,
linear-gradient(-90deg,#8886,transparent) 100% 0/.8rem 100% scroll;background-repeat:no-repeat}
table{border-collapse:collapse;font-size:.82rem;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .45rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--grid)}
th:first-child,td:first-child,th:nth-child(2),td:nth-child(2){text-align:left}
th{color:var(--other);font-weight:600}
summary{cursor:pointer;margin:1.2rem 0 .4rem}summary h2{display:inline;margin:0}
.mark{border-left:4px solid var(--int8);padding:.4rem .8rem;margin:1rem 0}
small,.quiet{color:var(--other)}dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem;font-size:.86rem}
dt{color:var(--other)}dd{margin:0;overflow-wrap:anywhere}
@media (max-width:40rem){body{padding:1rem}figure svg.wide{display:none}figure svg.narrow{display:block}
dl{display:block}dd{margin:0 0 .4rem}}
@media print{body{max-width:none}nav{display:none}}
"""


@dataclass(frozen=True)
class Section:
    """A part of a page below its own heading; a `folded` one opens when its heading is clicked."""

    heading: str
    body: Sequence[str]
    folded: bool = False


def page(heading: str, parts: Iterable[str]) -> str:
    """A whole page of `parts`, with `heading` as its title."""
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>resnetrt: {heading}</title>'
    )
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{css()}{_STYLE}</style></head>'
        f"\n<body>\n{body}\n</body></html>\n"
    )


def contents(sections: Mapping[str, Section]) -> str:
    """Links to the sections, by their ids."""
    links = "".join(f'<a href="#{name}">{escape(section.heading)}</a>' for name, section in sections.items())
    return f"<nav>{links}</nav>"


def write_section(name: str, section: Section) -> str:
    """A section whose id is `name`; a link to it also opens it, for it leads to what is inside."""
    heading, body = f"<h2>{escape(section.heading)}</h2>", "\n".join(section.body)
    if section.folded:
        return f'<details><summary>{heading}</summary><div id="{name}">{body}</div></details>'
    return f'<section id="{name}">{heading}\n{body}</section>'


def bullets(lines: Iterable[str]) -> str:
    """A list of lines of text."""
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls on a narrow screen; cells are text, not HTML."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def definitions(facts: Mapping[str, str]) -> str:
    """Terms and their texts."""
    return "<dl>" + "".join(f"<dt>{escape(n)}</dt><dd>{escape(text)}</dd>" for n, text in facts.items()) + "</dl>"


def small(text: str) -> str:
    """A paragraph in small print."""
    return f"<p><small>{escape(text)}</small></p>"
