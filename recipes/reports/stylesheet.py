"""How a report's page looks: one column, wide tables scroll inside their box, dark where the reader's system is."""

STYLESHEET = """
:root {
  --back: #ffffff; --card: #f5f7f9; --line: #d5dae0; --text: #1c2127; --quiet: #57606a; --link: #0a56ad;
  --yes: #1a6b35; --no: #a3260f; --open: #57606a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --back: #12161b; --card: #1b2128; --line: #37404a; --text: #e4e8ec; --quiet: #a3adb8; --link: #7ab8ff;
    --yes: #74d990; --no: #ff9c88; --open: #a3adb8;
  }
  figure img { filter: brightness(.9); }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--back); color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1rem 1rem 4rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0 1rem; }
h2 {
  font-size: 1.3rem; line-height: 1.3; margin: 3rem 0 .75rem; padding-top: .75rem; border-top: 2px solid var(--line);
}
h3 { font-size: 1.05rem; line-height: 1.35; margin: 2rem 0 .5rem; }
p { margin: .5rem 0; max-width: 46rem; }
a { color: var(--link); }
code { font: .9em ui-monospace, monospace; background: var(--card); padding: .1em .3em; border-radius: 3px; }
nav, details { background: var(--card); border: 1px solid var(--line); border-radius: 6px; margin: 1rem 0; }
nav { padding: .5rem .75rem; }
nav ol, nav ul { margin: 0; padding-left: 1.4rem; }
nav li { padding: .15rem 0; }
details { padding: .5rem .75rem; }
summary { cursor: pointer; font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem .9rem; margin: .5rem 0; font-size: .9rem; }
dd { margin: 0; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
.scroll:focus-visible { outline: 2px solid var(--link); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.scroll table { min-width: 100%; font-size: .9rem; overflow-wrap: normal; }
th, td { padding: .4rem .7rem; text-align: left; vertical-align: top; }
.scroll th, .scroll td { border-bottom: 1px solid var(--line); }
.scroll tr:last-child > * { border-bottom: 0; }
thead th { font-weight: 600; vertical-align: bottom; background: var(--card); min-width: 5.5rem; }
tbody th { font-weight: 600; }
.scroll tbody th, .scroll thead th:first-child {
  position: sticky; left: 0; background: var(--card); min-width: 0; max-width: 40vw;
  border-right: 1px solid var(--line);
}
.whole { white-space: nowrap; }
.number { text-align: right; }
td.number { white-space: nowrap; }
small { display: block; font-size: .8rem; line-height: 1.35; color: var(--quiet); }
.yes { color: var(--yes); }
.no { color: var(--no); }
.open { color: var(--open); }
.note, .files, figcaption { color: var(--quiet); font-size: .9rem; }
.counted { font-size: .9rem; font-weight: 600; }
.files { font-size: .8rem; }
.remark { border-left: 4px solid var(--link); padding-left: .75rem; }
figure { margin: .5rem 0; }
figure img { display: block; width: 100%; max-width: 36rem; height: auto; background: #fff; border-radius: 6px; }
figcaption { max-width: 46rem; margin-top: .35rem; }
.terms table { font-size: .85rem; width: 100%; margin-top: .4rem; }
.terms th { width: 12rem; min-width: 6rem; font-weight: 600; padding-left: 0; }
.terms th, .terms td { border-top: 1px solid var(--line); }
.runs ul { font-size: .85rem; columns: 16rem; padding-left: 1.2rem; }
@media (max-width: 40rem) {
  main { padding: .5rem .75rem 3rem; }
  h1 { font-size: 1.35rem; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .4rem; }
  .scroll th, .scroll td { padding: .35rem .5rem; }
  .terms th, .terms td { display: block; width: auto; padding: .25rem 0; }
  .terms td { border-top: 0; padding-top: 0; }
}
@media print {
  :root {
    --back: #fff; --card: #fff; --line: #bbb; --text: #000; --quiet: #333; --link: #000;
    --yes: #1a6b35; --no: #a3260f; --open: #333;
  }
  body { font-size: 10pt; }
  main { max-width: none; padding: 0; }
  nav, .files, .runs { display: none; }
  .scroll { overflow: visible; border: 0; }
  .scroll table { font-size: 7.5pt; }
  th, td { padding: .2rem .35rem; }
  .scroll tbody th, .scroll thead th:first-child { position: static; }
  td.number { white-space: normal; }
  h2, h3 { break-after: avoid; }
  figure, tr, .remark { break-inside: avoid; }
}
"""
