"""The one style of all pages: light and dark, wide, on a phone and on paper.

Contrast is at least 4.5:1 for text (WCAG 2.2, 1.4.3) and 3:1 for the mark of the focus (1.4.11).
"""

STYLE = """\
:root{--ink:#1a2027;--soft:#55606b;--line:#d9dfe5;--back:#f7f8fa;--card:#fff;--link:#0b57a4;\
--tag:#e9eef3;--mark:#0b57a4;--bad:#a1201c}
@media(prefers-color-scheme:dark){:root{--ink:#e6eaee;--soft:#a3aeb9;--line:#303942;--back:#12161a;\
--card:#191e24;--link:#82bdf7;--tag:#28313a;--mark:#82bdf7;--bad:#ff9c93}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0 auto;max-width:72rem;padding:1.25rem 1.25rem 3rem;background:var(--back);\
color:var(--ink);font:16px/1.55 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.8rem;line-height:1.2;margin:.6rem 0 .4rem}
h2{font-size:1.25rem;line-height:1.3;margin:2.4rem 0 .6rem}
h3{font-size:1rem;margin:1.5rem 0 .4rem}
p{margin:.5rem 0;max-width:46rem}
a{color:var(--link);text-underline-offset:.15em;text-decoration-thickness:1px}
a:hover{text-decoration-thickness:2px}
:focus-visible{outline:3px solid var(--mark);outline-offset:2px;border-radius:2px}
.soft,nav,footer,.n{color:var(--soft)}
nav,footer,small{font-size:.9rem}
nav ol{list-style:none;display:flex;flex-wrap:wrap;margin:0;padding:0}
nav li+li::before{content:"/";margin:0 .5rem;color:var(--soft)}
footer{margin-top:3.5rem;border-top:1px solid var(--line);padding-top:.8rem}
code,pre,.tags li{font-family:ui-monospace,"DejaVu Sans Mono",monospace;font-size:.85em}
pre{background:var(--card);border:1px solid var(--line);border-radius:6px;padding:.7rem .9rem;\
margin:.5rem 0;line-height:1.6;overflow-x:auto;overflow-wrap:normal}
td code,dd code,li>code,th code{user-select:all;-webkit-user-select:all}
td,th,dd,li,code{unicode-bidi:isolate}
.lead{font-size:1.05rem}
ol.how{padding-left:1.4rem;margin:.5rem 0}
ol.how>li{margin:1rem 0}
table{border-collapse:separate;border-spacing:0;width:100%;background:var(--card);\
border:1px solid var(--line);border-radius:6px}
th,td{text-align:left;vertical-align:top;padding:.5rem .8rem;border-top:1px solid var(--line)}
thead th{border-top:0;color:var(--soft);font-size:.82rem;font-weight:600;white-space:nowrap}
tbody th{font-weight:600;min-width:11rem}
.c{min-width:13rem}
ul.flags{min-width:7rem}
.v{min-width:9.6rem}
.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
.hidden{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
ul.tags{list-style:none;margin:0;padding:0;display:flex;flex-wrap:wrap;gap:.3rem}
ul.tags li{background:var(--tag);border-radius:4px;padding:.05rem .4rem;line-height:1.6}
ul.tags li.off{background:none;color:var(--soft);box-shadow:inset 0 0 0 1px var(--line)}
ul.plain{list-style:none;margin:0;padding:0}
ul.plain li+li{margin-top:.35rem}
section,details{background:var(--card);border:1px solid var(--line);border-radius:6px;\
padding:.2rem 1rem .8rem;margin:1rem 0}
section h2,section h3{margin:.8rem 0 .4rem}
section:target{border-color:var(--mark);box-shadow:0 0 0 1px var(--mark)}
details{padding:.6rem 1rem}
details table,section table{border:0;background:none}
summary{cursor:pointer;font-weight:600}
dl{display:grid;grid-template-columns:8.5rem minmax(0,1fr);gap:.5rem 1rem;margin:.5rem 0}
dt{color:var(--soft);font-size:.9rem}
dd{margin:0}
.ok,.bad{font-weight:600}
.bad{color:var(--bad)}
@media screen and (max-width:60rem){
body{padding:1rem .9rem 2rem}
thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
table,tbody,tr,th,td,.n{display:block}
tr{padding:.5rem 0;border-top:1px solid var(--line)}
tbody tr:first-child{border-top:0}
th,td,.n{border:0;padding:.12rem .8rem;text-align:left;white-space:normal}
tbody th,.c,.v,ul.flags{min-width:0}
td:empty{display:none}
td[data-l]::before{content:attr(data-l);display:block;color:var(--soft);font-size:.8rem;\
font-variant-numeric:normal}
td.n[data-l]::before,td.v[data-l]::before,td.s[data-l]::before{display:inline;margin-right:.4rem}
section,details{padding-left:.8rem;padding-right:.8rem}
section td,section th,details td,details th{padding-left:0;padding-right:0}
dl{display:block}
dd{margin:0 0 .6rem}
}
@media print{
:root{--ink:#000;--soft:#333;--line:#999;--back:#fff;--card:#fff;--link:#000;--tag:#fff}
body{max-width:none;padding:0;font-size:10pt}
section,tr,pre,dl{break-inside:avoid}
h1,h2,h3{break-after:avoid}
pre{white-space:pre-wrap;overflow-wrap:anywhere}
tbody th,.c,.v,ul.flags{min-width:0}
table{font-size:.85em}
details::details-content{content-visibility:visible}
ul.tags li{box-shadow:inset 0 0 0 1px #999}
}
"""
