"""The page around a report: one HTML file that needs nothing else.

No script and no resource from anywhere: the content security policy in the page
forbids both, so a hostile string that got past the escaping would still load nothing.
Light and dark follow the reader's system; paper is light.
"""

from __future__ import annotations

from collections.abc import Sequence

from casemate.pages.markup import Child, Markup, element, escape, join

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_LIGHT = """
--paper:#f7f6f3; --card:#ffffff; --ink:#1f2733; --soft:#667182; --rule:#e5e2dc;
--tone1:#2b6a86; --tone1-rgb:43,106,134; --tone2:#c4673d; --tone2-rgb:196,103,61;
--good:#3d7a57; --bad:#b3423a; color-scheme:light;
"""
_DARK = """
--paper:#13161b; --card:#1a1e25; --ink:#e3e7ed; --soft:#97a1b0; --rule:#2b313b;
--tone1:#6fb4d2; --tone1-rgb:111,180,210; --tone2:#e59b75; --tone2-rgb:229,155,117;
--good:#7cc096; --bad:#e5847c; color-scheme:dark;
"""

_STYLE = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);
 font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
 font-variant-numeric:tabular-nums}
main{max-width:1020px;margin:0 auto;padding:48px 24px 64px}
header{margin-bottom:28px}
.brand{color:var(--soft);font-size:13px;letter-spacing:.02em}
h1{font-size:30px;line-height:1.2;font-weight:640;letter-spacing:-.015em;margin:4px 0 8px;
 overflow-wrap:anywhere}
.facts{color:var(--soft);margin:0}
.state{display:inline-block;padding:1px 10px;border-radius:99px;font-size:13px;margin-left:12px;
 vertical-align:middle;border:1px solid currentColor;font-weight:500;letter-spacing:0}
.state.good{color:var(--good)}.state.bad{color:var(--bad)}.state.open{color:var(--soft)}
h2{font-size:18px;font-weight:620;letter-spacing:-.01em;margin:44px 0 14px}
h3{font-size:13px;font-weight:600;color:var(--soft);margin:0 0 6px}
p{margin:0 0 12px;max-width:72ch}
.soft{color:var(--soft)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:12px}
.tile{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:14px 16px}
.tile dt{color:var(--soft);font-size:13px}
.tile dd{margin:2px 0 0;font-size:20px;font-weight:600;letter-spacing:-.01em;line-height:1.25}
.tile dd{white-space:nowrap}
.tile dd small{display:block;white-space:normal;font-size:12.5px;font-weight:400;
 color:var(--soft);letter-spacing:0}
dl{margin:0}
figure{margin:0;background:var(--card);border:1px solid var(--rule);border-radius:10px;
 padding:16px 18px 14px;min-width:0;break-inside:avoid}
figcaption{display:flex;flex-wrap:wrap;gap:2px 18px;justify-content:space-between;
 align-items:baseline;margin-bottom:10px}
.title{font-weight:600}
.legend{display:flex;flex-wrap:wrap;gap:2px 16px;font-size:13px;color:var(--soft)}
.key::before{content:"";display:inline-block;width:14px;height:3px;border-radius:2px;
 margin-right:7px;vertical-align:middle;background:var(--tone)}
.tone1{--tone:var(--tone1)}.tone2{--tone:var(--tone2)}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:12px;
 align-items:start}
.charts.three{grid-template-columns:repeat(auto-fit,minmax(min(100%,290px),1fr))}
.charts.two>:last-child:nth-child(odd){grid-column:1/-1}
.charts.first{grid-template-columns:1fr;margin-bottom:12px}
.plot{display:grid;grid-template:minmax(0,1fr) 22px/46px minmax(0,1fr);height:200px}
.tall .plot{height:320px}
.square .plot{height:auto;aspect-ratio:1.12;max-height:380px;width:100%}
.up,.across{position:relative;color:var(--soft);font-size:12px;line-height:1}
.up span{position:absolute;right:9px;transform:translateY(50%);white-space:nowrap}
.across{grid-column:2}
.across span{position:absolute;top:8px;transform:translateX(-50%);white-space:nowrap}
.area{min-width:0;min-height:0}
.area svg{display:block;width:100%;height:100%;overflow:visible}
.area svg *{vector-effect:non-scaling-stroke}
.grid{stroke:var(--rule);stroke-width:1}
.line{fill:none;stroke:var(--tone);stroke-width:1.8;stroke-linejoin:round}
.faint{stroke-width:1;opacity:.32}
.dot{stroke:var(--tone);stroke-width:6;stroke-linecap:round}
.diagonal{stroke:var(--soft);stroke-width:1;stroke-dasharray:4 4}
.bar{fill:rgba(var(--tone1-rgb),.5)}.gap{fill:rgba(var(--tone2-rgb),.38)}
.histogram{display:flex;align-items:flex-end;gap:2px;height:44px;margin:8px 0 0 46px}
.histogram span{flex:1;background:rgba(var(--tone1-rgb),.4);min-height:1px}
.axisname{font-size:12px;color:var(--soft);margin:6px 0 0 46px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:14px}
th{text-align:left;font-weight:500}
thead th{color:var(--soft);font-size:12.5px;border-bottom:1px solid var(--rule);
 padding:4px 14px 6px 0;vertical-align:bottom}
