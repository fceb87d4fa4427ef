"""How the report looks: one sheet, light and dark by the reader's own setting, from a phone's width up."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --text: #1a1d23; --soft: #5b6472; --rule: #dfe3e8; --grid: #e9ecf0;
  --accent: #1f5fd6; --second: #b4540a; --faint: #a9b2bf; --good: #11734b; --bad: #b3261e; --warn: #fff4d6;
  --warn-rule: #e0b64a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #111318; --card: #1a1d24; --text: #e8eaee; --soft: #a2abb8; --rule: #323843; --grid: #272c35;
    --accent: #7aa7ff; --second: #f0a35e; --faint: #5d6675; --good: #5fd0a0; --bad: #ff8a80; --warn: #37301a;
    --warn-rule: #8a7330;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; padding: 24px 16px 48px; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  -webkit-text-size-adjust: 100%;
}
main { max-width: 1180px; margin: 0 auto; }
h1 { font-size: 24px; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 16px; margin: 0 0 4px; }
p { margin: 4px 0; }
.soft, figcaption { color: var(--soft); font-size: 13px; }
.meta { margin: 6px 0 18px; color: var(--soft); overflow-wrap: anywhere; }
.card {
  background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 16px; margin: 0; min-width: 0;
}
.notice { background: var(--warn); border-color: var(--warn-rule); margin-bottom: 16px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin-bottom: 16px; }
.tile { padding: 12px 14px; }
.tile dt { color: var(--soft); font-size: 13px; }
.tile dd { margin: 0; font-size: 22px; font-weight: 600; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile dd small { display: block; font-size: 13px; font-weight: 400; color: var(--soft); line-height: 1.4; }
.grid { display: grid; grid-template-columns: minmax(0, 1fr); gap: 16px; margin-bottom: 16px; }
@media (min-width: 900px) {
  .tiles { grid-template-columns: repeat(4, minmax(0, 1fr)); }
  .grid { grid-template-columns: repeat(2, minmax(0, 1fr)); } .full { grid-column: 1 / -1; }
}
.scroll { overflow-x: auto; margin: 8px -16px -4px; padding: 0 16px 4px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
.wide { width: 100%; }
th, td { padding: 5px 10px; text-align: right; white-space: nowrap; }
th { color: var(--soft); font-weight: 500; font-size: 13px; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td:last-child, th:last-child { padding-right: 0; }
tbody tr { border-top: 1px solid var(--rule); }
tr.best td { font-weight: 600; }
tr.best td:first-child { color: var(--accent); }
.heat { width: 100%; max-width: 720px; margin-top: 6px; }
.heat th, .heat td, .heat td:last-child { padding: 6px 8px; }
.heat th:first-child { padding-left: 0; }
.heat td { text-align: center; border: 2px solid var(--card); border-radius: 4px; }
.heat thead th { text-align: center; }
.heat thead th:first-child { text-align: left; }
.heat tbody tr { border: 0; }
.heat td.best { outline: 2px solid var(--text); outline-offset: -4px; font-weight: 700; }
.heat.more td { background: color-mix(in srgb, var(--accent) calc(var(--heat) * 62%), var(--grid)); }
.heat.longer td { background: color-mix(in srgb, var(--second) calc(var(--heat) * 62%), var(--grid)); }
.heat td.none { background: none; color: var(--soft); }
.met { color: var(--good); font-weight: 600; } .missed { color: var(--bad); font-weight: 600; }
.pairs {
  display: grid; grid-template-columns: fit-content(45%) minmax(0, 1fr); gap: 2px 16px; margin: 8px 0 0;
  font-size: 14px;
}
.pairs dt { color: var(--soft); overflow-wrap: anywhere; } .pairs dd { margin: 0; overflow-wrap: anywhere; }
ul { margin: 6px 0 0; padding-left: 20px; }
code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: 0.92em; }
svg { display: block; width: 100%; height: auto; margin-top: 8px; overflow: visible; }
svg text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: var(--soft); }
svg text.value { fill: var(--text); }
@media (max-width: 600px) {
  body { padding: 16px 10px 32px; } .card { padding: 12px; }
  .scroll { margin: 8px -12px -4px; padding: 0 12px 4px; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 8px; } .tile { padding: 10px 12px; }
  svg text { font-size: 17px; } th, td { padding: 5px 6px; } table { font-size: 13px; } th { white-space: normal; }
  .heat { font-size: 12px; } .heat th { font-size: 12px; } .heat td.best { font-weight: 400; }
  .heat th, .heat td, .heat td:last-child { padding: 6px 2px; }
}
.gridline { stroke: var(--grid); stroke-width: 1; }
.baseline { stroke: var(--faint); stroke-width: 1; }
.curve { fill: none; stroke: var(--accent); stroke-width: 2.2; stroke-linejoin: round; }
.curve.second { stroke: var(--second); }
.curve.other { stroke: var(--faint); stroke-width: 1; opacity: 0.75; }
.offered { stroke: var(--second); stroke-width: 1.5; stroke-dasharray: 5 4; }
.area { fill: var(--accent); opacity: 0.14; }
.dot { fill: var(--accent); } .dot.second { fill: var(--second); }
.span { stroke: var(--accent); stroke-width: 9; opacity: 0.45; }
.whisker { stroke: var(--accent); stroke-width: 1.6; }
.key { display: inline-flex; align-items: center; gap: 6px; margin-right: 14px; }
.key i { width: 18px; height: 0; border-top: 3px solid var(--accent); }
.key i.second { border-color: var(--second); } .key i.other { border-color: var(--faint); }
.key i.offered { border-top: 2px dashed var(--second); }
@media print { body { background: none; padding: 0; } .card { break-inside: avoid; } }
"""
