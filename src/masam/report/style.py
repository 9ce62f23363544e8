"""The report's style sheet: one column, light or dark as the reader's system is, and fit for paper."""

STYLE = """
:root { color-scheme: light dark; --paper: #f6f7f9; --card: #ffffff; --ink: #1c2128; --dim: #5c6672; --line: #e2e6ea;
  --accent: #0b5fa5; --warm: #c2410c; --dot: #0b5fa5; --shade: #f1f4f7; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #0d1117; --card: #161b22; --ink: #e6edf3; --dim: #97a1ac; --line: #2b323b; --accent: #6cb6ff;
    --warm: #ff9b5e; --dot: #6cb6ff; --shade: #1c222b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 2.2rem 1.2rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.015em; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.6rem 0 .8rem; letter-spacing: -.005em; }
p { margin: .4rem 0; max-width: 75ch; }
a { color: var(--accent); }
.dim, figcaption, dd, small { color: var(--dim); }
.cards { display: grid; grid-template-columns: minmax(17rem, 2fr) repeat(3, 1fr); gap: .9rem; margin: 1.6rem 0 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1rem 1.15rem; }
.card b { display: block; font-size: 1.65rem; line-height: 1.25; font-weight: 650; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums; }
.card.lead b { font-size: 3.1rem; line-height: 1.1; color: var(--accent); }
.card span { color: var(--dim); font-size: .86rem; display: block; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 12px; }
table { font-variant-numeric: tabular-nums; border-collapse: collapse; width: 100%; font-size: .88rem; }
th, td { padding: .5rem .55rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
thead th { color: var(--dim); font-weight: 600; font-size: .78rem; vertical-align: bottom; background: var(--shade); }
tbody tr:last-child > * { border-bottom: 0; }
th:first-child, td:first-child, th.wide, td.wide { text-align: left; }
.scores th:first-child { position: sticky; left: 0; background: var(--card); z-index: 1; }
.scores thead th:first-child, .scores tbody tr.total th { background: var(--shade); }
.scores thead th:nth-child(5) { text-align: center; }
tbody th { font-weight: 600; max-width: 15rem; overflow: hidden; text-overflow: ellipsis; }
.wide { white-space: normal; }
tbody tr.total > * { border-top: 2px solid var(--line); font-weight: 650; background: var(--shade); }
td small { font-size: .76rem; display: block; line-height: 1.1; }
.swatch { width: 11px; height: 11px; margin-right: .55rem; vertical-align: -1px; }
.strip { width: 130px; height: 19px; display: block; }
.strip .axis { stroke: var(--line); stroke-width: 1; }
.strip .dot { fill: var(--dot); fill-opacity: .42; }
.strip .range { stroke: var(--warm); stroke-width: 1.6; }
.strip .mean { fill: var(--warm); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .35rem 1.2rem; margin: .8rem 0; font-size: .9rem; }
dt { font-weight: 600; }
dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 0 0 1.4rem; background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  overflow: hidden; }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
figure.light img { width: min(100%, 900px); }
figure.dark .frame { background: #0d1117; }
figure.light .frame { background: #ffffff; padding: .8rem; }
figcaption { padding: .65rem 1.1rem; font-size: .88rem; border-top: 1px solid var(--line); }
figcaption b { color: var(--ink); }
ul { padding-left: 1.2rem; max-width: 78ch; }
li { margin: .3rem 0; }
footer { margin-top: 3rem; color: var(--dim); font-size: .82rem; }
@media (max-width: 760px) {
  main { padding: 1.3rem .8rem 3rem; }
  .cards { grid-template-columns: repeat(3, 1fr); gap: .6rem; }
  .card { padding: .75rem .8rem; }
  .card b { font-size: 1.25rem; }
  .card.lead { grid-column: 1 / -1; }
  dl { grid-template-columns: 1fr; gap: .1rem; }
  dd { margin-bottom: .5rem; }
}
@media print {
  :root { color-scheme: light; --paper: #fff; --card: #fff; --ink: #000; --dim: #444; --line: #bbb; --shade: #f3f3f3;
    --accent: #0b5fa5; --warm: #c2410c; --dot: #0b5fa5; }
  main { max-width: none; padding: 0; }
  .scroll { overflow: visible; }
  table { font-size: .72rem; }
  th, td { padding: .25rem .35rem; }
  .strip { width: 90px; }
  figure, tr, .card { break-inside: avoid; }
  h2 { break-after: avoid; }
}
"""