tbody td,tbody th{padding:6px 14px 6px 0;border-bottom:1px solid var(--rule);vertical-align:top}
tbody tr:last-child>*{border-bottom:0}
th:last-child,td:last-child{padding-right:0}
.numbers th:not(:first-child),.numbers td{text-align:right;white-space:nowrap}
.numbers bdi{overflow-wrap:anywhere}
.numbers small{display:block;font-size:12px;color:var(--soft)}
.named tbody th{min-width:24ch}
.numbers tbody th{max-width:32ch;min-width:9ch;overflow-wrap:anywhere}
.matrix thead th{max-width:12ch;white-space:normal;overflow-wrap:anywhere}
.matrix td{padding:3px}.cell{display:block;padding:6px 10px;border-radius:5px;min-width:52px;
 text-align:center}
.matrix thead th:not(:first-child){text-align:center;padding:4px 6px 6px}
.meter{display:inline-block;min-width:84px;padding:0 0 3px;
 background:linear-gradient(var(--tone1),var(--tone1)) left bottom/var(--share) 3px no-repeat,
 linear-gradient(var(--rule),var(--rule)) left bottom/100% 3px no-repeat}
.samples{display:grid;gap:12px}
pre,code{font:13px/1.6 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
pre{margin:0;white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:isolate}
.prompt{color:var(--soft)}
.digest{font-size:12px;overflow-wrap:anywhere;min-width:20ch;display:inline-block}
.sections{columns:2 380px;column-gap:28px}
.section{break-inside:avoid;margin-bottom:20px}
.section td{overflow-wrap:anywhere}
.section th{width:46%}
.changed th,.changed td{font-weight:600}
.changed td::after{content:" •";color:var(--tone2)}
.card{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:16px 18px}
.above,.stack>*+*{margin-top:12px}
ul{margin:0;padding-left:18px}
footer{margin-top:52px;padding-top:14px;border-top:1px solid var(--rule);color:var(--soft);
 font-size:13px;overflow-wrap:anywhere}
@media (max-width:560px){main{padding:28px 14px 40px}h1{font-size:24px}.tall .plot{height:240px}
 .state{margin-left:0;display:table}}
@media print{:root{--paper:#fff}body{font-size:11px}main{max-width:none;padding:0}
 table,.title,figcaption,.legend,p,pre,code{font-size:10.5px}
 tbody td,tbody th{padding:3px 8px 3px 0}
 .tile dd{font-size:16px}.tile{padding:8px 12px}.sections{columns:3}.section{margin-bottom:12px}
 .sections tbody td,.sections tbody th{padding:1px 6px 1px 0;border:0}
 h2{margin-top:24px;break-after:avoid}
 .tiles{grid-template-columns:repeat(4,1fr)}.charts{grid-template-columns:1fr 1fr}
 .charts.first{grid-template-columns:1fr}.tall .plot{height:230px}.plot{height:150px}
 *{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
"""


def page(title: str, body: Sequence[Child]) -> str:
    """Return a whole HTML document around its content."""
    dark = f"@media screen and (prefers-color-scheme:dark){{:root{{{_DARK}}}}}"
    head = join(
        (
            element("meta", charset="utf-8"),
            Markup(f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">'),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="referrer", content="no-referrer"),
            element("title", title),
            # The style is ours alone; nothing from a run is ever put into it.
            element("style", Markup(f":root{{{_LIGHT}}}{dark}{_STYLE}")),
        )
    )
    document = element("html", element("head", head), element("body", *body), lang="en")
    return f"<!DOCTYPE html>\n{document}\n"


def tiles(figures: Sequence[tuple[str, str, str]]) -> Markup:
    """Return the most important figures: (name, value, remark) each."""
    cells = (
        element(
            "div",
            element("dt", name),
            element("dd", value, element("small", remark) if remark else None),
            class_="tile",
        )
        for name, value, remark in figures
    )
    return element("dl", *cells, class_="tiles")


def part(heading: str, *content: Child) -> Markup:
    """Return a part of the page under its heading."""
    return element("section", element("h2", heading), *content)
