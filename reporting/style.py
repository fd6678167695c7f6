"""The style of the page: light and dark, wide and narrow, nothing from anywhere else."""

CSS = """
:root{color-scheme:light dark;--paper:#fbfbf9;--card:#fff;--ink:#1c1e21;--soft:#5c6168;--edge:#dcdcd6;--a:#1a66c2;--b:#b4530a;--c:#5c6168;--warn:#8a4b00;--warnpaper:#fff4e0}
@media (prefers-color-scheme:dark){:root{--paper:#15171a;--card:#1d2024;--ink:#e8e8e4;--soft:#a3a8b0;--edge:#363a40;--a:#74b2ff;--b:#ffa860;--c:#a3a8b0;--warn:#ffc987;--warnpaper:#33270f}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
main{max-width:1120px;margin:0 auto;padding:20px 16px 60px}
h1{font-size:1.6rem;line-height:1.2;margin:.2em 0}
h2{font-size:1.2rem;margin:2em 0 .4em}
h3{font-size:1rem;margin:1.4em 0 .4em}
p{max-width:72ch;margin:.5em 0}
.soft,figcaption,td small{color:var(--soft)}
figcaption{font-size:.9rem;padding:6px 2px 0}
figure{margin:0}
img{display:block;width:100%;height:auto;border-radius:4px}
svg{display:block;width:100%;height:auto}
.grid2{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,330px),1fr));gap:16px}
.pairs{display:grid;grid-template-columns:1fr 1fr;gap:16px}
@media (max-width:600px){.pairs{grid-template-columns:1fr}}
.card{background:var(--card);border:1px solid var(--edge);border-radius:8px;padding:12px}
.numbers{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:10px;margin:16px 0}
.numbers div{background:var(--card);border:1px solid var(--edge);border-radius:8px;padding:10px 12px}
.numbers b{display:block;font-size:1.35rem;line-height:1.2}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;font-size:.9rem;margin:.2em 0}
.legend i{display:inline-block;width:18px;height:4px;border-radius:2px;margin-right:6px;vertical-align:middle}
.legend .a,.bar{background:var(--a)}.legend .b{background:var(--b)}.legend .c{background:var(--c)}
.tick{font-size:11px;fill:var(--soft);paint-order:stroke;stroke:var(--card);stroke-width:3px;stroke-linejoin:round}
@media (max-width:600px){.tick{font-size:15px}}
path.grid{stroke:var(--edge);stroke-width:1;fill:none}
.mark{stroke:var(--soft);stroke-width:1;stroke-dasharray:4 3;fill:none}
.line{fill:none;stroke-width:2;stroke-linejoin:round}
.line.a{stroke:var(--a)}.line.b{stroke:var(--b)}.line.c{stroke:var(--c)}
.area{stroke:none;fill-opacity:.45}
.area.a,.dot.a{fill:var(--a)}.area.b,.dot.b{fill:var(--b)}.area.c,.dot.c{fill:var(--c)}
table{border-collapse:collapse;width:100%;font-size:.95rem}
th,td{text-align:left;vertical-align:top;padding:6px 10px 6px 0;border-bottom:1px solid var(--edge)}
th{font-weight:600}
td.number{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
.bar{display:block;height:10px;border-radius:2px;min-width:1px}
.warning{background:var(--warnpaper);color:var(--warn);border-radius:6px;padding:8px 12px;margin:8px 0;max-width:none}
dt{font-weight:600;margin-top:.7em}
dd{margin:0;max-width:72ch}
"""
