"""One HTML file with everything that a reader needs to judge the map of a slide."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .colors import class_colors, class_numbers

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 1300px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; margin-bottom: .2em; overflow-wrap: anywhere; } h2 { font-size: 1.2em; margin-top: 1.8em; }
img { max-width: 100%; height: auto; } figcaption { color: #555; font-size: .9em; } figure { margin: 1em 0; }
table { border-collapse: collapse; } td, th { padding: .3em .8em; border-bottom: 1px solid #ddd; text-align: right; }
td:first-child, th:first-child { text-align: left; overflow-wrap: anywhere; } .settings td { text-align: left; }
.swatch { display: inline-block; width: 1em; height: 1em; border: 1px solid #555; vertical-align: -.15em; }
.warning { background: #fff4d6; border-left: 4px solid #e69f00; padding: .6em 1em; }
@media print { body { max-width: none; } figure, tr { break-inside: avoid; } }
"""
_CAPTIONS = {
    "overview.png": "The slide beside the predicted classes. Numbers name the largest areas of each class.",
    "heatmaps.png": "Probability of every class, all on one scale. Bright is certain; a patch's values add up to 1.",
    "tissue.png": "Which tissue was found and predicted. Check here first if something is missing from the map.",
}


def make_report(
    title: str,
    composition: Mapping[str, Any],
    facts: Mapping[str, Any],
    limits: Sequence[str],
    pictures: Mapping[str, bytes],
) -> str:
    """The content of report.html, which needs no other file.

    Args:
        title: Name of the slide.
        composition: Of `make_composition`.
        facts: What was done, and with which settings.
        limits: What the map does not say, a sentence each.
        pictures: PNG files by name.
    """
    figures = {name: _figure(name, content) for name, content in pictures.items()}
    rows = "".join(f"<tr><td>{escape(str(n))}</td><td>{escape(str(v))}</td></tr>\n" for n, v in facts.items())
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}: tissue map</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<p class="warning">For research only, not for diagnosis. The classes are predictions of a model, not checked.</p>
{figures.pop("overview.png", "")}
<h2>Composition</h2>
<p>{composition["tissue_mm2"]:,.2f} mm² of tissue were classified.</p>
{_composition_table(composition)}
<h2>Probabilities</h2>
{figures.pop("heatmaps.png", "")}
<h2>Tissue</h2>
{"".join(figures.values())}
<h2>Limits</h2>
<ul>
{"".join(f"<li>{escape(limit)}</li>" for limit in limits)}
</ul>
<h2>Settings</h2>
<table class="settings">
{rows}</table>
</body>
</html>
"""


def _figure(name: str, content: bytes) -> str:
    caption = _CAPTIONS.get(name, name)
    data = base64.b64encode(content).decode("ascii")
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{escape(caption)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>\n"
    )


def _composition_table(composition: Mapping[str, Any]) -> str:
    colors = class_colors(list(composition["classes"]))
    numbers = class_numbers(list(composition["classes"]))
    lines = [
        "<table><tr><th>Class</th><th>Patches</th><th>Area (mm²)</th><th>Of the tissue</th>"
        "<th>Mean probability</th><th>Most certain at x, y (level-0 px)</th></tr>"
    ]
    for name, row in composition["classes"].items():
        red, green, blue = colors[name]
        swatch = f'<span class="swatch" style="background:rgb({red},{green},{blue})"></span>'
        places = "<br>".join(
            "{:.0f}, {:.0f} ({:.2f})".format(*place["center_level0"], place["probability"])
            for place in row["most_certain"][:3]
        )
        lines.append(
            f"<tr><td>{swatch} {numbers[name]} {escape(name)}</td><td>{row['patches']:,}</td>"
            f"<td>{row['area_mm2']:,.3f}</td><td>{row['percent_of_tissue']:.1f}%</td>"
            f"<td>{row['mean_probability']:.3f}</td><td>{places or '&ndash;'}</td></tr>"
        )
    return "\n".join([*lines, "</table>"])
