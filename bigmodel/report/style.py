"""The style sheet of the HTML rendering. Every rule starts at `.bm`, so that a notebook keeps its own look."""

STYLE = """
.bm { --bg:#f7f7f5; --card:#ffffff; --ink:#1b1d22; --muted:#656a75; --line:#e4e4df;
  --soft:#eeeeea; --accent:#2f5bd8; --accent-soft:#dfe7fc; --good:#11764a; --good-soft:#dcf2e6; --bad:#b8322a;
  --bad-soft:#fbe4e1;
  --dim:#b4b8c2; color-scheme:light dark; color:var(--ink); background:var(--bg);
  font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif;
  font-variant-numeric:tabular-nums; -webkit-text-size-adjust:100%; }
@media (prefers-color-scheme:dark) { .bm { --bg:#101216; --card:#181b21; --ink:#e7e8ec; --muted:#9aa0ac;
  --line:#2a2e37; --soft:#22262e; --accent:#7da2ff; --accent-soft:#22305a; --good:#52c68f; --good-soft:#163527;
  --bad:#ff8076; --bad-soft:#43201e; --dim:#565c69; } }
.bm, .bm * { box-sizing:border-box; }
.bm main { max-width:1080px; margin:0 auto; padding:40px 24px 56px; }
.bm-notebook main { padding:20px 16px 24px; }
.bm h1 { font-size:30px; line-height:1.2; letter-spacing:-.02em; font-weight:650; margin:10px 0 6px;
  text-wrap:balance; }
.bm h2 { font-size:17px; letter-spacing:-.005em; font-weight:650; margin:0; }
.bm p { margin:0; }
.bm .lead { color:var(--muted); max-width:70ch; }
.bm .pill { display:inline-block; padding:2px 11px; border-radius:99px; font-size:13px; font-weight:600; }
.bm .pill.good { color:var(--good); background:var(--good-soft); }
.bm .pill.bad { color:var(--bad); background:var(--bad-soft); }
.bm .missed { margin:10px 0 0; padding-left:20px; color:var(--bad); }
.bm .cards { display:grid; grid-template-columns:repeat(auto-fit,minmax(200px,1fr)); gap:14px; margin:26px 0 0; }
.bm .card, .bm section { background:var(--card); border:1px solid var(--line); border-radius:12px; }
.bm .card { padding:16px 18px; }
.bm .card .label { color:var(--muted); font-size:13px; }
.bm .card .value { font-size:26px; font-weight:650; letter-spacing:-.02em; line-height:1.3; }
.bm .card .note { font-size:13px; color:var(--muted); }
.bm .card .note b { color:var(--good); font-weight:600; }
.bm .card .note b.worse { color:var(--bad); }
.bm .card svg { display:block; width:100%; height:12px; margin:10px 0 8px; }
.bm section { margin:16px 0 0; padding:20px 22px 22px; }
.bm section > header { display:flex; flex-wrap:wrap; gap:2px 14px; align-items:baseline; margin-bottom:12px; }
.bm section > header p { color:var(--muted); font-size:13px; }
.bm .pair { display:grid; grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr)); gap:0 16px;
  align-items:start; }
.bm .stack > section:first-child { margin-top:16px; }
.bm .scroll { overflow-x:auto; margin:0 -22px; padding:0 22px; }
.bm table { border-collapse:collapse; width:100%; font-size:14px; margin:0; background:none; color:inherit; }
.bm th, .bm td { padding:8px 12px 8px 0; text-align:left; vertical-align:top; border:0; border-bottom:1px solid
  var(--line);
  background:none; white-space:normal; }
.bm tr:last-child > td { border-bottom:0; }
.bm th { color:var(--muted); font-weight:500; font-size:12.5px; padding-top:0; white-space:nowrap; }
.bm td.num, .bm th.num { text-align:right; white-space:nowrap; }
.bm td.name { font-weight:550; overflow-wrap:break-word; }
.bm table.made td.name { min-width:210px; }
.bm td.num + td:not(.num) { padding-left:16px; }
.bm td.why { color:var(--muted); min-width:190px; }
.bm td.bar { min-width:112px; }
.bm td.bar svg { display:block; width:100%; height:10px; margin-top:4px; }
.bm tr.chosen td { background:var(--accent-soft); }
.bm tr.chosen td:first-child { border-radius:8px 0 0 8px; padding-left:10px; }
.bm tr.chosen td:last-child { border-radius:0 8px 8px 0; }
.bm tr.chosen td.why { color:inherit; }
.bm tr.failed td.name, .bm tr.failed td.why { color:var(--bad); }
.bm table.made td:first-child { padding-left:10px; }
.bm table.made th:first-child { padding-left:10px; }
.bm .tag { display:inline-block; padding:0 8px; border-radius:99px; background:var(--accent);
  color:var(--card);
  font-size:11.5px; font-weight:600; vertical-align:1px; }
.bm .good-text { color:var(--good); } .bm .bad-text { color:var(--bad); } .bm .muted { color:var(--muted); }
.bm code { font:12.5px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace; overflow-wrap:anywhere; background:none;
  color:inherit; padding:0; }
.bm ul.plain { margin:0; padding-left:18px; } .bm ul.plain li + li { margin-top:4px; }
.bm svg.plot { display:block; width:100%; min-width:640px; height:auto; }
.bm svg text { font-family:inherit; fill:var(--muted); font-size:12px; }
.bm svg text.here { fill:var(--ink); font-weight:600; }
.bm svg .axis { stroke:var(--line); stroke-width:1; }
.bm svg .bound { stroke:var(--bad); stroke-width:1.5; stroke-dasharray:5 4; }
.bm svg text.bound-name { fill:var(--bad); }
.bm svg .beyond { fill:var(--bad-soft); opacity:.45; }
.bm svg .track { fill:var(--soft); } .bm svg .fill { fill:var(--dim); } .bm svg .fill.here { fill:var(--accent); }
.bm svg .dot { fill:var(--dim); stroke:var(--card); stroke-width:1.5; }
.bm svg .dot.baseline { fill:var(--ink); } .bm svg .dot.here { fill:var(--accent); }
.bm svg .link { stroke:var(--dim); stroke-width:2; } .bm svg .link.lost { stroke:var(--bad); }
.bm svg .end { fill:var(--good); } .bm svg .end.lost { fill:var(--bad); } .bm svg .start { fill:var(--dim); }
.bm footer { color:var(--muted); font-size:13px; margin-top:20px; }
@media (max-width:640px) { .bm main { padding:24px 14px 40px; } .bm h1 { font-size:24px; }
  .bm section { padding:16px 16px 18px; } .bm .scroll { margin:0 -16px; padding:0 16px; }
  .bm table.made, .bm table.made tbody { display:block; } .bm table.made thead { display:none; }
  .bm table.made tr { display:grid; grid-template-columns:1fr 1fr 1.3fr; gap:4px 14px; padding:10px 0;
    border-bottom:1px solid var(--line); }
  .bm table.made tr:last-child { border-bottom:0; }
  .bm table.made td, .bm table.made td:first-child { display:block; border:0; padding:0; min-width:0;
  background:none; }
  .bm table.made td.name, .bm table.made td.why { grid-column:1/-1; }
  .bm table.made td.bar::before { content:attr(data-label); display:block; color:var(--muted); font-size:12px; }
  .bm table.made tr.chosen { background:var(--accent-soft); margin:0 -10px; padding:10px; border-radius:8px; } }
@media print { .bm { background:none; } .bm section, .bm .card { break-inside:avoid; } }
"""
